"""The search: find a region of an image in a repository, and return ranked hits with their poses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError, refusal_of
from napari_cmrir.images.geometry import Region, cut, window_of
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage, lazy_array
from napari_cmrir.images.polygons import Outline, as_stored, in_squares, polygon_bounds, polygon_region
from napari_cmrir.images.readers import open_image
from napari_cmrir.jobs import Job, Preview, Progress, portion
from napari_cmrir.representations.model_input import fit_to_model
from napari_cmrir.search.checks import (
    check_content,
    check_region,
    check_size,
    likeness_warnings,
    pixel_step,
    region_warnings,
    shows_nothing,
)
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.executors import Executor
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.search.calibration import Evidence
    from napari_cmrir.search.hits import Hit, SearchResult
    from napari_cmrir.search.rerankers import SearchState
    from napari_cmrir.settings import ReadingSettings

__all__ = ["Answer", "search", "search_many", "window_read"]


_CONTEXT = 64  # px around a region that the network sees, so that the CoMIR at its border is as in an image
_BESIDE = 3  # px beyond a region that bilinear interpolation and the rounding of a window's size need


def search(
    repository: Repository,
    image: str | os.PathLike[str] | LazyImage | Any,
    modality: str,
    *,
    region: Region | None = None,
    polygon: ArrayLike | None = None,
    mask: NDArray[np.bool_] | None = None,
    pixel_size: float | None = None,
    reading: ReadingSettings | None = None,
    settings: SearchSettings | None = None,
) -> Job[SearchResult]:
    """Find the tissue of an image region in a repository.

    Parameters
    ----------
    repository : Repository
        Repository to search; it holds the model.
    image : path, LazyImage or (y, x) or (y, x, channel) array
        The query's image, or an object that is sliced like an array, such as a dask array. Only the region
        and 64 px around it (in pixels of the searched images) are read.
    modality : str
        The image's modality.
    region : Region, optional
        The part of the image to find, by default all of it. Pixels outside the image do not count.
    polygon : array_like, (n, 2), optional
        Corners (y, x) of the part to find, in px, instead of a region; only pixels inside count.
    mask : (y, x) bool array, optional
        Of the image's size; only pixels that are True count, as for an ellipse or a polygon. (The network
        sees the other pixels, too, as in the searched images; none of them is described or compared.)
    pixel_size : float, optional
        Side of the image's pixels, in micrometres. If the searched images have another known pixel size, the
        region is resampled to it. By default as stated in the file or `LazyImage`.
    reading : ReadingSettings, optional
        Which series, level, planes and channels of a file are read, if a path is given.
    settings : SearchSettings, optional

    Yields
    ------
    Progress
        In percent of the search. A search by bags of words (``rerank`` none or bow, or ``shortlist_by``
        words) first builds bags that are missing in the repository.

    Returns
    -------
    SearchResult
        Best first; at most one hit for each image, or for each field with the setting `per_field`.

    Raises
    ------
    InputError
        If the model does not have the modality, or the region is smaller than 32 pixels a side, far larger
        than all searched fields, mostly outside the image or of one constant value.
    """
    from napari_cmrir.repository.build import ensure_index
    from napari_cmrir.search.calibration import find_copies, name_copies
    from napari_cmrir.search.hits import SearchResult
    from napari_cmrir.search.matchers import match_hits, matcher_named
    from napari_cmrir.search.rerankers import RERANKERS, SearchState
    from napari_cmrir.search.shortlist import (
        compare_words,
        shortlist_length,
        shortlist_method,
        word_rotations,
    )

    settings = settings or SearchSettings()
    rerank = RERANKERS[settings.rerank]
    if settings.matcher:
        matcher_named(settings.matcher, settings.device)  # refused before the search
    repository.model.require_modality(modality)
    clock = _Clock()
    with clock.stage("read"), _opened(image, reading) as stored:
        if pixel_size is not None:
            stored = replace(stored, pixel_size=pixel_size, aspect=1.0)
        opened, of_input = fit_to_model(stored, repository.model, modality, say_channels=False)
        if opened.shape != stored.shape:  # its pixels are not square
            zoom = opened.shape[0] / stored.shape[0], opened.shape[1] / stored.shape[1]
            region, polygon, mask = in_squares(region, polygon, mask, zoom, opened.shape)
        step, unknown = pixel_step(repository, opened.pixel_size, opened.name)
        outline: Outline | None = None
        if polygon is not None:
            if region is not None or mask is not None:
                raise InputError("A polygon replaces a region and a mask; give neither with it.")
            region, outline = _drawn(repository, polygon, opened.shape, step, settings.min_overlap)
        elif mask is not None:
            outline = Outline(mask, (0, 0))
        region = check_region(region, opened.shape, mask, step)
        seen = replace(region, height=region.height / step, width=region.width / step)
        check_size(repository, seen, settings.min_overlap)
        patch, counts = _cut(opened, region, outline, step)
    with clock.stage("comir"):
        blank = shows_nothing(repository.model, modality, patch[_CORE], counts)
        doubts = region_warnings(repository, modality, seen, patch[_CORE], counts, blank)
        comir = yield from portion(_represented(repository, patch, modality, counts, settings), 0, 20)
        if not doubts:
            doubts = tuple(likeness_warnings(repository, comir, modality))
            doubts = doubts or tuple(f"{Path(opened.name).name}: {doubt}." for doubt in of_input)
        doubts = (*doubts, *unknown)
    state = SearchState(repository, comir, counts, settings)
    how = shortlist_method(settings, len(repository))
    order, screening = np.arange(len(repository)), None
    cosines = np.zeros(0, np.float32)
    if how == "words":
        with clock.stage("words"):
            yield from portion(ensure_index(repository, "words"), 20, 22)
            turns = word_rotations(settings)
            cosines = yield from portion(compare_words(repository, comir, counts, turns), 22, 25)
            if settings.mirror:
                flipped = compare_words(repository, comir[..., ::-1].copy(), counts[..., ::-1].copy(), turns)
                cosines = np.maximum(cosines, (yield from portion(flipped, 25, 30)))
            state.scores["words"] = dict(enumerate(cosines.tolist()))
            order = np.argsort(-cosines, kind="stable")
    if how == "screening":
        with clock.stage("screening"):
            screening = yield from portion(state.screen(), 30, 40)
            order = np.argsort(-screening, kind="stable")
    with clock.stage("rerank"):
        shortlist = order[: shortlist_length(settings, len(repository))]
        scores = yield from portion(rerank(state, shortlist.tolist()), 40, 85)
        if settings.rerank != "none":
            state.scores.setdefault(settings.rerank, scores)
        shortlist = shortlist[: len(scores)]  # the last ones may have been left out
        values = np.array([scores[field] for field in shortlist.tolist()])
        shortlist = shortlist[np.argsort(-values, kind="stable")]
    with clock.stage("locate"):
        ranked = np.concatenate((shortlist, order[len(shortlist) :]))
        ranking = _one_an_image(repository, ranked)
        most = max(settings.hits, settings.matched) if settings.matcher else settings.hits
        chosen: list[int] = (ranked if settings.per_field else ranking)[:most].tolist()
        unlocated = [field for field in chosen if field not in state.poses]
        yield from portion(state.register(unlocated), 85, 90)
    evidence = state.evidence()
    copies = find_copies(state.repository, chosen, list(state.poses), evidence)
    hits = _hits(state, chosen, evidence, seen, copies)
    if settings.matcher:
        with clock.stage("match"):
            query = comir, patch[_CORE], counts
            hits, unread = yield from portion(match_hits(repository, query, hits, settings), 90, 100)
            ranking = _one_an_image(repository, np.array([*(hit.field for hit in hits), *ranking]))
            hits = hits[: settings.hits]
            doubts = (*doubts, *unread)
    reliable = bool(hits) and not blank and hits[0].confidence >= settings.reliable_from
    return SearchResult(
        hits,
        clock.total,
        clock.seconds,
        comir,
        counts,
        shortlist,
        ranking,
        cosines,
        region=region if opened.shape == stored.shape else as_stored(region, zoom),
        evidence=evidence,
        reliable=reliable,
        warnings=(*doubts, *name_copies(hits, repository, copies)),
        assumptions=tuple(unknown),
        screening=screening,
    )


@dataclass(frozen=True)
class Answer(Preview):
    """What one of many images found.

    Parameters
    ----------
    number : int
        Of the image, from 0.
    result : SearchResult or InputError
        An `InputError` says why its search was refused.
    """

    number: int
    result: SearchResult | InputError


def search_many(
    repository: Repository,
    images: Sequence[Any],
    modality: str,
    *,
    region: Region | None = None,
    polygon: ArrayLike | None = None,
    reading: ReadingSettings | None = None,
    settings: SearchSettings | None = None,
    workers: int | None = None,
) -> Job[list[SearchResult | InputError]]:
    """Search with many images, several at once. Each finds what `search` finds.

    Parameters
    ----------
    repository : Repository
    images : sequence of path or array
        As `search` takes them; workers are sent arrays, and read files under the same path.
    modality, region, polygon, reading, settings
        As `search` takes them; they hold for every image. The workers of the settings' ``scheduler`` answer
        whole queries if there are as many images as workers; otherwise they share the fields of each query.
    workers : int, optional
        Number of processes to start on this computer, of one thread each. By default, the images are searched
        one after another, on all threads.

    Yields
    ------
    Progress
        In queries, with an `Answer` after each; of one image, in percent of its search. The answers of
        workers come in any order.

    Returns
    -------
    list of SearchResult or InputError
        In the order of the images.

    Raises
    ------
    InputError
        If workers and a scheduler are given, or no scheduler answers.
    """
    from napari_cmrir.repository.build import ensure_index
    from napari_cmrir.repository.executors import LocalExecutor, TaskFailed, cluster_at, make_executor
    from napari_cmrir.search.shortlist import shortlist_method

    settings = settings or SearchSettings()
    scheduler, n_images = settings.scheduler, len(images)
    asked = {"region": region, "polygon": polygon, "reading": reading, "settings": settings}
    answers: dict[int, SearchResult | InputError] = {}
    with ExitStack() as stack:
        executor: Executor = LocalExecutor()
        if workers is not None:
            workers = min(workers, max(1, n_images))
            executor = stack.enter_context(make_executor(workers, scheduler or None))
        elif scheduler and 0 < len(cluster_at(scheduler).workers) <= n_images:
            executor = cluster_at(scheduler)
        if shortlist_method(settings, len(repository)) == "words":
            yield from ensure_index(repository, "words")  # once, not by every worker
        queries = _Queries(repository.path, repository.snapshot, modality, asked, repository)
        is_here = isinstance(executor, LocalExecutor)
        if not is_here:
            whole = settings.model_copy(update={"scheduler": ""})
            queries = replace(queries, asked=asked | {"settings": whole})
            images = [os.path.abspath(image) if _is_path(image) else image for image in images]
        scale, unit = (100, "%") if n_images == 1 else (1, "queries")
        for event in executor.run_batches(_answer, queries, [[query] for query in enumerate(images)]):
            if isinstance(event, Progress):
                share = event.done / (event.total or 1) if is_here else 0
                yield Progress((len(answers) + share) * scale, n_images * scale, unit, event.message)
                continue
            ((number, _),), answer = event
            if isinstance(answer, TaskFailed):
                answer = InputError("Workers died of this search; it may need more memory than they have.")
            answers[number] = answer
            finished = Answer(number, answer)
            yield Progress(len(answers) * scale, n_images * scale, unit, preview=finished)
    return [answers[number] for number in range(n_images)]


@dataclass(frozen=True, eq=False)
class _Queries:
    """What is asked with every image: keyword arguments of `search`. Workers open the repository."""

    folder: Path
    snapshot: str
    modality: str
    asked: Mapping[str, Any]
    repository: Repository | None = None

    @property
    def config(self) -> _Queries:
        """What workers are sent."""
        return replace(self, repository=None)

    def context(self) -> _Queries:
        """Open the repository; a worker's thread keeps it open."""
        from napari_cmrir.search.rerankers import opened_by_worker

        return replace(self, repository=opened_by_worker(self.folder, self.snapshot))


