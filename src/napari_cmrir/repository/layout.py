"""What lies where in a repository's folder, and how its files are named."""

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
COMIRS = "comirs"  # a pyramid an image
SEGMENTS = "segments"  # the fields of a batch of images
INDEXES = "indexes"  # what is computed of every field: a folder an index


def token(*inputs: object) -> str:
    """Name what is computed from these inputs: 12 hexadecimal digits.

    Examples
    --------
    >>> token("a", 1) == token("a", 1), token("a", 1) == token("a", 2)
    (True, False)
    """
    return hashlib.sha256("\n".join(map(str, inputs)).encode()).hexdigest()[:12]
