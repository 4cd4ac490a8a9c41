"""The plots of a report, as SVG that is the same on every machine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cmrir.evaluation.metrics import chosen_conditions, judged, reliability, share_at_most
from napari_cmrir.evaluation.records import Condition, QueryResult
from napari_cmrir.evaluation.summaries import LIMIT_DEGREES, LIMIT_WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_localisation", "draw_ranks", "draw_reliability", "draw_success"]

Cells = Sequence[tuple[Condition, Sequence[QueryResult]]]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito: safe for colour-blind readers
_LINES = {"transformed": "-", "untransformed": "--"}
_STYLE: Any = {
    "svg.hashsalt": "napari-cmrir",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
}


def draw_success(conditions: Cells, n_fields: int) -> str:
    """Draw the share of queries found among the first K with its 95 % interval, one panel for each kind.

    Parameters
    ----------
    conditions : sequence of tuple of Condition and its results
    n_fields : int
        Fields that were searched.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    groups = _grouped(conditions)
    last = min(n_fields, 30)
    figure, panels = _figure(len(groups), 3.3)
    for panel, (title, group) in zip(panels, groups.items(), strict=True):
        depth = np.arange(1, last + 1)
        for (condition, results), colour in _coloured(group):
            shares = [share_at_most([result.rank for result in results], int(k)) for k in depth]
            values = [100 * share.value for share in shares]
            lows, highs = [100 * share.low for share in shares], [100 * share.high for share in shares]
            panel.fill_between(depth, lows, highs, color=colour, alpha=0.13, linewidth=0, step=None)
            panel.plot(depth, values, _LINES[condition.pose], color=colour, label=_name(condition))
        panel.plot(depth, 100 * depth / n_fields, ":", color="#666666", label="chance")
        panel.set(title=title, xlabel="K", ylim=(0, 102), xlim=(1, last) if last > 1 else (0, 2))
        panel.legend(fontsize=7, loc="lower right", framealpha=0.8)
    panels[0].set_ylabel("found among the first K, %")
    return _svg(figure)


