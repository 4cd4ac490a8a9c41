"""Build a repository, or add to it: the job behind ``index``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from napari_cmrir import __version__
from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, Catalogue, ImageRow
from napari_cmrir.repository.lock import writer_lock
from napari_cmrir.repository.publishing import digest, explained, publishing, remove_partials
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.sources import Source, find_work, list_sources
from napari_cmrir.repository.stages import (
    COMIRS,
    SEGMENTS,
    Indexing,
    index_words,
    learn_vocabulary,
    represent_images,
)
from napari_cmrir.repository.store import MODEL_NAME, VOCABULARY_NAME, Repository, open_repository

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel

__all__ = ["Source", "build_repository"]

LOCK_NAME = "writer.lock"


def build_repository(
    sources: Iterable[str | os.PathLike[str] | Source],
    model: ComirModel,
    modality: str,
    path: str | os.PathLike[str],
    settings: RepositorySettings | None = None,
    *,
    device: str = "auto",
) -> Job[Repository]:
    """Make images searchable: build a repository, or add what is new or changed to one.

    Whoever stops the job, or kills it, leaves a repository that the same call takes up where it stopped.
    Readers see each batch of images when it is complete, with the vocabulary of the first build.

    Parameters
    ----------
    sources : iterable of path-like or Source
        Image files, folders of them, and arrays (y, x, channel) with a name.
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

    Yields
    ------
    Progress
        In images.

    Returns
    -------
    Repository
        Open to search. Images that could not be used are its ``failures``.

    Raises
    ------
    InputError
        If no image can be used; the folder is not a repository, is being written, is full, or was built
        with another model, modality or settings.
    """
    from napari_cmrir.comir.devices import choose_device

    model.require_modality(modality)
    choose_device(device)
    folder = Path(os.path.abspath(path))
    found = list_sources(sources, modality)
    with explained(folder), _open_to_write(folder) as catalogue:
        settings = _agree(catalogue, model, modality, settings)
        with catalogue.transaction():
            work = list(find_work(catalogue, found.values()))
        if work:
            indexing = Indexing(folder, catalogue, model, modality, settings, work, device)
            yield from _index(indexing)
            _refuse_nothing(indexing, len(found))
    return open_repository(folder)


def _index(indexing: Indexing) -> Job[None]:
    total = float(len(indexing.images))
    is_new = indexing.catalogue.about("vocabulary_sha256") is None
    represented, learned = (0.5 * total, 0.75 * total) if is_new else (0.6 * total, 0.6 * total)
    yield from represent_images(indexing, 0.0, represented)
    if indexing.represented():
        if is_new:
            vocabulary = yield from learn_vocabulary(indexing, represented, learned)
        else:
            from napari_cmrir.words.vocabulary import load_vocabulary

            vocabulary = load_vocabulary(indexing.folder / VOCABULARY_NAME)
        yield from index_words(indexing, vocabulary, learned, total)
    rows = [indexing.catalogue.image(image_id) for image_id, _ in indexing.images]
    failures = [row for row in rows if row.state == "failed"]
    message = f"{len(rows) - len(failures)} images indexed"
    if failures:
        message += f", {len(failures)} not: {_why(failures[0])}"
    yield indexing.progress(total, message)


def _refuse_nothing(indexing: Indexing, n_sources: int) -> None:
    rows = [indexing.catalogue.image(image_id) for image_id, _ in indexing.images]
    failures = [row for row in rows if row.state == "failed"]
    if len(failures) == n_sources:
        which = "The image" if n_sources == 1 else f"None of the {n_sources} images"
        raise InputError(f"{which} could be indexed; {_why(failures[0])}")


def _why(failure: ImageRow) -> str:
    reason = failure.reason or ""
    return reason if failure.name in reason else f"{failure.name}: {reason}"


@contextmanager
def _open_to_write(folder: Path) -> Iterator[Catalogue]:
    """Take the writer's lock, clear away what a killed writer left, open the catalogue."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the repository.")
    for part in (folder, folder / COMIRS, folder / SEGMENTS):
        _refuse_foreign(folder)
        part.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder / LOCK_NAME):
        for part in (folder, folder / COMIRS, folder / SEGMENTS):
            remove_partials(part)
        with closing(Catalogue(folder, writable=True)) as catalogue:
            yield catalogue


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir() or (folder / CATALOGUE_NAME).exists():
        return
    foreign = [
        entry for entry in folder.iterdir() if not entry.name.startswith((LOCK_NAME, COMIRS, SEGMENTS))
    ]
    if foreign:
        raise InputError(f"{folder} holds other files and is not a repository; give a new folder.")


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
            " give the same model or another -o."
        )
    if own_modality != modality:
        raise InputError(
            f"{folder} holds {own_modality} images, not {modality};"
            f" give --modality {own_modality} or another -o."
        )
    own_settings = RepositorySettings.model_validate(catalogue.about("settings"))
    if settings is None or settings == own_settings:
        return own_settings
    if catalogue.about("vocabulary_sha256") is None:
        catalogue.note(settings=settings.model_dump(mode="json"))
        return settings
    raise InputError(
        f"{folder} was built with other settings ({_difference(own_settings, settings)});"
        " leave them out to add with the repository's own, or give another -o."
    )


def _difference(own: RepositorySettings, given: RepositorySettings) -> str:
    names = [name for name in type(own).model_fields if getattr(own, name) != getattr(given, name)]
    return ", ".join(names)
