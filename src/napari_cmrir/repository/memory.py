"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

__all__ = ["give_back"]


def give_back() -> None:
    """Give freed memory back to the system, where the C library is GNU's; elsewhere nothing happens.

    Between large arrays that come and go, such as a field's descriptors, small ones that stay leave holes in
    which the next large one does not fit: without this a long job grows by about an array a field.
    """
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _gnu_library() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
