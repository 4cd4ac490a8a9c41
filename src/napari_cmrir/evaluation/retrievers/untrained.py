"""Two retrievers without training: mutual information over all shifts, and SIFT on gradients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import PixelScaling, Retriever, cut_region, grey
from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registration.correlation import turn
from napari_cmrir.representations.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_cmrir.images.geometry import Region

__all__ = [
    "GradientSift",
    "Keypoints",
    "MutualInformation",
    "consistent_matches",
    "describe_gradients",
    "match_keypoints",
    "mutual_information",
    "quantised",
]

_AT_ONCE = 16  # images: 64 level pairs of 128 x 128 shifts take 4 MiB an image


def quantised(grey: Tensor, counts: Tensor, levels: int) -> Tensor:
    """Divide an image into levels that equally many pixels have, one map each.

    Parameters
    ----------
    grey : (y, x) tensor
    counts : (y, x) tensor
        1 where a pixel counts, else 0.
    levels : int

    Returns
    -------
    (levels, y, x) tensor
        1 where a pixel counts and has the level.

    Examples
    --------
    >>> quantised(torch.arange(4.0).reshape(2, 2), torch.ones(2, 2), 2).tolist()
    [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]
    """
    known = grey[counts > 0.5]
    ends = torch.quantile(known, torch.linspace(0, 1, levels + 1)[1:-1]) if len(known) else torch.zeros(0)
    level = torch.bucketize(grey.contiguous(), ends, right=True)
    return torch.stack([(level == k) * (counts > 0.5) for k in range(levels)]).float()


def mutual_information(template: Tensor, images: Tensor, least_overlap: float = 0.5) -> Tensor:
    """Compute the mutual information of a template and images at every shift, by Fourier transforms.

    Öfverstedt, Lindblad & Sladoje, Fast computation of mutual information in the frequency domain with
    applications to global multimodal image alignment, Pattern Recognition Letters 2022,
    doi:10.1016/j.patrec.2022.05.022.

    Parameters
    ----------
    template : (a, y, x) tensor
        `quantised`.
    images : (n, b, y, x) tensor
        `quantised`.
    least_overlap : float
        Share of the template's counting pixels that must lie on counting pixels of the image.

    Returns
    -------
    (n, shifts down, shifts right) tensor
        In nats; -inf where the overlap is smaller.

    Examples
    --------
    >>> grey = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    >>> image = quantised(grey, torch.ones(24, 24), 4)
    >>> inverted = quantised(1 - grey[4:20, 6:22], torch.ones(16, 16), 4)
    >>> found = mutual_information(inverted, image[None])[0]
    >>> divmod(int(found.argmax()), found.shape[1])  # of a template that begins 16 px above and left
    (19, 21)
    """
    (height, width), (rows, columns) = template.shape[-2:], images.shape[-2:]
    shape = height + rows - 1, width + columns - 1
    ours = torch.fft.rfft2(template, s=shape).conj()
    theirs = torch.fft.rfft2(images, s=shape)
    joint = torch.fft.irfft2(ours[:, None] * theirs[:, None], s=shape).round().clamp_min(0)
    joint = torch.roll(joint, (height - 1, width - 1), (-2, -1))  # the smallest shift first
    first, second = joint.sum(2), joint.sum(1)
    overlap = first.sum(1)
    sums = _entropic(joint).sum((1, 2)) - _entropic(first).sum(1) - _entropic(second).sum(1)
    information = sums / overlap.clamp_min(1) + overlap.clamp_min(1).log()
    least = least_overlap * float(template.sum())
    return torch.where(overlap >= max(1.0, least), information, -torch.inf)


def _entropic(counted: Tensor) -> Tensor:
    return torch.xlogy(counted, counted)


class MutualInformation(Retriever):
    """Score images by the highest mutual information over all shifts and rotations; it learns nothing.

    Parameters
    ----------
    folder : path-like
        Nothing is kept in it.
    device : str
        Where it computes.
    levels : int
        Grey levels.
    step : int
        Images are averaged over squares of this many pixels a side first.
    max_rotation : float
        Queries are turned by up to this many degrees either way.
    rotation_step : float
        Degrees from one rotation to the next.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        levels: int = 8,
        step: int = 4,
        max_rotation: float = 30.0,
        rotation_step: float = 5.0,
    ) -> None:
        super().__init__(folder, device)
        self.levels, self.step = levels, step
        turns = np.arange(0, max_rotation + 1e-6, rotation_step)
        self._degrees: Sequence[float] = [*(-turns[:0:-1]).tolist(), *turns.tolist()]
        self._device = choose_device(device)
        self._images: dict[str, Tensor] = {}

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Keep the levels of the images, in place of those before."""
        self._images = {}
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", "Dividing images into grey levels")
            grey, counts = self._reduced(pixels, np.ones(pixels.shape[:2], bool))
            self._images[name] = quantised(grey, counts, self.levels).to(self._device)

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score every image by the highest mutual information with the query, in nats.

        Raises
        ------
        InputError
            Nothing is indexed.
        """
        if not self._images:
            raise InputError("The retriever has no images; index some first.")
        pixels, mask = cut_region(pixels, region, mask)
        counts = np.ones(pixels.shape[:2], bool) if mask is None else mask
        grey, seen = self._reduced(pixels, counts)
        scores = dict.fromkeys(self._images, -np.inf)
        for done, degrees in enumerate(self._degrees):
            yield Progress(done, len(self._degrees), "rotations", "Computing mutual information")
            turned, turned_seen = turn(grey[None], seen, degrees)
            template = quantised(turned[0], (turned_seen > 0.99).float(), self.levels).to(self._device)
            for names in self._groups():
                stacked = torch.stack([self._images[name] for name in names])
                best = mutual_information(template, stacked).flatten(1).amax(1).tolist()
                for name, score in zip(names, best, strict=True):
                    scores[name] = max(scores[name], score)
        return {name: score for name, score in scores.items() if np.isfinite(score)}

    def _reduced(self, pixels: NDArray[Any], counts: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Grey values and what counts, (y, x) each, averaged over squares."""
        grey = torch.from_numpy(pixels.astype(np.float32).mean(2))
        counting = torch.from_numpy(counts.astype(np.float32))
        both = torch.nn.functional.avg_pool2d(torch.stack((grey, counting)), self.step)
        return both[0], (both[1] > 0.99).float()

    def _groups(self) -> list[list[str]]:
        """Names of images of equal size, not too many at once."""
        sizes: dict[tuple[int, ...], list[str]] = {}
        for name, image in self._images.items():
            sizes.setdefault(tuple(image.shape), []).append(name)
        return [names[i : i + _AT_ONCE] for names in sizes.values() for i in range(0, len(names), _AT_ONCE)]


_SIGMA = 1.0  # px of the smoothing before the gradient: as much as the noise of one pixel
_MARGIN = 6  # px inside a mask that do not count: there the gradient is that of the mask's border
_CONTRAST = 0.02  # half of OpenCV's: gradients across modalities are weak where either is
_SCALES = (0.5, 2.0)  # of a similarity: without bounds, all matches of one keypoint agree at scale 0
_SAMPLES = 2000  # of RANSAC: at 5 % right matches, 2 right ones are drawn five times on average


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The keypoints of an image.

    Parameters
    ----------
    points : (n, 2) float array
        (y, x) in px.
    descriptors : (n, 64) float32 array
        Of length 1: 4 x 4 cells of 4 directions modulo 180 degrees.
    """

    points: NDArray[np.float64]
    descriptors: NDArray[np.float32]

    def turned(self) -> Keypoints:
        """Describe the same keypoints with the opposite orientation."""
        cells = self.descriptors.reshape(-1, 4, 4, 4)[:, ::-1, ::-1]
        return Keypoints(self.points, np.ascontiguousarray(cells).reshape(-1, 64))


def describe_gradients(
    image: NDArray[np.floating[Any]], mask: NDArray[np.bool_] | None = None, most: int = 2000
) -> Keypoints:
    """Describe an image by SIFT at keypoints of its gradient magnitude, orientations modulo 180 degrees.

    Where another modality inverts contrast, the gradient turns by 180 degrees and its magnitude stays. So
    keypoints are those of the magnitude, and directions of opposite sense count as one, as in symmetric SIFT
    (Chen and Tian, Progress in Natural Science 19, 2009). SIFT: Lowe, IJCV 60, 2004,
    doi:10.1023/B:VISI.0000029664.99615.94.

    Parameters
    ----------
    image : (y, x) array
        Grey values in any range.
    mask : (y, x) bool array, optional
        Where the image counts.
    most : int
        Keypoints at most, the strongest.

    Returns
    -------
    Keypoints

    Examples
    --------
    >>> y, x = np.mgrid[:96, :128]
    >>> disc = ((y - 40) ** 2 + (x - 70) ** 2 < 12**2).astype(float)
    >>> found, inverted = describe_gradients(disc), describe_gradients(1 - disc)
    >>> len(found.points) > 0, bool(np.allclose(found.descriptors, inverted.descriptors))
    (True, True)
    """
    import cv2

    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), _SIGMA)
    magnitude = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    if mask is not None:
        counts = cv2.erode(mask.astype(np.uint8), np.ones((2 * _MARGIN + 1,) * 2, np.uint8))
        magnitude = magnitude * counts
    highest = float(np.percentile(magnitude, 99.5)) or 1.0
    picture = np.round(255 * np.minimum(magnitude / highest, 1)).astype(np.uint8)
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=_CONTRAST)
    found = sift.detect(picture, None if mask is None else counts)
    for keypoint in found:
        keypoint.angle %= 180
    unique = {(k.pt, k.size, round(k.angle)): k for k in found}  # opposite orientations are one now
    _, values = sift.compute(picture, list(unique.values())) if unique else ((), None)
    if values is None:
        return Keypoints(np.zeros((0, 2)), np.zeros((0, 64), np.float32))
    folded = values.reshape(-1, 16, 2, 4).sum(2).reshape(-1, 64)
    folded /= np.maximum(np.linalg.norm(folded, axis=1, keepdims=True), 1e-9)
    points = np.array([keypoint.pt[::-1] for keypoint in unique.values()], np.float64)
    return Keypoints(points, folded.astype(np.float32))


