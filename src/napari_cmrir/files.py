"""Atomic writing of files and folders, and checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_cmrir.errors import InputError, disk_fault

__all__ = [
    "atomic_path",
    "atomic_write",
    "checksum",
    "explain_disk_errors",
    "is_standard_output",
    "remove_partials",
]

PARTIAL_PREFIX = ".partial-"
"""Prefix of the name of an unfinished file or folder."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write a file or a folder that appears at ``path`` complete or not at all.

    Parameters
    ----------
    path : Path
        Final path. An existing file or folder is replaced.

    Yields
    ------
    Path
        Temporary path in the same folder, to write to. At the end of the block it is synced to the disk and
        renamed to ``path``; after an exception it is removed.

    Raises
    ------
    OSError
        If the file cannot be synced or renamed.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "note.txt") as partial:
    ...     _ = partial.write_text("whole")
    >>> [entry.name for entry in folder.iterdir()]
    ['note.txt']
    """
    path = _behind_links(path)
    partial = path.with_name(f"{PARTIAL_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield partial
        publish(partial, path)
    except BaseException:
        _remove(partial)
        raise


def publish(partial: Path, path: Path) -> None:
    """Sync a complete file or folder to the disk, and move it to ``path`` on the same disk.

    Parameters
    ----------
    partial : Path
        What is complete; it stays if this fails.
    path : Path
        Final path. An existing file or folder is replaced.

    Raises
    ------
    OSError
        If it cannot be synced or renamed.
    """
    sync(partial)
    if path.is_dir():
        shutil.rmtree(path)
    os.replace(partial, path)
    _sync_entry(path.parent)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file completely, synced to the disk, or leave it unchanged.

    A link is followed: its target is written. A pipe or a device is written to, never replaced. ``-`` is
    standard output.

    Parameters
    ----------
    path : Path
        The file; missing folders are created.
    content : bytes
        Content of the file.

    Raises
    ------
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write(Path(folder, "new", "note.txt"), b"whole")
    ...     Path(folder, "new", "note.txt").read_text()
    'whole'
    """
    if is_standard_output(path):
        sys.stdout.write(content.decode())
        sys.stdout.flush()
        return
    if _is_stream(path):
        with path.open("ab") as stream:
            stream.write(content)
        return
    path = _behind_links(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def is_standard_output(path: Path) -> bool:
    """Whether a path stands for standard output.

    Examples
    --------
    >>> is_standard_output(Path("-")), is_standard_output(Path("hits.json"))
    (True, False)
    """
    return str(path) in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def _is_stream(path: Path) -> bool:
    """Whether a path is a pipe, a device or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or path.is_relative_to("/dev/fd")


def _behind_links(path: Path) -> Path:
    """Follow links to the file or folder that they lead to, which need not exist."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def remove_partials(folder: Path) -> None:
    """Remove unfinished files of killed writers from a folder; the caller must hold the folder's lock."""
    for partial in folder.glob(f"{PARTIAL_PREFIX}*"):
        _remove(partial)


def checksum(path: Path) -> str:
    """Compute the SHA-256 of a file, or of the names and contents of all files below a folder.

    Parameters
    ----------
    path : Path

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    OSError
        If the file cannot be read or does not exist.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file_path in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        total.update(f"{file_path.relative_to(path).as_posix()}\0{checksum(file_path)}\n".encode())
    return total.hexdigest()


@contextmanager
def explain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of a full, failing or read-only disk in the block into an `InputError` with the folder.

    Parameters
    ----------
    folder : Path
        Folder that the block writes to.

    Raises
    ------
    InputError
        If the disk is full or fails, or the folder is not writable; other errors pass unchanged.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, sqlite3.OperationalError, SafetensorError) as error:
        message = {
            "full": f"The disk of {folder} is full; make room and index again: finished images are kept.",
            "failing": f"The disk of {folder} is full or fails; make room, or check it, and index again:"
            " finished images are kept.",
            "denied": f"{folder} cannot be written to; check its permissions or give another folder.",
        }.get(disk_fault(error) or "")
        if message is None:
            raise
        raise InputError(message) from error


def sync(path: Path) -> None:
    """Sync a file; or all files below a folder, and then the folders, which hold the files' names."""
    entries = sorted(path.rglob("*"), reverse=True) if path.is_dir() else []
    for file_path in [entry for entry in [path, *entries] if not entry.is_dir()]:
        with file_path.open("rb+") as file:
            os.fsync(file.fileno())
    for folder in [entry for entry in [*entries, path] if entry.is_dir()]:
        _sync_entry(folder)


def _sync_entry(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
