"""The paper's protocol: fields of one modality indexed, fields of either one searched among them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.distractors import find_distractor_images
from napari_cmrir.evaluation.evaluation_run import EvaluationRun
from napari_cmrir.evaluation.results import QueryResult
from napari_cmrir.evaluation.settings import EvaluationSettings
from napari_cmrir.evaluation.summaries import EvaluationReport
from napari_cmrir.images.discovery import Pair
from napari_cmrir.jobs import Job, Progress

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation

__all__ = ["evaluate"]

Result = TypeVar("Result")


def evaluate(
    model: Representation,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: EvaluationSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    queries: str | os.PathLike[str] | None = None,
    distractors: Sequence[str | os.PathLike[str]] = (),
    device: str = "auto",
) -> Job[EvaluationReport]:
    """Measure how well images of one modality are found by those of the other.

    Breznik et al. 2024, "Evaluation" and Tables 1 to 3, with the identifiers compared whole. Every pair is
    cut into a grid of fields; the fields of each modality make one repository. The queries are the fields of
    both modalities, untransformed and transformed (rotated and shifted), full and as a patch.

    Parameters
    ----------
    model : Representation
        Trained on other pairs than these.
    pairs : sequence of Pair
        See `find_pairs`.
    modalities : tuple of two str
        In the order of the pairs' paths.
    settings : EvaluationSettings, optional
    output : path-like, optional
        Folder that keeps the repositories, for a later run to use again; else they are temporary.
    queries : path-like, optional
        Folder of ready transformed images ``<identifier>_<MODALITY>.<ext>``, asked instead of drawn ones.
    distractors : sequence of path-like
        Folders of other images of both modalities, to cut the settings' ``distractors`` from.
    device : str
        Where CoMIRs are computed.

    Yields
    ------
    Progress
        In fields indexed and queries asked.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    InputError
        If the model does not have the modalities, a pair cannot be read, or a ready query has no pair.
    """
    from napari_cmrir.bag_of_words.descriptors.describe import DESCRIPTORS

    settings = settings or EvaluationSettings()
    for modality in modalities:
        model.require_modality(modality)
    descriptor = settings.repository.descriptor.name
    if descriptor not in DESCRIPTORS:
        raise InputError(f"There is no descriptor {descriptor!r}; choose one of {', '.join(DESCRIPTORS)}.")
    if not pairs:
        raise InputError("There is no pair to evaluate on; give a folder of pairs.")
    yield Progress(0, None, "steps", "Reading the pairs")
    evaluation_run = EvaluationRun(model, modalities, settings, device)
    for pair in pairs:
        yield Progress(0, None, "steps", f"Reading {pair.identifier}")
        evaluation_run.add(pair)
    for modality in modalities if settings.distractors else ():
        evaluation_run.other_images[modality] = find_distractor_images(distractors, modality, pairs)
    if queries is not None:
        evaluation_run.find_ready(Path(queries))
    conditions = evaluation_run.conditions()
    searched = list(dict.fromkeys(condition.repository for condition in conditions))
    total = len(searched) * len(evaluation_run.fields) + sum(
        evaluation_run.count(condition) for condition in conditions
    )
    results: list[QueryResult] = []
    with ExitStack() as stack:
        folder = Path(output) if output is not None else Path(stack.enter_context(_temporary()))
        repositories: dict[str, Repository] = {}
        for done, modality in enumerate(searched):
            building = evaluation_run.build(modality, folder / "repositories")
            before = done * len(evaluation_run.fields)
            repository = yield from _within(building, before, len(evaluation_run.fields), total)
            repositories[modality] = stack.enter_context(repository)
        unindexed = {modality: opened.failures for modality, opened in repositories.items()}
        before = len(searched) * len(evaluation_run.fields)
        for condition in conditions:
            for query in evaluation_run.queries(condition):
                asking = evaluation_run.search(query, repositories[condition.repository])
                results.append((yield from _within(asking, before + len(results), 1, total, str(condition))))
    refusals = [result.refusal for result in results if result.refusal is not None]
    if len(refusals) == len(results):
        raise InputError(f"No query could be asked: {refusals[0]}")
    yield Progress(total, total, "steps", f"{len(results) - len(refusals)} queries answered")
    return EvaluationReport(
        modalities=modalities,
        settings=settings,
        model=model.fingerprint,
        pairs=tuple(pairs),
        fields=tuple(evaluation_run.fields),
        results=tuple(results),
        ready={modality: dict(found) for modality, found in evaluation_run.ready.items()},
        unindexed=unindexed,
    )


def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="napari-cmrir-")


def _within(job: Job[Result], before: float, weight: float, total: float, message: str = "") -> Job[Result]:
    """Run a job as ``weight`` of the steps of this one."""
    while True:
        try:
            progress = next(job)
        except StopIteration as end:
            result: Result = end.value
            return result
        share = min(1.0, progress.done / progress.total) if progress.total else 0.0
        yield Progress(before + weight * share, total, "steps", message or progress.message)
