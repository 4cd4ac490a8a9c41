"""A query as a value: what the fields of Find region say, ready to be run, copied and repeated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.widgets import tasks
from napari_cmrir.widgets.elsewhere import elsewhere
from napari_cmrir.widgets.outlines import Outline, region_and_mask
from napari_cmrir.widgets.placement import Placement
from napari_cmrir.widgets.snapshot import ImageSnapshot

if TYPE_CHECKING:
    from napari_cmrir.search.hits import SearchResult

__all__ = ["Found", "Query", "find"]


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for, where and how.

    Parameters
    ----------
    repository : Path
        Where to look.
    image : ImageSnapshot
        The image that the region lies in.
    outline : Outline or None
        The region; ``None`` is the whole image.
    modality : str
        Of the image.
    hits : int
        Images to show at most.
    max_rotation : float
        How far the tissue may be turned against the image, in degrees either way.
    mirror : bool
        Whether it may be mirrored, too.
    placement : Placement
        How the image lies in the world.
    """

    repository: Path
    image: ImageSnapshot
    outline: Outline | None
    modality: str
    hits: int
    max_rotation: float
    mirror: bool
    placement: Placement

    def region_and_mask(self) -> tuple[Region, NDArray[np.bool_] | None]:
        """Give the region in the pixels of the image, and what counts in the image.

        Raises
        ------
        InputError
            As `outlines.region_and_mask`.
        """
        if self.outline is None:
            return Region.whole(self.image.shape), None
        return region_and_mask(self.outline, self.image.shape)

    @property
    def pixel_size(self) -> float | None:
        """Side of the image's pixels in micrometres, as the layer's scale and units say; else ``None``."""
        return self.placement.micrometres

    @property
    def settings(self) -> SearchSettings:
        """How it is searched: tissue may be turned against the image, and the region already is."""
        turned = abs(self.region_and_mask()[0].rotation_degrees)
        most = min(self.max_rotation + turned, 180.0)
        return SearchSettings(hits=self.hits, max_rotation=most, mirror=self.mirror)


@dataclass(frozen=True, eq=False)
class Found:
    """A query and what it found.

    Parameters
    ----------
    query : Query
        What was asked.
    region : Region
        What was searched for, in the pixels of the image.
    result : SearchResult
        The hits.
    """

    query: Query
    region: Region
    result: SearchResult


def find(query: Query) -> Job[Found]:
    """Search a repository.

    Parameters
    ----------
    query : Query
        What to search for.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    Found
        The hits.

    Raises
    ------
    InputError
        As `search.query.search` and `repository.store.open_repository`.
    """
    yield Progress(0, None, "%", "Reading the region")
    pixels = query.image.read()
    region, mask = query.region_and_mask()
    result = yield from elsewhere(
        tasks.search, query.repository, pixels, query.modality, region, mask, query.pixel_size, query.settings
    )
    return Found(query, region, result)
