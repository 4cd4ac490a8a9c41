"""Opening a repository to write to it: one writer at a time, after clearing away what a killed one left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from napari_cmrir.errors import InputError
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, Catalogue
from napari_cmrir.repository.lock import writer_lock
from napari_cmrir.repository.publishing import explained, remove_partials
from napari_cmrir.repository.store import COMIRS, SEGMENTS

__all__ = ["open_to_change", "open_to_write"]

LOCK_NAME = "writer.lock"


@contextmanager
def open_to_write(folder: Path) -> Iterator[Catalogue]:
    """Open the catalogue of a repository, or of a new one, as its only writer.

    Raises
    ------
    InputError
        If the folder holds other files, is a file, is being written or cannot be written to, or its
        disk is full.
    """
    with explained(folder):
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


@contextmanager
def open_to_change(folder: Path) -> Iterator[Catalogue]:
    """Open the catalogue of a repository that there is, as its only writer."""
    if not (folder / CATALOGUE_NAME).is_file():
        raise InputError(f"{folder} is not a repository; give a folder made by 'napari-cmrir index'.")
    with open_to_write(folder) as catalogue:
        yield catalogue


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir() or (folder / CATALOGUE_NAME).exists():
        return
    foreign = [
        entry for entry in folder.iterdir() if not entry.name.startswith((LOCK_NAME, COMIRS, SEGMENTS))
    ]
    if foreign:
        raise InputError(f"{folder} holds other files and is not a repository; give a new folder.")
