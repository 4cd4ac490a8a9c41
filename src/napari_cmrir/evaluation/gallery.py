"""The best and the worst queries of an evaluation, each with its hits and the boxes on them, as HTML."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.evaluation.fields import GridField, identifier_of
from napari_cmrir.evaluation.queries import centre_of
from napari_cmrir.evaluation.results import EvaluationReport, Found, QueryResult
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.images.readers import read_image

__all__ = ["Gallery", "best_and_worst"]

_SIDE = 176
_QUALITY = 82
_HITS = 4

Box = Sequence[Sequence[float]]


def best_and_worst(
    results: Sequence[QueryResult], count: int = 4
) -> tuple[list[QueryResult], list[QueryResult]]:
    """Choose the queries to show: by rank, then by how well they are located.

    Parameters
    ----------
    results : sequence of QueryResult
        Of one cell.
    count : int
        At most so many of either; no query is both.

    Returns
    -------
    best, worst : list of QueryResult
        The best first, and the worst first.
    """

    def badness(result: QueryResult) -> tuple[float, float]:
        rank = np.inf if result.rank is None else result.rank
        error = np.inf if result.localisation is None else result.localisation.corner_error
        return rank, error

    ordered = sorted(results, key=badness)
    best = ordered[: min(count, (len(ordered) + 1) // 2)]
    worst = ordered[len(best) :][-count:][::-1]
    return best, worst


class Gallery:
    """Draws the queries of a report and their hits, from the pairs' files.

    Parameters
    ----------
    report : EvaluationReport
    """

    def __init__(self, report: EvaluationReport) -> None:
        self._report = report
        self._fields = {field.name: field for field in report.fields}
        self._paths = {
            (pair.identifier, modality): path
            for pair in report.pairs
            for modality, path in zip(report.modalities, pair.paths, strict=True)
        }
        self._read = lru_cache(maxsize=24)(read_image)

    def row(self, result: QueryResult) -> str:
        """Draw a query, the right field with the true box and the box found, and the first hits."""
        cell = result.cell
        rank = "not found" if result.rank is None else f"rank {result.rank}"
        error = result.localisation
        located = "" if error is None else f"<br>{error.corner_error:.1f} px, {error.rotation_error:.1f}°"
        turned = "" if result.rotation_degrees is None else f", turned {result.rotation_degrees:.1f}°"
        figures = [
            _figure(self._query(result), [], f"{escape(result.field)}<br>query {cell.query}{turned}"),
            self._right(result, f"right field in {cell.repository}<br>{rank}{located}"),
        ]
        figures += [self._hit(result, rank, hit) for rank, hit in enumerate(result.hits[:_HITS], 1)]
        return f'<div class="row">{"".join(figures)}</div>'

    def _query(self, result: QueryResult) -> NDArray[Any]:
        modality = result.cell.query
        if result.box is None:
            pixels = self._read(self._report.ready[modality][result.field])
            region = Region.whole(pixels.shape)
            if result.cell.size == "patch":
                region = centre_of(region, self._report.settings.side_of_patch)
        else:
            field = self._fields[result.field]
            pixels = self._read(self._paths[field.identifier, modality])
            region = Region.from_corners(np.array(result.box) + np.array([field.y, field.x]))
        patch, mask = cut(pixels, region)
        shown = _as_rgb(patch)
        shown[~mask] = 255
        return shown

    def _right(self, result: QueryResult, caption: str) -> str:
        name = result.field if result.field in self._fields else None
        if name is None and result.right is not None:
            name = result.right.image
        if name is None:
            name = next(field.name for field in self._report.fields if field.identifier == result.field)
        boxes = [] if result.box is None else [("true", result.box)]
        if result.right is not None and result.right.image == name:
            boxes.append(("found", result.right.box))
        return _figure(self._field(name, result.cell.repository), boxes, caption)

    def _hit(self, result: QueryResult, rank: int, hit: Found) -> str:
        right = hit.image == result.field or identifier_of(hit.image) == result.field
        mark = "right" if right else "wrong"
        score = "-" if hit.score is None else f"{hit.score:.3f}"
        caption = f"{rank}. {escape(hit.image)}<br>{score}, {hit.rotation_degrees:.1f}°"
        picture = self._field(hit.image, result.cell.repository)
        return _figure(picture, [("found", hit.box)], caption, mark)

    def _field(self, name: str, modality: str) -> NDArray[Any]:
        field: GridField = self._fields[name]
        path: Path = self._paths[field.identifier, modality]
        return _as_rgb(field.crop(self._read(path)))


def _figure(pixels: NDArray[np.uint8], boxes: Sequence[tuple[str, Box]], caption: str, mark: str = "") -> str:
    """Write a picture with boxes over it as a figure; boxes are in the picture's pixels."""
    height, width = pixels.shape[:2]
    drawn = "".join(
        f'<polygon class="{name}" points="{" ".join(f"{x + 0.5:.1f},{y + 0.5:.1f}" for y, x in box)}"/>'
        for name, box in boxes
    )
    corners = np.concatenate([[[0, 0], [height, width]], *(np.asarray(box) + 0.5 for _, box in boxes)])
    corners = corners.clip(-0.4 * max(height, width), 1.4 * max(height, width))
    (top, left), (bottom, right) = corners.min(0), corners.max(0)
    view = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
    image = f'<image width="{width}" height="{height}" href="{_data_uri(pixels)}"/>'
    return (
        f'<figure class="{mark}"><svg viewBox="{view}" width="{_SIDE}" height="{_SIDE}">{image}{drawn}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _as_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Show an image (y, x, channel) of any type as (y, x, 3) uint8."""
    if pixels.dtype != np.uint8:
        scaled = choose_intensity([pixels]).apply(pixels).clip(0, 1)
        pixels = np.moveaxis((255 * scaled).round().astype(np.uint8), 0, -1)
    if pixels.shape[2] != 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=2)
    shown: NDArray[np.uint8] = np.ascontiguousarray(pixels)
    return shown.copy()


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    import cv2

    scale = min(1.0, 1.5 * _SIDE / max(pixels.shape[:2]))
    if scale < 1:
        pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
