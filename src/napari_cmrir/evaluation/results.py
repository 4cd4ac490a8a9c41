"""Results of an evaluation: every query, the summaries, and the code that computed them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import napari_cmrir
from napari_cmrir.evaluation.queries import GridField
from napari_cmrir.evaluation.settings import EvaluationSettings
from napari_cmrir.images.discovery import Pair

if TYPE_CHECKING:
    from napari_cmrir.evaluation.summaries import ConditionSummary

__all__ = ["Condition", "EvaluationReport", "Localisation", "QueryResult", "ReportedHit", "code_digest"]


_ROOMS = ("images", "comir", "words", "repository", "search")


@cache
def code_digest(rooms: tuple[str, ...] = _ROOMS) -> str:
    """Compute the SHA-256 of the code that answers queries.

    Parameters
    ----------
    rooms : tuple of str
        Folders of the package.

    Returns
    -------
    str
        In hexadecimal; another after any change of the code.

    Examples
    --------
    >>> len(code_digest())
    64
    """
    package = Path(napari_cmrir.__file__).parent
    content = hashlib.sha256(napari_cmrir.__version__.encode())
    for room in rooms:
        for file in sorted((package / room).glob("*.py")):
            content.update(f"{room}/{file.name}\0".encode() + file.read_bytes())
    return content.hexdigest()


@dataclass(frozen=True)
class Condition:
    """A kind of query: a cell of the paper's Table 1.

    Parameters
    ----------
    query, repository : str
        Modality of the query and of the images searched.
    pose : {"transformed", "untransformed"}
    size : {"full", "patch"}
    """

    query: str
    repository: str
    pose: Literal["transformed", "untransformed"]
    size: Literal["full", "patch"]

    @property
    def kind(self) -> Literal["cross", "within"]:
        """Whether another modality is searched."""
        return "within" if self.query == self.repository else "cross"

    def __str__(self) -> str:
        transformed = "(T)" if self.pose == "transformed" else ""
        return f"{self.query}{transformed} in {self.repository}, {self.size}"


@dataclass(frozen=True)
class ReportedHit:
    """One hit of a query, as it is reported.

    Parameters
    ----------
    image : str
        Name of the field.
    score : float or None
        ``None`` for a field that the query cannot be registered with.
    rotation_degrees : float
    box : tuple
        Corners (y, x) in the field's pixels.
    confidence : float
    """

    image: str
    score: float | None
    rotation_degrees: float
    box: tuple[tuple[float, float], ...]
    confidence: float


@dataclass(frozen=True)
class Localisation:
    """How well the hit on the right field lies where the query was cut.

    Parameters
    ----------
    corner_error : float
        Mean distance of the corners, px of the field.
    relative_error : float
        The same as a share of the field's width.
    rotation_error : float
        Degrees, 0 to 180.
    """

    corner_error: float
    relative_error: float
    rotation_error: float


@dataclass(frozen=True)
class QueryResult:
    """What became of one query.

    Parameters
    ----------
    condition : Condition
    field : str
        Name of the field that it was cut from; of a ready query, its identifier.
    inside : float
        Share of the query that lies in the larger image.
    box : tuple or None
        Where it was cut, corners (y, x) in the field's pixels; ``None`` for a ready query.
    rotation_degrees : float or None
        How it was turned.
    rank : int or None
        Of the right image; ``None`` if it is not among the hits.
    shortlist_rank, upright_rank, screening_rank, exhaustive_rank : int or None
        Of the right image by bag of words alone, with the bank of rotations and without, by screening alone,
        and if every field is registered; if asked for.
    localisation : Localisation or None
        Of the hit on the right field.
    hits : tuple of ReportedHit
        The first ones.
    right : ReportedHit or None
        The hit on the right field, if it is among those that were located.
    refusal : str or None
        Why the search would not look for it, if it would not.
    evidence, absent : tuple of float or None
        What the registration says for the first hit (the `FEATURES` of `search.confidence`), and for the
        hit that would be the first if no image of the query's pair were searched.
    absent_confidence : float or None
        Of that hit, which is wrong.
    seconds : float
        The search took.
    """

    condition: Condition
    field: str
    inside: float
    box: tuple[tuple[float, float], ...] | None
    rotation_degrees: float | None
    rank: int | None = None
    shortlist_rank: int | None = None
    upright_rank: int | None = None
    screening_rank: int | None = None
    exhaustive_rank: int | None = None
    localisation: Localisation | None = None
    hits: tuple[ReportedHit, ...] = ()
    right: ReportedHit | None = None
    refusal: str | None = None
    evidence: tuple[float, ...] | None = None
    not_in_repository: tuple[float, ...] | None = None
    absent_confidence: float | None = None
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON can hold it, without the seconds."""
        content = asdict(self)
        del content["seconds"]
        return content


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """All that an evaluation found.

    Parameters
    ----------
    modalities : tuple of two str
    settings : EvaluationSettings
    model : str
        Fingerprint of the model.
    pairs : tuple of Pair
    fields : tuple of GridField
        What was searched, in either modality.
    results : tuple of QueryResult
        Cell by cell.
    ready : dict
        File of each ready query by its modality and identifier.
    unindexed : dict
        Why a field is not searched, such as a blank one, by modality and name; its queries are not found.
    """

    modalities: tuple[str, str]
    settings: EvaluationSettings
    model: str
    pairs: tuple[Pair, ...]
    fields: tuple[GridField, ...]
    results: tuple[QueryResult, ...]
    ready: dict[str, dict[str, Path]] = field(default_factory=dict)
    unindexed: dict[str, dict[str, str]] = field(default_factory=dict)

    def conditions(self) -> Iterator[tuple[Condition, list[QueryResult]]]:
        """Iterate over the cells and their queries."""
        by_cell: dict[Condition, list[QueryResult]] = {}
        for result in self.results:
            by_cell.setdefault(result.condition, []).append(result)
        yield from by_cell.items()

    def summaries(self) -> list[ConditionSummary]:
        """Compute the figures of every cell."""
        from napari_cmrir.evaluation.summaries import summarise

        n_fields = len(self.fields) + self.settings.distractors
        return [
            summarise(condition, results, n_fields, self.settings) for condition, results in self.conditions()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; all that the clock tells is under ``seconds``."""
        from napari_cmrir import __version__

        summaries = self.summaries()
        return {
            "format": 1,
            "napari_cmrir": __version__,
            "code": code_digest(),
            "model": self.model,
            "modalities": list(self.modalities),
            "settings": self.settings.model_dump(mode="json"),
            "pairs": len(self.pairs),
            "fields": len(self.fields),
            "unindexed": self.unindexed,
            "conditions": [summary.as_dict() for summary in summaries],
            "queries": [result.as_dict() for result in self.results],
            "seconds": {
                "conditions": [
                    {"median": summary.median_seconds, "p95": summary.p95_seconds} for summary in summaries
                ],
                "queries": [round(result.seconds, 4) for result in self.results],
            },
        }
