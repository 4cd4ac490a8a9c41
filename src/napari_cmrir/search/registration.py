"""Registration of a query's CoMIR with those of fields: the pose and how well it fits."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.comir.detail import detail
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.search.correlation import QueryBank, peaks, turn
from napari_cmrir.search.refinement import pose_scores, refine_poses
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository

__all__ = ["Pose", "RegisteredQuery", "register", "resized", "rotations", "scales"]

_COARSE, _FINE = 2, 1  # pyramid levels: quarter and half resolution
_SMALLEST_SIDE = 20  # pixels that a query keeps at the coarse level
_KEPT = 2  # peaks of a field that are refined
_ALIGNMENT = 2**_COARSE
_BATCH_PIXELS = 2**22
_BAND = 16.0  # standard deviation, in pixels, of the neighbourhood whose mean is taken away


@dataclass(frozen=True)
class Pose:
    """Where and how a query lies on a field.

    Parameters
    ----------
    score : float
        Zero-normalised correlation of the CoMIRs under the pose, times the share of the query that lies on
        the field, in [-1, 1]; -inf if there is no pose.
    rotation_degrees : float
        How far the query is turned counter-clockwise.
    centre : (float, float)
        (y, x) in the field's pixels of the centre of the query's frame.
    runner_up : float
        Score of the next best, different pose in the same field; -inf if there is none.
    mirrored : bool
        Whether the query was mirrored left to right before it was turned.
    scale : float
        By how much the query was enlarged.
    """

    score: float
    rotation_degrees: float
    centre: tuple[float, float]
    runner_up: float
    mirrored: bool = False
    scale: float = 1.0


class RegisteredQuery:
    """A query's CoMIR and mask, padded to whole pixels of every level.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
    mask : (y, x) bool array
    device : torch.device
    mirrored : bool
        Mirror it left to right.
    scale : float
        Enlarge it by this factor.
    """

    def __init__(
        self,
        comir: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        device: torch.device,
        *,
        mirrored: bool = False,
        scale: float = 1.0,
    ) -> None:
        self.mirrored, self.scale = mirrored, scale
        comir, mask = resized(comir, mask, scale)
        if mirrored:
            comir, mask = comir[..., ::-1].copy(), mask[..., ::-1].copy()
        self.height, self.width = mask.shape
        padding = (0, -self.width % _ALIGNMENT, 0, -self.height % _ALIGNMENT)
        self._comir = F.pad(torch.from_numpy(comir).to(device).float(), padding)
        self._mask = F.pad(torch.from_numpy(mask).to(device).float(), padding)
        self.coarse = _COARSE
        while self.coarse > 0 and min(self.height, self.width) / 2**self.coarse < _SMALLEST_SIDE:
            self.coarse -= 1
        self.fine = min(_FINE, self.coarse)
        self._banks: dict[tuple[int, int], QueryBank] = {}

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self._comir.device

    def level(self, level: int) -> tuple[Tensor, Tensor]:
        """Detail (channel, y, x) and mask (y, x), averaged over squares of ``2**level`` pixels a side."""
        side = 2**level
        weight = F.avg_pool2d(self._mask[None], side)[0]
        comir = F.avg_pool2d(self._comir * self._mask, side) / weight.clamp_min(1e-6)
        mask = (weight > 0.5).float()
        return detail(comir[None], mask, _BAND / side)[0], mask

    def bank(self, shape: tuple[int, int], settings: SearchSettings) -> QueryBank:
        """The query at the coarse level under every rotation, ready for fields of a shape (made once)."""
        if shape not in self._banks:
            comir, mask = self.level(self.coarse)
            turned = [turn(comir, mask, angle) for angle in rotations(settings)]
            self._banks[shape] = QueryBank(turned, shape, min_overlap=settings.min_overlap, centred=False)
        return self._banks[shape]

    def corners(self, pose: Pose) -> NDArray[np.float64]:
        """Corners (4, 2) of the query, without its padding, in the field's pixels."""
        top, left = (-(side + (-side % _ALIGNMENT)) / 2 for side in (self.height, self.width))
        bottom, right = top + self.height, left + self.width
        if self.mirrored:
            left, right = right, left
        corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
        angle = math.radians(pose.rotation_degrees)
        matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        posed: NDArray[np.float64] = corners @ matrix.T + np.array(pose.centre)
        return posed


