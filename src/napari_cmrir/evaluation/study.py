"""The replacement study: every representation with every descriptor and every re-ranking."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_cmrir.errors import InputError, MissingError
from napari_cmrir.evaluation.metrics import share_at_most
from napari_cmrir.evaluation.protocol import EvaluationRun, evaluate
from napari_cmrir.evaluation.records import (
    RERANKINGS,
    EvaluationSettings,
    StudySettings,
    Variant,
    code_digest,
)
from napari_cmrir.files import atomic_write
from napari_cmrir.images.discovery import Pair
from napari_cmrir.jobs import Job, Progress, portion, step_of
from napari_cmrir.settings import dump_settings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["StudyReport", "study"]

Result = TypeVar("Result")


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
    missing : mapping of str to str
        What a variant or a complete system would have needed, such as weights, by its name.
    failed : mapping of str to str
        Why a variant or a complete system was refused although all that it needs is there, by its name.
    models : mapping of str to dict
        What each representation was made with: preset, steps, seed, pairs, weights and caveat, by its name.
    """

    modalities: tuple[str, str]
    settings: StudySettings
    variants: Mapping[Variant, dict[str, Any]]
    retrievers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def condition(
        self, system: Variant | str, query: str, repository: str, pose: str, size: str
    ) -> dict[str, Any] | None:
        """Return the figures of a variant or a retriever under a condition, ``None`` if there are none."""
        wanted = {"query": query, "repository": repository, "pose": pose, "size": size}
        found = self.retrievers.get(system) if isinstance(system, str) else self.variants.get(system)
        conditions = [] if found is None else found["conditions"]
        return next((condition for condition in conditions if wanted.items() <= condition.items()), None)

    def ranks(self, system: Variant | str, condition: Mapping[str, Any]) -> list[int | None]:
        """Return the rank of the right image of every query of a condition, in the order of the queries."""
        wanted = {name: condition[name] for name in ("query", "repository", "pose", "size")}
        if isinstance(system, str):
            found = self.condition(system, **wanted)
            return [] if found is None else list(found["ranks"])
        queries = self.variants[system]["queries"]
        return [query["rank"] for query in queries if wanted.items() <= query["condition"].items()]


def study(
    model: Representation,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: StudySettings | None = None,
    *,
    output: str | os.PathLike[str],
    training_pairs: Sequence[Pair] = (),
    models: Sequence[Representation] = (),
    quick: bool = False,
    device: str = "auto",
) -> Job[StudyReport]:
    """Evaluate all combinations of representations, descriptors and re-rankings, and complete systems.

    All get the same queries. A translation (pix2pix, CycleGAN) is evaluated twice, in each modality that it
    translates into: with the fakes of the queries, and with fakes in the repository. What cannot be
    evaluated, because its weights are not there or because it fails, is reported, and the others are
    evaluated.

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
    models : sequence of Representation, optional
        Of the other representations that are trained; at most one of each.
    quick : bool
        Train representations whose model is not given on the training pairs, by their preset ``fast``, and
        run the retrievers with few steps. Such figures are not comparable with the paper's.
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
        If a name is unknown, or nothing could be evaluated.
    """
    settings = settings or StudySettings()
    _require_names(settings)
    folder, asked_for = Path(output), list(settings.variants())
    yield Progress(0, len(asked_for), "variants", "Reading the pairs")
    content = yield from _digest(pairs, len(asked_for))
    learned = yield from _digest(training_pairs, len(asked_for))
    shared = {"code": code_digest(), "modalities": modalities, "pairs": content}
    known = {given.name: given for given in (*models, model)}
    refused: dict[str, InputError] = {}
    representing: dict[str, Representation] = {}
    for done, name in enumerate(dict.fromkeys(variant.representation for variant in asked_for)):
        making = _representation(
            name, known, pairs, training_pairs, modalities, folder, learned, quick, device
        )
        total = len(settings.representations)
        made = yield from step_of(
            _or_refusal(making), done, total, "representations", partial(_describe, name)
        )
        if isinstance(made, InputError):
            refused |= {str(variant): made for variant in asked_for if variant.representation == name}
        else:
            representing[name] = made
    variants = [
        replace(variant, target=target)
        for variant in asked_for
        if variant.representation in representing
        for target in representing[variant.representation].targets or ("",)
    ]
    total = len(variants) + len(settings.retrievers)
    found: dict[Variant, dict[str, Any]] = {}
    for done, variant in enumerate(variants):
        asked, own = variant.settings(settings), representing[variant.representation]
        own = own.towards(variant.target) if variant.target else own
        key = _key(shared, model=own.fingerprint, variant=vars(variant), settings=dump_settings(asked))
        name = f"{variant.descriptor}-{variant.space.replace(' ', '-')}-{variant.reranking}-{key}"
        job = _evaluate_variant(own, variant, pairs, modalities, asked, folder, device)
        stored = _or_refusal(_stored(folder / "conditions" / f"{name}.json", job))
        evaluation = yield from step_of(stored, done, total, "variants", partial(_describe, str(variant)))
        if isinstance(evaluation, InputError):
            refused[str(variant)] = evaluation
        else:
            found[variant] = evaluation
    retrieved: dict[str, dict[str, Any]] = {}
    for done, name in enumerate(settings.retrievers, len(variants)):
        own_settings = dump_settings(settings.evaluation)
        key = _key(shared, model=model.fingerprint, retriever=name, learned=learned, settings=own_settings)
        evaluation_run = EvaluationRun(model, modalities, settings.evaluation, device)
        job = _evaluate_retriever(name, evaluation_run, pairs, training_pairs, folder, quick)
        file = folder / "retrievers" / f"{name}-{'quick-' if quick else ''}{key}.json"
        stored = _or_refusal(_stored(file, job))
        evaluation = yield from step_of(stored, done, total, "variants", partial(_describe, name))
        if isinstance(evaluation, InputError):
            refused[name] = evaluation
        else:
            retrieved[name] = evaluation
    missing = {name: str(why) for name, why in refused.items() if isinstance(why, MissingError)}
    failed = {name: str(why) for name, why in refused.items() if name not in missing}
    if refused and not found and not retrieved:
        raise InputError(next(iter((failed or missing).values())))
    yield Progress(total, total, "variants", f"{len(found) + len(retrieved)} variants evaluated")
    cards = {name: _card(own) for name, own in representing.items()}
    return StudyReport(modalities, settings, found, retrieved, missing, failed, cards)


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


