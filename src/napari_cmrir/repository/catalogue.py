"""The catalogue of a repository: its SQLite tables, rows and transactions; and the layout of its folder."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from napari_cmrir.errors import InputError

__all__ = [
    "APPLICATION_ID",
    "CATALOGUE_NAME",
    "COMIRS",
    "FORMAT_VERSION",
    "INDEXES",
    "LOCK_NAME",
    "MODEL_NAME",
    "SCHEMA",
    "SEGMENTS",
    "Catalogue",
    "ImageRow",
    "IndexFile",
    "SegmentRow",
    "State",
    "text",
    "token",
]

CATALOGUE_NAME = "catalogue.sqlite"
MODEL_NAME = "model.safetensors"
LOCK_NAME = "writer.lock"
COMIRS = "comirs"  # one pyramid per image
SEGMENTS = "segments"  # one file per batch of images, with their fields
INDEXES = "indexes"  # one folder per field index


def token(*inputs: object) -> str:
    """Name a result by its inputs: equal inputs give equal names of 12 hexadecimal digits.

    Parameters
    ----------
    *inputs : object
        Values whose text identifies them.

    Returns
    -------
    str

    Examples
    --------
    >>> token("a", 1) == token("a", 1), token("a", 1) == token("a", 2)
    (True, False)
    """
    return hashlib.sha256("\n".join(map(str, inputs)).encode()).hexdigest()[:12]


FORMAT_VERSION = 3
"""The only format that is read; older formats were never released."""

APPLICATION_ID = int.from_bytes(b"CMIR")
"""SQLite's mark of the file's type: it tells a catalogue from another SQLite database."""

State = Literal["pending", "indexed", "failed", "retired"]
"""State of an image.

``pending``: known, not yet searchable. ``indexed``: CoMIR, fields and thumbnails are published and searched.
``failed``: unusable, for the given reason. ``retired``: replaced by a changed file, or pruned.
"""

SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY,
    file TEXT NOT NULL UNIQUE,    -- below the repository
    sha256 TEXT NOT NULL,
    n_fields INTEGER NOT NULL
);
CREATE TABLE index_files (        -- what is computed of the fields of a segment, by the name of the index
    name TEXT NOT NULL,
    segment INTEGER NOT NULL REFERENCES segments (id) ON DELETE CASCADE,
    file TEXT NOT NULL,           -- below the repository
    sha256 TEXT NOT NULL,
    PRIMARY KEY (name, segment)
) WITHOUT ROWID;
CREATE TABLE images (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,           -- what it is called in a list of hits
    relative_path TEXT,           -- from the repository's folder, NULL for an array and on another drive
    absolute_path TEXT,           -- NULL for an array
    sha256 TEXT,                  -- of the file, or of the array
    n_bytes INTEGER,
    mtime_ns INTEGER,
    height INTEGER,
    width INTEGER,
    comir TEXT,                   -- OME-Zarr folder below the repository
    comir_sha256 TEXT,
    segment INTEGER REFERENCES segments (id),
    replaces INTEGER REFERENCES images (id),
    state TEXT NOT NULL CHECK (state IN ('pending', 'indexed', 'failed', 'retired')),
    reason TEXT                   -- why it failed
);
CREATE INDEX images_name ON images (name);
CREATE INDEX images_relative_path ON images (relative_path);
CREATE INDEX images_absolute_path ON images (absolute_path);
CREATE INDEX images_state ON images (state);
"""


@dataclass(frozen=True)
class ImageRow:
    """A row of the table ``images``."""

    id: int
    name: str
    relative_path: str | None
    absolute_path: str | None
    sha256: str | None
    n_bytes: int | None
    mtime_ns: int | None
    height: int | None
    width: int | None
    comir: str | None
    comir_sha256: str | None
    segment: int | None
    replaces: int | None
    state: State
    reason: str | None


@dataclass(frozen=True)
class SegmentRow:
    """A row of the table ``segments``."""

    id: int
    file: str
    sha256: str
    n_fields: int


@dataclass(frozen=True)
class IndexFile:
    """A row of the table ``index_files``: the file of an index of one segment."""

    name: str
    segment: int
    file: str
    sha256: str