def draw_ranks(conditions: Cells, n_fields: int) -> str:
    """Draw the distribution of the right image's rank, one row of bars for each kind of query.

    Parameters
    ----------
    conditions : sequence of tuple of Condition and its results
    n_fields : int
        Fields that were searched.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    edges = [edge for edge in (1, 2, 3, 6, 11, 16, 31, 101, 1001, 10001) if edge <= n_fields] + [n_fields + 1]
    labels = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(edges)]
    groups = _grouped(conditions)
    figure, panels = _figure(len(groups), 3.0)
    for panel, (title, group) in zip(panels, groups.items(), strict=True):
        width = 0.84 / len(group)
        for position, ((condition, results), colour) in enumerate(_coloured(group)):
            ranks = [n_fields if result.rank is None else result.rank for result in results]
            counts, _ = np.histogram(ranks, edges)
            places = np.arange(len(counts)) - 0.42 + width * (position + 0.5)
            hatch = "" if condition.pose == "transformed" else "///"
            panel.bar(
                places,
                100 * counts / len(results),
                width,
                color=colour if not hatch else "white",
                edgecolor=colour,
                hatch=hatch,
                linewidth=0.7,
                label=_name(condition),
            )
        panel.set(title=title, xlabel="rank of the right image", ylim=(0, 102))
        panel.set_xticks(range(len(labels)), labels, rotation=35 if len(labels) > 6 else 0)
        panel.legend(fontsize=7, loc="upper right", framealpha=0.8)
    panels[0].set_ylabel("queries, %")
    return _svg(figure)


def draw_localisation(conditions: Cells) -> str | None:
    """Draw the corner errors against the rotation and against the shift of the query.

    Parameters
    ----------
    conditions : sequence of tuple of Condition and its results

    Returns
    -------
    str or None
        An ``<svg>`` element; ``None`` where no box was found. Across modalities, if that was asked.
    """
    measured = [
        (condition, found)
        for condition, results in conditions
        if condition.pose == "transformed" and (found := [r for r in results if r.localisation is not None])
    ]
    measured = [(condition, found) for condition, found in measured if condition.kind == "cross"] or measured
    if not measured:
        return None
    figure, panels = _figure(3, 3.0)
    bins: Any = np.geomspace(0.1, 100, 31)
    for (condition, results), colour in zip(measured, _cycle(len(measured)), strict=True):
        located = [result.localisation for result in results if result.localisation is not None]
        errors = 100 * np.array([place.relative_error for place in located]).clip(0.001, 1)
        turned = [abs(float(result.rotation_degrees or 0)) for result in results]
        wrong = np.array([place.rotation_error for place in located]).clip(0.01, 180)
        panels[0].hist(errors, bins, histtype="step", color=colour, label=str(condition))
        panels[1].plot(turned, errors, ".", color=colour, markersize=4, alpha=0.7)
        panels[2].plot(wrong, errors, ".", color=colour, markersize=4, alpha=0.7)
    limit = 100 * LIMIT_WIDTH
    panels[0].set(xscale="log", xlabel="mean corner error, % of the field's width", ylabel="queries")
    panels[0].axvline(limit, color="#666666", linestyle=":")
    panels[0].legend(fontsize=7, framealpha=0.8)
    panels[1].set(yscale="log", xlabel="rotation of the query, degrees", ylabel="corner error, %")
    panels[2].set(
        xscale="log", yscale="log", xlabel="error of the rotation, degrees", ylabel="corner error, %"
    )
    panels[2].axvline(LIMIT_DEGREES, color="#666666", linestyle=":")
    for panel in panels[1:]:
        panel.axhline(limit, color="#666666", linestyle=":")
    return _svg(figure)


def draw_reliability(conditions: Cells) -> str | None:
    """Draw how often a first hit is right against its confidence, and the distribution of confidences.

    Parameters
    ----------
    conditions : sequence of tuple of Condition and its results
        Those across modalities, if that was asked. Every query counts twice: with its own
        tissue in the repository, and without, where every hit is wrong.

    Returns
    -------
    str or None
        An ``<svg>`` element; ``None`` where nothing was registered.
    """
    confidence, right, not_in_repository = judged(
        [result for _, results in chosen_conditions(conditions) for result in results]
    )
    if len(confidence) == 0:
        return None
    figure, panels = _figure(2, 3.0)
    bins = reliability(confidence, right)
    place = [each.mean for each in bins]
    value = np.array([100 * each.share.value for each in bins])
    low = value - [100 * each.share.low for each in bins]
    high = [100 * each.share.high for each in bins] - value
    panels[0].plot([0, 1], [0, 100], color="#666666", linestyle=":")
    panels[0].errorbar(
        place, value, [low.clip(0), high.clip(0)], fmt="o-", color=_COLOURS[0], markersize=4, linewidth=1
    )
    for each, x, y in zip(bins, place, value, strict=True):
        panels[0].annotate(str(each.share.total), (x, y), (4, -9), textcoords="offset points", fontsize=7)
    panels[0].set(xlabel="confidence of the first hit", ylabel="right, %", xlim=(0, 1), ylim=(0, 102))
    edges: Any = np.linspace(0, 1, 21)
    groups = {
        "right": confidence[right],
        "wrong": confidence[~right & ~not_in_repository],
        "tissue not in repository": confidence[not_in_repository],
    }
    for (name, values), colour in zip(groups.items(), (_COLOURS[2], _COLOURS[1], _COLOURS[0]), strict=True):
        panels[1].hist(values, edges, histtype="step", color=colour, label=name)
    panels[1].set(xlabel="confidence of the first hit", ylabel="queries", xlim=(0, 1))
    panels[1].legend(fontsize=7, framealpha=0.8)
    return _svg(figure)


def _grouped(conditions: Cells) -> dict[str, list[tuple[Condition, Sequence[QueryResult]]]]:
    """Group the conditions that are drawn in one panel."""
    groups: dict[str, list[tuple[Condition, Sequence[QueryResult]]]] = {}
    for condition, results in conditions:
        kind = "across modalities" if condition.kind == "cross" else "within a modality"
        title = f"{kind}, {condition.size}"
        groups.setdefault(title, []).append((condition, results))
    return groups


def _coloured(group: Cells) -> list[tuple[tuple[Condition, Sequence[QueryResult]], str]]:
    """Give each direction its colour, the same for both poses."""
    directions = list(dict.fromkeys((condition.query, condition.repository) for condition, _ in group))
    return [
        (
            (condition, results),
            _COLOURS[directions.index((condition.query, condition.repository)) % len(_COLOURS)],
        )
        for condition, results in group
    ]


def _cycle(count: int) -> list[str]:
    return [_COLOURS[position % len(_COLOURS)] for position in range(count)]


def _name(condition: Condition) -> str:
    return f"{condition.query}{'(T)' if condition.pose == 'transformed' else ''} in {condition.repository}"


def _figure(n_panels: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(3.6 * n_panels, height), layout="constrained")
        panels: Any = figure.subplots(1, n_panels, squeeze=False)[0]
    return figure, list(panels)


def _svg(figure: Figure) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
