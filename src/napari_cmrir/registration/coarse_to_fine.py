"""Registration of a query's CoMIR with those of fields, coarse to fine: poses and their scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registration.correlation import high_pass, peaks
from napari_cmrir.registration.prepared_query import Pose, PreparedQuery, rotations
from napari_cmrir.registration.refinement import (
    POINTS_STEPPED,
    Points,
    pose_scores,
    refine_poses,
    with_gradients,
)
from napari_cmrir.registration.settings import RegistrationSettings
from napari_cmrir.settings import fitted_values

__all__ = ["FineScores", "gradient_agreement", "register"]

_FITTED = fitted_values("fine_scores").values
_LEAST = 0.05  # product of two gradients' lengths, squared steps of 8 bits, that is hardly a direction
_POINTS = 20_000


class FineScores:
    """Scores the fine structures of a query and of fields under poses that are already found.

    Registration finds a pose by blobs of some ten pixels, which agree by chance more often than edges do. Two
    scores of edges are added: the zero-normalised correlation of the band of 2 px, and the agreement of
    gradient directions (after Pluim et al., "Image registration by maximization of
    combined mutual information and gradient information", IEEE TMI 19, 2000, doi:10.1109/42.876307).

    Parameters
    ----------
    query : (channel, h, w) float tensor
        Detail of its CoMIR.
    mask : (h, w) float tensor
        1 where the query counts.
    fields : (n, channel, y, x) float tensor
        Detail of theirs.
    gradients : (n, 3 * channel, y, x) tensor
        `with_gradients` of the fields.
    side : int
        Side of a pixel, in pixels of the full resolution.
    """

    def __init__(self, query: Tensor, mask: Tensor, fields: Tensor, gradients: Tensor, side: int) -> None:
        self._channels = channels = len(query)
        deviation = _FITTED["band"] / side
        band = high_pass(query[None], mask, deviation)
        inner = 1 - F.max_pool2d(
            1 - mask[None], 3, stride=1, padding=1
        )  # whose gradients are the query's own
        ours = torch.cat((band[0], with_gradients(query[None])[0, channels:], inner))
        self._points = Points(ours, mask, _POINTS)
        self._fields = torch.cat((high_pass(fields, None, deviation), gradients[:, channels:]), 1)

    def add_to(self, scores: Tensor, poses: Tensor) -> Tensor:
        """Average the correlations of the CoMIRs with the fine scores.

        Parameters
        ----------
        scores : (n,) tensor
            The correlations, times the overlap.
        poses : (n, 3) tensor
            The pose in each field: degrees, and (y, x) of the query's centre.

        Returns
        -------
        (n,) tensor
            Weighted mean of the three, in [-1, 1]; -inf where the score is.
        """
        seen, weight, _ = self._points.sample(self._fields, poses)
        ours, inner = self._points.values[:-1], self._points.values[-1]
        c = self._channels
        overlap = weight.sum((1, 2)) / max(1, weight.shape[-1])
        fine = _correlation(ours[:c], seen[:, :c], weight)
        angle = torch.deg2rad(poses[:, 0])[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        down, right = seen[:, c : 2 * c], seen[:, 2 * c :]  # as the field's axes lie
        theirs = (cos * down + sin * right, cos * right - sin * down)
        steps = gradient_agreement((ours[c : 2 * c], ours[2 * c :]), theirs, weight * inner)
        weights = (_FITTED["correlation_weight"], _FITTED["band_weight"], _FITTED["gradient_weight"])
        fine_scores = weights[1] * fine + weights[2] * steps
        return (weights[0] * scores + fine_scores * overlap) / sum(weights)


def gradient_agreement(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """Compare gradients by their directions, each as much as the weaker of the two is strong.

    Parameters
    ----------
    ours : two (channel, point) tensors
        Gradients along y and x.
    theirs : two (n, channel, point) tensors
        Those of the fields at the same points and along the same axes.
    weight : (n, 1, point) tensor
        1 where they count.

    Returns
    -------
    (n,) tensor
        Sum of the cosines of twice the angles between them, times the weaker length, over the sum of the
        stronger lengths: 1 where they are equal, -1 where they are perpendicular and of equal length, about
        0 by chance.

    Examples
    --------
    >>> along_y = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    >>> across = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 4.0]]])
    >>> round(gradient_agreement(along_y, across, torch.ones(1, 1, 2)).item(), 2)
    -0.6
    """
    lengths = torch.hypot(*ours), torch.hypot(*theirs)
    cosine = (ours[0] * theirs[0] + ours[1] * theirs[1]) / (lengths[0] * lengths[1] + _LEAST)
    weaker, stronger = torch.minimum(*lengths), torch.maximum(*lengths)
    agreement = ((2 * cosine.square() - 1) * weaker * weight).sum((1, 2))
    return agreement / (stronger * weight).sum((1, 2)).clamp_min(1e-6)


def _correlation(ours: Tensor, theirs: Tensor, weight: Tensor) -> Tensor:
    """Zero-normalised correlation (n,) of (channel, point) with (n, channel, point)."""
    total = weight.sum(-1, keepdim=True).clamp_min(1)

    def centred(values: Tensor) -> Tensor:
        return (values - (values * weight).sum(-1, keepdim=True) / total) * weight

    one, other = centred(ours[None]), centred(theirs)
    lengths = one.square().sum((1, 2)) * other.square().sum((1, 2))
    return (one * other).sum((1, 2)) / lengths.sqrt().clamp_min(1e-6)


_KEPT = 2  # peaks of a field that are refined
_BATCH_PIXELS = 2**22


class FieldComirs(Protocol):
    """The CoMIRs of numbered fields, read when they are needed."""

    @property
    def fields(self) -> NDArray[np.void]:
        """Structured (n,) array with the height and the width of every field in pixels."""

    def comir(self, field: int, level: int = 0) -> NDArray[np.uint8]:
        """CoMIR (channel, y, x) of a field, each level half as large as the one before."""


def register(
    query: PreparedQuery, comirs: FieldComirs, fields: Sequence[int], settings: RegistrationSettings
) -> Job[dict[int, Pose]]:
    """Find the best pose of a query in each of some fields, coarse to fine.

    At the coarse level every rotation is correlated at every shift by FFT; the peaks of the best fields are
    then moved to sub-pixel and sub-degree precision at the fine level, whose correlation, with the second
    vote, is their score. A field that is not refined keeps its coarse pose, and scores no higher than those
    that are.

    Parameters
    ----------
    query : PreparedQuery
    comirs : FieldComirs
        The fields' CoMIRs; a repository is one.
    fields : sequence of int
        Their numbers.
    settings : RegistrationSettings

    Yields
    ------
    Progress
        In fields.

    Returns
    -------
    dict
        `Pose` of each field.
    """
    total = len(fields) + min(len(fields), settings.refine)
    starts: dict[int, Tensor] = {}
    coarse: dict[int, float] = {}
    for batch in _batches(comirs, fields):
        yield Progress(len(starts), total, "fields", "Registering")
        found, scores = _coarse_poses(query, _stack(comirs, batch, query.coarse, query), settings)
        starts.update(zip(batch, found, strict=True))
        coarse.update(zip(batch, scores.tolist(), strict=True))
    best = sorted(coarse, key=lambda field: -coarse[field])[: settings.refine]
    poses: dict[int, Pose] = {}
    for batch in _batches(comirs, best):
        yield Progress(len(starts) + len(poses), total, "fields", "Registering")
        batch_starts = torch.stack([starts[field] for field in batch])
        poses.update(_fine_poses(query, comirs, batch, batch_starts, settings))
    ceiling = min((pose.score for pose in poses.values()), default=math.inf)
    for field in starts.keys() - poses.keys():
        degrees, y, x = starts[field][0].tolist()
        poses[field] = Pose(
            min(coarse[field], ceiling), degrees, (y, x), -math.inf, query.mirrored, query.scale
        )
    yield Progress(total, total, "fields", "Registering")
    return poses


def _batches(comirs: FieldComirs, fields: Sequence[int]) -> list[list[int]]:
    """Fields of equal size, few enough to be held at once."""
    by_size = defaultdict(list)
    for field in fields:
        by_size[tuple(comirs.fields[["height", "width"]][field].item())].append(int(field))
    batches = []
    for (height, width), members in by_size.items():
        count = max(1, _BATCH_PIXELS // max(1, height * width))
        batches += [members[i : i + count] for i in range(0, len(members), count)]
    return batches


def _stack(comirs: FieldComirs, fields: Sequence[int], level: int, query: PreparedQuery) -> Tensor:
    """CoMIRs of fields of equal size at a level, (n, channel, y, x) float."""
    stored = max(0, min(level, _stored_level(comirs, fields[0])))
    stacked = np.stack([comirs.comir(field, stored) for field in fields])
    images = torch.from_numpy(stacked).to(query.device).float()
    if level > stored:
        images = F.avg_pool2d(images, 2 ** (level - stored))
    return high_pass(images, None, query.high_pass_px / 2**level)


def _stored_level(comirs: FieldComirs, field: int) -> int:
    """The coarsest level that a field's pyramid is sure to hold."""
    smallest = min(comirs.fields[["height", "width"]][field].item())
    return int(math.log2(max(1, smallest / 64)))


