"""The replacement study: every representation with every descriptor and every re-ranking."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.metrics import share_at_most
from napari_cmrir.evaluation.protocol import EvaluationRun, evaluate
from napari_cmrir.evaluation.results import code_digest
from napari_cmrir.evaluation.settings import RERANKINGS, EvaluationSettings, StudySettings, Variant
from napari_cmrir.files import atomic_write
from napari_cmrir.images.discovery import Pair
from napari_cmrir.jobs import Job, Progress, portion, step_of
from napari_cmrir.settings import dump_settings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["StudyReport", "study"]


@dataclass(frozen=True, eq=False)
class StudyReport:
    """The evaluations of a study.

    Parameters
    ----------
    modalities : tuple of two str
    settings : StudySettings
    variants : mapping of Variant to dict
        The evaluation of each, as JSON holds it.
    retrievers : mapping of str to dict
        The figures of each complete system, by its name.
    """

    modalities: tuple[str, str]
    settings: StudySettings
    variants: Mapping[Variant, dict[str, Any]]
    retrievers: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def condition(
        self, system: Variant | str, query: str, repository: str, pose: str, size: str
    ) -> dict[str, Any] | None:
        """Return the figures of a variant or a retriever under a condition, ``None`` if there are none."""
        wanted = {"query": query, "repository": repository, "pose": pose, "size": size}
        found = self.retrievers.get(system) if isinstance(system, str) else self.variants.get(system)
        conditions = [] if found is None else found["conditions"]
        return next((condition for condition in conditions if wanted.items() <= condition.items()), None)


def study(
    model: Representation,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: StudySettings | None = None,
    *,
    output: str | os.PathLike[str],
    training_pairs: Sequence[Pair] = (),
    device: str = "auto",
) -> Job[StudyReport]:
    """Evaluate all combinations of representations, descriptors and re-rankings, and complete systems.

    All get the same queries.

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
    training_pairs : sequence of Pair, optional
        Pairs that the retrievers learn from; none of ``pairs``.
    device : str
        Where CoMIRs are computed.

    Yields
    ------
    Progress
        In variants; a retriever counts as one.

    Returns
    -------
    StudyReport

    Raises
    ------
    InputError
        If a name is unknown, or as `evaluate`.
    """
    settings = settings or StudySettings()
    _require_names(settings)
    folder, variants = Path(output), list(settings.variants())
    total = len(variants) + len(settings.retrievers)
    yield Progress(0, total, "variants", "Reading the pairs")
    content = yield from _digest(pairs, total)
    shared = {"code": code_digest(), "modalities": modalities, "pairs": content, "model": model.fingerprint}
    models: dict[str, Representation] = {model.name: model}
    found: dict[Variant, dict[str, Any]] = {}
    for done, variant in enumerate(variants):
        asked = variant.settings(settings)
        key = _key(shared, variant=vars(variant), settings=dump_settings(asked))
        name = f"{variant.descriptor}-{variant.representation}-{variant.reranking}-{key}"
        job = _evaluate_variant(models, variant, pairs, modalities, asked, model.pixel_size, folder, device)
        describe = partial(_describe, str(variant))
        stored = _stored(folder / "conditions" / f"{name}.json", job)
        found[variant] = yield from step_of(stored, done, total, "variants", describe)
    retrieved: dict[str, dict[str, Any]] = {}
    learned = (yield from _digest(training_pairs, total)) if settings.retrievers else ""
    for done, name in enumerate(settings.retrievers, len(variants)):
        key = _key(shared, retriever=name, learned=learned, settings=dump_settings(settings.evaluation))
        evaluation = EvaluationRun(model, modalities, settings.evaluation, device)
        job = _evaluate_retriever(name, evaluation, pairs, training_pairs, folder)
        stored = _stored(folder / "retrievers" / f"{name}-{key}.json", job)
        retrieved[name] = yield from step_of(stored, done, total, "variants", partial(_describe, name))
    yield Progress(total, total, "variants", f"{total} variants evaluated")
    return StudyReport(modalities, settings, found, retrieved)


def _describe(name: str, progress: Progress) -> str:
    return f"{name}: {progress.message}" if progress.message else name


def _stored(file: Path, job: Job[dict[str, Any]]) -> Job[dict[str, Any]]:
    """Run an evaluation unless its file exists, and return the file's content."""
    if file.exists():
        job.close()
    else:
        evaluation = yield from job
        atomic_write(file, json.dumps(evaluation).encode())
    stored: dict[str, Any] = json.loads(file.read_bytes())
    return stored


def _evaluate_variant(
    models: dict[str, Representation],
    variant: Variant,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: EvaluationSettings,
    pixel_size: float | None,
    folder: Path,
    device: str,
) -> Job[dict[str, Any]]:
    """Evaluate one variant. ``models`` gains the representation that is fitted for it."""
    from napari_cmrir.representations.base import REPRESENTATIONS

    if variant.representation not in models:
        models[variant.representation] = yield from REPRESENTATIONS[variant.representation].train(
            pairs, modalities, None, pixel_size=pixel_size, device=device
        )
    model = models[variant.representation]
    report = yield from evaluate(model, pairs, modalities, settings, output=folder, device=device)
    return {"variant": vars(variant), **report.as_dict()}


def _evaluate_retriever(
    name: str, evaluation: EvaluationRun, pairs: Sequence[Pair], training_pairs: Sequence[Pair], folder: Path
) -> Job[dict[str, Any]]:
    """Fit a complete system on the training pairs, and count how often it finds the right image."""
    from napari_cmrir.evaluation.retrievers.base import RETRIEVERS, compare_retrievers

    retriever = RETRIEVERS[name](folder / "retrievers" / name, evaluation.device)
    yield from portion(retriever.fit(training_pairs, evaluation.modalities), 0, 50)
    for pair in pairs:
        evaluation.add(pair)
    ranks = yield from portion(compare_retrievers({name: retriever}, evaluation), 50, 100)
    conditions = [
        {
            **vars(condition),
            "kind": condition.kind,
            "fields": len(evaluation.fields),
            "success": {str(k): share_at_most(found, k).as_dict() for k in evaluation.settings.ranks},
            "ranks": found,
        }
        for condition, found in ranks[name].items()
    ]
    return {"retriever": name, "conditions": conditions}


def _require_names(settings: StudySettings) -> None:
    from napari_cmrir.bag_of_words.descriptors.features import DESCRIPTORS
    from napari_cmrir.evaluation.retrievers.base import RETRIEVERS
    from napari_cmrir.representations.base import REPRESENTATIONS

    for what, given, known in (
        ("representation", settings.representations, REPRESENTATIONS),
        ("descriptor", settings.descriptors, DESCRIPTORS),
        ("re-ranking", settings.rerankings, RERANKINGS),
        ("retriever", settings.retrievers, RETRIEVERS),
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


def _key(shared: Mapping[str, Any], **own: Any) -> str:
    """Return a key of everything that decides an evaluation: code, model, images and settings."""
    key = {"format": 1, **shared, **own}
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
