"""Registration of a query's CoMIR with the CoMIRs of fields, coarse to fine: poses and their scores."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

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
    FineScores,
    pose_scores,
    refine_poses,
    with_gradients,
)
from napari_cmrir.settings import RegistrationSettings

__all__ = ["Registration", "RunStep", "in_turn", "register", "size_classes"]

# Coarse peaks of a field that are refined: the second may be the right pose, and its score is the runner-up.
# Each one more costs as much time as the first; not measured.
_REFINED_PEAKS = 2
# Fields refined at once: two workers of a cluster share the 30 of a search. Among 40 fields of 256 px in one
# process, batches of 15 took 1.02 (patches) and 0.93 times (whole fields) as long as one batch.
_MOST_REFINED = 15
_FIRST_PORTION = 16  # fields by which a registration of limited time finds out what a field takes
_BATCH_PIXELS = 2**22  # pixels of fields registered at once, at full resolution: bounds memory; not measured


class FieldComirs(Protocol):
    """The CoMIRs of numbered fields, read when they are needed."""

    @property
    def fields(self) -> NDArray[np.void]:
        """Give a structured (n,) array with the height and the width of every field in pixels."""

    def comir(self, field: int, level: int = 0) -> NDArray[np.uint8]:
        """Read the CoMIR (channel, y, x) of a field; each level halves the side of the previous one."""


Batch = Any
Events = Generator[Progress | tuple[Batch, Any], None, None]
"""Progress of a step; or a batch and its result, in the order of the batches."""

RunStep = Callable[[Literal["coarse", "fine"], Sequence[Batch]], Events]
"""``run_step(name, batches)`` does a step of `Registration` for every batch, here or elsewhere."""


class Registration:
    """The two steps of registering a query with fields, each of one batch of fields.

    Batches do not depend on where they are computed, so that results do not, either.

    Parameters
    ----------
    query : PreparedQuery
    comirs : FieldComirs
    settings : RegistrationSettings
    """

    def __init__(self, query: PreparedQuery, comirs: FieldComirs, settings: RegistrationSettings) -> None:
        self.query, self.comirs, self.settings = query, comirs, settings

    @cached_property
    def _fine_scores(self) -> FineScores | None:
        query = self.query
        if not self.settings.fine_rescore:
            return None
        return FineScores(*query.level(query.fine), 2**query.fine, query.score_weights)

    def coarse_batches(self, fields: Sequence[int]) -> list[Batch]:
        """Group fields for `coarse`: the shape that they are padded to, and their numbers."""
        return list(_classes(self.comirs, fields, self.query))

    def coarse(self, batch: Batch) -> tuple[Tensor, list[float]]:
        """Correlate every rotation at every shift: the best peaks of each field, and its highest score."""
        shape, fields = batch
        stack = _stack(self.comirs, fields, self.query.coarse, self.query, shape)
        found, scores = _coarse_poses(self.query, *stack, self.settings)
        return found, scores.tolist()

    def fine_batches(self, starts: Mapping[int, Tensor], fields: Sequence[int]) -> list[Batch]:
        """Group fields for `fine`: their numbers and the poses to refine."""
        batches = _by_area(self.comirs, fields)
        return [(batch, torch.stack([starts[field] for field in batch])) for batch in batches]

    def fine(self, batch: Batch) -> dict[int, Pose]:
        """Refine poses, and give each field's best."""
        fields, starts = batch
        return _fine_poses(self.query, self.comirs, fields, starts, self._fine_scores, self.settings)

    def run_step(self, name: Literal["coarse", "fine"], batches: Sequence[Batch]) -> Events:
        """Do a step in this process, one batch after another."""
        yield from in_turn(self.coarse if name == "coarse" else self.fine, batches)


def in_turn(step: Callable[[Batch], Any], batches: Sequence[Batch]) -> Events:
    """Do a step for one batch after another."""
    for done, batch in enumerate(batches):
        yield Progress(done, len(batches), "batches")
        yield batch, step(batch)