def _coarse_poses(
    query: PreparedQuery, fields: Tensor, settings: RegistrationSettings
) -> tuple[Tensor, Tensor]:
    """The best peaks of each field, and the score of the best.

    Returns
    -------
    poses : (n, _KEPT, 3) tensor
        Degrees, and the query's centre (y, x) at full resolution.
    scores : (n,) tensor
    """
    templates = query.rotated_templates((fields.shape[-2], fields.shape[-1]), settings)
    scores, centres = [], []
    for version, correlation in zip(templates.versions, templates.correlate(fields), strict=True):
        best, index = peaks(correlation)
        half = [(side - 1) / 2 + first for side, first in zip(version.shape, version.origin, strict=True)]
        scores.append(best)
        centres.append(index + torch.tensor(half, device=index.device))
    side = 2**query.coarse
    places = (torch.stack(centres, 1) + 0.5) * side - 0.5  # (n, angle, 2)
    degrees = torch.tensor(rotations(settings), device=places.device)
    by_angle = torch.stack(scores, 1)
    distinct = [
        _distinct(torch.cat((degrees[:, None], place), 1), score, 4.0 * side, settings.rotation_step)
        for place, score in zip(places, by_angle, strict=True)
    ]
    return torch.stack(distinct), by_angle.amax(1)


