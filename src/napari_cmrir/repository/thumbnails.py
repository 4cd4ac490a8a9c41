"""Thumbnails: the CoMIR of every field at a quarter of its resolution, by which many are screened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_cmrir.repository.catalogue import ImageRow
from napari_cmrir.repository.pyramids import coarsest_level, halve, open_level

__all__ = ["THUMBNAIL_LEVEL", "read_thumbnail", "thumbnail_shape"]

THUMBNAIL_LEVEL = 2
"""How often it is halved: to a quarter. A field of 256 px takes 4 kB a channel, one of 1,024 px 64 kB."""


def read_thumbnail(folder: Path, image: ImageRow, rectangle: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Read a field's thumbnail from the pyramid of its image, halving what is not stored as coarse.

    Parameters
    ----------
    folder : Path
        The repository.
    image : ImageRow
        An image that is represented.
    rectangle : ndarray, (4,) int64
        y, x, height and width of the field, px.

    Returns
    -------
    ndarray, (channel, height // 4, width // 4) uint8
    """
    assert image.comir is not None
    assert image.height is not None
    assert image.width is not None
    stored = coarsest_level(image.height, image.width)
    level = min(stored, THUMBNAIL_LEVEL)
    y, x, height, width = (rectangle >> level).tolist()
    pixels: npt.NDArray[np.uint8] = np.asarray(
        open_level(folder / image.comir, level)[:, y : y + height, x : x + width], dtype=np.uint8
    )
    for _ in range(THUMBNAIL_LEVEL - level):
        pixels = halve(pixels)
    return pixels


def thumbnail_shape(height: int, width: int) -> tuple[int, int]:
    """Give the height and width of the thumbnail of a field.

    Examples
    --------
    >>> thumbnail_shape(834, 1024)
    (208, 256)
    """
    return height >> THUMBNAIL_LEVEL, width >> THUMBNAIL_LEVEL