class Catalogue:
    """An open catalogue.

    Parameters
    ----------
    folder : Path
        Folder of the repository.
    writable : bool
        Open for writing, and create a missing catalogue. The caller holds the writer's lock.

    Raises
    ------
    InputError
        If there is no catalogue, or it is damaged or of another format.
    """

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        self.folder = folder
        path = folder / CATALOGUE_NAME
        if not writable and not path.is_file():
            raise InputError(f"{folder} is not a repository; give a folder made by 'napari-cmrir index'.")
        self._connection = _connect(path, writable=writable)
        try:
            if writable:
                self._refuse_foreign()
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._create()
            self._refuse_foreign()
            self._check_format()
        except sqlite3.DatabaseError as error:
            self.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise InputError(f"{path} is not a catalogue or is damaged; restore it from a copy.") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Publish all changes of the block at once, or none of them if the block raises."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state in the whole block, even if a writer publishes meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def data_version(self) -> int:
        """Return a number that changes when another connection publishes.

        Compare only numbers of the same connection.
        """
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def about(self, key: str) -> Any:
        """Return the value noted under a key, or ``None``."""
        row = self._connection.execute("SELECT value FROM about WHERE key = ?", [key]).fetchone()
        return None if row is None else json.loads(row[0])

    def note(self, **values: Any) -> None:
        """Store JSON values under their keys."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        self._connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    def image(self, image_id: int) -> ImageRow:
        """Return the image with that number."""
        return next(self._images("WHERE id = ?", [image_id]))

    def images(self, *states: State) -> Iterator[ImageRow]:
        """Iterate over all images in one of the states, in the order of their numbers."""
        marks = ", ".join("?" * len(states))
        return self._images(f"WHERE state IN ({marks}) ORDER BY id", states)

    def image_ids(self, state: State) -> list[int]:
        """Return the numbers of all images in a state, ascending."""
        query = "SELECT id FROM images WHERE state = ? ORDER BY id"
        return [row[0] for row in self._connection.execute(query, [state])]

    def count_images(self) -> dict[str, int]:
        """Count the images in each state that occurs."""
        query = "SELECT state, count(*) FROM images GROUP BY state"
        return dict(self._connection.execute(query).fetchall())

    def find_array(self, name: str) -> ImageRow | None:
        """Return the newest entry of the array with that name, or ``None``."""
        condition = "WHERE name = ? AND absolute_path IS NULL AND state != 'retired' ORDER BY id DESC"
        return next(self._images(condition, [name]), None)

    def find_file(self, path: Path) -> ImageRow | None:
        """Return the newest entry of the file at that path, or ``None``.

        A file is also found if it moved together with the repository.
        """
        relative, absolute = self.relative_path(path), text(path)
        for column, value in [("relative_path", relative), ("absolute_path", absolute)]:
            condition = f"WHERE {column} = ? AND state != 'retired' ORDER BY id DESC"
            row = next(self._images(condition, [value]), None)
            if row is not None:
                return row
        return None

    def add_image(self, name: str, **columns: Any) -> int:
        """Add an image and return its number; other columns stay empty."""
        columns = {"name": name, "state": "pending", **columns}
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        query = f"INSERT INTO images ({names}) VALUES ({marks})"
        image_id = self._connection.execute(query, list(columns.values())).lastrowid
        assert image_id is not None
        return image_id

    def change_image(self, image_id: int, **columns: Any) -> None:
        """Set columns of an image."""
        assignments = ", ".join(f"{name} = ?" for name in columns)
        query = f"UPDATE images SET {assignments} WHERE id = ?"
        self._connection.execute(query, [*columns.values(), image_id])

    def segments(self) -> list[SegmentRow]:
        """Return all published segments in the order of their publication."""
        rows = self._connection.execute("SELECT * FROM segments ORDER BY id")
        return [SegmentRow(*row) for row in rows]

    def enter_segment(
        self,
        file: str,
        sha256: str,
        n_fields: int,
        image_ids: Iterable[int],
        indexes: Iterable[tuple[str, str, str]],
    ) -> None:
        """Make a segment and its images searchable, within a transaction; retire images that they replace.

        Parameters
        ----------
        file, sha256 : str
            File of the segment and its checksum.
        n_fields : int
            Number of fields of the segment.
        image_ids : iterable of int
            Images of the segment.
        indexes : iterable of (str, str, str)
            Name, file and checksum of each index of the segment.
        """
        execute = self._connection.execute
        columns = "(file, sha256, n_fields)"
        entered = execute(f"INSERT INTO segments {columns} VALUES (?, ?, ?)", [file, sha256, n_fields])
        assert entered.lastrowid is not None
        for name, index_file, index_sha256 in indexes:
            self.enter_index(name, entered.lastrowid, index_file, index_sha256)
        for image_id in image_ids:
            self.change_image(image_id, state="indexed", segment=entered.lastrowid, reason=None)
            replaced = "SELECT replaces FROM images WHERE id = ?"
            execute(f"UPDATE images SET state = 'retired' WHERE id = ({replaced})", [image_id])

    def enter_index(self, name: str, segment: int, file: str, sha256: str) -> None:
        """Enter the file of an index of a segment, within a transaction."""
        row = [name, segment, file, sha256]
        self._connection.execute("INSERT OR REPLACE INTO index_files VALUES (?, ?, ?, ?)", row)

    def index_files(self, name: str | None = None) -> list[IndexFile]:
        """Return the files of an index, or of all indexes, in the order of their segments."""
        condition, values = ("WHERE name = ?", [name]) if name is not None else ("", [])
        query = f"SELECT name, segment, file, sha256 FROM index_files {condition} ORDER BY segment, name"
        return [IndexFile(*row) for row in self._connection.execute(query, values)]

    def drop_index(self, name: str) -> None:
        """Remove an index from the catalogue, within a transaction."""
        self._connection.execute("DELETE FROM index_files WHERE name = ?", [name])
        self._connection.execute("DELETE FROM about WHERE key = ?", [f"index:{name}"])

    def shared_of(self, name: str) -> dict[str, Any] | None:
        """Return the values shared by the files of an index, such as a vocabulary; ``None`` if not built."""
        shared: dict[str, Any] | None = self.about(f"index:{name}")
        return shared

    def note_shared(self, name: str, shared: dict[str, Any]) -> None:
        """Store the values that the files of an index share."""
        self.note(**{f"index:{name}": shared})

    def drop_segments(self, files: Iterable[str]) -> None:
        """Remove segments and their indexes from the catalogue, within a transaction.

        Images keep their states.
        """
        for file in files:
            numbers = "(SELECT id FROM segments WHERE file = ?)"
            self._connection.execute(f"UPDATE images SET segment = NULL WHERE segment = {numbers}", [file])
            self._connection.execute("DELETE FROM segments WHERE file = ?", [file])

    def drop_retired(self) -> int:
        """Remove retired images from the catalogue, within a transaction; return their number."""
        retired = "(SELECT id FROM images WHERE state = 'retired')"
        self._connection.execute(f"UPDATE images SET replaces = NULL WHERE replaces IN {retired}")
        return self._connection.execute("DELETE FROM images WHERE state = 'retired'").rowcount

    def shrink(self) -> None:
        """Return the space of removed rows to the disk."""
        self._connection.execute("VACUUM")
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def damage(self) -> str | None:
        """Return SQLite's description of damage to the database, or ``None``."""
        try:
            (answer,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            answer = str(error)
        return None if answer == "ok" else str(answer)

    def relative_path(self, path: Path) -> str | None:
        """Return the path relative to the repository's folder, or ``None`` for a path on another drive."""
        try:
            return text(Path(os.path.relpath(path, self.folder)))
        except ValueError:
            return None

    def resolve(self, row: ImageRow) -> Path | None:
        """Find an image's file, also if it moved together with the repository; ``None`` for an array."""
        if row.absolute_path is None:
            return None
        if row.relative_path is not None:
            beside = Path(os.path.normpath(self.folder / row.relative_path))
            if beside.exists():
                return beside
        return Path(row.absolute_path)

    def _images(self, condition: str, values: Sequence[Any]) -> Iterator[ImageRow]:
        for row in self._connection.execute(f"SELECT * FROM images {condition}", values):
            yield ImageRow(*row)

    def _create(self) -> None:
        with self.transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version:
                return
            for statement in SCHEMA.split(";"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")

    def _refuse_foreign(self) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (n_tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application != APPLICATION_ID and n_tables:
            raise InputError(f"{self.folder / CATALOGUE_NAME} is not a repository's catalogue.")

    def _check_format(self) -> None:
        """Refuse a catalogue that is unfinished or of another format."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            raise InputError(f"{self.folder} is unfinished; index the images into it again to finish it.")
        if version > FORMAT_VERSION:
            raise InputError(
                f"{self.folder} has repository format {version}, newer than this napari-cmrir reads"
                f" ({FORMAT_VERSION}); update napari-cmrir."
            )
        if version < FORMAT_VERSION:
            raise InputError(
                f"{self.folder} has repository format {version}, older than this napari-cmrir reads"
                f" ({FORMAT_VERSION}); index the images into a new repository."
            )


def text(path: Path) -> str:
    """Write a path with forward slashes; undecodable bytes become escapes, so that UTF-8 can encode it."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def _connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    if writable:
        return _open_uri(path, "rwc")
    connection = _open_uri(path, "ro")
    try:
        connection.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        # On a read-only medium SQLite must be told that the database does not change.
        connection.close()
        return _open_uri(path, "ro&immutable=1")
    except sqlite3.DatabaseError:
        pass  # the check of the format reports it
    return connection


def _open_uri(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=30.0,
        isolation_level=None,
        check_same_thread=False,  # a viewer opens a repository in one thread and searches it in another
    )
