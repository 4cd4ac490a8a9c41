"""One writer at a time: the lock, and opening a repository to write."""

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
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.layout import CATALOGUE_NAME, COMIRS, INDEXES, LOCK_NAME, SEGMENTS

__all__ = ["open_to_change", "open_to_write", "writer_lock"]


PATIENCE = 0.5
"""Seconds that a second writer waits before it is refused."""


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the only right to write to a repository.

    The lock is an open transaction of a small SQLite database, so the operating system gives it
    free when the process that holds it ends, however it ends.

    Parameters
    ----------
    path : Path
        The lock's file; it is made where it is missing and stays.

    Raises
    ------
    InputError
        If another process, or another thread of this one, is writing; the message names it.
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
    # A job may be closed by another thread than ran it, as the garbage collector does.
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
    """Open the catalogue of a repository, or of a new one, as its only writer.

    Raises
    ------
    InputError
        If the folder holds other files, is a file, is being written or cannot be written to, or its
        disk is full.
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
    """Open the catalogue of a repository that there is, as its only writer."""
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
