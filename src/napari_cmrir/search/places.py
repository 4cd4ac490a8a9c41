"""All places of one image that match a query: the image in overlapping windows, each registered by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job
from napari_cmrir.search.calibration import Evidence, calibration_of, suppress
from napari_cmrir.search.rerankers import SearchState
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from pathlib import Path

    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.search.hits import Hit, SearchResult

__all__ = ["find_places"]

_STEP = 0.5
"""Distance of windows, in sides of the query. A window is as much larger than the turned query, so that every
place lies whole in one of them, and no window holds two places that do not overlap."""
_WHOLE_PX = 4  # windows begin at whole pixels of the coarsest level that registration reads
_REFINED = 200  # windows whose pose is refined, the best at the coarse level; a place lies in a few of them
_MOST_PLACES = 100


class _Windows:
    """Overlapping windows of one image's CoMIR, in the place of a repository's fields.

    Parameters
    ----------
    repository : Repository
    field : int
        A field of the image.
    query : (float, float)
        Height and width of the query in CoMIR pixels, under every rotation that is tried.
    step : (float, float)
        Largest distance of two windows along y and x.
    """

    def __init__(
        self, repository: Repository, field: int, query: tuple[float, float], step: tuple[float, float]
    ) -> None:
        self.model: Representation = repository.model
        self._path: Path = repository.comir_path(field)
        self._levels: dict[int, Any] = {}
        searched = repository.fields[repository.fields["image"] == repository.fields["image"][field]]
        height, width = self._level(0).shape[1:]
        rows, tall = _cut(height, query[0] + step[0], step[0])
        columns, wide = _cut(width, query[1] + step[1], step[1])
        rectangles = [(0, y, x, tall, wide) for y in rows for x in columns]
        windows = np.array(rectangles, dtype=searched.dtype)
        inside = np.zeros(len(windows), bool)  # elsewhere is glass, which is not searched
        for _, y, x, tall, wide in searched.tolist():
            inside |= (
                (windows["y"] < y + tall)
                & (windows["y"] + windows["height"] > y)
                & (windows["x"] < x + wide)
                & (windows["x"] + windows["width"] > x)
            )
        self.fields: NDArray[np.void] = windows[inside]

    def __len__(self) -> int:
        return len(self.fields)

    def comir(self, field: int, level: int = 0) -> NDArray[np.uint8]:
        """Read a window at a level of the pyramid."""
        _, y, x, height, width = (int(value) >> level for value in self.fields[field].item())
        return np.asarray(self._level(level)[:, y : y + height, x : x + width], dtype=np.uint8)

    def _level(self, level: int) -> Any:
        from napari_cmrir.repository.pyramids import open_level

        if level not in self._levels:
            self._levels[level] = open_level(self._path, level)
        return self._levels[level]


def _cut(length: int, side: float, step: float) -> tuple[list[int], int]:
    """First pixels of the windows along an axis, and their length."""
    side = min(length, math.ceil(side / _WHOLE_PX) * _WHOLE_PX)
    last = (length - side) // _WHOLE_PX * _WHOLE_PX
    count = math.ceil(last / max(step, _WHOLE_PX)) + 1
    starts = np.linspace(0, last, count) // _WHOLE_PX * _WHOLE_PX
    return sorted(set(starts.astype(int).tolist())), int(side)


def find_places(
    repository: Repository, result: SearchResult, hit: Hit, settings: SearchSettings | None = None
) -> Job[tuple[Hit, ...]]:
    """Find all places of a hit's image that match the query of a search.

    The CoMIR of the image is cut into overlapping windows, hardly larger than the query. The best pose of
    each is one place; of places that cover each other only the best stays.

    Parameters
    ----------
    repository : Repository
        The repository that was searched.
    result : SearchResult
        The result of the search.
    hit : Hit
        One of its hits; its image is looked through.
    settings : SearchSettings, optional
        As of the search.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    tuple of Hit
        Best first; at least one, and at most 100. Further ones have a confidence of `reliable_from` or more.
        A place is compared with the places of lower scores and with the other images: of several places
        that all match none is evidence against another.
    """
    settings = settings or SearchSettings()
    turned = math.radians(min(settings.max_rotation, 90))
    height, width = result.mask.shape
    step = (_STEP * height, _STEP * width)
    windows = _Windows(
        repository, hit.field, (_extent(height, width, turned), _extent(width, height, turned)), step
    )
    # Windows are no fields of the repository that workers of a cluster could read: they are registered here.
    few = settings.model_copy(update={"refine": max(settings.refine, _REFINED), "scheduler": ""})
    state = SearchState(cast("Repository", windows), result.comir, result.mask, few)
    yield from state.register(list(range(len(windows))))
    corners = windows.fields[["y", "x"]]
    boxes = np.array([state.box(field) + corners[field].item() for field in range(len(windows))])
    scores = np.array([state.poses[field].score for field in range(len(windows))])
    places = suppress(boxes, scores)
    sure = _confidences(repository, result, hit, [state.poses[place] for place in places])
    kept = [place for place, one in zip(places, sure, strict=True) if one >= settings.reliable_from]
    found = []
    pixel = repository.pixel_step(hit.field)
    own = _sides((hit.box - (pixel - 1) / 2) / pixel) / hit.scale
    for rank, (place, confidence) in enumerate(zip(kept[:_MOST_PLACES] or places[:1], sure, strict=False), 1):
        pose = state.poses[place]
        box = _with_sides(boxes[place], own * pose.scale) * pixel + (pixel - 1) / 2
        found.append(
            replace(
                hit,
                rank=rank,
                score=pose.score,
                box=box,
                rotation_degrees=pose.rotation_degrees,
                confidence=confidence,
                scores={"registration": pose.score},
                mirrored=pose.mirrored,
                scale=pose.scale,
                runner_up=pose.runner_up,
            )
        )
    return tuple(found)


def _confidences(repository: Repository, result: SearchResult, hit: Hit, poses: list[Any]) -> list[float]:
    """Probability of each place, best first; a place is as sure as any of lower score."""
    number = int(repository.fields["image"][hit.field])
    evidence = result.evidence
    elsewhere = None if evidence is None else evidence.without([number])
    scores = np.array([pose.score for pose in poses])
    runner_ups = np.array([pose.runner_up for pose in poses])
    if elsewhere is not None:
        scores = np.append(scores, elsewhere.scores)
        runner_ups = np.append(runner_ups, elsewhere.runner_ups)
    calibration = calibration_of(repository)
    sure = []
    for place in range(len(poses)):
        rest = Evidence(np.arange(place, len(scores)), scores[place:], runner_ups[place:])
        features = rest.features(place)
        sure.append(0.0 if features is None else float(calibration.probability(features)))
    at_least: NDArray[np.float64] = np.maximum.accumulate(sure[::-1])[::-1]
    return [float(one) for one in at_least]


def _extent(side: float, other: float, turned: float) -> float:
    """Largest extent along the axis of a side of a rectangle that is turned by up to an angle."""
    steepest = min(turned, math.atan2(other, side))
    return side * math.cos(steepest) + other * math.sin(steepest)


def _sides(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Height and width of a box."""
    sides: NDArray[np.float64] = np.linalg.norm([box[3] - box[0], box[1] - box[0]], axis=1)
    return sides


def _with_sides(box: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretch a box about its centre to a height and a width."""
    down, right = (box[3] - box[0]) / 2, (box[1] - box[0]) / 2
    down, right = (
        vector * side / (2 * np.linalg.norm(vector))
        for vector, side in zip((down, right), sides, strict=True)
    )
    stretched: NDArray[np.float64] = box.mean(axis=0) + np.array(
        [-down - right, -down + right, down + right, down - right]
    )
    return stretched
