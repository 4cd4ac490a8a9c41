"""Maintenance of a repository: one writer at a time; verify, prune and compact."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum, explain_disk_errors, remove_partials
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import (
    CATALOGUE_NAME,
    COMIRS,
    INDEXES,
    LOCK_NAME,
    MODEL_NAME,
    SEGMENTS,
    Catalogue,
    ImageRow,
    SegmentRow,
    token,
)
from napari_cmrir.repository.field_indexes import FIELD_INDEXES
from napari_cmrir.repository.segments import map_fields, map_tensors, write_fields, write_tensors
from napari_cmrir.repository.tasks import SegmentInfo

__all__ = [
    "Compacted",
    "compact_repository",
    "open_to_change",
    "open_to_write",
    "prune_repository",
    "prune_vanished",
    "verify_repository",
    "writer_lock",
]

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


class Part(NamedTuple):
    """A file or folder below the repository, its checksum, and the advice if it is lost."""

    file: str
    sha256: str | None
    advice: str


def verify_repository(path: str | os.PathLike[str]) -> Job[list[str]]:
    """Read every file of a repository and compare it with its checksum.

    The repository may be unfinished, or too damaged to be opened. It is not changed. Another process may
    write to it meanwhile.

    Parameters
    ----------
    path : path-like
        The repository.

    Yields
    ------
    Progress
        In files.

    Returns
    -------
    list of str
        One sentence per problem, with advice; empty if there is none.

    Raises
    ------
    InputError
        If there is no repository, or it is of another format.
    """
    folder = Path(os.path.abspath(path))
    with closing(Catalogue(folder)) as catalogue:
        yield Progress(0, None, "files", "checking the catalogue")
        damage = catalogue.damage()
        if damage is not None:
            return [
                f"catalogue.sqlite is damaged ({damage}); restore it from a copy, or index the images into a"
                " new repository."
            ]
        with catalogue.snapshot():
            parts = list(_parts(catalogue))
    problems: dict[Part, str] = {}
    for position, part in enumerate(parts):
        yield Progress(position, len(parts), "files", f"checking {part.file}")
        problem = _problem(folder, part)
        if problem is not None:
            problems[part] = problem
    if problems:  # a writer may have removed parts meanwhile; the catalogue no longer names these
        with closing(Catalogue(folder)) as catalogue:
            current = set(_parts(catalogue))
        problems = {part: problem for part, problem in problems.items() if part in current}
    yield Progress(len(parts), len(parts), "files", f"{len(problems)} problems")
    return list(problems.values())


def _parts(catalogue: Catalogue) -> Iterator[Part]:
    """List all files that the catalogue names."""
    about = catalogue.about
    if about("model_sha256") is not None:
        advice = "restore it from a copy, or put the model file that it was built with there"
        yield Part(MODEL_NAME, about("model_sha256"), advice)
    again = "delete it and index the images again"
    for segment in catalogue.segments():
        yield Part(segment.file, segment.sha256, again)
    files = catalogue.index_files()
    for name in sorted({index.name for index in files}):
        shared = catalogue.shared_of(name) or {}
        if "file" in shared:
            yield Part(shared["file"], shared["sha256"], _anew(name))
    for index in files:
        is_always_built = FIELD_INDEXES[index.name].is_always_built
        yield Part(index.file, index.sha256, again if is_always_built else _anew(index.name))
    for row in catalogue.images("indexed"):
        image = row.absolute_path or row.name
        yield Part(str(row.comir), row.comir_sha256, f"delete it and index {image} again")


def _anew(name: str) -> str:
    how = "'index --rebuild-vocabulary'" if name == "words" else "`build_index` with ``anew``"
    return f"build the index '{name}' anew ({how})"


def _problem(folder: Path, part: Part) -> str | None:
    try:
        if checksum(folder / part.file) == part.sha256:
            return None
    except OSError as error:
        return f"{part.file} cannot be read ({error.strerror}); {part.advice}."
    return f"{part.file} is not as it was written: its checksum differs; {part.advice}."


def prune_repository(path: str | os.PathLike[str]) -> Job[tuple[str, ...]]:
    """Drop the images whose files no longer exist.

    `compact_repository` removes their CoMIRs from the disk. A moved file is found by its content when its new
    folder is indexed, so index the new folder before pruning.

    Parameters
    ----------
    path : path-like
        The repository.

    Yields
    ------
    Progress
        In images.

    Returns
    -------
    tuple of str
        Paths of the dropped images.

    Raises
    ------
    InputError
        If no image would remain, such as when a drive is not connected; or the repository is being written.
    """
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        total = sum(catalogue.count_images().values())
        yield Progress(0, total, "images", "looking for the images")
        with catalogue.transaction():
            dropped = prune_vanished(catalogue)
        yield Progress(total, total, "images", f"{len(dropped)} images dropped")
    return tuple(dropped)


def prune_vanished(catalogue: Catalogue) -> list[str]:
    """Retire the images whose files no longer exist, within a transaction; return their paths.

    Raises
    ------
    InputError
        If no searched image would remain.
    """
    searched = catalogue.count_images().get("indexed", 0)
    dropped = [row for row in list(catalogue.images("indexed")) if _vanished(catalogue, row)]
    if dropped and len(dropped) == searched:
        raise InputError(
            f"None of the {searched} images of {catalogue.folder} is where it was; connect their drive, or"
            " index the folder that they are in now."
        )
    waiting = list(catalogue.images("pending", "failed"))
    dropped += [row for row in waiting if _vanished(catalogue, row)]
    for row in dropped:
        catalogue.change_image(row.id, state="retired", reason="its file vanished")
    return [str(row.absolute_path) for row in dropped]


def _vanished(catalogue: Catalogue, row: ImageRow) -> bool:
    file = catalogue.resolve(row)
    # An undecodable name is stored with escapes (`text`), so its file cannot be looked for.
    return file is not None and "\\udc" not in str(file) and not file.exists()


COMPACT_FIELDS = 2048
"""Largest number of fields of a segment after compacting; larger segments take longer to rewrite. Not
measured."""

Group = list[tuple[SegmentRow, npt.NDArray[np.void]]]


@dataclass(frozen=True)
class Compacted:
    """The result of compacting a repository.

    Parameters
    ----------
    segments : int
        Number of segments afterwards.
    dropped_images : int
        Number of removed entries of changed or pruned images.
    freed_bytes : int
        Disk space freed, in bytes.
    """

    segments: int
    dropped_images: int
    freed_bytes: int


def compact_repository(path: str | os.PathLike[str]) -> Job[Compacted]:
    """Join small segments, and remove files that are no longer searched from the disk.

    Parameters
    ----------
    path : path-like
        The repository.

    Yields
    ------
    Progress
        In segments.

    Returns
    -------
    Compacted

    Raises
    ------
    InputError
        If a segment is damaged, the repository is being written, or its disk is full.

    Notes
    -----
    Readers opened before compaction must reopen.
    """
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        before = _size(folder)
        searched = set(catalogue.image_ids("indexed"))
        groups = list(_groups(folder, catalogue.segments(), searched))
        joined = []
        for position, group in enumerate(groups):
            yield Progress(position, len(groups), "segments", "joining segments")
            joined.append(_join(catalogue, group, searched))
        with catalogue.transaction():
            for group, one in zip(groups, joined, strict=True):
                catalogue.drop_segments([row.file for row, _ in group])
                if one is not None:
                    catalogue.enter_segment(one.file, one.sha256, one.n_fields, one.image_ids, one.indexes)
            dropped = catalogue.drop_retired()
        catalogue.shrink()
        _remove_unnamed(folder, catalogue)
        n_segments = len(catalogue.segments())
        yield Progress(len(groups), len(groups), "segments", f"{n_segments} segments")
    return Compacted(n_segments, dropped, max(0, before - _size(folder)))


def _groups(folder: Path, rows: Sequence[SegmentRow], searched: set[int]) -> Iterator[Group]:
    """Group segments to be joined, in the order of their images; skip those that need no rewriting."""
    mapped = sorted(
        ((row, map_fields(folder / row.file)) for row in rows), key=lambda one: int(one[1]["image"][0])
    )
    group: Group = []
    n_fields = 0
    for row, fields in mapped:
        if n_fields and n_fields + len(fields) > COMPACT_FIELDS:
            if _needs_rewriting(group, searched):
                yield group
            group, n_fields = [], 0
        group.append((row, fields))
        n_fields += len(fields)
    if _needs_rewriting(group, searched):
        yield group


def _needs_rewriting(group: Group, searched: set[int]) -> bool:
    """Tell whether a group has several segments, or fields that are no longer searched."""
    return len(group) > 1 or any(not searched.issuperset(fields["image"].tolist()) for _, fields in group)


def _join(catalogue: Catalogue, group: Group, searched: set[int]) -> SegmentInfo | None:
    """Write the searched fields of a group, and their indexes, as one segment; ``None`` if there are none."""
    folder = catalogue.folder
    numbers = np.array(sorted(searched), np.int64)
    kept = [np.isin(fields["image"], numbers) for _, fields in group]
    fields = np.concatenate([table[keep] for (_, table), keep in zip(group, kept, strict=True)])
    if not len(fields):
        return None
    image_ids = tuple(dict.fromkeys(fields["image"].tolist()))
    inputs = token(*(row.sha256 for row, _ in group), *image_ids)
    stem = f"{image_ids[0]:08d}-{inputs}"
    file = f"{SEGMENTS}/{stem}.safetensors"
    write_fields(folder / file, np.array(fields.tolist()))
    indexes = []
    segments = {row.id for row, _ in group}
    files = [file for file in catalogue.index_files() if file.segment in segments]
    for name in sorted({file.name for file in files}):
        of = {file.segment: folder / file.file for file in files if file.name == name}
        if len(of) < len(group) or not all(path.exists() for path in of.values()):
            continue  # incomplete: it is built again when it is needed
        index = FIELD_INDEXES[name]()
        parts = [
            index.select(map_tensors(of[row.id]), table, keep)
            for (row, table), keep in zip(group, kept, strict=True)
        ]
        path = folder / INDEXES / name / f"{stem}.safetensors"
        write_tensors(path, index.join(parts))
        indexes.append((name, f"{INDEXES}/{name}/{path.name}", checksum(path)))
    return SegmentInfo(file, checksum(folder / file), len(fields), image_ids, tuple(indexes))


def _remove_unnamed(folder: Path, catalogue: Catalogue) -> None:
    """Remove the files that the catalogue does not name; no reader uses them."""
    files = catalogue.index_files()
    shared = [catalogue.shared_of(name) or {} for name in {index.name for index in files}]
    named = {
        *(segment.file for segment in catalogue.segments()),
        *(index.file for index in files),
        *(row.comir for row in catalogue.images("indexed")),
        *(one.get("file") for one in shared),
    }
    places = [*(folder / SEGMENTS).iterdir(), *(folder / COMIRS).iterdir(), *(folder / INDEXES).glob("*/*")]
    for place in places:
        if place.relative_to(folder).as_posix() not in named:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
