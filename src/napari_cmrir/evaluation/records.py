"""The records of an evaluation: its settings, its conditions, and the results of its queries."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

import napari_cmrir
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import Settings

__all__ = [
    "RERANKINGS",
    "Condition",
    "EvaluationSettings",
    "Localisation",
    "QueryResult",
    "ReportedHit",
    "StudySettings",
    "Variant",
    "code_digest",
]


class EvaluationSettings(Settings):
    """The queries of an evaluation, and the settings of its repositories and searches.

    The defaults follow the paper's protocol (Breznik et al. 2024, "Evaluation") for smaller fields: the
    paper's images are 834 px, its shifts up to 100 px, its patches 256 px.

    Examples
    --------
    >>> EvaluationSettings().max_rotation
    30.0
    >>> EvaluationSettings(field_size=256).side_of_patch
    96
    """

    field_size: int = Field(
        256,
        ge=64,
        le=16384,
        description="Side of a field, px. Larger pairs are cut into a centred grid of fields; a smaller pair"
        " is one field. Paper: 834.",
    )
    query: Literal["full", "patch", "both"] = Field(
        "both", description="Queries: whole fields, the patch in the middle of each field, or both."
    )
    patch_size: int | None = Field(
        None, ge=32, description="Side of a patch, px; 3/8 of field_size if not given. Paper: 256."
    )
    patches: int = Field(
        1,
        ge=1,
        le=64,
        description="Patches of each field: the first in its middle, every other one at a random place in it,"
        " with a rotation of its own.",
    )
    max_rotation: float = Field(
        30.0, ge=0, le=180, description="Largest rotation of transformed queries in both directions, degrees."
    )
    max_shift: float = Field(
        0.12,
        ge=0,
        le=0.5,
        description="Largest shift of transformed queries in y and in x, as a share of the field's side"
        " (paper: 100 of 834 px).",
    )
    kinds: tuple[Literal["cross", "within"], ...] = Field(
        ("cross", "within"),
        min_length=1,
        description="Searched modality: the other one, or the query's own as a control.",
    )
    poses: tuple[Literal["transformed", "untransformed"], ...] = Field(
        ("transformed", "untransformed"), min_length=1, description="Queries with and without a transform."
    )
    ranks: tuple[int, ...] = Field(
        (1, 5, 10, 15), min_length=1, description="K of the success rates among the first K images."
    )
    hits: int = Field(
        15, ge=1, description="Hits of each query that are located and stored; every image is ranked."
    )
    report_shortlist: bool = Field(
        False,
        description="Also run every query by screening alone, by bags of words alone and, without"
        " distractors, by registration of every field.",
    )
    distractors: int = Field(
        0,
        ge=0,
        description="Number of further searched fields that are no query's answer: cut at random from other"
        " images, if any are given, and from generated images.",
    )
    seed: int = Field(0, ge=0, description="Seed of the transforms.")
    repository: RepositorySettings = Field(
        RepositorySettings(), description="Settings of the repository of each modality."
    )
    search: SearchSettings = Field(
        SearchSettings(),
        description="Settings of the searches; the evaluation sets `hits` and `device`.",
    )

    @property
    def side_of_patch(self) -> int:
        """Side of a patch, px."""
        return self.patch_size if self.patch_size is not None else self.field_size * 3 // 8

    @property
    def sizes(self) -> tuple[Literal["full", "patch"], ...]:
        """The sizes of the queries."""
        if self.query == "both":
            return ("full", "patch")
        return (self.query,)


RERANKINGS: dict[str, dict[str, Any]] = {
    "none": {"rerank": "none", "word_rotation_step": 0, "max_rotation": 0.0},  # compares ranks only
    "bow-15": {"rerank": "bow", "shortlist": 15, "word_rotation_step": 0},
    "bow": {"rerank": "bow", "shortlist": 30, "word_rotation_step": 0},
    "registration": {"rerank": "registration"},
}
"""Stage III of a study, by name: changes to the `SearchSettings`."""


class StudySettings(Settings):
    """Variants that a study compares, and the protocol of their evaluation.

    Examples
    --------
    >>> len(list(StudySettings().variants()))
    16
    """

    representations: tuple[str, ...] = Field(
        ("original", "comir"),
        min_length=1,
        description="Stage I: names of representations.",
    )
    descriptors: tuple[str, ...] = Field(
        ("sift", "surf"), min_length=1, description="Stage II: names of descriptors."
    )
    rerankings: tuple[str, ...] = Field(
        ("none", "bow-15", "bow", "registration"),
        min_length=1,
        description="Stage III: none; bow, the paper's, of the first 30; bow-15, of 15; or registration.",
    )
    retrievers: tuple[str, ...] = Field(
        (),
        description="Complete systems that get the same queries; names of `RETRIEVERS`.",
    )
    reranked: tuple[str, ...] = Field(
        (),
        description="Representations that are re-ranked; all, if none is named. The paper: CoMIRs only.",
    )
    rerank_within: bool = Field(
        False,
        description="Re-rank within a modality, too; the paper re-ranks across modalities only.",
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(hits=1), description="The protocol, the same for every variant."
    )

    @classmethod
    def quick(cls) -> StudySettings:
        """Give every system of the paper; only CoMIRs are re-ranked, as in the paper."""
        return cls(
            representations=("original", "comir", "pix2pix", "cyclegan"),
            descriptors=("sift", "surf", "resnet152"),
            rerankings=("none", "bow", "registration"),
            reranked=("comir",),
            retrievers=("2dkd", "imtdf", "tcnet"),
        )

    def variants(self) -> Iterator[Variant]:
        """Iterate over all combinations, those of one repository together; targets are not known here."""
        for descriptor, representation, reranking in product(
            self.descriptors, self.representations, self.rerankings
        ):
            if reranking == "none" or not self.reranked or representation in self.reranked:
                yield Variant(descriptor, representation, reranking)


@dataclass(frozen=True)
class Variant:
    """One combination of methods, one for each stage.

    Parameters
    ----------
    descriptor, representation, reranking : str
        Names in `DESCRIPTORS`, `REPRESENTATIONS` and `RERANKINGS`.
    target : str
        The modality that a translation compares in; empty for what is compared in a space of its own.
    """

    descriptor: str
    representation: str
    reranking: str
    target: str = ""

    @property
    def space(self) -> str:
        """The representation, and the modality that it compares in."""
        return f"{self.representation} in {self.target}" if self.target else self.representation

    def __str__(self) -> str:
        return f"{self.descriptor} on {self.space}, re-ranking {self.reranking}"

    def settings(self, study: StudySettings) -> EvaluationSettings:
        """Return the settings of the evaluation with this variant's methods."""
        common = study.evaluation
        kinds = common.kinds
        if self.reranking != "none" and not study.rerank_within and "cross" in kinds:
            kinds = ("cross",)
        descriptor = common.repository.descriptor.model_copy(update={"name": self.descriptor})
        changed = {
            **common.model_dump(),
            "kinds": kinds,
            "repository": {**common.repository.model_dump(), "descriptor": descriptor.model_dump()},
            "search": {**common.search.model_dump(), **RERANKINGS[self.reranking]},
        }
        return EvaluationSettings.model_validate(changed)


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
        alone, and with every field registered. Only with the setting ``report_shortlist``; the rank by
        screening also if the search screened.
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
