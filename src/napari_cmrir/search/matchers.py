"""Matchers: other methods of registration that look at the first hits again, and their registry.

A search registers CoMIRs by correlation. A matcher gets the query and the place of a hit, upright as the
query, and says how well they match and where. The first hits are then ordered by its scores.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registration.affine import Matrix, apply, decompose
from napari_cmrir.registry import Registry
from napari_cmrir.search.explain import frame_to_field, resampled
from napari_cmrir.search.hits import affine_matrix

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.search.settings import SearchSettings

__all__ = ["MATCHERS", "Match", "Matcher", "Vismatch", "match_hits", "matcher_named", "similarity_match"]

_MARGIN = 0.25  # of the query's sides, shown around the place of a hit; not measured
_PERCENTILES = 0.1, 99.9  # of an image's values that become 0 and 255


@dataclass(frozen=True, eq=False)
class Match:
    """What a matcher says of two images.

    Parameters
    ----------
    score : float
        Higher is better; compared only with scores of the same matcher.
    matrix : (3, 3) array, optional
        Takes (y, x, 1) in pixels of the first image to pixels of the second; without it, the pose found
        before stays.
    """

    score: float
    matrix: Matrix | None = None


class Matcher(ABC):
    """A method that matches two images; a subclass implements `match`.

    Parameters
    ----------
    variant : str
        What the user wrote after a colon behind the matcher's name.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on.
    """

    def __init__(self, variant: str = "", device: str = "auto") -> None:
        self.variant, self.device = variant, device

    @abstractmethod
    def match(
        self, query: NDArray[np.uint8], mask: NDArray[np.bool_], place: NDArray[np.uint8]
    ) -> Match | None:
        """Match a query with the place of a hit.

        Parameters
        ----------
        query : (channel, y, x) uint8 array
            Its CoMIR, or its image.
        mask : (y, x) bool array
            True where the query counts.
        place : (channel, y', x') uint8 array
            The CoMIR or the image of the hit, turned and scaled as the query, with a margin around it. 0
            where the hit's image ends.

        Returns
        -------
        Match or None
            None if they do not match.
        """


_FEWEST_INLIERS = 10
"""Matched points that agree on one similarity, below which they may do so by chance. Not measured."""
_LARGEST_TURN, _LARGEST_SCALE = 15.0, 1.25  # degrees and ratio by which a match may correct a pose


class Vismatch(Matcher):
    """The matchers of the package vismatch, such as ``vismatch:minima-loftr``; its weights are downloaded.

    The score is the number of matched points that agree on one similarity (rotation, scale and shift).
    """

    def __init__(self, variant: str = "", device: str = "auto") -> None:
        from napari_cmrir.representations.devices import choose_device

        super().__init__(variant, device)
        if find_spec("vismatch") is None:
            raise InputError('vismatch is not installed; install it: pip install "napari-cmrir[vismatch]"')
        vismatch = import_module("vismatch")
        known = [str(name) for name in vismatch.available_models]
        if variant not in known:
            raise InputError(f"vismatch has no matcher '{variant}'; choose one of {', '.join(known)}.")
        try:
            self._network = vismatch.get_matcher(variant, device=choose_device(device).type)
        except Exception as error:  # a download, or one of many packages, may raise any exception
            raise InputError(f"vismatch cannot load '{variant}' ({type(error).__name__}: {error}).") from None

    def match(
        self, query: NDArray[np.uint8], mask: NDArray[np.bool_], place: NDArray[np.uint8]
    ) -> Match | None:
        """Match points, and fit a similarity to them."""
        found = self._network(_as_rgb(query), _as_rgb(place))
        first, second = (np.asarray(found[f"matched_kpts{side}"], np.float64)[:, ::-1] for side in "01")
        y, x = np.rint(first).astype(int).T.clip(0, np.array([mask.shape]).T - 1)
        return similarity_match(first[mask[y, x]], second[mask[y, x]])


def similarity_match(first: NDArray[np.float64], second: NDArray[np.float64]) -> Match | None:
    """Fit a similarity to matched points by RANSAC, and count the points that agree with it within 3 px.

    Parameters
    ----------
    first, second : (n, 2) arrays
        Matched points (y, x) of the query and of the place of a hit.

    Returns
    -------
    Match or None
        None if fewer than 10 points agree, or if the similarity turns by more than 15 degrees or scales by
        more than 1.25: the place is upright already.

    Examples
    --------
    >>> points = np.random.default_rng(0).random((12, 2)) * 100
    >>> match = similarity_match(points, points + [5, -3])
    >>> match.score, match.matrix[:2, 2].round(3).tolist()
    (12.0, [5.0, -3.0])
    >>> similarity_match(points[:9], points[:9]) is None
    True
    """
    import cv2

    if len(first) < _FEWEST_INLIERS:
        return None
    fitted, inliers = cv2.estimateAffinePartial2D(first, second, ransacReprojThreshold=3.0)
    if fitted is None or inliers.sum() < _FEWEST_INLIERS:
        return None
    matrix = np.vstack((fitted, [0.0, 0.0, 1.0]))
    parts = decompose(matrix)
    is_scaled = not 1 / _LARGEST_SCALE <= parts.scale <= _LARGEST_SCALE
    if is_scaled or abs(parts.rotation_degrees) > _LARGEST_TURN:
        return None
    return Match(float(inliers.sum()), matrix)


MATCHERS: Registry[type[Matcher]] = Registry(
    "matcher", "napari_cmrir.matchers", {"vismatch": "napari_cmrir.search.matchers:Vismatch"}
)
"""Matchers by name; other packages add theirs as entry points of ``napari_cmrir.matchers``."""


@lru_cache(maxsize=1)  # networks are large, and one search follows another
def matcher_named(name: str, device: str = "auto") -> Matcher:
    """Make the matcher ``NAME`` or ``NAME:VARIANT``, or give the one made last.

    Raises
    ------
    InputError
        If there is none of that name, or it cannot be made.
    """
    kind, _, variant = name.partition(":")
    return MATCHERS[kind](variant, device)


def match_hits(
    repository: Repository,
    query: tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_]],
    hits: Sequence[Hit],
    settings: SearchSettings,
) -> Job[tuple[tuple[Hit, ...], list[str]]]:
    """Look at the first hits again with a matcher, and order these by its scores.

    Parameters
    ----------
    repository : Repository
    query : (channel, y, x) uint8 array, (y, x, channel) array, (y, x) bool array
        CoMIR, image and mask of the query, upright.
    hits : sequence of Hit
        Best first.
    settings : SearchSettings
        `matcher`, `match_on`, `matched` and `device` are used.

    Yields
    ------
    Progress
        In hits.

    Returns
    -------
    hits : tuple of Hit
        Those that match, the best first; then those that do not, and those that were not looked at, in their
        order. Hits that match have the score ``"matcher"``, and the pose that it found.
    warnings : list of str
        A sentence for each image that could not be read, or on which the matcher failed.

    Raises
    ------
    InputError
        If the matcher cannot be made.
    """
    matcher = matcher_named(settings.matcher, settings.device)
    comir, image, mask = query
    on_images = settings.match_on == "images"
    seen = _eight_bit(np.moveaxis(np.asarray(image), 2, 0)) if on_images else comir
    margin = [math.ceil(_MARGIN * side) for side in mask.shape]
    looked_at: list[Hit] = []
    warnings = []
    for done, hit in enumerate(hits[: settings.matched]):
        yield Progress(done, min(len(hits), settings.matched), "hits", "Matching")
        try:
            place = (_image_at if on_images else _comir_at)(repository, hit, mask.shape, margin)
            match = matcher.match(seen, mask, place)
        except Exception as error:  # a matcher is another package's, and may raise any; the hits stay
            reason = error if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            warnings.append(f"{hit.image} was not matched: {reason}")
            match = None
        looked_at.append(hit if match is None else _matched(hit, match, mask.shape, margin))
    looked_at.sort(key=lambda hit: -hit.scores.get("matcher", -math.inf))  # stable
    ordered = (*looked_at, *hits[settings.matched :])
    return tuple(replace(hit, rank=rank) for rank, hit in enumerate(ordered, 1)), warnings


def _shifted(margin: Sequence[float]) -> Matrix:
    """The matrix from a frame with a margin around it to the frame without."""
    return np.array([[1.0, 0.0, -margin[0]], [0.0, 1.0, -margin[1]], [0.0, 0.0, 1.0]])


def _comir_at(
    repository: Repository, hit: Hit, shape: tuple[int, ...], margin: Sequence[int]
) -> NDArray[np.uint8]:
    """The CoMIR around a hit, upright as the query."""
    to_field = frame_to_field(repository, hit, shape) @ _shifted(margin)
    larger = tuple(side + 2 * more for side, more in zip(shape, margin, strict=True))
    place, _ = resampled(repository.comir(hit.field), to_field, larger)
    return place


def _image_at(
    repository: Repository, hit: Hit, shape: tuple[int, ...], margin: Sequence[int]
) -> NDArray[np.uint8]:
    """The image around a hit, upright as the query; only the part that is needed is read."""
    from napari_cmrir.images.geometry import Region

    to_image = affine_matrix(Region.whole(shape), hit) @ _shifted(margin)
    larger = tuple(side + 2 * more for side, more in zip(shape, margin, strict=True))
    corners = apply(to_image, [[0, 0], [larger[0], 0], [0, larger[1]], larger])
    image = repository.open_image(hit.field)
    try:
        ends = np.array(image.shape[:2])
        first = np.floor(corners.min(0) - 2).astype(int).clip(0, ends - 1)
        last = np.ceil(corners.max(0) + 2).astype(int).clip(first + 1, ends)
        pixels = np.asarray(image[first[0] : last[0], first[1] : last[1]])
    finally:
        image.close()
    seen = _eight_bit(np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), 2, 0))
    finer = max(1, round(decompose(to_image).scale))  # samples a pixel, where the image's pixels are finer
    between = np.diag([1 / finer, 1 / finer, 1.0])
    between[:2, 2] = (1 / finer - 1) / 2
    fine, _ = resampled(seen, _shifted(first) @ to_image @ between, tuple(side * finer for side in larger))
    place = fine.reshape(len(fine), larger[0], finer, larger[1], finer).mean((2, 4))
    averaged: NDArray[np.uint8] = np.rint(place).astype(np.uint8)
    return averaged


def _eight_bit(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale an image (channel, y, x) between two percentiles of its values."""
    low, high = np.percentile(pixels, _PERCENTILES)
    scaled = (pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-12))
    rounded: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return rounded


def _as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(channel, y, x) as three channels from 0 to 1: an image of another number of them is grey."""
    scaled: NDArray[np.float32] = np.divide(pixels, 255, dtype=np.float32)
    return scaled if len(scaled) == 3 else np.stack([scaled.mean(0, dtype=np.float32)] * 3)


def _matched(hit: Hit, match: Match, shape: tuple[int, ...], margin: Sequence[int]) -> Hit:
    """The hit with the matcher's score and pose."""
    from napari_cmrir.images.geometry import Region

    scores = {**hit.scores, "matcher": match.score}
    if match.matrix is None:
        return replace(hit, scores=scores)
    frame = Region.whole(shape)
    matrix = affine_matrix(frame, hit) @ _shifted(margin) @ match.matrix
    parts = decompose(match.matrix)
    rotation = hit.rotation_degrees + parts.rotation_degrees * (-1 if hit.mirrored else 1)
    return replace(
        hit,
        box=apply(matrix, frame.corners()),
        rotation_degrees=(rotation + 180) % 360 - 180,
        scale=hit.scale * parts.scale,
        scores=scores,
    )
