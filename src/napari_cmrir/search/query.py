"""The search: a region of an image in, ranked and located hits out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository
    from napari_cmrir.search.hits import Hit, SearchResult
    from napari_cmrir.search.rerankers import Question

__all__ = ["search"]

_SMALLEST_SIDE = 32
_LEAST_INSIDE = 0.5
_CONTEXT = 64


def search(
    repository: Repository,
    pixels: NDArray[Any],
    modality: str,
    *,
    region: Region | None = None,
    mask: NDArray[np.bool_] | None = None,
    settings: SearchSettings | None = None,
) -> Job[SearchResult]:
    """Find the tissue of an image region in a repository.

    Parameters
    ----------
    repository : Repository
        Where to look; it brings the model.
    pixels : (y, x) or (y, x, channel) array
        The image that the query lies in.
    modality : str
        The image's modality.
    region : Region, optional
        The part of the image to find, by default all of it. What lies outside the image does not count.
    mask : (y, x) bool array, optional
        Of the image's size; only what is True counts, as for an ellipse or a polygon.
    settings : SearchSettings, optional

    Yields
    ------
    Progress
        In percent of the search.

    Returns
    -------
    SearchResult
        At most one hit an image, best first.

    Raises
    ------
    InputError
        If the model does not have the modality, or the region is smaller than 32 pixels a side, lies mostly
        outside the image or shows nothing at all.
    """
    from napari_cmrir.search.hits import SearchResult
    from napari_cmrir.search.rerankers import RERANKERS, Question
    from napari_cmrir.search.shortlist import word_scores

    settings = settings or SearchSettings()
    repository.model.require_modality(modality)
    region = _checked(region, pixels, mask)
    clock = _Clock()
    with clock.stage("comir"):
        comir, counts = yield from portion(
            _represented(repository, pixels, modality, region, mask, settings), 0, 20
        )
    question = Question(repository, comir, counts, settings)
    with clock.stage("words"):
        yield Progress(20, 100, "%", "Counting visual words")
        cosines = word_scores(repository, comir, counts)
        question.scores["words"] = dict(enumerate(cosines.tolist()))
        order = np.argsort(-cosines, kind="stable")
    with clock.stage("rerank"):
        shortlist = order[: len(order) if _registers_all(settings, len(order)) else settings.shortlist]
        scores = yield from portion(RERANKERS[settings.rerank](question, shortlist.tolist()), 25, 85)
        values = np.array([scores[field] for field in shortlist.tolist()])
        shortlist = shortlist[np.argsort(-values, kind="stable")]
    with clock.stage("locate"):
        ranked = np.concatenate((shortlist, order[len(shortlist) :]))
        ranking = _one_an_image(repository, ranked)
        chosen: list[int] = ranking[: settings.hits].tolist()
        unlocated = [field for field in chosen if field not in question.poses]
        yield from portion(question.register(unlocated), 85, 100)
    hits = _hits(question, chosen)
    return SearchResult(hits, clock.total, clock.seconds, comir, counts, shortlist, ranking, cosines)


def _registers_all(settings: SearchSettings, n_fields: int) -> bool:
    return settings.rerank == "registration" and n_fields <= settings.register_all


def _one_an_image(repository: Repository, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
    """The best field of each image, best image first."""
    images = repository.fields["image"][ranked]
    _, first = np.unique(images, return_index=True)
    best: NDArray[np.int64] = ranked[np.sort(first)]
    return best


def _hits(question: Question, chosen: list[int]) -> tuple[Hit, ...]:
    from napari_cmrir.search.confidence import confidences
    from napari_cmrir.search.hits import Hit

    repository, rerank = question.repository, question.settings.rerank
    registered = {field: pose.score for field, pose in question.poses.items()}
    best_of_image: dict[int, float] = {}
    for field, score in registered.items():
        image = int(repository.fields["image"][field])
        best_of_image[image] = max(best_of_image.get(image, score), score)
    sure = dict(zip(best_of_image, confidences(list(best_of_image.values())), strict=True))
    hits = []
    for rank, field in enumerate(chosen, 1):
        scores = {name: values[field] for name, values in question.scores.items() if field in values}
        scores["registration"] = registered[field]
        y, x = repository.fields[["y", "x"]][field].item()
        path = repository.image_path(field)
        hits.append(
            Hit(
                rank,
                repository.image_name(field) if path is None else str(path),
                scores["words" if rerank == "none" or rerank not in scores else rerank],
                question.box(field) + np.array([y, x]),
                question.poses[field].rotation_degrees,
                sure[int(repository.fields["image"][field])],
                field,
                scores,
            )
        )
    return tuple(hits)


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


def _checked(region: Region | None, pixels: NDArray[Any], mask: NDArray[np.bool_] | None) -> Region:
    height, width = pixels.shape[:2]
    if mask is not None and mask.shape != (height, width):
        raise InputError(
            f"The mask is of {mask.shape[0]} x {mask.shape[1]} pixels but the image of {height} x {width};"
            " give a mask of the image's size."
        )
    region = region or Region.whole((height, width))
    if min(region.height, region.width) < _SMALLEST_SIDE:
        raise InputError(
            f"The region is {region.height:.0f} x {region.width:.0f} pixels, too small to be found;"
            f" draw one of at least {_SMALLEST_SIDE} x {_SMALLEST_SIDE}."
        )
    corners = region.corners()
    lowest, highest = corners.min(0), corners.max(0)
    if (highest < 0).any() or lowest[0] > height - 1 or lowest[1] > width - 1:
        raise InputError(
            f"The region lies outside the image of {height} x {width} pixels; draw it inside the image."
        )
    return region


def _represented(
    repository: Repository,
    pixels: NDArray[Any],
    modality: str,
    region: Region,
    mask: NDArray[np.bool_] | None,
    settings: SearchSettings,
) -> Job[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """The region's CoMIR, upright, and where it counts; computed with some of what surrounds the region."""
    from napari_cmrir.comir.inference import represent

    around = Region(
        region.centre,
        round(region.height) + 2 * _CONTEXT,
        round(region.width) + 2 * _CONTEXT,
        region.rotation_degrees,
    )
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    patch, inside = cut(pixels, around)
    if mask is not None:
        inner, _ = cut(mask[..., np.newaxis].astype(np.float32), around)
        inside = inside & (inner[..., 0] > 0.5)
    core = (slice(_CONTEXT, -_CONTEXT), slice(_CONTEXT, -_CONTEXT))
    counts = inside[core]
    if mask is None and counts.mean() < _LEAST_INSIDE:
        raise InputError(
            f"Only {counts.mean():.0%} of the region lie inside the image; draw it inside the image."
        )
    if not counts.any() or np.ptp(patch[core][counts].reshape(-1, patch.shape[-1]), axis=0).max() == 0:
        raise InputError("The region shows nothing but one constant value; draw it over some tissue.")
    comir = yield from represent(repository.model, patch, modality, device=settings.device)
    return np.ascontiguousarray(comir[(slice(None), *core)]), counts
