"""Polygons and regions in an image: drawn in their own rectangle, and moved to square pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region

__all__ = ["Outline", "as_stored", "in_squares", "mask_bounds", "polygon_bounds", "polygon_region"]

_DRAWN = 2**22
"""Pixels drawn at once: scikit-image holds two 64-bit coordinates per pixel, so at most 64 MiB."""


@dataclass(frozen=True, eq=False)
class Outline:
    """The pixels of an image that count.

    Parameters
    ----------
    mask : (y, x) bool array
        Of a part of the image.
    first : (int, int)
        The first pixel (y, x) of the part.
    """

    mask: NDArray[np.bool_]
    first: tuple[int, int]

    def of(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Give the mask of a window of the image, (y, x, 1)."""
        window = np.zeros((rows.stop - rows.start, columns.stop - columns.start, 1), np.float32)
        top, left = self.first[0] - rows.start, self.first[1] - columns.start
        y, x = max(top, 0), max(left, 0)
        part = self.mask[y - top : len(window) - top, x - left : window.shape[1] - left]
        window[y : y + part.shape[0], x : x + part.shape[1], 0] = part
        return window


def polygon_region(points: ArrayLike, shape: tuple[int, ...]) -> tuple[Region, NDArray[np.bool_]]:
    """Find the upright rectangle around a polygon, and the pixels inside it.

    Parameters
    ----------
    points : array_like, (n, 2)
        (y, x) of at least three corners, in px; pixel centres are integers.
    shape : tuple of int
        (y, x, ...) of the image, in px.

    Returns
    -------
    region : Region
        Smallest upright rectangle of whole pixels around the pixels inside.
    mask : ndarray of bool, (region.height, region.width)
        True where the pixel's centre lies inside. Time and memory depend on the rectangle, not on the image.

    Raises
    ------
    InputError
        If the points are not a polygon, or no pixel of the image lies inside.

    Examples
    --------
    >>> region, mask = polygon_region([(1, 1), (1, 4), (4, 1)], (6, 6))
    >>> region.rectangle, mask.shape, int(mask.sum())
    ((1.0, 1.0, 4, 4), (4, 4), 10)
    """
    from skimage.draw import polygon

    corners, (top, left), (bottom, right) = polygon_bounds(points, shape)
    mask = np.zeros((bottom - top, right - left), bool)
    band = max(1, _DRAWN // max(1, right - left))
    for start in range(0, len(mask), band):
        part = mask[start : start + band]
        y, x = (corners - (top + start, left)).T
        part[polygon(y, x, part.shape)] = True  # type: ignore[no-untyped-call]
    bounds = mask_bounds(mask)
    if bounds is None:
        raise InputError("The region holds no pixel of the image; draw it larger.")
    (first_row, first_column), (end_row, end_column) = bounds
    mask = mask[first_row:end_row, first_column:end_column]
    return Region.from_rectangle(top + first_row, left + first_column, *mask.shape), mask


def mask_bounds(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Find the bounding box of the pixels that are True.

    Parameters
    ----------
    mask : ndarray of bool, (y, x)

    Returns
    -------
    first, end : tuple of two int
        (y, x) of the first pixel, and of the pixel after the last; ``None`` instead if no pixel is True.

    Examples
    --------
    >>> mask_bounds(np.eye(5, dtype=bool)[1:4])
    ((0, 1), (3, 4))
    >>> mask_bounds(np.zeros((2, 2), bool)) is None
    True
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return (int(rows[0]), int(columns[0])), (int(rows[-1]) + 1, int(columns[-1]) + 1)


def polygon_bounds(
    points: ArrayLike, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], tuple[int, int], tuple[int, int]]:
    """Find the bounding box of a polygon within an image, without drawing the polygon.

    Parameters
    ----------
    points : array_like, (n, 2)
        (y, x) of at least three corners, in px.
    shape : tuple of int
        (y, x, ...) of the image, in px.

    Returns
    -------
    corners : ndarray, (n, 2)
        The points, as float64.
    first, end : tuple of two int
        (y, x) of the first pixel, and of the pixel after the last.

    Raises
    ------
    InputError
        If the points are not a polygon, or lie outside the image.

    Examples
    --------
    >>> polygon_bounds([(1, 1), (1, 4.5), (4, -3)], (6, 6))[1:]
    ((1, 0), (5, 6))
    """
    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise InputError("A polygon takes at least three corners of (y, x); draw or give more.")
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)) + 1
    top, left = (int(max(value, 0)) for value in low)
    bottom, right = (int(min(value, side)) for value, side in zip(high, shape[:2], strict=True))
    if bottom <= top or right <= left:
        raise InputError("The region holds no pixel of the image; draw it larger.")
    return corners, (top, left), (bottom, right)


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
