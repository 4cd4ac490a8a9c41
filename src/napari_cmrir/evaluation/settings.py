"""The settings of an evaluation, and of the replacement study, which evaluates variants of the search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from pydantic import Field

from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import Settings

__all__ = ["RERANKINGS", "EvaluationSettings", "StudySettings", "Variant"]


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
