"""The layout of a repository's folder, and the naming of its files."""

from __future__ import annotations

import hashlib

__all__ = [
    "CATALOGUE_NAME",
    "COMIRS",
    "INDEXES",
    "LOCK_NAME",
    "MODEL_NAME",
    "SEGMENTS",
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
