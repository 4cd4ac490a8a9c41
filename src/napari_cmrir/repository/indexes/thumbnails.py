"""Thumbnails: the CoMIR of every field at a quarter of its resolution, for screening.

A file of the index holds ``pixels``, (b,) uint8: the concatenated thumbnails (channel, y, x) of the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from napari_cmrir.jobs import Job
from napari_cmrir.repository.catalogue import ImageRow
from napari_cmrir.repository.executors import WorkerContext
from napari_cmrir.repository.indexes.base import FieldIndex, StoredField
from napari_cmrir.repository.pyramids import coarsest_level, halve, open_level
from napari_cmrir.repository.segments import Tensors

__all__ = [
    "THUMBNAIL_LEVEL",
    "ThumbnailIndex",
    "read_thumbnail",
    "thumbnail_shape",
    "thumbnails_of",
]

THUMBNAIL_LEVEL = 2
"""Pyramid level of a thumbnail: a quarter of the resolution, which screening of patches needs.

docs/searching.md compares an eighth and a quarter. A field of 256 px takes 4 kB per channel, a field of
1,024 px 64 kB.
"""


class ThumbnailIndex(FieldIndex):
    """The thumbnails of all fields, published with every image."""

    name: ClassVar[str] = "thumbnails"
    is_always_built: ClassVar[bool] = True

    def compute(
        self, context: WorkerContext, fields: Sequence[StoredField], shared: dict[str, Any]
    ) -> Job[Tensors]:
        """Read the thumbnails from the pyramids of the images."""
        yield from ()
        folder = context.config.folder
        pixels = [read_thumbnail(folder, field.image, field.rectangle).ravel() for field in fields]
        return {"pixels": np.concatenate([np.empty(0, np.uint8), *pixels])}

    def select(self, tensors: Tensors, fields: npt.NDArray[np.void], kept: npt.NDArray[np.bool_]) -> Tensors:
        """Select the thumbnails of the kept fields."""
        chosen = [one.ravel() for one, keep in zip(thumbnails_of(tensors, fields), kept, strict=True) if keep]
        return {"pixels": np.concatenate([np.empty(0, np.uint8), *chosen])}


def thumbnails_of(tensors: Tensors, fields: npt.NDArray[np.void]) -> list[npt.NDArray[np.uint8]]:
    """List the thumbnail (channel, y, x) of each field of a segment, as views of the mapped file.

    Parameters
    ----------
    tensors : Tensors
        File of the index.
    fields : ndarray, (n,) of `FIELD_DTYPE`
        Fields of the segment.

    Returns
    -------
    list of ndarray, (channel, height // 4, width // 4) uint8
    """
    pixels = np.asarray(tensors["pixels"])  # slicing a memmap is slow, slicing an array view is not
    shapes = [thumbnail_shape(*sides) for sides in fields[["height", "width"]].tolist()]
    sizes = [height * width for height, width in shapes]
    n_channels = len(pixels) // max(1, sum(sizes))
    ends = np.cumsum(sizes) * n_channels
    return [
        pixels[end - size * n_channels : end].reshape(n_channels, *shape)
        for end, size, shape in zip(ends.tolist(), sizes, shapes, strict=True)
    ]


def read_thumbnail(folder: Path, image: ImageRow, rectangle: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Read a field's thumbnail from the pyramid of its image; halve it further if the pyramid is too small.

    Parameters
    ----------
    folder : Path
        The repository.
    image : ImageRow
        Row of an image whose CoMIR is stored.
    rectangle : ndarray, (4,) int64
        (y, x, height, width) of the field, px.

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
    """Give the height and width of a field's thumbnail, in px.

    Examples
    --------
    >>> thumbnail_shape(834, 1024)
    (208, 256)
    """
    return height >> THUMBNAIL_LEVEL, width >> THUMBNAIL_LEVEL
