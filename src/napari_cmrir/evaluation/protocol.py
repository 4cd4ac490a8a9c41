"""The paper's protocol: fields of one modality indexed, fields of either one searched among them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.fields import GridField, cut_grid, identifier_of
from napari_cmrir.evaluation.queries import (
    Query,
    box_in_field,
    centre_of,
    cut_query,
    draw_region,
    find_queries,
)
from napari_cmrir.evaluation.results import Cell, EvaluationReport, Found, Localisation, QueryResult
from napari_cmrir.evaluation.settings import EvaluationSettings
from napari_cmrir.images.geometry import Region, corner_error, rotation_difference
from napari_cmrir.images.pairs import Pair, read_pair
from napari_cmrir.images.readers import read_image
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel
    from napari_cmrir.repository.store import Repository
    from napari_cmrir.search.hits import Hit, SearchResult

__all__ = ["evaluate"]

Box = tuple[tuple[float, float], ...]
Result = TypeVar("Result")


def evaluate(
    model: ComirModel,
    pairs: Sequence[Pair],
    modalities: tuple[str, str],
    settings: EvaluationSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    queries: str | os.PathLike[str] | None = None,
    device: str = "auto",
) -> Job[EvaluationReport]:
    """Measure how well images of one modality are found by those of the other.

    Breznik et al. 2024, "Evaluation" and Tables 1 to 3, with the identifiers compared whole. Every pair is
    cut into a grid of fields; the fields of each modality make one repository, and the fields of both, as
    they are and turned and shifted, whole and as a patch, are searched in it.

    Parameters
    ----------
    model : ComirModel
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
    from napari_cmrir.words.descriptors import DESCRIPTORS

    settings = settings or EvaluationSettings()
    for modality in modalities:
        model.require_modality(modality)
    descriptor = settings.repository.descriptor.name
    if descriptor not in DESCRIPTORS:
        raise InputError(f"There is no descriptor {descriptor!r}; choose one of {', '.join(DESCRIPTORS)}.")
    if not pairs:
        raise InputError("There is no pair to evaluate on; give a folder of pairs.")
    yield Progress(0, None, "steps", "Reading the pairs")
    bench = _Bench(model, tuple(pairs), modalities, settings, device)
    for pair in pairs:
        yield Progress(0, None, "steps", f"Reading {pair.identifier}")
        bench.add(pair)
    if queries is not None:
        bench.find_ready(Path(queries))
    cells = bench.cells()
    searched = list(dict.fromkeys(cell.repository for cell in cells))
    total = len(searched) * len(bench.fields) + sum(bench.count(cell) for cell in cells)
    results: list[QueryResult] = []
    with ExitStack() as stack:
        folder = Path(output) if output is not None else Path(stack.enter_context(_temporary()))
        repositories: dict[str, Repository] = {}
        for done, modality in enumerate(searched):
            building = bench.build(modality, folder / "repositories")
            before = done * len(bench.fields)
            repository = yield from _within(building, before, len(bench.fields), total)
            repositories[modality] = stack.enter_context(repository)
        before = len(searched) * len(bench.fields)
        for cell in cells:
            for question in bench.questions(cell):
                asking = bench.ask(question, repositories[cell.repository])
                results.append((yield from _within(asking, before + len(results), 1, total, str(cell))))
    yield Progress(total, total, "steps", f"{len(results)} queries answered")
    return EvaluationReport(
        modalities=modalities,
        settings=settings,
        model=model.fingerprint,
        pairs=tuple(pairs),
        fields=tuple(bench.fields),
        results=tuple(results),
        ready={modality: dict(found) for modality, found in bench.ready.items()},
    )


@dataclass(frozen=True, eq=False)
class _Question:
    """A query, and what would be the right answer."""

    cell: Cell
    name: str  # of the field, or, of a ready query, the identifier
    query: Query
    region: Region | None  # in the pixels of the pair's images
    field: GridField | None

    def is_right(self, image: str) -> bool:
        return image == self.name if self.field is not None else identifier_of(image) == self.name