def register(
    query: PreparedQuery,
    comirs: FieldComirs,
    fields: Sequence[int],
    settings: RegistrationSettings,
    run_step: RunStep | None = None,
    *,
    seconds: float = math.inf,
    at_least: int = 0,
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
    run_step : callable, optional
        Does the steps elsewhere; by default they are done here.
    seconds : float
        Time for the coarse level. The fields that it is not enough for, from the last on, are left out.
    at_least : int
        Fields that are registered in any time.

    Yields
    ------
    Progress
        In fields.

    Returns
    -------
    dict of int to Pose
        Pose by field number.
    """
    steps = Registration(query, comirs, settings)
    run_step = run_step or steps.run_step
    total = len(fields) + min(len(fields), settings.refine)
    starts: dict[int, Tensor] = {}
    coarse: dict[int, float] = {}
    for first, stop in _portions(len(fields), seconds, at_least):
        for event in run_step("coarse", steps.coarse_batches(fields[first:stop])):
            if isinstance(event, Progress):
                done = first + _share(event) * (stop - first)
                yield Progress(done, total, "fields", "Registering")
                continue
            (_, batch), (found, scores) = event
            starts.update(zip(batch, found, strict=True))
            coarse.update(zip(batch, scores, strict=True))
    best = sorted(coarse, key=lambda field: -coarse[field])[: settings.refine]
    poses: dict[int, Pose] = {}
    for event in run_step("fine", steps.fine_batches(starts, best)):
        if isinstance(event, Progress):
            yield Progress(len(fields) + _share(event) * len(best), total, "fields", "Registering")
        else:
            poses.update(event[1])
    ceiling = min((pose.score for pose in poses.values()), default=math.inf)
    for field in starts.keys() - poses.keys():
        degrees, y, x = starts[field][0].tolist()
        poses[field] = Pose(
            min(coarse[field], ceiling), degrees, (y, x), -math.inf, query.mirrored, query.scale
        )
    yield Progress(total, total, "fields", "Registering")
    return poses


def _portions(count: int, seconds: float, at_least: int) -> Iterator[tuple[int, int]]:
    """Divide ``count`` fields into portions (first, stop), each made while the portions before leave time."""
    if seconds == math.inf:
        yield 0, count
        return
    started, stop = time.monotonic(), min(max(at_least, _FIRST_PORTION), count)
    yield 0, stop
    while stop < count:
        used = time.monotonic() - started
        affordable = int(stop * (seconds - used) / max(used, 1e-9))
        if affordable < 1:
            return
        first, stop = stop, min(count, stop + min(affordable, stop))  # twice as many at most: times vary
        yield first, stop


def _share(progress: Progress) -> float:
    return progress.done / progress.total if progress.total else 0.0


_BANK = 0.7  # time of preparing a query for a shape, in fields of this shape
_PADDED = 1.2  # time of a padded field, in fields of one size: its norms are its own
_MOST_SIZES = 64  # sizes that are compared pair by pair; more are rounded up first


def size_classes(
    sizes: NDArray[np.int64], margin: tuple[int, int], bank: float = _BANK
) -> list[tuple[tuple[int, int], NDArray[np.int64]]]:
    """Group fields of similar sizes, so that padding them to one shape costs less than a shape for each size.

    Parameters
    ----------
    sizes : (n, 2) int array
        Height and width of each field.
    margin : (int, int)
        Pixels along y and x that a field's transforms add to it.
    bank : float
        Time of preparing a query for one shape, in fields.

    Returns
    -------
    list of ((int, int), int array)
        Height and width of the padded fields of a class, and their rows in ``sizes``. A class of one size is
        not padded.

    Examples
    --------
    >>> sizes = np.array([(90, 90), (30, 30), (88, 92)])
    >>> [(shape, rows.tolist()) for shape, rows in size_classes(sizes, (10, 10))]
    [((30, 30), [1]), ((90, 92), [0, 2])]
    """
    unique, of_field = np.unique(sizes, axis=0, return_inverse=True)
    of_field = of_field.ravel()
    step, class_of = 1, np.arange(len(unique))
    while class_of.max() >= _MOST_SIZES:
        step *= 2
        class_of = np.unique(-(-unique // step), axis=0, return_inverse=True)[1].ravel()
    members = [np.flatnonzero(class_of == number).tolist() for number in range(class_of.max() + 1)]
    per_size = np.bincount(of_field)
    sides = np.array([unique[rows].max(0) for rows in members])
    counts = np.array([per_size[rows].sum() for rows in members])
    alone = np.array([len(rows) == 1 for rows in members])
    while len(members) > 1:
        areas = (sides + margin).prod(1)
        costs = areas * (counts * np.where(alone, 1, _PADDED) + bank)
        joined = np.maximum(sides[:, None], sides[None])
        together = (joined + margin).prod(2) * (_PADDED * (counts[:, None] + counts[None]) + bank)
        gains = costs[:, None] + costs[None] - together
        np.fill_diagonal(gains, 0)
        one, other = sorted(divmod(int(gains.argmax()), len(members)))
        if gains[one, other] <= 0:
            break
        members[one] += members.pop(other)
        sides[one], counts[one], alone[one] = joined[one, other], counts[one] + counts[other], False
        sides, counts, alone = (np.delete(values, other, 0) for values in (sides, counts, alone))
    return [
        ((int(height), int(width)), np.flatnonzero(np.isin(of_field, rows)))
        for (height, width), rows in zip(sides, members, strict=True)
    ]


def _sizes(comirs: FieldComirs, fields: Sequence[int]) -> NDArray[np.int64]:
    """Height and width of fields, (n, 2), in pixels."""
    chosen = comirs.fields[np.asarray(fields, np.int64)]
    return np.stack((chosen["height"], chosen["width"]), 1).astype(np.int64).reshape(-1, 2)


def _classes(
    comirs: FieldComirs, fields: Sequence[int], query: PreparedQuery
) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Batches of fields of one class and their padded shape, at most `_BATCH_PIXELS` each."""
    if not len(fields):
        return
    numbers = np.asarray(fields, np.int64)
    for (height, width), rows in size_classes(_sizes(comirs, fields), (query.height, query.width)):
        count = max(1, _BATCH_PIXELS // max(1, height * width))
        for first in range(0, len(rows), count):
            yield (height, width), numbers[rows[first : first + count]].tolist()


def _by_area(comirs: FieldComirs, fields: Sequence[int]) -> Iterator[list[int]]:
    """Batches of fields in the order of their areas, padded at most `_BATCH_PIXELS` each."""
    sizes = _sizes(comirs, fields)
    batch: list[int] = []
    sides = np.zeros(2, np.int64)
    for row in np.argsort(sizes.prod(1), kind="stable").tolist():
        larger = np.maximum(sides, sizes[row])
        is_full = len(batch) == _MOST_REFINED or int(larger.prod()) * (len(batch) + 1) > _BATCH_PIXELS
        if batch and is_full:
            yield batch
            batch, larger = [], sizes[row]
        batch.append(int(fields[row]))
        sides = larger
    if batch:
        yield batch


def _stack(
    comirs: FieldComirs,
    fields: Sequence[int],
    level: int,
    query: PreparedQuery,
    shape: tuple[int, int] | None = None,
    *,
    edged: bool = False,
) -> tuple[Tensor, list[tuple[int, int]] | None]:
    """Read and high-pass the CoMIRs of fields at a level: (n, channel, y, x) float.

    Fields of several sizes are padded with 0 to ``shape`` (full resolution), or to the largest of them; the
    second result is then the size of each. ``edged``: the padding begins with a copy of the last row and
    column, so that central differences are those of the field.
    """
    sizes = _sizes(comirs, fields)
    if (sizes == sizes[0]).all() and (shape is None or tuple(sizes[0].tolist()) == shape):
        return _read(comirs, fields, level, query), None
    images = [_read(comirs, [field], level, query)[0] for field in fields]
    shapes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (side >> level for side in shape) if shape else np.max(shapes, 0).tolist()
    stack = images[0].new_zeros(len(images), len(images[0]), height, width)
    for padded, image, (tall, wide) in zip(stack, images, shapes, strict=True):
        padded[:, :tall, :wide] = image
        if edged:
            padded[:, tall : tall + 1, :wide] = image[:, -1:]
            padded[:, :tall, wide : wide + 1] = image[:, :, -1:]
    return stack, shapes


def _read(comirs: FieldComirs, fields: Sequence[int], level: int, query: PreparedQuery) -> Tensor:
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
    query: PreparedQuery,
    fields: Tensor,
    sizes: list[tuple[int, int]] | None,
    settings: RegistrationSettings,
) -> tuple[Tensor, Tensor]:
    """Find the best peaks of each field, and the highest score.

    Returns
    -------
    poses : (n, _REFINED_PEAKS, 3) tensor
        Degrees, and the query's centre (y, x) at full resolution.
    scores : (n,) tensor
    """
    shape = (fields.shape[-2], fields.shape[-1])
    templates = query.rotated_templates(shape, settings, padded=sizes is not None)
    scores, centres = [], []
    for version, correlation in zip(templates.versions, templates.correlate(fields, sizes), strict=True):
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
    fine: FineScores | None,
    settings: RegistrationSettings,
) -> dict[int, Pose]:
    """Refine the coarse poses (n, _REFINED_PEAKS, 3) of fields; give each field's best."""
    comir, mask = query.level(query.fine)
    side = 2**query.fine
    images, shapes = _stack(comirs, fields, query.fine, query, edged=True)
    sizes = None if shapes is None else torch.tensor(shapes, device=images.device)
    gradients = with_gradients(images)
    features = fine.of_fields(images, gradients, sizes) if fine else None
    overlap = settings.min_overlap
    poses, scores = [], []
    for start in starts.unbind(1):
        start = torch.cat((start[:, :1], (start[:, 1:] + 0.5) / side - 0.5), 1)
        # Start from the best of three angles, so that no peak is further than a sixth of a rotation step.
        nearby = [start + torch.tensor([d * settings.rotation_step / 3, 0, 0]).to(start) for d in (-1, 0, 1)]
        tried = torch.stack(
            [
                pose_scores(comir, mask, images, pose, overlap, most_points=POINTS_STEPPED, sizes=sizes)
                for pose in nearby
            ],
            1,
        )
        start = torch.stack(nearby, 1)[torch.arange(len(start)), tried.argmax(1)]
        refined, score = refine_poses(comir, mask, images, start, overlap, gradients=gradients, sizes=sizes)
        poses.append(refined)
        scores.append(
            fine.add_to(score, refined, features, sizes) if fine and features is not None else score
        )
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
