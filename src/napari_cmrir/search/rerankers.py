"""Rerankers of a shortlist, and their registry."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import rotation_difference
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.registration.coarse_to_fine import Events, Registration, in_turn, register
from napari_cmrir.registration.prepared_query import Pose, PreparedQuery, rotations, scales
from napari_cmrir.registry import Registry
from napari_cmrir.repository.executors import TaskFailed, cluster_at
from napari_cmrir.repository.repository import Repository, open_repository
from napari_cmrir.search.calibration import Evidence, calibration_of, confidences
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.search.shortlist import Screening
from napari_cmrir.settings import Comparison

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.descriptors.features import Features

__all__ = [
    "RERANKERS",
    "QueryVariant",
    "Reranker",
    "SearchConfig",
    "SearchContext",
    "SearchState",
    "better",
    "covering_offsets",
    "patch_scores",
]


def covering_offsets(length: int, patch: int) -> list[int]:
    """Offsets of the fewest equally spaced patches that cover a length.

    Breznik et al. 2024, experimental settings ("the minimal number of equidistantly placed patches").

    Parameters
    ----------
    length, patch : int
        Pixels.

    Examples
    --------
    >>> covering_offsets(834, 256)
    [0, 193, 385, 578]
    >>> covering_offsets(100, 256)
    [0]
    """
    count = max(1, math.ceil(length / patch))
    return [int(offset + 0.5) for offset in np.linspace(0, max(0, length - patch), count)]


def patch_scores(
    comir: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    repository: Repository,
    fields: Sequence[int],
    settings: SearchSettings,
) -> Job[dict[int, float]]:
    """Score fields by the patch that is most similar to the query.

    Breznik et al. 2024, Stage III: the fields are cut into query-sized patches, each patch gets a bag of
    words under one vocabulary, and the best patch gives the score of its field.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    mask : (y, x) bool array
        True where the query counts.
    repository : Repository
    fields : sequence of int
        The shortlist.
    settings : SearchSettings
        `bow_vocabulary` chooses between words learned from the patches and those of the repository.

    Yields
    ------
    Progress
        In fields.

    Returns
    -------
    dict
        Cosine in [0, 1] of each field.
    """
    from napari_cmrir.bag_of_words.bags import BagIndex, count_words
    from napari_cmrir.bag_of_words.descriptors.features import describe
    from napari_cmrir.bag_of_words.vocabulary import keep_strongest, sample_field, train_vocabulary

    how = repository.settings
    height, width = mask.shape
    patches: list[Features] = []
    owners: list[int] = []
    for done, field in enumerate(fields):
        yield Progress(done, len(fields), "fields", "Describing the patches")
        image = repository.comir(field)
        for y in covering_offsets(image.shape[1], height):
            for x in covering_offsets(image.shape[2], width):
                patches.append(describe(image[:, y : y + height, x : x + width], how.descriptor))
                owners.append(field)
    if settings.bow_vocabulary == "new":
        samples = [sample_field(p, len(patches), how.vocabulary, i) for i, p in enumerate(patches)]
        vocabulary = yield from train_vocabulary(keep_strongest(samples, how.vocabulary), how.vocabulary)
    else:
        vocabulary = repository.vocabulary
    size = len(vocabulary)
    bags = []
    for done, features in enumerate(patches):
        if done % 16 == 0:
            yield Progress(done, len(patches), "patches", "Assigning words")
        bags.append(count_words(vocabulary.assign(features.descriptors), size))
    query = describe(comir, how.descriptor, None if mask.all() else mask)
    index = BagIndex.from_bags(bags, size, how.bags)
    cosines = index.scores(count_words(vocabulary.assign(query.descriptors), size))
    best = dict.fromkeys(fields, 0.0)
    for owner, cosine in zip(owners, cosines, strict=True):
        best[owner] = max(best[owner], float(cosine))
    return best


_SAME_PLACE, _SAME_ANGLE = 16.0, 6.0  # px and degrees below which poses of two variants count as the same


@dataclass(frozen=True, eq=False)
class QueryVariant:
    """A query as it is, mirrored or resized, and how it is searched.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
    mask : (y, x) bool array
    comparison : Comparison
        The model's.
    settings : SearchSettings
    mirrored : bool
    scale : float
    """

    comir: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    comparison: Comparison
    settings: SearchSettings
    mirrored: bool
    scale: float


@dataclass(frozen=True)
class SearchConfig:
    """What a worker of a dask cluster needs of a search.

    Parameters
    ----------
    folder : Path
        The repository, at the same path for every worker.
    snapshot : str
        `Repository.snapshot` of the state to search.
    digest : str
        Of the variant.
    variant : QueryVariant
    """

    folder: Path
    snapshot: str
    digest: str
    variant: QueryVariant = dataclasses.field(compare=False)

    def context(self) -> SearchContext:
        """Prepare the query there."""
        return SearchContext(self.variant, opened_by_worker(self.folder, self.snapshot))


class _Opened(threading.local):
    """The repository that a worker's thread searched last."""

    def __init__(self) -> None:
        self.repositories: dict[Path, Repository] = {}


