"""One writer at a time: the writer's lock, and opening a repository for writing."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from napari_cmrir.errors import InputError
from napari_cmrir.files import explain_disk_errors, remove_partials
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, COMIRS, INDEXES, LOCK_NAME, SEGMENTS, Catalogue

__all__ = ["open_to_change", "open_to_write", "writer_lock"]


PATIENCE = 0.5
"""Seconds that a second writer waits before it is refused: a writer that is just ending gets time to end."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the exclusive right to write to a repository.

    The lock is an open transaction of a small SQLite database. The operating system releases it when the
    process that holds it ends, even if the process is killed.

    Parameters
    ----------
    path : Path
        File of the lock. It is created if missing, and remains.

    Raises
    ------
    InputError
        If another process, or another thread of this process, is writing; the message names the process.
    """
    with closing(_connect(path)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            holder = _sign(connection)
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            raise _refusal(path, _read_holder(connection)) from None
        if _read_holder(connection) != holder:  # another writer signed between the two transactions
            raise _refusal(path, _read_holder(connection))
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    # The garbage collector may close a job in another thread than the one that ran it.
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)


def _sign(connection: sqlite3.Connection) -> str:
    since = datetime.now(UTC).isoformat(timespec="microseconds")
    holder = f"process {os.getpid()} on {platform.node() or 'this computer'} since {since}"
    connection.execute("CREATE TABLE IF NOT EXISTS holder (description TEXT NOT NULL)")
    connection.execute("DELETE FROM holder")
    connection.execute("INSERT INTO holder VALUES (?)", [holder])
    return holder


def _read_holder(connection: sqlite3.Connection) -> str:
    try:
        row = connection.execute("SELECT description FROM holder").fetchone()
    except sqlite3.OperationalError:
        row = None
    return str(row[0]) if row else "another process"


def _refusal(path: Path, holder: str) -> InputError:
    return InputError(f"{path.parent} is being written by {holder}; wait for it to end or stop it.")


@contextmanager
def open_to_write(folder: Path) -> Iterator[Catalogue]:
    """Open the catalogue of a repository as its only writer; create the repository if it does not exist.

    Parameters
    ----------
    folder : Path
        The repository.

    Yields
    ------
    Catalogue

    Raises
    ------
    InputError
        If the folder holds other files, is a file, is being written, is not writable, or its disk is full.
    """
    with explain_disk_errors(folder):
        parts = (folder, folder / COMIRS, folder / SEGMENTS, folder / INDEXES)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; give a folder for the repository.")
        for part in parts:
            _refuse_foreign(folder)
            part.mkdir(parents=True, exist_ok=True)
        with writer_lock(folder / LOCK_NAME):
            for part in [*parts, *(folder / INDEXES).iterdir()]:
                remove_partials(part)
            with closing(Catalogue(folder, writable=True)) as catalogue:
                yield catalogue


@contextmanager
def open_to_change(folder: Path) -> Iterator[Catalogue]:
    """Open the catalogue of an existing repository as its only writer.

    Parameters
    ----------
    folder : Path
        The repository.

    Yields
    ------
    Catalogue

    Raises
    ------
    InputError
        If there is no repository; see also `open_to_write`.
    """
    if not (folder / CATALOGUE_NAME).is_file():
        raise InputError(f"{folder} is not a repository; give a folder made by 'napari-cmrir index'.")
    with open_to_write(folder) as catalogue:
        yield catalogue


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir() or (folder / CATALOGUE_NAME).exists():
        return
    foreign = [
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith((LOCK_NAME, COMIRS, SEGMENTS, INDEXES))
    ]
    if foreign:
        raise InputError(f"{folder} holds other files and is not a repository; give a new folder.")
