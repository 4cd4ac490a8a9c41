"""The paper's protocol: fields of one modality indexed, and queries of either one searched among them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.queries import (
    Distractors,
    GridField,
    QueryImage,
    box_in_field,
    centre_of,
    cut_grid,
    cut_query,
    draw_patch,
    draw_region,
    find_distractor_images,
    find_queries,
    identifier_of,
    read_square,
    read_square_pair,
)
from napari_cmrir.evaluation.records import (
    Condition,
    EvaluationSettings,
    Localisation,
    QueryResult,
    ReportedHit,
    code_digest,
)
from napari_cmrir.evaluation.summaries import EvaluationReport
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import Region, corner_error, rotation_difference
from napari_cmrir.images.intensity import grey_span, shows_structure
from napari_cmrir.images.value_range import range_of_intensity
from napari_cmrir.jobs import Job, Progress, portion, run, step_of
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.search.hits import Hit, SearchResult

__all__ = ["EvaluationQuery", "EvaluationRun", "evaluate"]


BATCH = 1024
"""Fields in memory at once: fewer take more calls, more take more memory."""

INDEXING = ("images", "representations", "bag_of_words", "repository")
"""Packages whose code decides the content of a repository."""

Box = tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class EvaluationQuery:
    """A query and its right answer.

    Parameters
    ----------
    condition : Condition
    name : str
        Name of the field that the query was cut from; for a ready query, the identifier of its pair.
    image : QueryImage
    region : Region or None
        Where the query was cut, in pixels of the pair's images; ``None`` for a ready query.
    field : GridField or None
        Field that the query was cut from; ``None`` for a ready query.
    number : int
        Which of the field's patches.
    """

    condition: Condition
    name: str
    image: QueryImage
    region: Region | None
    field: GridField | None
    number: int = 0

    def is_right(self, image: str) -> bool:
        """Whether the field of this name is the right answer. Only complete names match."""
        return image == self.name if self.field is not None else identifier_of(image) == self.name


class EvaluationRun:
    """Holds the pairs in memory; fields are views of their images.

    Parameters
    ----------
    model : Representation
    modalities : tuple of two str
        In the order of the pairs' paths.
    settings : EvaluationSettings
    device : str
        Where CoMIRs are computed.

    Attributes
    ----------
    images : dict
        Image (y, x, channel) of every pair by modality and identifier.
    fields : list of GridField
    ready : dict
        File of every ready query by modality and identifier.
    other_images : dict
        Images that distractors are cut from, by modality.
    """

    def __init__(
        self,
        model: Representation,
        modalities: tuple[str, str],
        settings: EvaluationSettings,
        device: str,
    ) -> None:
        self.model, self.modalities, self.settings, self.device = model, modalities, settings, device
        self.images: dict[str, dict[str, NDArray[Any]]] = {modality: {} for modality in modalities}
        self.fields: list[GridField] = []
        self.ready: dict[str, dict[str, Path]] = {}
        self.other_images: dict[str, tuple[Path, ...]] = {}

    def add(self, pair: Pair) -> None:
        """Read a pair, resampled to square pixels, and cut its grid."""
        pixels = read_square_pair(pair)
        for modality, image in zip(self.modalities, pixels, strict=True):
            self.images[modality][pair.identifier] = image
        height, width = pixels[0].shape[:2]
        self.fields += cut_grid(pair.identifier, height, width, self.settings.field_size)

    def find_ready(self, folder: Path) -> None:
        """Find the ready queries of either modality."""
        identifiers = set(self.images[self.modalities[0]])
        self.ready = {modality: find_queries(folder, modality, identifiers) for modality in self.modalities}

    def conditions(self) -> list[Condition]:
        """List the conditions, the use case first: cross-modality, transformed, full."""
        settings = self.settings
        return [
            Condition(query, repository, pose, size)
            for size, kind, pose in product(settings.sizes, settings.kinds, settings.poses)
            for query, repository in product(self.modalities, reversed(self.modalities))
            if (query == repository) == (kind == "within")
        ]

    def count(self, condition: Condition) -> int:
        """Count the queries of a condition."""
        ready = self.ready.get(condition.query) if condition.pose == "transformed" else None
        if ready is not None:
            return len(ready)
        return len(self.fields) * (self.settings.patches if condition.size == "patch" else 1)

    def build(self, modality: str, folder: Path) -> Job[Repository]:
        """Index the fields of a modality."""
        from napari_cmrir.repository.build import Source, build_repository

        images = self.images[modality]
        sources = [Source(field.name, field.crop(images[field.identifier])) for field in self.fields]
        content = hashlib.sha256(self.settings.repository.model_dump_json().encode())
        content.update(f"{self.model.fingerprint} {code_digest(INDEXING)}".encode())
        for source in sources:
            content.update(source.name.encode() + np.ascontiguousarray(source.pixels).tobytes())
        distractors = self.distractors(modality)
        content.update(f"{distractors}".encode())
        path = folder / f"{modality}-{content.hexdigest()[:12]}.cmrir"
        drawn, done, total = iter(distractors), 0, len(sources) + distractors.count
        while done < total:
            for distractor in islice(drawn, max(0, BATCH - len(sources))):
                sources.append(distractor)
                yield Progress(100 * done / total, 100, "%", f"Drawing {distractor.name}")
            job = build_repository(
                sources, self.model, modality, path, self.settings.repository, device=self.device
            )
            repository = yield from portion(job, 100 * done / total, 100 * (done + len(sources)) / total)
            done, sources = done + len(sources), []
        repository.model = self.model  # a test's substitute for a model cannot be read from its file
        return repository

    def distractors(self, modality: str) -> Distractors:
        """Return the further fields that are searched in a modality."""
        from napari_cmrir.representations.model_input import model_range

        intensity, settings = self.model.intensities[modality], self.settings
        return Distractors(
            settings.distractors,
            settings.field_size,
            self.other_images.get(modality, ()),
            intensity,
            range_of_intensity(intensity.high, model_range(self.model, modality)).full,
            settings.seed,
            settings.repository.reading,
        )

    def queries(self, condition: Condition) -> Iterator[EvaluationQuery]:
        """Yield the queries of a condition one after another."""
        if condition.pose == "transformed" and condition.query in self.ready:
            for identifier, path in self.ready[condition.query].items():
                yield self._ready_query(condition, identifier, path)
            return
        for field in self.fields:
            image = self.images[condition.query][field.identifier]
            region = field.region
            if condition.pose == "transformed":
                region = draw_region(field, image.shape, self.settings)
            if condition.size == "patch":
                region = centre_of(region, self.settings.side_of_patch)
            yield EvaluationQuery(condition, field.name, cut_query(image, region), region, field)
            for number in range(1, self.settings.patches if condition.size == "patch" else 1):
                region = draw_patch(field, number, condition.pose, self.settings)
                yield EvaluationQuery(condition, field.name, cut_query(image, region), region, field, number)

    def _ready_query(self, condition: Condition, identifier: str, path: Path) -> EvaluationQuery:
        pixels = read_square(path, self.settings.repository.reading)
        region = Region.whole(pixels.shape)
        if condition.size == "patch":
            region = centre_of(region, self.settings.side_of_patch)
        return EvaluationQuery(condition, identifier, cut_query(pixels, region), None, None)

    def _findable(self, query: EvaluationQuery) -> bool | None:
        """Whether the query and the same place in the other modality both show structure."""
        if query.field is None or query.region is None:
            return None
        for modality in {query.condition.query, query.condition.repository}:
            image = self.images[modality][query.field.identifier]
            part = cut_query(image, query.region)
            if not shows_structure(part.pixels, grey_span(image), part.mask):
                return False
        return True

    def search(self, query: EvaluationQuery, repository: Repository) -> Job[QueryResult]:
        """Search with a query and judge the hits. A query that the search refuses counts as not found."""
        settings = self.settings.search.model_copy(update={"hits": self.settings.hits, "device": self.device})
        turned = None if query.region is None else round(query.region.rotation_degrees, 6)
        answer = QueryResult(
            condition=query.condition,
            field=query.name,
            number=query.number,
            findable=self._findable(query),
            inside=round(query.image.inside, 6),
            box=_true_box(query),
            rotation_degrees=turned,
        )
        try:
            result = yield from _searched(query, repository, settings)
        except InputError as refusal:
            return replace(answer, refusal=str(refusal))
        right = next((hit for hit in result.hits if query.is_right(hit.image)), None)
        answer = replace(
            answer,
            rank=_rank(query, repository, result),
            localisation=_localise(query, right),
            hits=tuple(_found(hit) for hit in result.hits),
            right=None if right is None else _found(right),
            seconds=result.seconds,
            screening_rank=None
            if result.screening is None
            else _rank_by(query, repository, result.screening),
            **_evidence(query, repository, result),
        )
        if not self.settings.report_shortlist:
            return answer
        from napari_cmrir.repository.build import ensure_index
        from napari_cmrir.search.rerankers import SearchState
        from napari_cmrir.search.shortlist import shortlist_method, word_rotations, word_scores

        exhaustive = None if self.settings.distractors else answer.rank
        if shortlist_method(settings, len(repository)) != "all" and not self.settings.distractors:
            every = {"rerank": "registration", "register_all": len(repository), "hits": 1}
            whole = yield from _searched(query, repository, settings.model_copy(update=every))
            exhaustive = _rank(query, repository, whole)
        ranks: dict[str, Any] = {"exhaustive_rank": exhaustive}
        if result.screening is None:
            screening = run(SearchState(repository, result.comir, result.mask, settings).screen())
            ranks["screening_rank"] = _rank_by(query, repository, screening)
        yield from ensure_index(repository, "words")
        for name, rotations in (("shortlist_rank", word_rotations(settings)), ("upright_rank", [0.0])):
            words = word_scores(repository, result.comir, result.mask, rotations)
            ranks[name] = _rank_by(query, repository, words)
        return replace(answer, **ranks)


def _searched(query: EvaluationQuery, repository: Repository, settings: SearchSettings) -> Job[SearchResult]:
    from napari_cmrir.search.query import search

    image = query.image
    return (
        yield from search(repository, image.pixels, query.condition.query, mask=image.mask, settings=settings)
    )


def _rank(query: EvaluationQuery, repository: Repository, result: SearchResult) -> int | None:
    """Rank of the right image among all, ``None`` if the search left it out."""
    ranked = (repository.image_name(int(field)) for field in result.ranking)
    return next((rank for rank, image in enumerate(ranked, 1) if query.is_right(image)), None)


def _evidence(query: EvaluationQuery, repository: Repository, result: SearchResult) -> dict[str, Any]:
    """Evidence for the first hit, and for the hit that is first without the images of the query's pair."""
    from napari_cmrir.search.calibration import calibration_of

    if result.evidence is None or not result.hits:
        return {}
    numbers = repository.fields["image"]
    identifier = query.name if query.field is None else query.field.identifier
    own = [
        int(numbers[field])
        for field in result.ranking.tolist()
        if identifier_of(repository.image_name(field)) == identifier
    ]
    first = result.evidence.features(int(numbers[result.hits[0].field]))
    others = [image for image in numbers[result.ranking].tolist() if image not in own]
    not_in_repository = result.evidence.without(own).features(others[0]) if others else None
    found: dict[str, Any] = {"evidence": _rounded(first), "not_in_repository": _rounded(not_in_repository)}
    if not_in_repository is not None:
        found["not_in_repository_confidence"] = round(
            float(calibration_of(repository).probability(not_in_repository)), 6
        )
    return found