_OPENED = _Opened()


def opened_by_worker(folder: Path, snapshot: str) -> Repository:
    """Open a repository in a worker, whose thread keeps it open for the next search.

    Parameters
    ----------
    folder : Path
    snapshot : str
        `Repository.snapshot` of the state to search.

    Raises
    ------
    InputError
        If it is in another state.
    """
    repository = _OPENED.repositories.get(folder)
    if repository is None or repository.snapshot != snapshot:
        repository = open_repository(folder)
        if repository.snapshot != snapshot:
            raise InputError(f"{folder.name} has changed since it was opened; open it again to search it.")
        _OPENED.repositories = {folder: repository}
    return repository


Step = Literal["screen", "coarse", "fine"]


class SearchContext:
    """A query that is prepared for the steps of a search, here or in a worker.

    Parameters
    ----------
    variant : QueryVariant
    repository : Repository
    """

    def __init__(self, variant: QueryVariant, repository: Repository) -> None:
        self.variant, self.repository = variant, repository

    @cached_property
    def config(self) -> SearchConfig:
        """What a worker makes an equal context of."""
        one, repository = self.variant, self.repository
        digest = hashlib.sha256(one.comir.tobytes() + one.mask.tobytes())
        digest.update(repr((one.comparison, one.settings, one.mirrored, one.scale)).encode())
        return SearchConfig(repository.path, repository.snapshot, digest.hexdigest(), one)

    @cached_property
    def query(self) -> PreparedQuery:
        """The query in the levels and rotations that are compared."""
        from napari_cmrir.representations.devices import choose_device

        one = self.variant
        return PreparedQuery(
            one.comir,
            one.mask,
            choose_device(one.settings.device),
            mirrored=one.mirrored,
            scale=one.scale,
            comparison=one.comparison,
        )

    @cached_property
    def screening(self) -> Screening:
        """The query's screening."""
        return Screening(self.query, self.repository, rotations(self.variant.settings))

    @cached_property
    def registration(self) -> Registration:
        """The query's registration."""
        return Registration(self.query, self.repository, self.variant.settings)

    def do(self, step: Step, batch: Any) -> Any:
        """Do a step for a batch of fields; a batch of screening is given by its number."""
        if step == "screen":
            return self.screening.score(self.screening.batches[batch])
        return self.registration.coarse(batch) if step == "coarse" else self.registration.fine(batch)

    def run_step(self, step: Step, batches: Sequence[Any]) -> Events:
        """Do a step for all batches, and yield their results in order."""
        address = self.variant.settings.scheduler
        if not address:
            yield from in_turn(partial(self.do, step), batches)
            return
        executor = cluster_at(address)
        n_workers = len(executor.workers)
        if not n_workers:
            raise InputError(
                f"The dask scheduler at {address} has no worker; start one: dask worker {address}"
            )
        results: dict[int, Any] = {}
        portions = _portions(list(enumerate(batches)), n_workers, executor.size)
        for event in executor.run_batches(partial(_do_all, step), self, portions):
            if not isinstance(event, Progress):
                if isinstance(event[1], TaskFailed):
                    raise InputError(f"Workers of {address} died of this search; look at their logs.")
                results.update(event[1])
            yield Progress(len(results), len(batches), "batches")
        yield from ((batch, results[number]) for number, batch in enumerate(batches))


