"""The replacement study: every representation with every descriptor and every re-ranking."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.results import code_digest
from napari_cmrir.evaluation.settings import EvaluationSettings
from napari_cmrir.files import atomic_write
from napari_cmrir.images.discovery import Pair
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.settings import Settings, dump_settings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["RERANKINGS", "StudyReport", "StudySettings", "Variant", "study"]

RERANKINGS: dict[str, dict[str, Any]] = {
    "none": {"rerank": "none", "word_rotation_step": 0, "max_rotation": 0.0},  # a study asks for ranks only
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
        ("original", "comir"), min_length=1, description="Stage I: images as they are, or their CoMIRs."
    )
    descriptors: tuple[str, ...] = Field(("sift", "surf"), min_length=1, description="Stage II's features.")
    rerankings: tuple[str, ...] = Field(
        ("none", "bow-15", "bow", "registration"),
        min_length=1,
        description="Stage III: none; bow, the paper's, of the first 30; bow-15, of 15; or registration.",
    )
    rerank_within: bool = Field(
        False,
        description="Re-rank within a modality, too; the paper re-ranks across modalities only.",
    )
    evaluation: EvaluationSettings = Field(
        EvaluationSettings(hits=1), description="The protocol, the same for every variant."
    )

    def variants(self) -> Iterator[Variant]:
        """Iterate over all combinations, those of one repository together."""
        for names in product(self.descriptors, self.representations, self.rerankings):
            yield Variant(*names)


@dataclass(frozen=True)
class Variant:
    """One choice for every stage.

    Parameters
    ----------
    descriptor, representation, reranking : str
        Names in `DESCRIPTORS`, `REPRESENTATIONS` and `RERANKINGS`.
    """

    descriptor: str
    representation: str
    reranking: str

    def __str__(self) -> str:
        return f"{self.descriptor} on {self.representation}, re-ranking {self.reranking}"

    def settings(self, study: StudySettings) -> EvaluationSettings:
        """Give the settings of the evaluation with this variant's choices."""
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


@dataclass(frozen=True, eq=False)
class StudyReport:
    """The evaluations of a study.

    Parameters
    ----------
    modalities : tuple of two str
    settings : StudySettings
    variants : mapping of Variant to dict
        The evaluation of each, as JSON holds it.
    """

    modalities: tuple[str, str]
    settings: StudySettings
    variants: Mapping[Variant, dict[str, Any]]

    def condition(
        self, variant: Variant, query: str, repository: str, pose: str, size: str
    ) -> dict[str, Any] | None:
        """Give the figures of a condition, ``None`` if the study has none."""
        wanted = {"query": query, "repository": repository, "pose": pose, "size": size}
        conditions = self.variants[variant]["conditions"] if variant in self.variants else []
        return next((condition for condition in conditions if wanted.items() <= condition.items()), None)


def study(
    model: Representation,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: StudySettings | None = None,
    *,
    output: str | os.PathLike[str],
    device: str = "auto",
) -> Job[StudyReport]:
    """Evaluate all combinations of representations, descriptors and re-rankings on the same queries.

    An interrupted study resumes with the same call: evaluations with equal settings, model, images and code
    are read from ``output``.

    Parameters
    ----------
    model : Representation
        Trained on other pairs than these.
    pairs : sequence of Pair
    modalities : tuple of two str
        In the order of the pairs' paths.
    settings : StudySettings, optional
    output : path-like
        Folder that keeps the evaluations and the repositories.
    device : str
        Where CoMIRs are computed.

    Yields
    ------
    Progress
        In variants.

    Returns
    -------
    StudyReport

    Raises
    ------
    InputError
        If a name is unknown, or as `evaluate`.
    """
    from napari_cmrir.representations.base import REPRESENTATIONS

    settings = settings or StudySettings()
    _require_names(settings)
    folder, variants = Path(output), list(settings.variants())
    yield Progress(0, len(variants), "variants", "Reading the pairs")
    content = yield from _digest(pairs, len(variants))
    models: dict[str, Representation] = {model.name: model}
    found: dict[Variant, dict[str, Any]] = {}
    for done, variant in enumerate(variants):
        yield Progress(done, len(variants), "variants", str(variant))
        asked = variant.settings(settings)
        file = folder / "conditions" / f"{_key(model, modalities, variant, asked, content)}.json"
        if not file.exists():
            if variant.representation not in models:
                training = REPRESENTATIONS[variant.representation].train(
                    pairs, modalities, None, pixel_size=model.pixel_size, device=device
                )
                models[variant.representation] = yield from _as_variant(
                    training, done, len(variants), str(variant)
                )
            job = evaluate(
                models[variant.representation], pairs, modalities, asked, output=folder, device=device
            )
            report = yield from _as_variant(job, done, len(variants), str(variant))
            evaluation = {"variant": vars(variant), **report.as_dict()}
            atomic_write(file, json.dumps(evaluation).encode())
        found[variant] = json.loads(file.read_bytes())
    yield Progress(len(variants), len(variants), "variants", f"{len(variants)} variants evaluated")
    return StudyReport(modalities, settings, found)


def _require_names(settings: StudySettings) -> None:
    from napari_cmrir.bag_of_words.descriptors.features import DESCRIPTORS
    from napari_cmrir.representations.base import REPRESENTATIONS

    for what, given, known in (
        ("representation", settings.representations, REPRESENTATIONS),
        ("descriptor", settings.descriptors, DESCRIPTORS),
        ("re-ranking", settings.rerankings, RERANKINGS),
    ):
        for name in given:
            if name not in known:
                raise InputError(f"There is no {what} {name!r}; choose from {', '.join(sorted(known))}.")


def _digest(pairs: Sequence[Pair], total: int) -> Job[str]:
    """SHA-256 of all images of the pairs."""
    digest = hashlib.sha256()
    for pair in pairs:
        yield Progress(0, total, "variants", f"Reading {pair.identifier}")
        for path in pair.paths:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{pair.identifier}\0{content}\0".encode())
    return digest.hexdigest()


def _key(
    model: Representation,
    modalities: tuple[str, str],
    variant: Variant,
    settings: EvaluationSettings,
    content: str,
) -> str:
    """Name of a variant's file. It depends on settings, model, images and code."""
    key = {
        "format": 1,
        "code": code_digest(),
        "model": model.fingerprint,
        "modalities": modalities,
        "variant": vars(variant),
        "settings": dump_settings(settings),
        "pairs": content,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return f"{variant.descriptor}-{variant.representation}-{variant.reranking}-{digest[:16]}"


def _as_variant(job: Job[Any], done: int, total: int, message: str) -> Job[Any]:
    """Run an evaluation as one of the variants."""
    while True:
        try:
            progress = next(job)
        except StopIteration as end:
            return end.value
        share = min(1.0, progress.done / progress.total) if progress.total else 0.0
        yield Progress(done + share, total, "variants", f"{message}: {progress.message}")
