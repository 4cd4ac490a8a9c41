"""Images at another pixel size, computed region by region without a seam."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.lazy import LazyImage

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["overview", "resample"]

BAND_VALUES = 2**24
"""Values of the image that are read at once for an overview."""


def resample(image: LazyImage, factor: float) -> LazyImage:
    """Change the size of an image's pixels.

    A pixel is the mean of those around its centre, weighted by a triangle as wide as two of the larger
    pixels: linear interpolation to finer ones, without aliasing to coarser ones. The weights depend on the
    place in the image only, so that regions read apart agree.

    Parameters
    ----------
    image : LazyImage
    factor : float
        New pixel size over the old one.

    Returns
    -------
    LazyImage
        Of the same type of pixels, not yet read.

    Examples
    --------
    >>> from napari_cmrir.images.lazy import lazy_array
    >>> ramp = lazy_array(np.arange(0, 80, 10, dtype=np.uint8).reshape(1, 8, 1).repeat(4, 0))
    >>> resample(ramp, 2.0)[:, :][0, :, 0]
    array([ 7, 25, 45, 63], dtype=uint8)
    """
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])

    def read(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        rows, top = _weights(y, height, image.shape[0], factor)
        columns, left = _weights(x, width, image.shape[1], factor)
        pixels = image[top : top + rows.shape[1], left : left + columns.shape[1]]
        fine = pixels.astype(np.float32)
        narrow = (rows @ fine.reshape(len(fine), -1)).reshape(height, fine.shape[1], -1)
        small = (columns @ np.moveaxis(narrow, 1, 0).reshape(fine.shape[1], -1)).reshape(width, height, -1)
        result: NDArray[Any] = np.moveaxis(small, 0, 1)
        if pixels.dtype.kind in "iu":
            result = np.rint(result)
        return result.astype(pixels.dtype)

    return replace(
        image,
        shape=(height, width, image.shape[2]),
        read_region=read,
        pixel_size=None if image.pixel_size is None else image.pixel_size * factor,
        step=image.step * factor,
        coarser=image.coarser,
    )


def overview(image: LazyImage, cell: int) -> NDArray[np.float32]:
    """Look at a whole image from afar.

    Parameters
    ----------
    image : LazyImage
    cell : int
        Pixels of the image to a pixel of the overview, along each axis.

    Returns
    -------
    ndarray, (ceil(y / cell), ceil(x / cell), channel) float32
        From the coarsest level that is fine enough, read in bands.
    """
    shape = tuple(math.ceil(side / cell) for side in image.shape[:2])
    wanted = image.step * cell
    source = next((level for level in reversed(image.coarser) if level.step <= wanted), image)
    far = resample(replace(source, pixel_size=None), wanted / source.step)
    a_row = max(1, round(wanted / source.step)) * source.shape[1] * source.shape[2]
    n_rows = max(1, BAND_VALUES // a_row)
    bands = [far[top : top + n_rows, :].astype(np.float32) for top in range(0, far.shape[0], n_rows)]
    found = np.concatenate(bands)
    missing = [(0, max(0, side - have)) for side, have in zip(shape, found.shape, strict=False)]
    whole: NDArray[np.float32] = np.pad(found, (*missing, (0, 0)), mode="edge")[: shape[0], : shape[1]]
    return whole


def _weights(start: int, count: int, length: int, factor: float) -> tuple[csr_array, int]:
    """Weights of an axis: (count, pixels seen) and the first pixel seen."""
    from scipy.sparse import csr_array

    reach = max(1.0, factor)
    centres = (np.arange(start, start + count) + 0.5) * factor - 0.5
    taps = np.arange(2 * math.ceil(reach) + 1) - math.ceil(reach)
    places = np.floor(centres)[:, np.newaxis].astype(np.int64) + taps
    weights = np.maximum(0.0, 1 - np.abs(places - centres[:, np.newaxis]) / reach)
    weights[(places < 0) | (places >= length)] = 0
    lost = weights.sum(1) == 0  # a centre beyond the last pixel
    places = places.clip(0, length - 1)
    weights[lost, -1] = 1
    weights /= weights.sum(1, keepdims=True)
    first, last = int(places.min()), int(places.max())
    rows = np.repeat(np.arange(count), places.shape[1])
    shape = (count, last - first + 1)
    matrix = csr_array((weights.ravel().astype(np.float32), (rows, (places - first).ravel())), shape=shape)
    return matrix, first
