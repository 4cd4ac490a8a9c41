"""Fields, the unit that is searched, and segments: immutable files of the fields of a batch of images.

A field is a whole small image, or an overlapping tile of a large image. A segment is a safetensors file with
``fields``, (n, 5) int64: image number in the catalogue, y, x, height and width in pixels of every field. A
file of an index (`field_indexes.FieldIndex`) holds the data of the fields of one segment, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path
from napari_cmrir.repository.pyramids import read_notes

if TYPE_CHECKING:
    from napari_cmrir.repository.catalogue import ImageRow
    from napari_cmrir.repository.settings import RepositorySettings

__all__ = [
    "FIELD_DTYPE",
    "Joined",
    "Tensors",
    "cut_fields",
    "fields_of",
    "joined",
    "map_fields",
    "map_tensors",
    "write_fields",
    "write_tensors",
]


FIELD_DTYPE = np.dtype([("image", "i8"), ("y", "i8"), ("x", "i8"), ("height", "i8"), ("width", "i8")])
"""A row of a field table: the image's number in the catalogue, and the field's rectangle in CoMIR pixels."""

ALIGNMENT = 64
"""Fields start at multiples of this number of pixels, so that they start at whole pixels of six levels."""


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
        Smallest overlap of neighbouring fields, as a share of ``field_size``, 0 to 0.75.

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
    """List the fields of an image whose CoMIR is stored, without fields of empty glass.

    Parameters
    ----------
    folder : Path
        The repository.
    image : ImageRow
    settings : RepositorySettings
        Settings with which the CoMIR was stored.

    Returns
    -------
    ndarray, (n, 4) int64
        (y, x, height, width) of each field.
    """
    assert image.height is not None
    assert image.width is not None
    fields = cut_fields(image.height, image.width, settings.field_size, settings.field_overlap)
    if len(fields) == 1:
        return fields
    kept = read_notes(folder / str(image.comir)).get("fields")
    return fields if kept is None else fields[kept]


def _cut_side(length: int, field_size: int, overlap: float) -> list[tuple[int, int]]:
    """Cut one side into (start, length) of fields at even, aligned distances."""
    if length <= field_size:
        return [(0, length)]
    last = -(-(length - field_size) // ALIGNMENT) * ALIGNMENT
    longest_step = int(field_size * (1 - overlap)) // ALIGNMENT * ALIGNMENT
    steps = -(-last // longest_step)
    starts = [last * step // steps // ALIGNMENT * ALIGNMENT for step in range(steps + 1)]
    return [(start, min(field_size, length - start)) for start in starts]


Tensors = dict[str, npt.NDArray[Any]]
"""Arrays by name."""

_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U32": np.uint32,
    "U16": np.uint16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def write_fields(path: Path, fields: npt.ArrayLike) -> None:
    """Write a segment atomically.

    Parameters
    ----------
    path : Path
        The file to write.
    fields : array_like, (n, 5)
        Image number, y, x, height and width of each field.
    """
    write_tensors(path, {"fields": np.asarray(fields, dtype=np.int64).reshape(-1, 5)})


def map_fields(path: Path) -> npt.NDArray[np.void]:
    """Map the fields of a segment, (n,) of `FIELD_DTYPE`.

    Parameters
    ----------
    path : Path

    Returns
    -------
    (n,) ndarray of `FIELD_DTYPE`

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        return _map(path)["fields"].view(FIELD_DTYPE).reshape(-1)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is missing or damaged; restore it from a copy, or delete it and index the images again."
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays atomically to a safetensors file; missing folders are created.

    Parameters
    ----------
    path : Path
    tensors : mapping of str to ndarray
    """
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, partial)


def map_tensors(path: Path) -> Tensors:
    """Map the arrays of a safetensors file into memory without reading them.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to ndarray
        Read-only memory maps.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        return _map(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is missing or damaged; restore it from a copy, or delete it and build its index again"
            " ('index --words', or the next search that needs it)."
        ) from error


class Joined:
    """Concatenated mapped arrays that are read when sliced; it offers the array methods that `BagIndex` uses.

    Parameters
    ----------
    parts : sequence of ndarray, (m,)

    Examples
    --------
    >>> joined = Joined([np.arange(3), np.arange(10, 13)])
    >>> joined[2:5]
    array([ 2, 10, 11])
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, entries: slice) -> npt.NDArray[Any]:
        start, stop, _ = entries.indices(len(self))
        first = int(np.searchsorted(self._ends, start, side="right")) - 1
        last = int(np.searchsorted(self._ends, stop))
        pieces = [
            part[max(start - begin, 0) : stop - begin]
            for part, begin in zip(self._parts[first:last], self._ends[first:last].tolist(), strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([self._parts[0][:0], *pieces])


def joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Concatenate arrays without reading them.

    Parameters
    ----------
    parts : sequence of ndarray, (m,)

    Returns
    -------
    ndarray or Joined
    """
    return parts[0] if len(parts) == 1 else cast("npt.NDArray[Any]", Joined(parts))


def _map(path: Path) -> Tensors:
    """Map the arrays of a safetensors file."""
    # The reader of safetensors copies arrays into memory, so the file is mapped here. Its layout is the
    # length of the header, a JSON header, and the arrays.
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if header_size > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(header_size))
    tensors: Tensors = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = _DTYPES[tensor["dtype"]], tuple(tensor["shape"])
        if 0 in shape:  # an empty array cannot be mapped
            tensors[name] = np.empty(shape, dtype)
            continue
        offset = 8 + header_size + tensor["data_offsets"][0]
        tensors[name] = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
    return tensors
