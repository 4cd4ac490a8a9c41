"""The search: find a region of an image in a repository, and return ranked hits with their poses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut, window_of
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage, lazy_array
from napari_cmrir.images.polygons import as_stored, in_squares, polygon_bounds, polygon_region
from napari_cmrir.images.readers import open_image
from napari_cmrir.images.series import SAME_SIZE, require_plausible
from napari_cmrir.jobs import Job, portion
from napari_cmrir.representations.model_input import fit_to_model
from napari_cmrir.search.checks import (
    check_content,
    check_region,
    check_size,
    likeness_warnings,
    shows_nothing,
    size_warnings,
    swap_warnings,
)
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.registration.prepared_query import Pose
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.search.calibration import Evidence
    from napari_cmrir.search.hits import Hit, SearchResult
    from napari_cmrir.search.rerankers import SearchState
    from napari_cmrir.settings import ReadingSettings

__all__ = ["pixel_step", "pixels_per_searched", "search", "searched_pixel_size", "window_read"]


def searched_pixel_size(repository: Repository) -> float | None:
    """Return the pixel size that queries are resampled to.

    Parameters
    ----------
    repository : Repository

    Returns
    -------
    float or None
        Micrometres: the model's; if it has none, that of some searched images, if they agree.
    """
    if repository.model.pixel_size is not None:
        return repository.model.pixel_size
    return repository.common_pixel_size


def pixel_step(
    repository: Repository, pixel_size: float | None, name: str = "The region's image"
) -> tuple[float, list[str]]:
    """Say how many pixels of a query's image make one of the images searched.

    Parameters
    ----------
    repository : Repository
    pixel_size : float or None
        Side of the pixels of the query's image, in micrometres, if it is known.
    name : str
        The image's, for messages.

    Returns
    -------
    step : float
        1 if either size is unknown, or both are equal.
    warnings : list of str
        A sentence if exactly one of them is unknown.

    Raises
    ------
    InputError
        If the pixel size is not above 0, or so far from that of the images searched that it must be wrong.
    """
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"A pixel size of {pixel_size:g} µm is not possible; give one above 0.")
    searched = searched_pixel_size(repository)
    if searched is not None and pixel_size is not None:
        require_plausible(name, pixel_size, searched)
    if searched is None and pixel_size is None:
        return 1.0, []
    if pixel_size is None:
        return 1.0, [
            "The pixel size of the region's image is unknown and assumed to be that of the searched images,"
            f" {searched:.3g} µm; enter it if it differs."
        ]
    if searched is None and (sizes := repository.pixel_sizes):
        return 1.0, [
            f"The images searched have pixels of {sizes[0]:.3g} to {sizes[-1]:.3g} µm, and the model states"
            f" no size to bring them to; images of other pixels than {pixel_size:.3g} µm are hardly found."
        ]
    if searched is None:
        return 1.0, [
            "The pixel size of the searched images is unknown and assumed to be that of the region's image,"
            f" {pixel_size:.3g} µm; hits are wrong if it differs."
        ]
    return pixels_per_searched(searched, pixel_size), []


def pixels_per_searched(searched: float | None, pixel_size: float | None) -> float:
    """Divide the searched pixel size by that of a query's image; 1 if one is unknown or they agree."""
    if searched is None or pixel_size is None:
        return 1.0
    step = searched / pixel_size
    return 1.0 if abs(step - 1) <= SAME_SIZE else step


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
        outline: _Outline | None = None
        if polygon is not None:
            if region is not None or mask is not None:
                raise InputError("A polygon replaces a region and a mask; give neither with it.")
            region, outline = _drawn(repository, polygon, opened.shape, step, settings.min_overlap)
        elif mask is not None:
            outline = _Outline(mask, (0, 0))
        region = check_region(region, opened.shape, mask, step)
        seen = replace(region, height=region.height / step, width=region.width / step)
        check_size(repository, seen, settings.min_overlap)
        patch, counts = _cut(opened, region, outline, step)
    with clock.stage("comir"):
        blank = shows_nothing(repository.model, modality, patch[_CORE], counts)
        doubts = _doubts(repository, modality, seen, patch[_CORE], counts, blank)
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
        values = np.array([scores[field] for field in shortlist.tolist()])
        shortlist = shortlist[np.argsort(-values, kind="stable")]
    with clock.stage("locate"):
        ranked = np.concatenate((shortlist, order[len(shortlist) :]))
        ranking = _one_an_image(repository, ranked)
        most = max(settings.hits, settings.matched) if settings.matcher else settings.hits
        chosen: list[int] = (ranked if settings.per_field else ranking)[:most].tolist()
        unlocated = [field for field in chosen if field not in state.poses]
        yield from portion(state.register(unlocated), 85, 90)
    evidence = _evidence(state)
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


