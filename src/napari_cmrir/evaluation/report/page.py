"""The report as files: one HTML page with plots and a gallery, JSON and CSV of every query."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.evaluation.queries import DISTRACTOR, GridField, centre_of, identifier_of
from napari_cmrir.evaluation.records import Condition, QueryResult, ReportedHit
from napari_cmrir.evaluation.report.tables import evaluation_tables
from napari_cmrir.evaluation.summaries import EvaluationReport
from napari_cmrir.files import atomic_write
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.images.readers import read_image
from napari_cmrir.jobs import Job, Progress

__all__ = [
    "CSV_NAME",
    "HTML_NAME",
    "JSON_NAME",
    "Gallery",
    "as_json",
    "best_and_worst",
    "write_report",
]


_SIDE = 176  # px of a picture in the gallery
_QUALITY = 82  # of JPEG: bounds the size of the page, which holds all pictures
_HITS = 4  # first hits of each query in the gallery

Box = Sequence[Sequence[float]]


def best_and_worst(
    results: Sequence[QueryResult], count: int = 4
) -> tuple[list[QueryResult], list[QueryResult]]:
    """Choose the queries to show: by rank, then by corner error.

    Parameters
    ----------
    results : sequence of QueryResult
        Results of one condition.
    count : int
        Largest number of either. No query is both.

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
        self._read = lru_cache(maxsize=24)(partial(read_image, settings=report.settings.repository.reading))

    def row(self, result: QueryResult) -> str:
        """Draw a query, the right field with the true box and the box found, and the first hits."""
        condition = result.condition
        rank = "not found" if result.rank is None else f"rank {result.rank}"
        error = result.localisation
        located = "" if error is None else f"<br>{error.corner_error:.1f} px, {error.rotation_error:.1f}°"
        turned = "" if result.rotation_degrees is None else f", turned {result.rotation_degrees:.1f}°"
        figures = [
            _figure(self._query(result), [], f"{escape(result.field)}<br>query {condition.query}{turned}"),
            self._right(result, f"right field in {condition.repository}<br>{rank}{located}"),
        ]
        figures += [self._hit(result, rank, hit) for rank, hit in enumerate(result.hits[:_HITS], 1)]
        return f'<div class="row">{"".join(figures)}</div>'

    def _query(self, result: QueryResult) -> NDArray[Any]:
        modality = result.condition.query
        if result.box is None:
            pixels = self._read(self._report.ready[modality][result.field])
            region = Region.whole(pixels.shape)
            if result.condition.size == "patch":
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
        return _figure(self._field(name, result.condition.repository), boxes, caption)

    def _hit(self, result: QueryResult, rank: int, hit: ReportedHit) -> str:
        right = hit.image == result.field or identifier_of(hit.image) == result.field
        mark = "right" if right else "wrong"
        score = "-" if hit.score is None else f"{hit.score:.3f}"
        caption = f"{rank}. {escape(hit.image)}<br>{score}, {hit.rotation_degrees:.1f}°"
        picture = self._field(hit.image, result.condition.repository)
        return _figure(picture, [("found", hit.box)], caption, mark)

    def _field(self, name: str, modality: str) -> NDArray[Any]:
        if identifier_of(name) == DISTRACTOR:
            return _as_rgb(self._report.distractors[modality].draw(int(name.rpartition("/")[2])))
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


HTML_NAME = "report.html"
JSON_NAME = "evaluation.json"
CSV_NAME = "queries.csv"

