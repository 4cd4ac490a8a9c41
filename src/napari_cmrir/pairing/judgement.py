"""Whether two images are a pair: the pose refined, confirmed part by part, and judged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.pairing.pair_files import FoundPair, common_area
from napari_cmrir.registration.affine import (
    Matrix,
    Refined,
    apply,
    box_difference,
    box_of,
    decompose,
    refine_affine,
)
from napari_cmrir.registration.correlation import correlate, high_pass
from napari_cmrir.search.settings import PairingSettings

if TYPE_CHECKING:
    from napari_cmrir.pairing.candidates import Candidate, Folder

__all__ = ["ComirImage", "PoseEvidence", "confidence", "confirm", "judge", "one_partner_each", "refine_pose"]

_LEVEL = 1
"""Halvings of the CoMIRs that are compared: the registration's finest level is 1, too."""

_LONGEST = 1024  # px at that level; a larger overlap is compared at a coarser one
_PARTS = 5  # parts along each side of the overlap
_LEAST_PART = 16  # px a side at that level; fewer and larger parts where the overlap is small
_COVERED = 0.75  # share of a part that has to lie on both images
_REACH = 16  # px at that level that a part is shifted, each way
_SAME_PLACE = 3.0  # px at that level: a part whose best shift is shorter confirms the pose
_FLAT = 0.1  # share of the median variance of the parts under which a part shows nothing
_AFFINE_GAIN = 1.02
"""An affine map is kept where it raises the correlation by this factor."""

_MOST_STRETCH = 1.15  # of an affine map; sections are hardly stretched more, and wrong maps are


@dataclass(frozen=True, eq=False)
class ComirImage:
    """The CoMIR of an image, read where it is needed.

    Parameters
    ----------
    comir : array, (channel, y, x) uint8
        Anything that is sliced like one, such as a zarr array.
    step : float
        Pixels of the image to a pixel of the CoMIR.
    """

    comir: Any
    step: float = 1.0

    def to_image(self) -> Matrix:
        """The map from pixels of the CoMIR to pixels of the image."""
        matrix = np.diag([self.step, self.step, 1.0])
        matrix[:2, 2] = (self.step - 1) / 2
        return matrix


@dataclass(frozen=True)
class PoseEvidence:
    """What the CoMIRs say of a pose.

    Parameters
    ----------
    matrix : (3, 3) array
        From pixels of the first image to pixels of the second.
    correlation : float
        Of the CoMIRs where they overlap, in [-1, 1].
    agreeing : int
        Parts that, moved by themselves, stay where the pose puts them.
    parts : int
        Parts that show something.
    """

    matrix: Matrix
    correlation: float
    agreeing: int
    parts: int

    @property
    def agreement(self) -> float:
        """Share of the parts that confirm the pose, 0 to 1."""
        return self.agreeing / self.parts if self.parts else 0.0


def refine_pose(
    first: ComirImage, second: ComirImage, matrix: Matrix, high_pass_px: float, *, affine: bool = True
) -> PoseEvidence:
    """Refine a pose on the CoMIRs, and ask the parts of the overlap whether they agree.

    A similarity first, then an affine map, which is kept where it raises the correlation by more than chance.

    Parameters
    ----------
    first, second : ComirImage
    matrix : (3, 3) array
        The pose that was found: from pixels of the first image to pixels of the second.
    high_pass_px : float
        Standard deviation of the high pass under which the CoMIRs are compared, in px.
    affine : bool
        Whether an affine map is tried.

    Returns
    -------
    PoseEvidence
        With the matrix as given, a correlation of -1 and no parts, where the images hardly overlap.
    """
    start = np.linalg.inv(second.to_image()) @ matrix @ first.to_image()
    windows = _windows(first.comir.shape[1:], second.comir.shape[1:], start)
    if windows is None:
        return PoseEvidence(matrix, -1.0, 0, 0)
    level = _level(windows[0])
    one, to_first = _read(first, windows[0], level, high_pass_px)
    other, to_second = _read(second, windows[1], level, high_pass_px)
    pose = np.linalg.inv(to_second) @ matrix @ to_first
    found = refine_affine(one, other, pose, "similarity")
    if affine:
        bent = refine_affine(one, other, found.matrix, "affine")
        if bent.correlation > _AFFINE_GAIN * found.correlation and (
            decompose(bent.matrix).stretch < _MOST_STRETCH and bent.overlap > 0.95 * found.overlap
        ):
            found = bent
    agreeing, parts = confirm(one, other, found)
    refined = to_second @ found.matrix @ np.linalg.inv(to_first)
    return PoseEvidence(refined, found.correlation, agreeing, parts)


