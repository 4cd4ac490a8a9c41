"""The results of the queries of an evaluation, and the digest of the code that computed them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import napari_cmrir

__all__ = ["Condition", "Localisation", "QueryResult", "ReportedHit", "code_digest"]

_ROOMS = ("images", "registration", "representations", "bag_of_words", "repository", "search")


@cache
def code_digest(rooms: tuple[str, ...] = _ROOMS) -> str:
    """Compute the SHA-256 of the code that answers queries.

    Parameters
    ----------
    rooms : tuple of str
        Folders of the package. The modules and data files directly in the package always count.

    Returns
    -------
    str
        Hexadecimal digest. Any change of the code or of the fitted values changes it.

    Examples
    --------
    >>> len(code_digest())
    64
    """
    package = Path(napari_cmrir.__file__).parent
    content = hashlib.sha256(napari_cmrir.__version__.encode())
    files = [*package.glob("*.py"), *package.glob("*.json")]
    for room in rooms:
        files += (package / room).rglob("*.py")
    for file in sorted(files):
        content.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return content.hexdigest()


@dataclass(frozen=True)
class Condition:
    """A kind of query: one cell of the paper's Table 1.

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
    """One hit of a query in the report.

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
    """Error of the box on the right field.

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
    """The result of one query.

    Parameters
    ----------
    condition : Condition
    field : str
        Name of the field that the query was cut from; for a ready query, its identifier.
    inside : float
        Share of the query that lies inside the image that it was cut from.
    box : tuple or None
        Corners (y, x) of the query in the field's pixels; ``None`` for a ready query.
    rotation_degrees : float or None
        Rotation of the query.
    rank : int or None
        Rank of the right image; ``None`` if the search left it out.
    shortlist_rank, upright_rank, screening_rank, exhaustive_rank : int or None
        Rank of the right image by bag of words alone (with rotations of the query and without), by screening
        alone, and with every field registered; only with the setting ``report_shortlist``.
    localisation : Localisation or None
        Localisation of the hit on the right field.
    hits : tuple of ReportedHit
        The first ones.
    right : ReportedHit or None
        The hit on the right field, if it was located.
    refusal : str or None
        Reason why the search refused the query, if it did.
    evidence, not_in_repository : tuple of float or None
        Evidence for the first hit (the `FEATURES` of `search.calibration`), and for the hit that would be
        first if the repository held no image of the query's pair.
    not_in_repository_confidence : float or None
        Confidence of that second hit, which is wrong.
    seconds : float
        Time of the search.
    number : int
        Which of the field's patches; 0 for the one in the middle, and for a whole field.
    findable : bool or None
        Whether both modalities show structure there (`images.intensity.shows_structure`); ``None`` for a
        ready query.
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
    not_in_repository_confidence: float | None = None
    seconds: float = 0.0
    number: int = 0
    findable: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the result as values for JSON, without the seconds."""
        content = asdict(self)
        del content["seconds"]
        return content