def _or_refusal(job: Job[Result]) -> Job[Result | InputError]:
    """Run a job, and return the error where it refuses what it was given."""
    try:
        return (yield from job)
    except InputError as refusal:
        return refusal


def _representation(
    name: str,
    known: Mapping[str, Representation],
    pairs: Sequence[Pair],
    training_pairs: Sequence[Pair],
    modalities: tuple[str, str],
    folder: Path,
    learned: str,
    quick: bool,
    device: str,
) -> Job[Representation]:
    """Give the model of a representation: given, fitted to the pairs, or in a quick study trained."""
    from napari_cmrir.representations.base import REPRESENTATIONS, load_model

    if name in known:
        return known[name]
    kind, pixel_size = REPRESENTATIONS[name], next(iter(known.values())).pixel_size
    made: Representation
    if not kind.presets:  # it learns ranges of values at most
        made = yield from kind.train(pairs, modalities, None, pixel_size=pixel_size, device=device)
        return made
    if not (quick and training_pairs):
        raise MissingError(
            f"There is no model of {name!r}: train one (napari-cmrir train --representation {name}) and give"
            " its file (--models), or train it quickly (--quick with --training-pairs)."
        )
    settings = kind.presets["fast"]
    key = _key({"code": code_digest(("representations",))}, learned=learned, settings=dump_settings(settings))
    file = folder / "models" / f"{name}-{key}.safetensors"
    if file.exists():
        return load_model(file)
    how = {"output": file, "resume": True, "pixel_size": pixel_size, "device": device}
    made = yield from kind.train(training_pairs, modalities, settings, **how)
    return made


def _card(model: Representation) -> dict[str, Any]:
    """Tell what a model was made with."""
    from napari_cmrir.representations.base import REPRESENTATIONS

    settings = getattr(model, "settings", None)
    presets = REPRESENTATIONS[model.name].presets if model.name in REPRESENTATIONS else {}
    preset = next((name for name, known in presets.items() if known == settings), "own" if settings else "-")
    return {
        "preset": preset,
        "steps": model.history[-1]["step"] if model.history else None,
        "seed": getattr(settings, "seed", None),
        "trained_on": len(model.provenance.get("trained_on", ())) or None,
        "weights": model.fingerprint,
        "caveat": model.caveat,
    }


def _evaluate_variant(
    model: Representation,
    variant: Variant,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: EvaluationSettings,
    folder: Path,
    device: str,
) -> Job[dict[str, Any]]:
    """Evaluate one variant; one whose descriptor has no weights is refused before anything is indexed."""
    from napari_cmrir.bag_of_words.descriptors.features import describe

    describe(np.zeros((1, 64, 64), np.uint8), settings.repository.descriptor)
    report = yield from evaluate(model, pairs, modalities, settings, output=folder, device=device)
    return {"variant": vars(variant), **report.as_dict()}


def _evaluate_retriever(
    name: str,
    evaluation: EvaluationRun,
    pairs: Sequence[Pair],
    training_pairs: Sequence[Pair],
    folder: Path,
    quick: bool,
) -> Job[dict[str, Any]]:
    """Fit a complete system on the training pairs, and count how often it finds the right image."""
    from napari_cmrir.evaluation.retrievers.base import RETRIEVERS, compare_retrievers

    kind = RETRIEVERS[name]
    make = kind.quick if quick else kind
    retriever = make(folder / "retrievers" / (f"{name}-quick" if quick else name), evaluation.device)
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
    card = retriever.card(len(training_pairs))
    return {"retriever": name, "caveat": retriever.caveat, "card": card, "conditions": conditions}


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
