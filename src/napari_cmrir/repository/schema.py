"""The tables of a repository's catalogue, and their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["APPLICATION_ID", "FORMAT_VERSION", "SCHEMA", "ImageRow", "SegmentRow", "State"]

FORMAT_VERSION = 2
"""1 has no thumbnails in its segments: it is read as it is, and becomes 2 when it is next written to."""

APPLICATION_ID = int.from_bytes(b"CMIR")

State = Literal["pending", "represented", "indexed", "failed", "retired"]
"""``pending``: known, nothing stored; ``represented``: its CoMIR is stored; ``indexed``: it is searched;
``failed``: it could not be used, for the reason given; ``retired``: a changed file took its place."""

SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    id INTEGER PRIMARY KEY,
    file TEXT NOT NULL UNIQUE,    -- below the repository
    sha256 TEXT NOT NULL,
    n_fields INTEGER NOT NULL
);
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
    state TEXT NOT NULL CHECK (state IN ('pending', 'represented', 'indexed', 'failed', 'retired')),
    reason TEXT                   -- why it failed
);
CREATE INDEX images_name ON images (name);
CREATE INDEX images_relative_path ON images (relative_path);
CREATE INDEX images_absolute_path ON images (absolute_path);
CREATE INDEX images_state ON images (state);
"""


@dataclass(frozen=True)
class ImageRow:
    """What the catalogue knows of an image; the fields are those of the table ``images``."""

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
    """What the catalogue knows of a segment; the fields are those of the table ``segments``."""

    id: int
    file: str
    sha256: str
    n_fields: int
