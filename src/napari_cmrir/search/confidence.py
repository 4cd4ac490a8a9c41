"""What tells a right first hit from a wrong one: the scores of all images that were registered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_cmrir.search.calibration import Calibration

__all__ = ["FEATURES", "Evidence", "confidences"]

FEATURES = ("score", "margin", "surprise", "peak")
"""What a confidence is computed from, in the order of `Evidence.features`."""

_EULER = 0.5772156649
_EXPECTED_MEAN, _EXPECTED_DEVIATION, _EXPECTED_COUNT = 0.1, 0.04, 3


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the registration says of every image that was registered.

    Parameters
    ----------
    images : (n,) int array
        Number of each image, once.
    scores : (n,) float array
        Registration score of its best field; finite.
    runner_ups : (n,) float array
        Score of the next best, different pose in that field; -inf if there is none.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    runner_ups: NDArray[np.float64]

    def without(self, images: Sequence[int] | NDArray[np.int64]) -> Evidence:
        """Return the same as if some images had not been there."""
        kept = ~np.isin(self.images, images)
        return Evidence(self.images[kept], self.scores[kept], self.runner_ups[kept])

    def features(self, image: int) -> NDArray[np.float64] | None:
        """Describe how an image stands out, by the `FEATURES`.

        Parameters
        ----------
        image : int
            Its number.

        Returns
        -------
        (4,) array or None
            Its score; by how much that exceeds the best score of another image; how surprising it would be
            of a wrong one of so many images, in natural logarithms; and by how much it exceeds the next best
            pose in the same field. ``None`` if the image has no pose.

        Examples
        --------
        >>> evidence = Evidence(np.arange(3), np.array([0.6, 0.1, 0.2]), np.array([0.3, 0.1, 0.1]))
        >>> evidence.features(0).round(2).tolist()
        [0.6, 0.4, 11.14, 0.3]
        """
        mine = self.images == image
        if not mine.any():
            return None
        score, runner_up = float(self.scores[mine][0]), float(self.runner_ups[mine][0])
        others = self.scores[~mine]
        next_best = float(others.max()) if len(others) else _EXPECTED_MEAN
        below = runner_up if math.isfinite(runner_up) else _EXPECTED_MEAN
        return np.array([score, score - next_best, _surprise(score, others), score - below])


def confidences(evidence: Evidence, images: Sequence[int], calibration: Calibration) -> list[float]:
    """Probability of each hit that it is the right image.

    At most one image is right, so no hit after the first is surer than the first is doubtful.

    Parameters
    ----------
    evidence : Evidence
        Of all images that were registered.
    images : sequence of int
        Numbers of the hits' images, best first.
    calibration : Calibration
        What the features mean.

    Returns
    -------
    list of float
        In [0, 1]; 0 for an image without a pose.
    """
    result: list[float] = []
    for image in images:
        features = evidence.features(image)
        sure = 0.0 if features is None else float(calibration.probability(features))
        if result and image != images[0]:
            sure = min(sure, 1 - result[0])
        result.append(sure)
    return result


def _surprise(score: float, others: NDArray[np.float64]) -> float:
    """Negative logarithm of how many of the other images would be expected to score as high.

    Each image's score is the highest of many places and angles, so the wrong ones follow a Gumbel law. It
    is fitted by moments to the scores of the other images, with three made-up ones of a typical repository,
    so that a handful of images does not look like certainty.
    """
    if len(others) and score < others.max():
        others = np.delete(others, int(others.argmax()))  # the better one may be the right one
    count = len(others) + _EXPECTED_COUNT
    mean = (others.sum() + _EXPECTED_COUNT * _EXPECTED_MEAN) / count
    squares = np.square(others - mean).sum() + _EXPECTED_COUNT * (
        _EXPECTED_DEVIATION**2 + (_EXPECTED_MEAN - mean) ** 2
    )
    scale = math.sqrt(squares / count) * math.sqrt(6) / math.pi
    place = mean - _EULER * scale
    return float(np.clip((score - place) / scale - math.log(count), -5, 15))