class _Bench:
    """The pairs in memory, and what is done with them.

    Fields are views of the pairs' images, so that the whole takes no more memory than the images do.
    """

    def __init__(
        self,
        model: ComirModel,
        pairs: tuple[Pair, ...],
        modalities: tuple[str, str],
        settings: EvaluationSettings,
        device: str,
    ) -> None:
        self.model, self.modalities, self.settings, self.device = model, modalities, settings, device
        self.images: dict[str, dict[str, NDArray[Any]]] = {modality: {} for modality in modalities}
        self.fields: list[GridField] = []
        self.ready: dict[str, dict[str, Path]] = {}

    def add(self, pair: Pair) -> None:
        """Read a pair and cut its grid."""
        pixels = read_pair(pair)
        for modality, image in zip(self.modalities, pixels, strict=True):
            self.images[modality][pair.identifier] = image
        height, width = pixels[0].shape[:2]
        self.fields += cut_grid(pair.identifier, height, width, self.settings.field_size)

    def find_ready(self, folder: Path) -> None:
        """Find the ready queries of either modality."""
        identifiers = set(self.images[self.modalities[0]])
        self.ready = {modality: find_queries(folder, modality, identifiers) for modality in self.modalities}

    def cells(self) -> list[Cell]:
        """List the cells of the table, the use case first: cross-modality, transformed, full."""
        settings = self.settings
        return [
            Cell(query, repository, pose, size)
            for size, kind, pose in product(settings.sizes, settings.kinds, settings.poses)
            for query, repository in product(self.modalities, reversed(self.modalities))
            if (query == repository) == (kind == "within")
        ]

    def count(self, cell: Cell) -> int:
        """Count the queries of a cell."""
        ready = self.ready.get(cell.query) if cell.pose == "transformed" else None
        return len(self.fields) if ready is None else len(ready)

    def build(self, modality: str, folder: Path) -> Job[Repository]:
        """Index the fields of a modality."""
        from napari_cmrir.repository.build import Source, build_repository

        images = self.images[modality]
        sources = [Source(field.name, field.crop(images[field.identifier])) for field in self.fields]
        content = hashlib.sha256(self.settings.repository.model_dump_json().encode())
        content.update(self.model.fingerprint.encode())
        for source in sources:
            content.update(source.name.encode() + np.ascontiguousarray(source.pixels).tobytes())
        path = folder / f"{modality}-{content.hexdigest()[:12]}.cmrir"
        repository = yield from build_repository(
            sources, self.model, modality, path, self.settings.repository, device=self.device
        )
        repository.model = self.model  # a stand-in for a model can not be read back from its file
        if repository.failures:
            name, reason = next(iter(repository.failures.items()))
            raise InputError(f"The field {name} cannot be indexed: {reason}")
        return repository

    def questions(self, cell: Cell) -> Iterator[_Question]:
        """Make the queries of a cell, one after the other."""
        if cell.pose == "transformed" and cell.query in self.ready:
            for identifier, path in self.ready[cell.query].items():
                yield self._ready_question(cell, identifier, path)
            return
        for field in self.fields:
            image = self.images[cell.query][field.identifier]
            region = field.region
            if cell.pose == "transformed":
                region = draw_region(field, image.shape, self.settings)
            if cell.size == "patch":
                region = centre_of(region, self.settings.side_of_patch)
            yield _Question(cell, field.name, cut_query(image, region), region, field)

    def _ready_question(self, cell: Cell, identifier: str, path: Path) -> _Question:
        pixels = read_image(path)
        region = Region.whole(pixels.shape)
        if cell.size == "patch":
            region = centre_of(region, self.settings.side_of_patch)
        return _Question(cell, identifier, cut_query(pixels, region), None, None)

    def ask(self, question: _Question, repository: Repository) -> Job[QueryResult]:
        """Search with a query and see what became of it."""
        settings = self.settings.search.model_copy(update={"hits": self.settings.hits, "device": self.device})
        result = yield from _searched(question, repository, settings)
        shortlist_rank = exhaustive_rank = None
        rank = _rank(question, repository, result)
        if self.settings.report_shortlist:
            alone = settings.model_copy(update={"rerank": "none", "hits": 1})
            every = settings.model_copy(
                update={"rerank": "registration", "register_all": len(self.fields), "hits": 1}
            )
            shortlist_rank = yield from _rank_with(question, repository, alone, settings, rank)
            exhaustive_rank = yield from _rank_with(question, repository, every, settings, rank)
        right = next((hit for hit in result.hits if question.is_right(hit.image)), None)
        return QueryResult(
            cell=question.cell,
            field=question.name,
            inside=round(question.query.inside, 6),
            box=_true_box(question),
            rotation_degrees=None if question.region is None else round(question.region.rotation_degrees, 6),
            rank=rank,
            shortlist_rank=shortlist_rank,
            exhaustive_rank=exhaustive_rank,
            localisation=_localise(question, right),
            hits=tuple(_found(hit) for hit in result.hits),
            right=None if right is None else _found(right),
            seconds=result.seconds,
        )


def _searched(question: _Question, repository: Repository, settings: SearchSettings) -> Job[SearchResult]:
    from napari_cmrir.search.query import search

    query = question.query
    result = yield from search(
        repository, query.pixels, question.cell.query, mask=query.mask, settings=settings
    )
    return result


def _rank(question: _Question, repository: Repository, result: SearchResult) -> int | None:
    """Rank of the right image among all, ``None`` if the search left it out."""
    ranked = (repository.image_name(int(field)) for field in result.ranking)
    return next((rank for rank, image in enumerate(ranked, 1) if question.is_right(image)), None)


def _rank_with(
    question: _Question,
    repository: Repository,
    settings: SearchSettings,
    asked: SearchSettings,
    rank: int | None,
) -> Job[int | None]:
    """Rank of the right image under other settings, or the rank at hand where they come to the same."""
    if settings.rerank == asked.rerank and (
        settings.rerank == "none" or len(repository) <= asked.register_all
    ):
        return rank
    result = yield from _searched(question, repository, settings)
    return _rank(question, repository, result)


def _true_box(question: _Question) -> Box | None:
    if question.region is None or question.field is None:
        return None
    return _as_tuple(box_in_field(question.region, question.field))


def _localise(question: _Question, hit: Hit | None) -> Localisation | None:
    if hit is None or question.region is None or question.field is None or not np.isfinite(hit.box).all():
        return None
    error = corner_error(hit.box, box_in_field(question.region, question.field))
    degrees = rotation_difference(hit.rotation_degrees, question.region.rotation_degrees)
    return Localisation(round(error, 4), round(error / question.field.width, 6), round(degrees, 4))


def _found(hit: Hit) -> Found:
    return Found(
        image=hit.image,
        score=round(hit.score, 6),
        rotation_degrees=round(hit.rotation_degrees, 3),
        box=_as_tuple(hit.box),
        confidence=round(hit.confidence, 6),
    )


def _as_tuple(box: NDArray[np.float64]) -> Box:
    return tuple((round(float(y), 3), round(float(x), 3)) for y, x in box)


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
