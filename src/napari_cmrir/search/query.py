"""The search: a region of an image in, ranked and located hits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import Job
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository
    from napari_cmrir.search.hits import SearchResult

__all__ = ["search"]


def search(
    repository: Repository,
    pixels: NDArray[Any],
    modality: str,
    *,
    region: Region | None = None,
    mask: NDArray[np.bool_] | None = None,
    settings: SearchSettings | None = None,
) -> Job[SearchResult]:
    """Find the tissue of an image region in a repository. (Implementation lands with the next commit.)"""
    raise NotImplementedError
    yield