def _one_an_image(repository: Repository, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best field of each image, best image first."""
    images = repository.fields["image"][ranked]
    _, first = np.unique(images, return_index=True)
    best: NDArray[np.int64] = ranked[np.sort(first)]
    return best


def _evidence(state: SearchState) -> Evidence:
    """Registration scores of every image: of its best field, and of the next best pose there."""
    from napari_cmrir.search.calibration import Evidence

    numbers = state.repository.fields["image"]
    best: dict[int, Pose] = {}
    for field, pose in sorted(state.poses.items()):
        image = int(numbers[field])
        if np.isfinite(pose.score) and (image not in best or pose.score > best[image].score):
            best[image] = pose
    return Evidence(
        np.array(list(best), np.int64),
        np.array([pose.score for pose in best.values()], np.float64),
        np.array([pose.runner_up for pose in best.values()], np.float64),
    )


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


@dataclass(frozen=True, eq=False)
class _Outline:
    """The pixels of an image that count: a mask of a part of it, and the first pixel of the part."""

    mask: NDArray[np.bool_]
    first: tuple[int, int]

    def of(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """The mask of a window of the image, (y, x, 1)."""
        window = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 1), np.float32)
        top, left = self.first[0] - rows.start, self.first[1] - columns.start
        y, x = max(top, 0), max(left, 0)
        part = self.mask[y - top : len(window) - top, x - left : window.shape[1] - left]
        window[y : y + part.shape[0], x : x + part.shape[1], 0] = part
        return window


def _opened(image: Any, reading: ReadingSettings | None) -> AbstractContextManager[LazyImage]:
    """Open a query's image lazily; an image that is opened here is closed afterwards."""
    if isinstance(image, str | os.PathLike):
        return closing(open_image(image, reading))
    if isinstance(image, LazyImage):
        return nullcontext(image)
    if len(image.shape) not in (2, 3):
        check_region(None, image.shape, None)
    return nullcontext(lazy_array(image))


def _drawn(
    repository: Repository, polygon: ArrayLike, shape: tuple[int, ...], step: float, min_overlap: float
) -> tuple[Region, _Outline]:
    """Region and outline of a polygon; refuse one that is far too large before its mask is drawn."""
    _, first, end = polygon_bounds(polygon, shape)
    # The pixels inside can begin and end two pixels from the corners' bounds.
    height, width = (max(1.0, (last - start - 4) / step) for start, last in zip(first, end, strict=True))
    check_size(repository, Region((0, 0), height, width), min_overlap)
    region, mask = polygon_region(polygon, shape)
    y, x, _, _ = region.rectangle
    return region, _Outline(mask, (int(y), int(x)))


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
    image: LazyImage, region: Region, outline: _Outline | None, step: float
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


def _doubts(
    repository: Repository,
    modality: str,
    region: Region,
    patch: NDArray[Any],
    counts: NDArray[np.bool_],
    blank: bool,
) -> tuple[str, ...]:
    warnings = [
        f"The region shows hardly any contrast for {modality}, such as glass; draw it over"
        f" tissue, and check that the image is {modality}."
    ]
    return (
        *(warnings if blank else []),
        *size_warnings(repository, region, counts),
        *swap_warnings(repository.model, modality, patch, counts),
    )


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