def _distinct(poses: Tensor, scores: Tensor, distance: float, step: float) -> Tensor:
    """The best poses (_KEPT, 3) that are not neighbours of one another in place and angle."""
    kept: list[Tensor] = []
    order = scores.argsort(descending=True).tolist()
    for index in order:
        pose = poses[index]
        near = any(
            float((pose[1:] - other[1:]).norm()) < distance
            and abs((float(pose[0] - other[0]) + 180) % 360 - 180) <= 1.5 * step
            for other in kept
        )
        if not near:
            kept.append(pose)
        if len(kept) == _KEPT:
            break
    return torch.stack(kept + [kept[0]] * (_KEPT - len(kept)))


def _fine_poses(
    query: PreparedQuery,
    comirs: FieldComirs,
    fields: Sequence[int],
    starts: Tensor,
    settings: RegistrationSettings,
) -> dict[int, Pose]:
    comir, mask = query.level(query.fine)
    side = 2**query.fine
    images = _stack(comirs, fields, query.fine, query)
    gradients = with_gradients(images)
    fine_scores = FineScores(comir, mask, images, gradients, side) if settings.fine_rescore else None
    poses, scores = [], []
    for start in starts.unbind(1):
        start = torch.cat((start[:, :1], (start[:, 1:] + 0.5) / side - 0.5), 1)
        nearby = [start + torch.tensor([d * settings.rotation_step / 3, 0, 0]).to(start) for d in (-1, 0, 1)]
        tried = torch.stack(
            [
                pose_scores(comir, mask, images, pose, settings.min_overlap, most_points=POINTS_STEPPED)
                for pose in nearby
            ],
            1,
        )
        start = torch.stack(nearby, 1)[torch.arange(len(start)), tried.argmax(1)]
        refined, score = refine_poses(comir, mask, images, start, settings.min_overlap, gradients=gradients)
        poses.append(refined)
        scores.append(score if fine_scores is None else fine_scores.add_to(score, refined))
    found, values = torch.stack(poses, 1).cpu(), torch.stack(scores, 1).cpu()
    results = {}
    for field, pose, score in zip(fields, found.unbind(), values.unbind(), strict=True):
        best = int(score.argmax())
        others = score[(pose - pose[best]).abs().amax(1) > 1]
        degrees, y, x = pose[best].tolist()
        results[field] = Pose(
            float(score[best]),
            (degrees + 180) % 360 - 180,
            ((y + 0.5) * side - 0.5, (x + 0.5) * side - 0.5),
            float(others.max()) if len(others) else -math.inf,
            query.mirrored,
            query.scale,
        )
    return results
