"""The unit that is searched: a whole image where it is small, an overlapping tile where it is large."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_cmrir.repository.pyramids import read_notes

if TYPE_CHECKING:
    from napari_cmrir.repository.catalogue import ImageRow
    from napari_cmrir.repository.settings import RepositorySettings

__all__ = ["FIELD_DTYPE", "cut_fields", "fields_of"]

FIELD_DTYPE = np.dtype([("image", "i8"), ("y", "i8"), ("x", "i8"), ("height", "i8"), ("width", "i8")])
"""A row of a field table: the image's number in the catalogue, and the field's rectangle in its pixels."""

ALIGNMENT = 64
"""Fields start at multiples of this many pixels, so that they start at whole pixels of every level."""


def cut_fields(
    height: int, width: int, field_size: int = 1024, overlap: float = 0.25
) -> npt.NDArray[np.int64]:
    """Cut an image into fields.

    Parameters
    ----------
    height, width : int
        Size of the image, in pixels.
    field_size : int
        Longest side of a field, in pixels; at least 256.
    overlap : float
        Smallest overlap of neighbouring fields, as a fraction of ``field_size``, 0 to 0.75.

    Returns
    -------
    ndarray, (n, 4) int64
        Rectangles ``y, x, height, width`` that cover the image, row by row.

    Examples
    --------
    >>> cut_fields(834, 834)
    array([[  0,   0, 834, 834]])
    >>> cut_fields(1000, 1700)[:, 1]
    array([  0, 704])
    """
    rows = _cut_side(height, field_size, overlap)
    columns = _cut_side(width, field_size, overlap)
    rectangles = [(y, x, h, w) for y, h in rows for x, w in columns]
    return np.array(rectangles, dtype=np.int64).reshape(-1, 4)


def fields_of(folder: Path, image: ImageRow, settings: RepositorySettings) -> npt.NDArray[np.int64]:
    """List the fields of an image whose CoMIR is stored, without those of empty glass.

    Parameters
    ----------
    folder : Path
        The repository.
    image : ImageRow
    settings : RepositorySettings
        What the CoMIR was stored under.

    Returns
    -------
    ndarray, (n, 4) int64
        y, x, height and width of each.
    """
    assert image.height is not None
    assert image.width is not None
    fields = cut_fields(image.height, image.width, settings.field_size, settings.field_overlap)
    if len(fields) == 1:
        return fields
    kept = read_notes(folder / str(image.comir)).get("fields")
    return fields if kept is None else fields[kept]


def _cut_side(length: int, field_size: int, overlap: float) -> list[tuple[int, int]]:
    if length <= field_size:
        return [(0, length)]
    last = -(-(length - field_size) // ALIGNMENT) * ALIGNMENT
    longest_step = int(field_size * (1 - overlap)) // ALIGNMENT * ALIGNMENT
    steps = -(-last // longest_step)
    starts = [last * step // steps // ALIGNMENT * ALIGNMENT for step in range(steps + 1)]
    return [(start, min(field_size, length - start)) for start in starts]