def confirm(first: Tensor, second: Tensor, pose: Refined) -> tuple[int, int]:
    """Count the parts of the overlap that find the pose by themselves.

    The second image is warped onto the first; each part of the first is then correlated with it at all
    shifts of up to 16 px.

    Parameters
    ----------
    first : (channel, h, w) float tensor
        High-passed.
    second : (channel, y, x) float tensor
    pose : Refined

    Returns
    -------
    agreeing, parts : int
        Parts whose best shift is shorter than 3 px, and all parts that show something.
    """
    warped, inside = _warped(second, pose.matrix, (first.shape[1], first.shape[2]))
    rows, columns = (np.flatnonzero(inside.any(axis).numpy()) for axis in (1, 0))
    if not len(rows):
        return 0, 0
    box = (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
    found = []
    for top, left, height, width in _cells(box):
        part = (slice(top, top + height), slice(left, left + width))
        if float(inside[part].mean()) < _COVERED:
            continue
        query = first[(slice(None), *part)]
        found.append((float(query.square().mean()), _best_shift(query, warped, inside, (top, left))))
    if not found:
        return 0, 0
    median = float(np.median([energy for energy, _ in found]))
    shifts = [shift for energy, shift in found if energy >= _FLAT * median]
    return sum(shift <= _SAME_PLACE for shift in shifts), len(shifts)


def _best_shift(query: Tensor, warped: Tensor, inside: Tensor, first: tuple[int, int]) -> float:
    """Length in px of the shift at which a part correlates best with what lies around it."""
    (top, left), (height, width) = first, query.shape[1:]
    y, x = max(0, top - _REACH), max(0, left - _REACH)
    around = (slice(y, top + height + _REACH), slice(x, left + width + _REACH))
    field = (warped * inside)[(slice(None), *around)]
    scores, origin = correlate(query, inside[top : top + height, left : left + width], field[None])
    best = int(scores[0].argmax())
    down = best // scores.shape[2] + origin[0] - (top - y)
    right = best % scores.shape[2] + origin[1] - (left - x)
    return math.hypot(down, right)


def _cells(box: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Parts (y, x, height, width) of a box (top, left, bottom, right)."""
    top, left, bottom, right = box
    sides = []
    for start, stop in ((top, bottom), (left, right)):
        count = max(1, min(_PARTS, (stop - start) // _LEAST_PART))
        edges = np.linspace(start, stop, count + 1).astype(int).tolist()
        sides.append(list(itertools.pairwise(edges)))
    return [(y, x, below - y, beside - x) for y, below in sides[0] for x, beside in sides[1]]


def _warped(image: Tensor, matrix: Matrix, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An image (channel, y, x) as it lies under a map of another; and where it does (1 or 0)."""
    height, width = shape
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    places = torch.from_numpy(apply(matrix, np.stack((rows, columns), 1))).to(image)
    y, x = places.unbind(1)
    grid = torch.stack(((x + 0.5) * (2 / image.shape[2]) - 1, (y + 0.5) * (2 / image.shape[1]) - 1), -1)
    seen = torch.nn.functional.grid_sample(
        image[None], grid.view(1, height, width, 2), align_corners=False, padding_mode="border"
    )[0]
    inside = (y > -0.5) & (y < image.shape[1] - 0.5) & (x > -0.5) & (x < image.shape[2] - 0.5)
    return seen, inside.view(height, width).to(image.dtype)


_Window = tuple[int, int, int, int]  # first row, first column, last row + 1, last column + 1


def _windows(
    first: tuple[int, ...], second: tuple[int, ...], matrix: Matrix
) -> tuple[_Window, _Window] | None:
    """The parts of two images that overlap under a map, and some px around; ``None`` if hardly any."""
    windows = []
    for own, other, there in ((first, second, np.linalg.inv(matrix)), (second, first, matrix)):
        corners = apply(there, box_of(other))
        low = np.floor(np.maximum(corners.min(0) - 2 * _REACH, 0)).astype(int)
        high = np.ceil(np.minimum(corners.max(0) + 2 * _REACH, own[:2])).astype(int)
        if (high - low < 2 * _LEAST_PART).any():
            return None
        windows.append((int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    return windows[0], windows[1]


def _level(window: _Window) -> int:
    height, width = window[2] - window[0], window[3] - window[1]
    level = _LEVEL if min(height, width) >= 2**_LEVEL * _PARTS * _LEAST_PART else 0
    while max(height, width) / 2**level > _LONGEST:
        level += 1
    return level


def _read(image: ComirImage, window: _Window, level: int, high_pass_px: float) -> tuple[Tensor, Matrix]:
    """A window at a level, high-passed; and the map from its pixels to those of the image."""
    top, left, bottom, right = window
    pixels: NDArray[np.uint8] = np.asarray(image.comir[:, top:bottom, left:right])
    side = 2**level
    values = torch.nn.functional.avg_pool2d(torch.from_numpy(pixels.copy()).float(), side)
    to_comir = np.diag([side, side, 1.0])
    to_comir[:2, 2] = (side - 1) / 2 + np.array([top, left])
    return high_pass(values[None], None, high_pass_px / side)[0], image.to_image() @ to_comir


_AGREEING, _DISAGREEING, _NONE = 1.9, -1.1, -4.0
"""Log odds that each part adds, and those without any part. Of the parts of 48 right poses 0.75 agreed, of
313 wrong ones 0.08 (shg_bf/train in four draws and vis_ir/train, an early starter model). The odds are held
lower than a fit to these, as the parts of one image are not independent: the most confident wrong candidates,
with 7 of 16 and 4 of 8 parts, reach 0.35 and 0.31."""

_MUTUAL = 2.5
"""Log odds that two images add of which each is the best hit of the other, in one pose: so were 9 of 11 right
candidates and 1 of 72 wrong ones (shg_bf/train in two draws), which are odds of 60; 12 are counted."""

_SAME_POSE = 0.03
"""Mean distance of the corners of two poses that are one, as a share of the diagonal."""

_ONE_WAY = 0.999
"""Confidence from which on a pair is accepted of which only one of the searches found the pose. The hits of
the other search were judged, too, and its image has no partner of more confidence."""

_SHARED = 0.2  # share of the smaller of two parts of an image; two pairs do not share more


def confidence(evidence: PoseEvidence, *, mutual: bool = False) -> float:
    """Compute the probability that a pose is right.

    Parameters
    ----------
    evidence : PoseEvidence
    mutual : bool
        Whether each image is the best hit of the other, in this pose.

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> sure, not_sure = (PoseEvidence(np.eye(3), 0.4, agreeing, 15) for agreeing in (12, 2))
    >>> confidence(sure) > 0.99, confidence(not_sure) < 0.01
    (True, True)
    """
    odds = _NONE + _AGREEING * evidence.agreeing + _DISAGREEING * (evidence.parts - evidence.agreeing)
    odds += _MUTUAL if mutual else 0.0
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))


@dataclass(frozen=True, eq=False)
class _Judged:
    evidence: PoseEvidence
    difference: float | None  # between the poses of the two searches


def judge(
    candidate: Candidate,
    first: Folder,
    second: Folder,
    settings: PairingSettings,
    known: Matrix | None = None,
) -> FoundPair:
    """Judge one candidate by itself.

    Parameters
    ----------
    candidate : Candidate
    first, second : Folder
    settings : PairingSettings
    known : (3, 3) array, optional
        A pose in which the pair was accepted before; it is judged as one found both ways.

    Returns
    -------
    FoundPair
        Accepted unless a reason speaks against it.
    """
    judged = _look(candidate, first, second, settings, known)
    evidence = judged.evidence
    same_pose = judged.difference is not None and judged.difference <= _SAME_POSE
    best = candidate.best_first and candidate.best_second
    sure = confidence(evidence, mutual=known is not None or (best and same_pose))
    shapes = first.shape(candidate.first), second.shape(candidate.second)
    reason = _objection(candidate, judged, sure, shapes, settings, known is not None)
    ways = "both ways" if same_pose else "one way" if candidate.poses else "before"
    return FoundPair(
        Path(candidate.first),
        Path(candidate.second),
        not reason,
        sure,
        evidence.matrix,
        reason or f"found {ways}; {evidence.agreeing} of {evidence.parts} parts agree",
    )


def _look(
    candidate: Candidate,
    first: Folder,
    second: Folder,
    settings: PairingSettings,
    known: Matrix | None,
) -> _Judged:
    """Refine the poses of a candidate; the one that more parts confirm counts."""
    high_pass_px = first.repository.model.comparison.high_pass_px
    comirs = first.comir(candidate.first), second.comir(candidate.second)
    starts = candidate.poses + ([known] if known is not None else [])
    refined = [refine_pose(*comirs, pose, high_pass_px, affine=settings.affine) for pose in starts]
    difference = None
    if candidate.forward and candidate.backward:
        shape = first.shape(candidate.first)
        difference = box_difference(refined[0].matrix, refined[1].matrix, shape)
    return _Judged(max(refined, key=lambda found: (confidence(found), found.correlation)), difference)


def _objection(
    candidate: Candidate,
    judged: _Judged,
    sure: float,
    shapes: tuple[tuple[int, int], tuple[int, int]],
    settings: PairingSettings,
    is_known: bool,
) -> str:
    """Why a candidate is not a pair, in words; empty if nothing speaks against it."""
    one, other = Path(candidate.first).name, Path(candidate.second).name
    evidence = judged.evidence
    if sure < settings.least_confidence:
        if not evidence.parts:
            return "they hardly overlap in the pose found"
        return f"only {evidence.agreeing} of {evidence.parts} parts agree with the pose"
    if not is_known:
        if candidate.backward is None and sure < _ONE_WAY:
            return f"found one way only: {one} is not among the hits of {other}"
        if candidate.forward is None and sure < _ONE_WAY:
            return f"found one way only: {other} is not among the hits of {one}"
        if judged.difference is not None and judged.difference > _SAME_POSE and sure < _ONE_WAY:
            return f"the two searches differ in the pose, by {judged.difference:.0%} of the diagonal"
    _, _, height, width = common_area(*shapes, evidence.matrix)
    if min(height, width) < settings.smallest_side:
        return f"the common area is only {height} x {width} px"
    return ""


def one_partner_each(pairs: Sequence[FoundPair], first: Folder, second: Folder) -> list[FoundPair]:
    """Let every part of an image have one partner: the most confident one.

    Two pairs may share an image, such as a slide, where they show different parts of it.

    Parameters
    ----------
    pairs : sequence of FoundPair
        Judged one by one.
    first, second : Folder

    Returns
    -------
    list of FoundPair
        In the same order; those that lose their partner are no longer accepted.
    """
    order = sorted(range(len(pairs)), key=lambda number: (-pairs[number].confidence, number))
    taken: list[tuple[FoundPair, NDArray[np.float64], NDArray[np.float64]]] = []
    judged = list(pairs)
    for number in order:
        pair = pairs[number]
        if not pair.accepted or pair.matrix is None:
            continue
        there = apply(pair.matrix, box_of(first.shape(str(pair.first))))
        here = apply(np.linalg.inv(pair.matrix), box_of(second.shape(str(pair.second))))
        rival = next(
            (
                other
                for other, other_there, other_here in taken
                if (other.second == pair.second and _shared(there, other_there) > _SHARED)
                or (other.first == pair.first and _shared(here, other_here) > _SHARED)
            ),
            None,
        )
        if rival is None:
            taken.append((pair, there, here))
            continue
        shared, better = (
            (pair.first, rival.second) if rival.first == pair.first else (pair.second, rival.first)
        )
        reason = f"{shared.name} belongs to {better.name} with more confidence"
        judged[number] = replace(pair, accepted=False, reason=reason)
    return judged


def _shared(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Common area of two convex quadrilaterals, as a share of the smaller."""
    import cv2

    polygons = [cv2.convexHull(box[:, ::-1].astype(np.float32)) for box in (one, other)]
    area, _ = cv2.intersectConvexConvex(*polygons)
    smaller = min(cv2.contourArea(polygon) for polygon in polygons)
    return float(area) / max(smaller, 1e-6)
