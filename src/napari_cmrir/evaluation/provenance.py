"""Which code gave the figures: what is kept from an earlier run must not outlive it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import napari_cmrir

__all__ = ["code_digest"]

_ROOMS = ("images", "comir", "words", "repository", "search")


@cache
def code_digest(rooms: tuple[str, ...] = _ROOMS) -> str:
    """Compute the SHA-256 of the code that answers queries.

    Parameters
    ----------
    rooms : tuple of str
        Folders of the package.

    Returns
    -------
    str
        In hexadecimal; another after any change of the code.

    Examples
    --------
    >>> len(code_digest())
    64
    """
    package = Path(napari_cmrir.__file__).parent
    content = hashlib.sha256(napari_cmrir.__version__.encode())
    for room in rooms:
        for file in sorted((package / room).glob("*.py")):
            content.update(f"{room}/{file.name}\0".encode() + file.read_bytes())
    return content.hexdigest()