def match_keypoints(query: Keypoints, image: Keypoints, ratio: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Match each keypoint of a query to its nearest of an image, if no other is nearly as near.

    Parameters
    ----------
    query, image : Keypoints
    ratio : float
        Largest ratio of the distances to the nearest and to the second (Lowe 2004, section 7.1).

    Returns
    -------
    first, second : (n, 2) arrays
        (y, x) of the matched keypoints.
    """
    if len(query.points) == 0 or len(image.points) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    products = np.stack([each.descriptors @ image.descriptors.T for each in (query, query.turned())], 1)
    best = products.max(1)  # of the two orientations that a direction modulo 180 degrees leaves open
    nearest = np.argpartition(-best, 1, axis=1)[:, :2]
    similar = np.take_along_axis(best, nearest, 1)
    order = np.argsort(-similar, axis=1, kind="stable")
    distances = np.sqrt(np.maximum(2 - 2 * np.take_along_axis(similar, order, 1), 0))
    kept = distances[:, 0] <= ratio * distances[:, 1]
    return query.points[kept], image.points[np.take_along_axis(nearest, order, 1)[kept, 0]]


def consistent_matches(
    first: NDArray[np.float64], second: NDArray[np.float64], tolerance: float, seed: int = 0
) -> NDArray[np.bool_]:
    """Find the matches that one similarity explains, by random samples of two (RANSAC).

    Fischler and Bolles, Random sample consensus, CACM 1981, doi:10.1145/358669.358692. Similarities of a
    scale outside 0.5 to 2 do not count.

    Parameters
    ----------
    first, second : (n, 2) arrays
        (y, x) of matched points, px.
    tolerance : float
        Distance in the second image up to which a match agrees, px.
    seed : int

    Returns
    -------
    (n,) bool array
        True for the matches of the similarity that most places agree with; several matches of one place count
        as one.

    Examples
    --------
    >>> points = np.array([[0.0, 0], [0, 10], [10, 0], [10, 10], [5, 3]])
    >>> moved = points[:, ::-1] * [1, -1] + [3, 40]
    >>> moved[4] += 9
    >>> consistent_matches(points, moved, 1.0).tolist()
    [True, True, True, True, False]
    """
    none = np.zeros(len(first), bool)
    if len(first) < 2:
        return none
    here, there = (points @ np.array([1j, 1.0]) for points in (first, second))  # x + iy
    rng = np.random.default_rng(seed)
    one, other = rng.integers(0, len(first), (2, _SAMPLES))
    apart = np.abs(here[one] - here[other]) > 2 * tolerance
    one, other = one[apart], other[apart]
    turn = (there[one] - there[other]) / (here[one] - here[other])
    allowed = (np.abs(turn) >= _SCALES[0]) & (np.abs(turn) <= _SCALES[1])
    turn, one = turn[allowed], one[allowed]
    if len(turn) == 0:
        return none
    agree = np.abs(turn[:, None] * (here - here[one][:, None]) + there[one][:, None] - there) <= tolerance
    counts = agree.sum(1)
    best, most = none, 0
    for sample in np.argsort(-counts, kind="stable"):
        if counts[sample] <= most:
            break
        places = _places(first[agree[sample]], second[agree[sample]])
        if places > most:
            best, most = agree[sample], places
    return best


def _places(first: NDArray[np.float64], second: NDArray[np.float64]) -> int:
    """Places, to the pixel, that matches have in the image in which they have fewer."""
    return min(len(np.unique(np.round(points), axis=0)) for points in (first, second))


class GradientSift(Retriever):
    """Score images by the keypoints of the query that one similarity maps onto theirs; it learns nothing.

    Parameters
    ----------
    folder : path-like
        Nothing is kept in it.
    device : str
        Not used.
    ratio : float
        See `match_keypoints`; Lowe's 0.8 is for one modality, across two the nearest are less distinct.
    tolerance : float
        See `consistent_matches`, px.
    most : int
        Keypoints of an image.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        ratio: float = 0.95,
        tolerance: float = 5.0,
        most: int = 2000,
    ) -> None:
        super().__init__(folder, device)
        self.ratio, self.tolerance, self.most = ratio, tolerance, most
        self.scaling = PixelScaling()
        self._images: dict[str, Keypoints] = {}

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Describe the images, in place of those before."""
        self._images = {}
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", "Describing keypoints")
            self._images[name] = self._described(pixels, modality, None)

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score every image by the number of places that agree, and by their share of the matches.

        Raises
        ------
        InputError
            Nothing is indexed.
        """
        if not self._images:
            raise InputError("The retriever has no images; index some first.")
        pixels, mask = cut_region(pixels, region, mask)
        query = self._described(pixels, modality, mask)
        scores = {}
        for done, (name, image) in enumerate(self._images.items()):
            yield Progress(done, len(self._images), "images", "Matching keypoints")
            first, second = match_keypoints(query, image, self.ratio)
            agree = consistent_matches(first, second, self.tolerance)
            count = _places(first[agree], second[agree]) if agree.any() else 0
            scores[name] = count + 0.5 * float(agree.mean() if len(agree) else 0)  # equal counts are frequent
        return scores

    def _described(self, pixels: NDArray[Any], modality: str, mask: NDArray[np.bool_] | None) -> Keypoints:
        return describe_gradients(grey(self.scaling.apply(pixels, modality)), mask, self.most)
