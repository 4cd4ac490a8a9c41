"""The figures of every condition, and the report of a complete evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_cmrir.evaluation.metrics import (
    ConfidenceReport,
    Share,
    confidence_report,
    mean_reciprocal_rank,
    percentile,
    share_at_most,
)
from napari_cmrir.evaluation.queries import Distractors, GridField
from napari_cmrir.evaluation.records import Condition, EvaluationSettings, QueryResult, code_digest
from napari_cmrir.images.discovery import Pair
from napari_cmrir.settings import dump_settings

__all__ = [
    "LIMIT_DEGREES",
    "LIMIT_WIDTH",
    "RECALL_RANKS",
    "ConditionSummary",
    "EvaluationReport",
    "summarise",
]

LIMIT_WIDTH = 0.02
"""Share of the field's width up to which a box's mean corner error counts as located."""

LIMIT_DEGREES = 5.0
"""Rotation error up to which a hit's rotation counts as right."""

RECALL_RANKS = (1, 10, 30, 100)
"""K of the shares of the right fields that a shortlist of K keeps."""


REFINED = 30
"""Number of fields registered in full: the best by registration at a quarter of the resolution."""


@dataclass(frozen=True)
class ConditionSummary:
    """The figures of a condition.

    Parameters
    ----------
    condition : Condition
    queries, fields : int
        Number of queries, and of the fields that each is searched in.
    success : dict
        Share of the queries whose image is among the first K, by K.
    findable : dict or None
        The same among the queries of which both modalities show structure, by K; ``None`` for ready queries.
    chance : dict
        Expected success of a random order, by K.
    mean_reciprocal_rank : float
    median_rank, p90_rank : float or None
        A query whose image is not found has the last rank.
    localised : int
        Queries whose right field is among the hits and whose true box is known; of these:
    median_corner_error : float or None
        Px.
    within_width : Share
        Corner error up to 2 % of the field's width.
    within_degrees : Share
        Rotation error up to 5 degrees.
    confidence : ConfidenceReport or None
        Quality of the confidence of the first hits.
    screening, registered : dict or None, Share or None
        Recall of screening among the first K, and of the first 30 after registration, if the search screened.
    shortlist, upright : dict or None
        Recall of the bags of words alone among the first 1, 10, 30 and 100, with rotations of the query and
        without.
    exhaustive : dict or None
        Success if every field is registered, by K.
    lost : dict or None
        Queries not among the first K for the largest K, by the stage that lost them: ``shortlist`` or
        ``reranking``.
    median_seconds, p95_seconds : float
        A query.
    """

    condition: Condition
    queries: int
    fields: int
    success: dict[int, Share]
    findable: dict[int, Share] | None
    chance: dict[int, float]
    mean_reciprocal_rank: float
    median_rank: float | None
    p90_rank: float | None
    localised: int
    median_corner_error: float | None
    within_width: Share
    within_degrees: Share
    confidence: ConfidenceReport | None
    shortlist: dict[int, Share] | None
    upright: dict[int, Share] | None
    screening: dict[int, Share] | None
    registered: Share | None
    exhaustive: dict[int, Share] | None
    lost: dict[str, int] | None
    median_seconds: float | None
    p95_seconds: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as values for JSON, without the seconds."""

        def shares(by_rank: dict[int, Share] | None) -> dict[str, Any] | None:
            return None if by_rank is None else {str(k): value.as_dict() for k, value in by_rank.items()}

        return {
            **asdict(self.condition),
            "kind": self.condition.kind,
            "queries": self.queries,
            "fields": self.fields,
            "success": shares(self.success),
            "success_of_findable": shares(self.findable),
            "chance": {str(k): round(value, 6) for k, value in self.chance.items()},
            "mean_reciprocal_rank": round(self.mean_reciprocal_rank, 6),
            "median_rank": self.median_rank,
            "p90_rank": self.p90_rank,
            "localisation": {
                "queries": self.localised,
                "median_corner_error_px": _rounded(self.median_corner_error),
                "within_2_percent_of_width": self.within_width.as_dict(),
                "within_5_degrees": self.within_degrees.as_dict(),
            },
            "confidence": None if self.confidence is None else self.confidence.as_dict(),
            "shortlist_recall": shares(self.shortlist),
            "shortlist_recall_upright": shares(self.upright),
            "screening_recall": shares(self.screening),
            "registered_recall_30": None if self.registered is None else self.registered.as_dict(),
            "exhaustive_success": shares(self.exhaustive),
            "lost": self.lost,
        }


def summarise(
    condition: Condition, results: Sequence[QueryResult], n_fields: int, settings: EvaluationSettings
) -> ConditionSummary:
    """Compute the figures of a condition.

    Parameters
    ----------
    condition : Condition
    results : sequence of QueryResult
        Results of the condition.
    n_fields : int
        Fields that were searched.
    settings : EvaluationSettings
        Its ``ranks``, ``report_shortlist`` and ``search``.

    Returns
    -------
    CellSummary
    """
    ranks = [result.rank for result in results]
    is_known = any(result.findable is not None for result in results)
    of_findable = [result.rank for result in results if result.findable]
    at_worst = [n_fields if rank is None else rank for rank in ranks]
    located = [result.localisation for result in results if result.localisation is not None]
    seconds = [result.seconds for result in results]
    shortlist = [result.shortlist_rank for result in results]
    upright = [result.upright_rank for result in results]
    screening = [result.screening_rank for result in results]
    exhaustive = [result.exhaustive_rank for result in results]
    by_stage = settings.report_shortlist or any(rank is not None for rank in screening)
    return ConditionSummary(
        condition=condition,
        queries=len(results),
        fields=n_fields,
        success={k: share_at_most(ranks, k) for k in settings.ranks},
        findable={k: share_at_most(of_findable, k) for k in settings.ranks} if is_known else None,
        chance={k: min(1.0, k / n_fields) for k in settings.ranks},
        mean_reciprocal_rank=mean_reciprocal_rank(ranks),
        median_rank=percentile(at_worst, 50),
        p90_rank=percentile(at_worst, 90),
        localised=len(located),
        median_corner_error=percentile([found.corner_error for found in located], 50),
        within_width=share_at_most([found.relative_error for found in located], LIMIT_WIDTH),
        within_degrees=share_at_most([found.rotation_error for found in located], LIMIT_DEGREES),
        confidence=confidence_report(results, settings.search.reliable_from),
        shortlist={k: share_at_most(shortlist, k) for k in RECALL_RANKS}
        if settings.report_shortlist
        else None,
        upright={k: share_at_most(upright, k) for k in RECALL_RANKS} if settings.report_shortlist else None,
        screening={k: share_at_most(screening, k) for k in (*RECALL_RANKS, settings.search.n_screened)}
        if by_stage
        else None,
        registered=share_at_most(ranks, REFINED) if by_stage else None,
        exhaustive={k: share_at_most(exhaustive, k) for k in settings.ranks}
        if settings.report_shortlist and not settings.distractors
        else None,
        lost=_lost(results, n_fields, settings) if by_stage else None,
        median_seconds=_rounded(percentile(seconds, 50)),
        p95_seconds=_rounded(percentile(seconds, 95)),
    )


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """The report of an evaluation.

    Parameters
    ----------
    modalities : tuple of two str
    settings : EvaluationSettings
    model : str
        Fingerprint of the model.
    pairs : tuple of Pair
    fields : tuple of GridField
        Fields that were searched, in either modality.
    results : tuple of QueryResult
        One condition after another.
    ready : dict
        File of each ready query by its modality and identifier.
    unindexed : dict
        Reason why a field is not searched (it is blank), by modality and name. Its queries are not found.
    failed_pairs : dict
        By identifier, why a pair could not be read; it is left out.
    caveat : str
        What must be said of all figures; empty if nothing.
    distractors : dict
        By modality, how the distractors among the fields are drawn.
    """

    modalities: tuple[str, str]
    settings: EvaluationSettings
    model: str
    pairs: tuple[Pair, ...]
    fields: tuple[GridField, ...]
    results: tuple[QueryResult, ...]
    ready: dict[str, dict[str, Path]] = field(default_factory=dict)
    unindexed: dict[str, dict[str, str]] = field(default_factory=dict)
    failed_pairs: dict[str, str] = field(default_factory=dict)
    caveat: str = ""
    distractors: dict[str, Distractors] = field(default_factory=dict)

    def conditions(self) -> Iterator[tuple[Condition, list[QueryResult]]]:
        """Iterate over the conditions and their queries."""
        by_condition: dict[Condition, list[QueryResult]] = {}
        for result in self.results:
            by_condition.setdefault(result.condition, []).append(result)
        yield from by_condition.items()

    def summaries(self) -> list[ConditionSummary]:
        """Compute the figures of every condition."""
        n_fields = len(self.fields) + self.settings.distractors
        return [
            summarise(condition, results, n_fields, self.settings) for condition, results in self.conditions()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as values for JSON; times are only under the key ``seconds``."""
        from napari_cmrir import __version__

        summaries = self.summaries()
        return {
            "format": 1,
            "napari_cmrir": __version__,
            "code": code_digest(),
            "model": self.model,
            "caveat": self.caveat,
            "modalities": list(self.modalities),
            "settings": dump_settings(self.settings),
            "pairs": len(self.pairs),
            "fields": len(self.fields),
            "unindexed": self.unindexed,
            "failed_pairs": self.failed_pairs,
            "conditions": [summary.as_dict() for summary in summaries],
            "queries": [result.as_dict() for result in self.results],
            "seconds": {
                "conditions": [
                    {"median": summary.median_seconds, "p95": summary.p95_seconds} for summary in summaries
                ],
                "queries": [round(result.seconds, 4) for result in self.results],
            },
        }


def _lost(results: Sequence[QueryResult], n_fields: int, settings: EvaluationSettings) -> dict[str, int]:
    """Count queries whose right image is not among the first K, by the stage that lost it."""
    from napari_cmrir.search.shortlist import shortlist_length, shortlist_method

    limit, search = max(settings.ranks), settings.search
    length = shortlist_length(search, n_fields)
    by_screening = shortlist_method(search, n_fields) == "screening"
    lost = [result for result in results if result.rank is None or result.rank > limit]
    by_stage = [result.screening_rank if by_screening else result.shortlist_rank for result in lost]
    missed = [rank for rank in by_stage if rank is None or rank > length]
    return {"shortlist": len(missed), "reranking": len(lost) - len(missed)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
