"""Registration of a query's CoMIR with the CoMIRs of fields, coarse to fine: poses and their scores."""

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
from napari_cmrir.settings import RegistrationSettings, fitted_values

__all__ = ["FineScores", "gradient_agreement", "register"]

_FITTED = fitted_values("fine_scores").values
# Added to the product of two gradients' lengths (grey levels of 255 per pixel, squared), so that gradients
# of rounding noise have no direction. Not measured.
_GRADIENT_FLOOR = 0.05
_FINE_SCORE_POINTS = 20_000  # pixels of the query that the fine scores sample; more cost time, not measured


class FineScores:
    """Scores the fine structures of a query and of fields under known poses.

    Registration finds a pose by blobs of some ten pixels. Blobs agree by chance more often than edges do, so
    two scores of edges join the correlation: the zero-normalised correlation of the 2 px band, and the
    agreement of gradient directions (after Pluim et al., "Image registration by maximization of combined
    mutual information and gradient information", IEEE TMI 19, 2000, doi:10.1109/42.876307).
    `benchmarks/fine_scores.py` compares them with other scores; docs/searching.md holds the table.

    Parameters
    ----------
    query : (channel, h, w) float tensor
        The query's high-passed CoMIR.
    mask : (h, w) float tensor
        1 where the query counts.
    fields : (n, channel, y, x) float tensor
        The fields' high-passed CoMIRs.
    gradients : (n, 3 * channel, y, x) tensor
        `with_gradients` of the fields.
    side : int
        Side of a pixel, in pixels of the full resolution.
    """

    def __init__(self, query: Tensor, mask: Tensor, fields: Tensor, gradients: Tensor, side: int) -> None:
        self._channels = channels = len(query)
        deviation = _FITTED["band"] / side
        band = high_pass(query[None], mask, deviation)
        # Pixels whose central differences see no pixel outside the mask.
        inner = 1 - F.max_pool2d(1 - mask[None], 3, stride=1, padding=1)
        features = torch.cat((band[0], with_gradients(query[None])[0, channels:], inner))
        self._points = Points(features, mask, _FINE_SCORE_POINTS)
        self._fields = torch.cat((high_pass(fields, None, deviation), gradients[:, channels:]), 1)

    def add_to(self, scores: Tensor, poses: Tensor) -> Tensor:
        """Average correlations with the two fine scores.

        Parameters
        ----------
        scores : (n,) tensor
            Correlation times overlap of each field.
        poses : (n, 3) tensor
            The pose in each field: degrees, and (y, x) of the query's centre.

        Returns
        -------
        (n,) tensor
            Weighted mean of the three scores, in [-1, 1]; -inf where the correlation is -inf.
        """
        seen, weight, _ = self._points.sample(self._fields, poses)
        query, inner = self._points.values[:-1], self._points.values[-1]
        c = self._channels
        overlap = weight.sum((1, 2)) / max(1, weight.shape[-1])
        band = _correlation(query[:c], seen[:, :c], weight)
        angle = torch.deg2rad(poses[:, 0])[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        down, right = seen[:, c : 2 * c], seen[:, 2 * c :]  # along the field's axes
        turned = (cos * down + sin * right, cos * right - sin * down)  # along the query's axes
        directions = gradient_agreement((query[c : 2 * c], query[2 * c :]), turned, weight * inner)
        weights = (_FITTED["correlation_weight"], _FITTED["band_weight"], _FITTED["gradient_weight"])
        fine_scores = weights[1] * band + weights[2] * directions
        return (weights[0] * scores + fine_scores * overlap) / sum(weights)


def gradient_agreement(query: tuple[Tensor, Tensor], fields: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """Compare the directions of gradients, each pair weighted by the shorter of its two gradients.

    Parameters
    ----------
    query : two (channel, point) tensors
        The query's gradients along y and x.
    fields : two (n, channel, point) tensors
        The fields' gradients at the same points and along the same axes.
    weight : (n, 1, point) tensor
        1 for points that count.

    Returns
    -------
    (n,) tensor
        Sum over the points of cos(2 * angle) times the shorter length, divided by the sum of the longer
        lengths. It is 1 for equal gradients, -1 for perpendicular gradients of equal length, and about 0 by
        chance. Opposite gradients agree, because contrast may differ between modalities.

    Examples
    --------
    >>> along_y = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    >>> across = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 4.0]]])
    >>> round(gradient_agreement(along_y, across, torch.ones(1, 1, 2)).item(), 2)
    -0.6
    """
    lengths = torch.hypot(*query), torch.hypot(*fields)
    cosine = (query[0] * fields[0] + query[1] * fields[1]) / (lengths[0] * lengths[1] + _GRADIENT_FLOOR)
    shorter, longer = torch.minimum(*lengths), torch.maximum(*lengths)
    agreement = ((2 * cosine.square() - 1) * shorter * weight).sum((1, 2))  # cos(2a) = 2 cos(a)^2 - 1
    return agreement / (longer * weight).sum((1, 2)).clamp_min(1e-6)


def _correlation(query: Tensor, fields: Tensor, weight: Tensor) -> Tensor:
    """Correlate (channel, point) with (n, channel, point), zero-normalised: (n,)."""
    total = weight.sum(-1, keepdim=True).clamp_min(1)

    def centred(values: Tensor) -> Tensor:
        return (values - (values * weight).sum(-1, keepdim=True) / total) * weight

    query, fields = centred(query[None]), centred(fields)
    lengths = query.square().sum((1, 2)) * fields.square().sum((1, 2))
    return (query * fields).sum((1, 2)) / lengths.sqrt().clamp_min(1e-6)


# Coarse peaks of a field that are refined: the second may be the right pose, and its score is the runner-up.
# Each one more costs as much time as the first; not measured.
_REFINED_PEAKS = 2
_BATCH_PIXELS = 2**22  # pixels of fields registered at once, at full resolution: bounds memory; not measured


class FieldComirs(Protocol):
    """The CoMIRs of numbered fields, read when they are needed."""

    @property
    def fields(self) -> NDArray[np.void]:
        """Give a structured (n,) array with the height and the width of every field in pixels."""

    def comir(self, field: int, level: int = 0) -> NDArray[np.uint8]:
        """Read the CoMIR (channel, y, x) of a field; each level halves the side of the previous one."""


def register(
    query: PreparedQuery, comirs: FieldComirs, fields: Sequence[int], settings: RegistrationSettings
) -> Job[dict[int, Pose]]:
    """Find the best pose of a query in each field, coarse to fine.

    At the coarse level every rotation is correlated at every shift by FFT. At the fine level the peaks of the
    best fields are moved to sub-pixel and sub-degree precision, and their score is the correlation there,
    averaged with the fine scores. A field that is not refined keeps its coarse pose; its score is at most the
    lowest refined score.

    Parameters
    ----------
    query : PreparedQuery
    comirs : FieldComirs
        Source of the fields' CoMIRs, such as a repository.
    fields : sequence of int
        Numbers of the fields to register.
    settings : RegistrationSettings

    Yields
    ------
    Progress
        In fields.

    Returns
    -------
    dict of int to Pose
        Pose by field number.
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
    """Group fields of equal size into batches of at most `_BATCH_PIXELS`."""
    by_size = defaultdict(list)
    for field in fields:
        by_size[tuple(comirs.fields[["height", "width"]][field].item())].append(int(field))
    batches = []
    for (height, width), members in by_size.items():
        count = max(1, _BATCH_PIXELS // max(1, height * width))
        batches += [members[i : i + count] for i in range(0, len(members), count)]
    return batches


def _stack(comirs: FieldComirs, fields: Sequence[int], level: int, query: PreparedQuery) -> Tensor:
    """Read and high-pass the CoMIRs of fields of equal size at a level: (n, channel, y, x) float."""
    stored = max(0, min(level, _stored_level(comirs, fields[0])))
    stacked = np.stack([comirs.comir(field, stored) for field in fields])
    images = torch.from_numpy(stacked).to(query.device).float()
    if level > stored:
        images = F.avg_pool2d(images, 2 ** (level - stored))
    return high_pass(images, None, query.high_pass_px / 2**level)


def _stored_level(comirs: FieldComirs, field: int) -> int:
    """Give the coarsest level that a field's pyramid holds: pyramids stop at a side of 64 px."""
    smallest = min(comirs.fields[["height", "width"]][field].item())
    return int(math.log2(max(1, smallest / 64)))


def _coarse_poses(
    query: PreparedQuery, fields: Tensor, settings: RegistrationSettings
) -> tuple[Tensor, Tensor]:
    """Find the best peaks of each field, and the highest score.

    Returns
    -------
    poses : (n, _REFINED_PEAKS, 3) tensor
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
    distinct = [  # peaks within 4 coarse pixels and 1.5 rotation steps are one pose; not measured
        _distinct(torch.cat((degrees[:, None], place), 1), score, 4.0 * side, settings.rotation_step)
        for place, score in zip(places, by_angle, strict=True)
    ]
    return torch.stack(distinct), by_angle.amax(1)


def _distinct(poses: Tensor, scores: Tensor, distance: float, step: float) -> Tensor:
    """Keep the best poses (_REFINED_PEAKS, 3) that are not neighbours in place and angle."""
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
        if len(kept) == _REFINED_PEAKS:
            break
    return torch.stack(kept + [kept[0]] * (_REFINED_PEAKS - len(kept)))


def _fine_poses(
    query: PreparedQuery,
    comirs: FieldComirs,
    fields: Sequence[int],
    starts: Tensor,
    settings: RegistrationSettings,
) -> dict[int, Pose]:
    """Refine the coarse poses (n, _REFINED_PEAKS, 3) of fields of equal size; give each field's best."""
    comir, mask = query.level(query.fine)
    side = 2**query.fine
    images = _stack(comirs, fields, query.fine, query)
    gradients = with_gradients(images)
    fine_scores = FineScores(comir, mask, images, gradients, side) if settings.fine_rescore else None
    poses, scores = [], []
    for start in starts.unbind(1):
        start = torch.cat((start[:, :1], (start[:, 1:] + 0.5) / side - 0.5), 1)
        # Start from the best of three angles, so that no peak is further than a sixth of a rotation step.
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
        others = score[(pose - pose[best]).abs().amax(1) > 1]  # more than 1 degree or 1 fine pixel away
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