def _answer(queries: _Queries, batch: Sequence[tuple[int, Any]]) -> Job[SearchResult | InputError]:
    """Search with one image; a refusal is an answer, too."""
    ((_, image),) = batch
    assert queries.repository is not None
    try:
        return (yield from search(queries.repository, image, queries.modality, **queries.asked))
    except (InputError, OSError) as error:
        refusal = refusal_of(error)
        if refusal is None:
            raise
        return refusal


def _is_path(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _one_an_image(repository: Repository, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best field of each image, best image first."""
    images = repository.fields["image"][ranked]
    _, first = np.unique(images, return_index=True)
    best: NDArray[np.int64] = ranked[np.sort(first)]
    return best


def _hits(
    state: SearchState, chosen: list[int], evidence: Evidence, seen: Region, copies: dict[int, set[int]]
) -> tuple[Hit, ...]:
    from napari_cmrir.search.calibration import calibration_of, confidences
    from napari_cmrir.search.hits import Hit

    repository, rerank = state.repository, state.settings.rerank
    images = [int(repository.fields["image"][field]) for field in chosen]
    sure = confidences(evidence, images, calibration_of(repository), copies)
    hits = []
    for rank, (field, confidence) in enumerate(zip(chosen, sure, strict=True), 1):
        pose = state.poses[field]
        scores = {name: values[field] for name, values in state.scores.items() if field in values}
        scores["registration"] = pose.score
        y, x = repository.fields[["y", "x"]][field].item()
        step = repository.pixel_step(field)
        path = repository.image_path(field)
        hits.append(
            Hit(
                rank,
                repository.image_name(field) if path is None else str(path),
                scores["words" if rerank == "none" or rerank not in scores else rerank],
                (_stretched(state.box(field), state.mask.shape, seen) + np.array([y, x])) * step
                + (step - 1) / 2,
                pose.rotation_degrees,
                confidence,
                field,
                scores,
                pose.mirrored,
                pose.scale,
                pose.runner_up,
                repository.reading,
            )
        )
    return tuple(hits)


def _stretched(box: NDArray[np.float64], frame: tuple[int, ...], seen: Region) -> NDArray[np.float64]:
    """Scale a box of a frame of whole pixels to the exact size of the region."""
    grown = np.array([seen.height / frame[0], seen.width / frame[1]]) - 1
    down, right = (box[3] - box[0]) * grown[0] / 2, (box[1] - box[0]) * grown[1] / 2
    outwards = np.array([-down - right, -down + right, down + right, down - right])
    stretched: NDArray[np.float64] = box + outwards
    return stretched


class _Clock:
    """Seconds of each stage of one search."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @property
    def total(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


_CORE = (slice(_CONTEXT, -_CONTEXT), slice(_CONTEXT, -_CONTEXT))


def _opened(image: Any, reading: ReadingSettings | None) -> AbstractContextManager[LazyImage]:
    """Open a query's image lazily; an image that is opened here is closed afterwards."""
    if _is_path(image):
        return closing(open_image(image, reading))
    if isinstance(image, LazyImage):
        return nullcontext(image)
    if len(image.shape) not in (2, 3):
        check_region(None, image.shape, None)
    return nullcontext(lazy_array(image))


def _drawn(
    repository: Repository, polygon: ArrayLike, shape: tuple[int, ...], step: float, min_overlap: float
) -> tuple[Region, Outline]:
    """Region and outline of a polygon; refuse one that is far too large before its mask is drawn."""
    _, first, end = polygon_bounds(polygon, shape)
    # The pixels inside can begin and end two pixels from the corners' bounds.
    height, width = (max(1.0, (last - start - 4) / step) for start, last in zip(first, end, strict=True))
    check_size(repository, Region((0, 0), height, width), min_overlap)
    region, mask = polygon_region(polygon, shape)
    y, x, _, _ = region.rectangle
    return region, Outline(mask, (int(y), int(x)))


def window_read(region: Region, shape: tuple[int, ...], step: float) -> tuple[slice, slice]:
    """Compute the rows and columns of an image that a search for a region, or for a part of it, reads.

    Parameters
    ----------
    region : Region
    shape : tuple of int
        (y, x, ...) of the image, in px.
    step : float
        Pixels of the image for one pixel of the searched images, see `pixel_step`.

    Returns
    -------
    rows, columns : slice
    """
    # a part of the region is rounded separately: a second step
    return window_of(_with_context(region, step), shape, 2 * step + _BESIDE)


def _with_context(region: Region, step: float) -> Region:
    return replace(
        region,
        height=(round(region.height / step) + 2 * _CONTEXT) * step,
        width=(round(region.width / step) + 2 * _CONTEXT) * step,
    )


def _cut(
    image: LazyImage, region: Region, outline: Outline | None, step: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The region's pixels, upright, with `_CONTEXT` around it; and the mask of the region."""
    around = _with_context(region, step)
    rows, columns = window_of(around, image.shape, step + _BESIDE)
    y, x = around.centre
    here = replace(around, centre=(y - rows.start, x - columns.start))
    patch, inside = cut(plain_type(image[rows, columns]), here, pixel_step=step)
    if outline is not None:
        inner, _ = cut(outline.of(rows, columns), here, pixel_step=step)
        inside = inside & (inner[..., 0] > 0.5)
    counts = inside[_CORE]
    check_content(patch[_CORE], counts, outlined=outline is not None)
    return patch, counts


def _represented(
    repository: Repository,
    patch: NDArray[Any],
    modality: str,
    counts: NDArray[np.bool_],
    settings: SearchSettings,
) -> Job[NDArray[np.uint8]]:
    """The region's CoMIR, upright; outside its outline it repeats the nearest pixel inside."""
    from napari_cmrir.representations.base import represent
    from napari_cmrir.search.shortlist import fill_outside

    comir = yield from represent(repository.model, patch, modality, device=settings.device)
    return fill_outside(np.ascontiguousarray(comir[(slice(None), *_CORE)]), counts)