def resized(
    comir: NDArray[np.uint8], mask: NDArray[np.bool_], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Enlarge a CoMIR (channel, y, x) and its mask (y, x) by a factor, to whole pixels."""
    if scale == 1:
        return comir, mask
    import cv2

    height, width = (max(1, round(side * scale)) for side in mask.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    planes = [cv2.resize(plane, (width, height), interpolation=how) for plane in comir]
    counts = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.stack(planes), counts > 0


def rotations(settings: SearchSettings) -> list[float]:
    """Angles tried first, in degrees, symmetric about 0.

    Examples
    --------
    >>> rotations(SearchSettings(max_rotation=12, rotation_step=6))
    [-12.0, -6.0, 0.0, 6.0, 12.0]
    >>> len(rotations(SearchSettings(max_rotation=180, rotation_step=6)))
    60
    """
    if settings.max_rotation >= 180:
        count = math.ceil(360 / settings.rotation_step)
        return [round(i * 360 / count - 180, 6) for i in range(count)]
    each_side = math.ceil(settings.max_rotation / settings.rotation_step)
    return [i * settings.rotation_step for i in range(-each_side, each_side + 1)]


def scales(settings: SearchSettings) -> list[float]:
    """Sizes that are tried, as factors of the query's own, which is the first.

    Examples
    --------
    >>> scales(SearchSettings())
    [1.0]
    >>> [round(scale, 3) for scale in scales(SearchSettings(max_scale=1.1, scale_step=1.05))]
    [1.0, 0.953, 1.049, 0.909, 1.1]
    """
    count = math.ceil(math.log(settings.max_scale) / math.log(settings.scale_step) - 1e-9)
    each = [settings.max_scale ** (i / count) for i in range(1, count + 1)]
    return [1.0] + [factor for scale in each for factor in (1 / scale, scale)]


def register(
    query: RegisteredQuery, repository: Repository, fields: Sequence[int], settings: SearchSettings
) -> Job[dict[int, Pose]]:
    """Find the best pose of a query in each of some fields, coarse to fine.

    At the coarse level every rotation is correlated at every shift by FFT; the peaks of the best fields are
    then moved to sub-pixel and sub-degree precision at the fine level, whose correlation is their score. A
    field that is not refined keeps its coarse pose, and scores no higher than those that are.

    Parameters
    ----------
    query : RegisteredQuery
    repository : Repository
        Holds the fields' CoMIRs.
    fields : sequence of int
        Rows of the repository's fields.
    settings : SearchSettings

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
    for batch in _batches(repository, fields):
        yield Progress(len(starts), total, "fields", "Registering")
        found, scores = _coarse_poses(query, _stack(repository, batch, query.coarse, query), settings)
        starts.update(zip(batch, found, strict=True))
        coarse.update(zip(batch, scores.tolist(), strict=True))
    best = sorted(coarse, key=lambda field: -coarse[field])[: settings.refine]
    poses: dict[int, Pose] = {}
    for batch in _batches(repository, best):
        yield Progress(len(starts) + len(poses), total, "fields", "Registering")
        batch_starts = torch.stack([starts[field] for field in batch])
        poses.update(_fine_poses(query, repository, batch, batch_starts, settings))
    ceiling = min((pose.score for pose in poses.values()), default=math.inf)
    for field in starts.keys() - poses.keys():
        degrees, y, x = starts[field][0].tolist()
        poses[field] = Pose(
            min(coarse[field], ceiling), degrees, (y, x), -math.inf, query.mirrored, query.scale
        )
    yield Progress(total, total, "fields", "Registering")
    return poses


def _batches(repository: Repository, fields: Sequence[int]) -> list[list[int]]:
    """Fields of equal size, few enough to be held at once."""
    by_size = defaultdict(list)
    for field in fields:
        by_size[tuple(repository.fields[["height", "width"]][field].item())].append(int(field))
    batches = []
    for (height, width), members in by_size.items():
        count = max(1, _BATCH_PIXELS // max(1, height * width))
        batches += [members[i : i + count] for i in range(0, len(members), count)]
    return batches


def _stack(repository: Repository, fields: Sequence[int], level: int, query: RegisteredQuery) -> Tensor:
    """CoMIRs of fields of equal size at a level, (n, channel, y, x) float."""
    stored = max(0, min(level, _stored_level(repository, fields[0])))
    comirs = np.stack([repository.comir(field, stored) for field in fields])
    images = F.avg_pool2d(torch.from_numpy(comirs).to(query.device).float(), 2 ** (level - stored))
    return detail(images, torch.ones_like(images[0, 0]), _BAND / 2**level)


def _stored_level(repository: Repository, field: int) -> int:
    """The coarsest level that a field's pyramid is sure to hold."""
    smallest = min(repository.fields[["height", "width"]][field].item())
    return int(math.log2(max(1, smallest / 64)))


def _coarse_poses(query: RegisteredQuery, fields: Tensor, settings: SearchSettings) -> tuple[Tensor, Tensor]:
    """The best peaks of each field, and the score of the best.

    Returns
    -------
    poses : (n, _KEPT, 3) tensor
        Degrees, and the query's centre (y, x) at full resolution.
    scores : (n,) tensor
    """
    bank = query.bank((fields.shape[-2], fields.shape[-1]), settings)
    scores, centres = [], []
    for version, correlation in zip(bank.versions, bank.correlate(fields), strict=True):
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
    query: RegisteredQuery,
    repository: Repository,
    fields: Sequence[int],
    starts: Tensor,
    settings: SearchSettings,
) -> dict[int, Pose]:
    comir, mask = query.level(query.fine)
    side = 2**query.fine
    images = _stack(repository, fields, query.fine, query)
    poses, scores = [], []
    for start in starts.unbind(1):
        start = torch.cat((start[:, :1], (start[:, 1:] + 0.5) / side - 0.5), 1)
        nearby = [start + torch.tensor([d * settings.rotation_step / 3, 0, 0]).to(start) for d in (-1, 0, 1)]
        tried = torch.stack(
            [pose_scores(comir, mask, images, pose, settings.min_overlap) for pose in nearby], 1
        )
        start = torch.stack(nearby, 1)[torch.arange(len(start)), tried.argmax(1)]
        refined, score = refine_poses(comir, mask, images, start, settings.min_overlap)
        poses.append(refined)
        scores.append(score)
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