def _rounded(features: NDArray[np.float64] | None) -> tuple[float, ...] | None:
    return None if features is None else tuple(round(float(value), 6) for value in features)


def _rank_by(query: EvaluationQuery, repository: Repository, scores: NDArray[np.float32]) -> int | None:
    """Rank of the right image by the scores of its fields."""
    numbers = repository.fields["image"]
    seen: set[int] = set()
    for field in np.argsort(-scores, kind="stable").tolist():
        if int(numbers[field]) not in seen:
            seen.add(int(numbers[field]))
            if query.is_right(repository.image_name(field)):
                return len(seen)
    return None


def _true_box(query: EvaluationQuery) -> Box | None:
    if query.region is None or query.field is None:
        return None
    return _as_tuple(box_in_field(query.region, query.field))


def _localise(query: EvaluationQuery, hit: Hit | None) -> Localisation | None:
    if hit is None or query.region is None or query.field is None:
        return None
    if not np.isfinite(hit.scores["registration"]):  # no pose, so the box has no meaning
        return None
    error = corner_error(hit.box, box_in_field(query.region, query.field))
    degrees = rotation_difference(hit.rotation_degrees, query.region.rotation_degrees)
    return Localisation(round(error, 4), round(error / query.field.width, 6), round(degrees, 4))


