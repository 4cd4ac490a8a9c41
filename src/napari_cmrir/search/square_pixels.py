"""Regions of images whose pixels are not square, which are searched in square pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region

__all__ = ["as_stored", "in_squares"]


def in_squares(
    region: Region | None,
    polygon: ArrayLike | None,
    mask: NDArray[np.bool_] | None,
    zoom: tuple[float, float],
    shape: tuple[int, ...],
) -> tuple[Region | None, ArrayLike | None, NDArray[np.bool_] | None]:
    """Say where a region lies after the pixels of its image were made square.

    Parameters
    ----------
    region, polygon, mask
        As `search` takes them.
    zoom : (float, float)
        Square pixels a stored pixel, along y and x.
    shape : tuple of int
        Of the image with square pixels.

    Returns
    -------
    region, polygon, mask
        The same, in square pixels; a turned region becomes a polygon.
    """
    if region is not None and region.rotation_degrees % 180:
        if polygon is not None or mask is not None:
            raise InputError("A turned region of pixels that are not square takes no outline; turn it back.")
        polygon = region.corners()
        region = None
    if region is not None:
        y, x = ((at + 0.5) * by - 0.5 for at, by in zip(region.centre, zoom, strict=True))
        region = replace(region, centre=(y, x), height=region.height * zoom[0], width=region.width * zoom[1])
    if polygon is not None:
        polygon = (np.asarray(polygon, np.float64) + 0.5) * zoom - 0.5
    if mask is not None:
        rows, columns = (
            np.minimum(((np.arange(side) + 0.5) / by).astype(int), have - 1)
            for side, by, have in zip(shape, zoom, mask.shape, strict=False)
        )
        mask = mask[np.ix_(rows, columns)]
    return region, polygon, mask


def as_stored(region: Region, zoom: tuple[float, float]) -> Region:
    """A region of square pixels, in the pixels as they are stored."""
    y, x = ((at + 0.5) / by - 0.5 for at, by in zip(region.centre, zoom, strict=True))
    return replace(region, centre=(y, x), height=region.height / zoom[0], width=region.width / zoom[1])
