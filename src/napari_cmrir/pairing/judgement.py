"""Which candidates are pairs: confidence, reasons, and one partner for every part of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.pairing.candidates import Candidate, Folder
from napari_cmrir.pairing.pair_files import FoundPair, common_area
from napari_cmrir.pairing.pose import PoseEvidence, refine_pose
from napari_cmrir.pairing.settings import PairingSettings
from napari_cmrir.registration.affine import Matrix, apply, box_difference, box_of

__all__ = ["confidence", "judge", "one_partner_each"]

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
    high_pass_px = first.repository.model.high_pass_px
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