def _found(hit: Hit) -> ReportedHit:
    return ReportedHit(
        image=hit.image,
        score=round(hit.score, 6) if np.isfinite(hit.score) else None,
        rotation_degrees=round(hit.rotation_degrees, 3),
        box=_as_tuple(hit.box),
        confidence=round(hit.confidence, 6),
    )


def _as_tuple(box: NDArray[np.float64]) -> Box:
    return tuple((round(float(y), 3), round(float(x), 3)) for y, x in np.nan_to_num(box))


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
    """Measure how well queries of one modality find images of the other.

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
        Folder of transformed images ``<identifier>_<MODALITY>.<ext>`` that replace the random queries.
    distractors : sequence of path-like
        Folders of other images of both modalities, to cut the settings' ``distractors`` from.
    device : str
        Where CoMIRs are computed.

    Yields
    ------
    Progress
        In fields indexed and queries searched.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    InputError
        If the model does not have the modalities, no pair can be read, or a ready query has no pair.
    """
    from napari_cmrir.bag_of_words.descriptors.features import DESCRIPTORS

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
    failed_pairs: dict[str, str] = {}
    for pair in pairs:
        yield Progress(0, None, "steps", f"Reading {pair.identifier}")
        try:
            evaluation_run.add(pair)
        except InputError as error:
            failed_pairs[pair.identifier] = str(error)
    if len(failed_pairs) == len(pairs):
        raise InputError(next(iter(failed_pairs.values())))
    for modality in modalities if settings.distractors else ():
        evaluation_run.other_images[modality] = find_distractor_images(distractors, modality, pairs)
    if queries is not None:
        evaluation_run.find_ready(Path(queries))
    conditions = evaluation_run.conditions()
    searched = list(dict.fromkeys(condition.repository for condition in conditions))
    before = len(searched) * len(evaluation_run.fields)
    total = before + sum(evaluation_run.count(condition) for condition in conditions)
    results: list[QueryResult] = []
    with ExitStack() as stack:
        if output is None:
            output = stack.enter_context(tempfile.TemporaryDirectory(prefix="napari-cmrir-"))
        repositories: dict[str, Repository] = {}
        for done, modality in enumerate(searched):
            building = evaluation_run.build(modality, Path(output) / "repositories")
            n_fields = len(evaluation_run.fields)
            repository = yield from portion(building, done * n_fields, (done + 1) * n_fields, total, "steps")
            repositories[modality] = stack.enter_context(repository)
        unindexed = {modality: opened.failures for modality, opened in repositories.items()}
        for condition in conditions:
            for query in evaluation_run.queries(condition):
                asking = evaluation_run.search(query, repositories[condition.repository])
                step = step_of(asking, before + len(results), total, "steps", partial(_name, condition))
                results.append((yield from step))
    refusals = [result.refusal for result in results if result.refusal is not None]
    if len(refusals) == len(results):
        raise InputError(f"No query could be searched: {refusals[0]}")
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
        failed_pairs=failed_pairs,
        caveat=model.caveat,
        distractors={modality: evaluation_run.distractors(modality) for modality in searched},
    )


def _name(condition: Condition, _: Progress) -> str:
    """Return the message of all queries of a condition."""
    return str(condition)
