"""Regions that are no rectangles: what of an image lies inside a polygon."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region

__all__ = ["polygon_region"]


def polygon_region(points: ArrayLike, shape: tuple[int, ...]) -> tuple[Region, NDArray[np.bool_]]:
    """Find the upright rectangle around a polygon, and the pixels inside it.

    Parameters
    ----------
    points : array_like, (n, 2)
        (y, x) of at least three corners, in px, where pixel centres are integers.
    shape : tuple of int
        (y, x, ...) of the image, in px.

    Returns
    -------
    region : Region
        The smallest upright rectangle of whole pixels that holds those inside.
    mask : ndarray of bool, (y, x)
        Of the image's size; True where the pixel's centre lies inside.

    Raises
    ------
    InputError
        The points are no polygon, or it holds no pixel of the image.

    Examples
    --------
    >>> region, mask = polygon_region([(1, 1), (1, 4), (4, 1)], (6, 6))
    >>> region.height, region.width, int(mask.sum())
    (4, 4, 10)
    """
    from skimage.draw import polygon2mask

    corners = np.asarray(points, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise InputError("A polygon takes at least three corners of (y, x); draw or give more.")
    mask: NDArray[np.bool_] = polygon2mask(shape[:2], corners)  # type: ignore[no-untyped-call]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise InputError("The region holds no pixel of the image; draw it larger.")
    height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    return Region.from_rectangle(int(rows[0]), int(columns[0]), height, width), mask