_COLUMNS = (
    *("query", "repository", "pose", "size", "field", "number", "inside", "rotation_degrees"),
    *(
        "rank",
        "screening_rank",
        "shortlist_rank",
        "exhaustive_rank",
        "first_image",
        "first_score",
        "first_confidence",
    ),
    *("corner_error_px", "corner_error_of_width", "rotation_error_degrees", "seconds"),
)

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2rem auto;
  max-width: 84rem; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { color: #555; margin-top: 0; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; } td small { color: #777; }
svg { max-width: 100%; } .plot svg { height: auto; }
details { margin: .6rem 0; border-top: 1px solid #ddd; padding-top: .4rem; }
summary { cursor: pointer; font-weight: 600; } summary span { font-weight: 400; color: #555; }
h3 { font-size: .95rem; margin: .8rem 0 .2rem; color: #333; }
.row { display: flex; gap: .7rem; margin: .3rem 0 .9rem; } figure { margin: 0; width: 184px; }
figure svg { display: block; border: 3px solid #ddd; } figure.right svg { border-color: #009e73; }
figure.wrong svg { border-color: #d55e00; }
figcaption { font-size: .74rem; line-height: 1.3; color: #444; overflow-wrap: anywhere; }
polygon { fill: none; stroke-width: 2px; vector-effect: non-scaling-stroke; }
polygon.true { stroke: #009e73; stroke-dasharray: 5 3; stroke-width: 3px; }
polygon.found { stroke: #f0a000; }
.key b { font-weight: 600; } pre { font-size: .78rem; background: #f6f6f6; padding: .8rem; overflow-x: auto; }
"""


def write_report(report: EvaluationReport, folder: str | os.PathLike[str]) -> Job[dict[str, Path]]:
    """Write ``report.html``, ``evaluation.json`` and ``queries.csv``.

    Times are only under the key ``seconds`` of the JSON and in the last column of the CSV. Two runs with one
    seed write the same in everything else.

    Parameters
    ----------
    report : EvaluationReport
    folder : path-like
        Folder of the report; created if it does not exist. Files of these names are replaced.

    Yields
    ------
    Progress
        In files.

    Returns
    -------
    dict
        Path of each file by its name.
    """
    folder = Path(folder)
    yield Progress(0, 3, "files", "Writing the results")
    atomic_write(folder / JSON_NAME, as_json(report).encode())
    atomic_write(folder / CSV_NAME, _csv(report).encode())
    page = yield from _page(report)
    atomic_write(folder / HTML_NAME, page.encode())
    yield Progress(3, 3, "files", f"The report is {folder / HTML_NAME}")
    return {name: folder / name for name in (HTML_NAME, JSON_NAME, CSV_NAME)}


def as_json(report: EvaluationReport) -> str:
    """Write a report as JSON, one line for each query."""
    content = report.as_dict()
    queries = ",\n".join("  " + json.dumps(query, allow_nan=False) for query in content.pop("queries"))
    rest = json.dumps(content, indent=1, allow_nan=False)
    return f'{rest[:-2]},\n "queries": [\n{queries}\n ]\n}}\n'


def _csv(report: EvaluationReport) -> str:
    """Write one row for each query."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in report.results:
        condition, error = result.condition, result.localisation
        first = result.hits[0] if result.hits else None
        writer.writerow(
            [
                *(condition.query, condition.repository, condition.pose, condition.size),
                *(result.field, result.number, result.inside, result.rotation_degrees),
                *(result.rank, result.screening_rank, result.shortlist_rank, result.exhaustive_rank),
                *((None,) * 3 if first is None else (first.image, first.score, first.confidence)),
                *(
                    (None,) * 3
                    if error is None
                    else (error.corner_error, error.relative_error, error.rotation_error)
                ),
                round(result.seconds, 4),
            ]
        )
    return buffer.getvalue()


def _page(report: EvaluationReport) -> Job[str]:
    from napari_cmrir.evaluation.report.plots import (
        draw_localisation,
        draw_ranks,
        draw_reliability,
        draw_success,
    )

    conditions = list(report.conditions())
    yield Progress(1, 3, "files", "Drawing the plots")
    success = draw_success(conditions, len(report.fields))
    ranks = draw_ranks(conditions, len(report.fields))
    localisation = draw_localisation(conditions) or "<p>No box was found to compare.</p>"
    confidence = draw_reliability(conditions) or "<p>Nothing was registered.</p>"
    gallery, sections = Gallery(report), []
    for position, (condition, results) in enumerate(conditions):
        yield Progress(1 + position / len(conditions), 3, "files", f"Drawing {condition}")
        sections.append(_gallery_section(gallery, condition, results))
    first, second = report.modalities
    settings = json.dumps(report.settings.model_dump(mode="json"), indent=1)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Retrieval, {escape(first)} and {escape(second)}</title>
<style>{_STYLE}</style></head><body>
<h1>Retrieval across {escape(first)} and {escape(second)}</h1>
<p class="lead">{len(report.pairs)} pairs, {len(report.fields)} fields, {len(report.results)} queries;
descriptor {escape(report.settings.repository.descriptor.name)}, re-ranking
{escape(report.settings.search.rerank)}, model {report.model[:12]}.{_left_out(report)}</p>{_caveat(report)}
<h2>Figures</h2>
<p>Acc@K is the percentage of the queries whose image is among the first K, identifiers compared whole, with
its 95 % Wilson interval; MRR the mean reciprocal rank. (T) are queries rotated by up to
{report.settings.max_rotation:g}° and shifted by up to {100 * report.settings.max_shift:g} % of the field's
side. Corners, the share within 2 % of the field's width and the share within 5° are those of the box on the
right field, of the queries that have one among the first {report.settings.hits} images.</p>
{"".join(_table(title, rows) for title, rows in evaluation_tables(report.summaries()).items())}
<h2>Found among the first K</h2>
<p>Lines: transformed queries; broken lines: untransformed; bands: 95 % Wilson intervals; dots: chance.</p>
<div class="plot">{success}</div>
<h2>Ranks</h2>
<p>Filled: transformed queries; hatched: untransformed.</p>
<div class="plot">{ranks}</div>
<h2>Localisation</h2>
<p>Of the box on the right field, transformed queries. Dotted: 2 % of the field's width and 5°.</p>
<div class="plot">{localisation}</div>
<h2>Confidence</h2>
<p>Left: how often the first hit is right against its confidence, with 95 % Wilson intervals and the number of
queries; the dotted line is what the confidence promises. Right: how the confidences lie. Every query counts
twice: with the images of its own pair in the repository, and without. From a confidence of
{report.settings.search.reliable_from:g} on, a first hit counts as a reliable match.</p>
<div class="plot">{confidence}</div>
<h2>Best and worst queries</h2>
<p class="key">In each row the query, the right field, and the first hits. Boxes: <b style="color:#009e73">
broken green</b> where the query was cut, <b style="color:#c08000">yellow</b> where it was found; frames:
<b style="color:#009e73">green</b> the right image, <b style="color:#d55e00">red</b> a wrong one.</p>
{"".join(sections)}
<h2>Settings</h2>
<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>
</body></html>
"""


def _caveat(report: EvaluationReport) -> str:
    """Say what must be said of all figures."""
    return f"\n<p><strong>{escape(report.caveat)}</strong></p>" if report.caveat else ""


def _left_out(report: EvaluationReport) -> str:
    """Name the fields that were not searched and the queries that were refused."""
    parts = [
        f"{len(names)} {escape(modality)} fields are blank and not searched"
        for modality, names in report.unindexed.items()
        if names
    ]
    refused = sum(result.refusal is not None for result in report.results)
    parts += [f"{refused} queries were refused and count as not found"] if refused else []
    return f" {'; '.join(parts)}." if parts else ""


def _table(title: str, rows: Sequence[Sequence[str]]) -> str:
    heading, *body = rows
    head = "".join(f"<th>{escape(text)}</th>" for text in heading)
    lines = ("".join(f"<td>{_with_interval(text)}</td>" for text in row) for row in body)
    content = f"<thead><tr>{head}</tr></thead><tbody><tr>{'</tr><tr>'.join(lines)}</tr></tbody>"
    return f'<h3>{escape(title)}</h3><div class="scroll"><table>{content}</table></div>'


def _with_interval(text: str) -> str:
    value, bracket, interval = text.partition(" [")
    return f"{escape(value)} <small>[{escape(interval)}</small>" if bracket else escape(text)


def _gallery_section(gallery: Gallery, condition: Condition, results: Sequence[QueryResult]) -> str:
    best, worst = best_and_worst(results, 4 if condition.kind == "cross" else 2)
    first = sum(result.rank == 1 for result in results)
    opened = " open" if condition.kind == "cross" and condition.pose == "transformed" else ""
    rows = "".join(
        f"<h3>{title}</h3>{''.join(gallery.row(result) for result in chosen)}"
        for title, chosen in (("Best", best), ("Worst", worst))
        if chosen
    )
    count = f"{first} of {len(results)} ranked first"
    title = escape(str(condition))
    return f"<details{opened}><summary>{title} <span>{count}</span></summary>{rows}</details>"
