"""A matcher: SIFT's keypoints of query and hit, and the points that agree on one similarity."""

import cv2
import numpy as np

from napari_cmrir.search.matchers import Matcher, similarity_match


class SiftPoints(Matcher):
    """Lowe's ratio of distances is the variant, as in ``sift-points:0.9``; by default 0.8."""

    def match(self, query, mask, place):
        """Count the keypoints that agree, and fit the place to them."""
        sift, counts = cv2.SIFT_create(), mask.astype(np.uint8)
        points, vectors = zip(
            *(
                sift.detectAndCompute(np.rint(image.mean(0)).astype(np.uint8), where)
                for image, where in ((query, counts), (place, None))
            ),
            strict=True,
        )
        if min(map(len, points)) < 2:
            return None
        ratio = float(self.variant or 0.8)
        pairs = cv2.BFMatcher().knnMatch(*vectors, k=2)
        good = [one for one, other in pairs if one.distance < ratio * other.distance]
        first = np.array([points[0][pair.queryIdx].pt[::-1] for pair in good]).reshape(-1, 2)
        second = np.array([points[1][pair.trainIdx].pt[::-1] for pair in good]).reshape(-1, 2)
        return similarity_match(first, second)