def _do_all(step: Step, context: SearchContext, batches: Sequence[tuple[int, Any]]) -> Job[dict[int, Any]]:
    """Do a step for numbered batches."""
    yield from ()
    return {number: context.do(step, batch) for number, batch in batches}


_PORTIONS = 4  # of each worker: what is lost with a worker, and the steps of the progress; not measured


def _portions(batches: list[Any], n_workers: int, n_threads: int) -> list[list[Any]]:
    """Split batches into portions, in turn one of each worker's; the portions of a worker adjoin.

    Examples
    --------
    >>> _portions(list("abcdef"), 2, 2)
    [['a'], ['d'], ['b'], ['e'], ['c'], ['f']]
    """
    each = max(1, min(_PORTIONS * n_threads, len(batches)) // n_workers)
    bounds = np.linspace(0, len(batches), each * n_workers + 1).round().astype(int)
    parts = [batches[start:stop] for start, stop in pairwise(bounds.tolist())]
    in_turn = [parts[worker * each + turn] for turn in range(each) for worker in range(n_workers)]
    return [part for part in in_turn if part]


class SearchState:
    """State of a search in progress: the query, and the scores and poses computed so far.

    Parameters
    ----------
    repository : Repository
    comir : (channel, y, x) uint8 array
        The query's CoMIR, upright.
    mask : (y, x) bool array
        True where the query counts.
    settings : SearchSettings

    Attributes
    ----------
    poses : dict
        `Pose` of every field that was registered.
    scores : dict
        Score of every field that a stage scored, by the name of the stage.
    """

    def __init__(
        self,
        repository: Repository,
        comir: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        settings: SearchSettings,
    ) -> None:
        self.repository, self.comir, self.mask, self.settings = repository, comir, mask, settings
        self.poses: dict[int, Pose] = {}
        self.scores: dict[str, dict[int, float]] = {}

    @cached_property
    def _variants(self) -> dict[tuple[bool, float], SearchContext]:
        """The query, and its mirrored and resized variants if the settings ask for them."""
        ways = product((False, True) if self.settings.mirror else (False,), scales(self.settings))
        query = self.comir, self.mask, self.repository.model.comparison, self.settings
        return {way: SearchContext(QueryVariant(*query, *way), self.repository) for way in ways}

    def screen(self) -> Job[NDArray[np.float32]]:
        """Score every field by screening it with every variant of the query; the best counts.

        A field without a pixel at the level that is compared scores -inf.
        """
        n_fields, n_variants = len(self.repository), len(self._variants)
        best = np.full(n_fields, -np.inf, np.float32)
        for done, variant in enumerate(self._variants.values()):
            batches = variant.screening.batches
            for event in variant.run_step("screen", range(len(batches))):
                if isinstance(event, Progress):
                    share = (done + event.done / max(1, len(batches))) / n_variants
                    yield Progress(share * n_fields, n_fields, "fields", "Screening")
                    continue
                number, scores = event
                fields = batches[int(number)]
                best[fields] = np.maximum(best[fields], scores)
        yield Progress(n_fields, n_fields, "fields", "Screening")
        self.scores["screening"] = {int(field): float(best[field]) for field in np.flatnonzero(best > -1)}
        return best

    def register(self, fields: list[int], seconds: float = math.inf, at_least: int = 0) -> Job[None]:
        """Register every variant of the query with some fields; their best poses are in `poses`.

        Fields for which the first variant's share of the seconds is not enough are left out.
        """
        for done, variant in enumerate(self._variants.values()):
            job = register(
                variant.query,
                self.repository,
                fields,
                self.settings,
                variant.run_step,
                seconds=math.inf if done else seconds / len(self._variants),
                at_least=at_least,
            )
            poses = yield from portion(
                job, 100 * done / len(self._variants), 100 * (done + 1) / len(self._variants)
            )
            fields = [field for field in fields if field in poses]
            for field, pose in poses.items():
                self.poses[field] = better(self.poses[field], pose) if field in self.poses else pose

    def box(self, field: int) -> NDArray[np.float64]:
        """Corners (4, 2) of the query in the pixels of a registered field."""
        pose = self.poses[field]
        return self._variants[pose.mirrored, pose.scale].query.corners(pose)

    def evidence(self) -> Evidence:
        """Collect the evidence of all fields that were registered."""
        fields = self.repository.fields
        boxes = {field: self.box(field) + fields[["y", "x"]][field].item() for field in self.poses}
        return Evidence.of(self.poses, fields["image"], boxes)

    def certainty(self) -> float:
        """Confidence of the best image so far, 0 to 1."""
        evidence = self.evidence()
        best = evidence.images[evidence.scores.argmax()] if len(evidence.images) else -1
        return confidences(evidence, [int(best)], calibration_of(self.repository))[0]


def better(one: Pose, other: Pose) -> Pose:
    """Choose the pose of higher score. The other is its runner-up if its place or angle differs.

    Examples
    --------
    >>> better(Pose(0.4, 0, (50, 50), 0.1, scale=1.06), Pose(0.5, 1, (52, 50), 0.2)).runner_up
    0.2
    >>> better(Pose(0.4, 0, (50, 50), 0.1, mirrored=True), Pose(0.5, 1, (52, 50), 0.2)).runner_up
    0.4
    """
    best, second = (one, other) if one.score >= other.score else (other, one)
    same = (
        best.mirrored == second.mirrored
        and math.dist(best.centre, second.centre) < _SAME_PLACE
        and rotation_difference(best.rotation_degrees, second.rotation_degrees) < _SAME_ANGLE
    )
    return replace(best, runner_up=max(best.runner_up, second.runner_up if same else second.score))


def by_words(state: SearchState, fields: list[int]) -> Job[dict[int, float]]:
    """Keep the order of the bags of words."""
    yield from ()
    return {field: state.scores["words"][field] for field in fields}


def by_patches(state: SearchState, fields: list[int]) -> Job[dict[int, float]]:
    """Order by bags of words of query-sized patches: the paper's Stage III."""
    scores = yield from patch_scores(state.comir, state.mask, state.repository, fields, state.settings)
    state.scores["bow"] = scores
    return scores


_SECONDS = {"fast": 1.0, "normal": math.inf, "thorough": 10.0}  # of the coarse registration, by effort
_FEWEST = 60  # fields that are registered with any effort: the confidence compares the first with others
_CERTAIN = 0.99  # confidence at which the normal effort ends with the first fields


def by_registration(state: SearchState, fields: list[int]) -> Job[dict[int, float]]:
    """Order by how well the registered CoMIRs agree, of as many fields as the effort allows."""
    settings = state.settings
    # With register_all, the fields are in no order: the last ones are no worse than the first.
    most = max(settings.n_screened, settings.register_all)
    at_least = most if settings.effort == "thorough" else _FEWEST
    is_ordered = "screening" in state.scores and settings.effort == "normal"
    if is_ordered and len(fields) > _FEWEST:
        share = 100 * _FEWEST / len(fields)
        yield from portion(state.register(fields[:_FEWEST]), 0, share)
        if state.certainty() < _CERTAIN:
            yield from portion(state.register(fields[_FEWEST:]), share, 100)
    else:
        yield from state.register(fields, _SECONDS[settings.effort], at_least)
    scores = {field: state.poses[field].score for field in fields if field in state.poses}
    state.scores["registration"] = scores
    return scores


Reranker = Callable[[SearchState, list[int]], Job[dict[int, float]]]
"""``reranker(state, fields)`` is a job that returns the score of every field."""

RERANKERS: Registry[Reranker] = Registry(
    "reranker",
    "napari_cmrir.rerankers",
    {
        "none": "napari_cmrir.search.rerankers:by_words",
        "bow": "napari_cmrir.search.rerankers:by_patches",
        "registration": "napari_cmrir.search.rerankers:by_registration",
    },
)
"""Rerankers by name; other packages add theirs as entry points of ``napari_cmrir.rerankers``."""
