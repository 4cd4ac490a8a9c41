"""Build a repository, or add to it: the job behind ``index``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari_cmrir import __version__
from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.crew import gather_crew
from napari_cmrir.repository.estimate import estimate
from napari_cmrir.repository.indexing import Indexing, index_words, learn_vocabulary, represent_images
from napari_cmrir.repository.publishing import digest, publishing
from napari_cmrir.repository.recipe import Recipe, Tools
from napari_cmrir.repository.schema import ImageRow
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.sources import AnySource, Source, list_sources
from napari_cmrir.repository.store import MODEL_NAME, VOCABULARY_NAME, Repository, open_repository
from napari_cmrir.repository.upkeep import is_outgrown, prune_vanished
from napari_cmrir.repository.work import find_lost, find_work
from napari_cmrir.repository.writing import open_to_write

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel

__all__ = ["Source", "build_repository"]

Work = list[tuple[int, AnySource]]


def build_repository(
    sources: Iterable[str | os.PathLike[str] | Source],
    model: ComirModel,
    modality: str,
    path: str | os.PathLike[str],
    settings: RepositorySettings | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    prune: bool = False,
) -> Job[Repository]:
    """Make images searchable: build a repository, or add what is new or changed to one.

    Whoever stops the job, or kills it, leaves a repository that the same call takes up where it stopped.
    Readers see each batch of images when it is complete, with the vocabulary of the first build
    (`upkeep.rebuild_vocabulary` makes another one).

    Parameters
    ----------
    sources : iterable of path-like or Source
        Image files, folders of them, addresses of OME-Zarr images (``http``, ``https``, ``s3``), and arrays
        (y, x, channel) with a name.
    model : ComirModel
        The model that represents them; the repository keeps a copy.
    modality : str
        The images' modality, one of the model's.
    path : path-like
        The repository's folder; made where it is missing.
    settings : RepositorySettings, optional
        How it is built; by default the repository's own, or the defaults for a new one.
    device : str
        Where CoMIRs are computed: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.
    workers : int, optional
        Worker processes to compute in, each on one thread; by default this process computes, on all
        threads that torch may use. A script that gives it guards its calls with
        ``if __name__ == "__main__"``, as everywhere where Python starts processes.
    scheduler : str, optional
        Address of the scheduler of a dask cluster whose workers compute. Each has to see the images and
        the repository under the same paths, and to have this package.
    prune : bool
        Drop images of the repository whose files are nowhere any more (`upkeep.prune_repository`).

    Yields
    ------
    Progress
        In images; the first one's message estimates time and disk, if there is something to do.

    Returns
    -------
    Repository
        Open to search. Images that could not be used are its ``failures``.

    Raises
    ------
    InputError
        If no image can be used; the folder is not a repository, is being written, is full, or was built
        with another model, modality or settings; no scheduler answers.
    """
    from napari_cmrir.comir.devices import choose_device

    model.require_modality(modality)
    choose_device(device)
    folder = Path(os.path.abspath(path))
    found = list_sources(sources, modality)
    with open_to_write(folder) as catalogue:
        settings = _agree(catalogue, model, modality, settings)
        with catalogue.transaction():
            work = list(find_work(catalogue, found.values()))
            work += find_lost(catalogue, found.values())
            if prune:
                prune_vanished(catalogue)
        if work:
            recipe = Recipe(folder, model.fingerprint, modality, settings, device)
            yield from _index(catalogue, recipe, model, work, workers, scheduler)
            _refuse_nothing(catalogue, work, len(found))
    return open_repository(folder)


def _index(
    catalogue: Catalogue,
    recipe: Recipe,
    model: ComirModel,
    work: Work,
    workers: int | None,
    scheduler: str | None,
) -> Job[None]:
    total = float(len(work))
    is_new = catalogue.about("vocabulary_sha256") is None
    represented, learned = (0.5 * total, 0.75 * total) if is_new else (0.6 * total, 0.6 * total)
    with gather_crew(workers, scheduler) as crew:
        indexing = Indexing(catalogue, crew, Tools(recipe, model, remembers=True), len(work))
        expected = estimate(work, indexing.tools, catalogue, crew.size)
        yield indexing.progress(0, str(expected))
        yield from represent_images(indexing, work, 0.0, represented)
        rows = _represented(catalogue, work)
        if rows:
            if is_new:
                learning = learn_vocabulary(indexing, rows, VOCABULARY_NAME, represented, learned)
                sha256, n_fields = yield from learning
                catalogue.note_vocabulary(VOCABULARY_NAME, sha256, n_fields)
            indexing.tools = indexing.tools.follow(_with_vocabulary(recipe, catalogue))
            yield from index_words(indexing, rows, learned, total)
    yield indexing.progress(total, _ending(catalogue, work))


def _represented(catalogue: Catalogue, work: Work) -> list[ImageRow]:
    rows = (catalogue.image(image_id) for image_id, _ in work)
    return sorted((row for row in rows if row.state == "represented"), key=lambda row: row.id)


def _with_vocabulary(recipe: Recipe, catalogue: Catalogue) -> Recipe:
    file = catalogue.about("vocabulary_file") or VOCABULARY_NAME
    return replace(recipe, vocabulary_file=file, vocabulary_sha256=catalogue.about("vocabulary_sha256"))


def _ending(catalogue: Catalogue, work: Work) -> str:
    failures = _failures(catalogue, work)
    message = f"{len(work) - len(failures)} images indexed"
    if failures:
        message += f", {len(failures)} not: {_why(failures[0])}"
    if is_outgrown(catalogue):
        message += (
            "; the collection has outgrown its vocabulary: learn the words anew"
            " ('index --rebuild-vocabulary', or Learn words in napari)"
        )
    return message


def _failures(catalogue: Catalogue, work: Work) -> list[ImageRow]:
    rows = (catalogue.image(image_id) for image_id, _ in work)
    return [row for row in rows if row.state == "failed"]


def _refuse_nothing(catalogue: Catalogue, work: Work, n_sources: int) -> None:
    failures = _failures(catalogue, work)
    if len(failures) == n_sources:
        what = "The image could not" if n_sources == 1 else f"None of the {n_sources} images could"
        raise InputError(f"{what} be indexed; {_why(failures[0])}")


def _why(failure: ImageRow) -> str:
    reason = failure.reason or ""
    return reason if failure.name in reason else f"{failure.name}: {reason}"


def _agree(
    catalogue: Catalogue, model: ComirModel, modality: str, settings: RepositorySettings | None
) -> RepositorySettings:
    """Check that what is given fits what the repository was built with; note it where nothing is built."""
    folder = catalogue.folder
    counts = catalogue.count_images()
    if not any(counts.get(state) for state in ("represented", "indexed", "retired")):
        settings = settings or RepositorySettings()
        with publishing(folder / MODEL_NAME) as partial:
            model.save(partial)
        with catalogue.transaction():
            catalogue.note(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                created_by=f"napari-cmrir {__version__}",
                modality=modality,
                model_fingerprint=model.fingerprint,
                model_sha256=digest(folder / MODEL_NAME),
                settings=settings.model_dump(mode="json"),
            )
        return settings
    fingerprint, own_modality = catalogue.about("model_fingerprint"), catalogue.about("modality")
    if fingerprint != model.fingerprint:
        raise InputError(
            f"{folder} was built with another model ({fingerprint[:12]}, not {model.fingerprint[:12]});"
            " give the same model, or another repository to write."
        )
    if own_modality != modality:
        raise InputError(
            f"{folder} holds {own_modality} images, not {modality};"
            f" give {own_modality} as modality, or another repository to write."
        )
    own_settings = RepositorySettings.model_validate(catalogue.about("settings"))
    if settings is None or settings == own_settings:
        return own_settings
    if catalogue.about("vocabulary_sha256") is None:
        catalogue.note(settings=settings.model_dump(mode="json"))
        return settings
    raise InputError(
        f"{folder} was built with other settings ({_difference(own_settings, settings)});"
        " leave them out to add with the repository's own, or give another repository to write."
    )


def _difference(own: RepositorySettings, given: RepositorySettings) -> str:
    names = [name for name in type(own).model_fields if getattr(own, name) != getattr(given, name)]
    return ", ".join(names)
