"""An evaluation as files: one HTML page to look at, JSON and CSV of every query for others to analyse."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from napari_cmrir.comir.model import write_whole
from napari_cmrir.evaluation.gallery import Gallery, best_and_worst
from napari_cmrir.evaluation.results import Cell, EvaluationReport, QueryResult
from napari_cmrir.evaluation.tables import evaluation_tables
from napari_cmrir.jobs import Job, Progress

__all__ = ["CSV_NAME", "HTML_NAME", "JSON_NAME", "as_json", "write_report"]

HTML_NAME = "report.html"
JSON_NAME = "evaluation.json"
CSV_NAME = "queries.csv"

_COLUMNS = (
    *("query", "repository", "pose", "size", "field", "inside", "rotation_degrees"),
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

    All that the clock tells is under the one key ``seconds`` of the JSON, and in the last column of the CSV:
    two runs with one seed write the same in everything else.

    Parameters
    ----------
    report : EvaluationReport
    folder : path-like
        Where to; made if need be, and files of these names are replaced.

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
    write_whole(folder / JSON_NAME, as_json(report).encode())
    write_whole(folder / CSV_NAME, _csv(report).encode())
    page = yield from _page(report)
    write_whole(folder / HTML_NAME, page.encode())
    yield Progress(3, 3, "files", f"The report is {folder / HTML_NAME}")
    return {name: folder / name for name in (HTML_NAME, JSON_NAME, CSV_NAME)}


def as_json(report: EvaluationReport) -> str:
    """Write all of a report as JSON, a line for each query."""
    content = report.as_dict()
    queries = ",\n".join("  " + json.dumps(query, allow_nan=False) for query in content.pop("queries"))
    rest = json.dumps(content, indent=1, allow_nan=False)
    return f'{rest[:-2]},\n "queries": [\n{queries}\n ]\n}}\n'


def _csv(report: EvaluationReport) -> str:
    """A row for each query."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in report.results:
        cell, error = result.cell, result.localisation
        first = result.hits[0] if result.hits else None
        writer.writerow(
            [
                *(cell.query, cell.repository, cell.pose, cell.size),
                *(result.field, result.inside, result.rotation_degrees),
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
    from napari_cmrir.evaluation.plots import draw_localisation, draw_ranks, draw_reliability, draw_success

    cells = list(report.cells())
    yield Progress(1, 3, "files", "Drawing the plots")
    success = draw_success(cells, len(report.fields))
    ranks = draw_ranks(cells, len(report.fields))
    localisation = draw_localisation(cells) or "<p>No box was found to compare.</p>"
    trusted = draw_reliability(cells) or "<p>Nothing was registered.</p>"
    gallery, sections = Gallery(report), []
    for position, (cell, results) in enumerate(cells):
        yield Progress(1 + position / len(cells), 3, "files", f"Drawing {cell}")
        sections.append(_gallery_section(gallery, cell, results))
    first, second = report.modalities
    settings = json.dumps(report.settings.model_dump(mode="json"), indent=1)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Retrieval, {escape(first)} and {escape(second)}</title>
<style>{_STYLE}</style></head><body>
<h1>Retrieval across {escape(first)} and {escape(second)}</h1>
<p class="lead">{len(report.pairs)} pairs, {len(report.fields)} fields, {len(report.results)} queries;
descriptor {escape(report.settings.repository.descriptor.name)}, re-ranking
{escape(report.settings.search.rerank)}, model {report.model[:12]}.{_left_out(report)}</p>
<h2>Figures</h2>
<p>Acc@K is the percentage of the queries whose image is among the first K, identifiers compared whole, with
its 95 % Wilson interval; MRR the mean reciprocal rank. (T) are queries turned by up to
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
twice: as it is, and as if no image of its own pair were searched. From a confidence of
{report.settings.search.reliable_from:g} on, a first hit counts as a reliable match.</p>
<div class="plot">{trusted}</div>
<h2>Best and worst queries</h2>
<p class="key">In each row the query, the right field, and the first hits. Boxes: <b style="color:#009e73">
broken green</b> where the query was cut, <b style="color:#c08000">yellow</b> where it was found; frames:
<b style="color:#009e73">green</b> the right image, <b style="color:#d55e00">red</b> a wrong one.</p>
{"".join(sections)}
<h2>Settings</h2>
<details><summary>All settings</summary><pre>{escape(settings)}</pre></details>
</body></html>
"""


def _left_out(report: EvaluationReport) -> str:
    """Tell what could not be searched or asked."""
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


def _gallery_section(gallery: Gallery, cell: Cell, results: Sequence[QueryResult]) -> str:
    best, worst = best_and_worst(results, 4 if cell.kind == "cross" else 2)
    first = sum(result.rank == 1 for result in results)
    opened = " open" if cell.kind == "cross" and cell.pose == "transformed" else ""
    rows = "".join(
        f"<h3>{title}</h3>{''.join(gallery.row(result) for result in chosen)}"
        for title, chosen in (("Best", best), ("Worst", worst))
        if chosen
    )
    count = f"{first} of {len(results)} ranked first"
    return f"<details{opened}><summary>{escape(str(cell))} <span>{count}</span></summary>{rows}</details>"
