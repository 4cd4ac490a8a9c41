"""CoMIR pyramids: OME-Zarr 0.5 images of a few files each, which napari and other viewers open."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path

if TYPE_CHECKING:
    import zarr

__all__ = [
    "coarsest_level",
    "create_pyramid",
    "fill_coarser",
    "forget_block",
    "halve",
    "open_coarsest",
    "open_level",
    "open_to_continue",
    "read_notes",
    "write_pyramid",
]

WHOLE_SIDE = 1024
"""Longest side of a level that is stored as one chunk, px: the size of a field, which is read whole."""

CHUNK_SIDE = 256
"""Side of a chunk of larger levels, px: smaller chunks read less around a field, larger ones compress better.
Not measured."""
SHARD_SIDE = 8192
"""Side of a shard (one file), px: 64 MB per channel before compression, the memory that writing needs. Not
measured."""
SMALLEST_SIDE = 64
"""Smallest side of the coarsest level, px."""

EFFORT = 1
"""Level of zstandard: a third of its default's time, for files a few per cent larger."""

NOTES = "napari-cmrir"
"""Key of the notes in a pyramid's attributes."""

BAND = 1024
"""Rows that are halved at once, which bounds memory; not measured."""


def write_pyramid(
    path: Path, comir: npt.NDArray[np.uint8], name: str, notes: Mapping[str, Any] | None = None
) -> None:
    """Write a CoMIR and its coarser levels atomically as one OME-Zarr image.

    Each level averages 2 x 2 pixels of the previous one; the coarsest level's smaller side is at least 64 px.
    A level of up to 8,192 px a side is one file; a larger level has one file per shard of that size.

    Parameters
    ----------
    path : Path
        Folder to write, usually ``*.ome.zarr``.
    comir : ndarray, (channel, y, x) uint8
        The CoMIR.
    name : str
        Name that viewers show.
    notes : mapping, optional
        JSON values for `read_notes`; a ``"pixel_size"`` in micrometres also scales the image in viewers.
    """
    with atomic_path(path) as partial:
        for level in create_pyramid(partial, comir.shape, name, notes):
            comir = comir if comir.shape == level.shape else halve(comir)
            level[...] = comir


def create_pyramid(
    path: Path, shape: tuple[int, ...], name: str, notes: Mapping[str, Any] | None = None
) -> list[zarr.Array[Any]]:
    """Create the empty levels of a pyramid, which may be larger than memory.

    The caller writes level 0; then `fill_coarser` computes the other levels.

    Parameters
    ----------
    path : Path
        Folder to create; see `files.atomic_path`.
    shape : (int, int, int)
        Channels, height and width.
    name, notes
        See `write_pyramid`.

    Returns
    -------
    list of zarr.Array, (channel, y, x) uint8
        All levels, finest first. Write them in blocks of `SHARD_SIDE`.
    """
    import zarr

    n_channels, height, width = shape
    shapes = [(n_channels, height, width)]
    while min(shapes[-1][1:]) >= 2 * SMALLEST_SIDE:
        shapes.append((n_channels, shapes[-1][1] // 2, shapes[-1][2] // 2))
    pixel_size = (notes or {}).get("pixel_size")
    attributes = {"ome": _describe(name, n_channels, len(shapes), pixel_size)}
    attributes |= {NOTES: dict(notes)} if notes else {}
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    return [_create_level(group, str(number), each) for number, each in enumerate(shapes)]


def open_to_continue(path: Path) -> list[zarr.Array[Any]]:
    """Open the levels of an unfinished pyramid, as `create_pyramid` returned them.

    Parameters
    ----------
    path : Path
        Folder of the pyramid.

    Returns
    -------
    list of zarr.Array, (channel, y, x) uint8
    """
    import zarr

    group = cast("Any", zarr.open_group(path, mode="r+"))
    return [group[str(number)] for number in range(len(list(group.array_keys())))]


def forget_block(path: Path, level: zarr.Array[Any], y: int, x: int) -> None:
    """Remove a shard of level 0 that may be torn, before it is written again.

    Parameters
    ----------
    path : Path
        Folder of the pyramid.
    level : zarr.Array
        Its level 0; nothing is removed if it has no shards.
    y, x : int
        First pixel of the shard.
    """
    if level.shards is not None:
        _, rows, columns = level.shards
        (path / "0" / "c" / "0" / str(y // rows) / str(x // columns)).unlink(missing_ok=True)


def fill_coarser(levels: Sequence[zarr.Array[Any]]) -> Iterator[str]:
    """Compute the coarser levels of a pyramid from its finest, shard by shard; yield a message for each.

    Parameters
    ----------
    levels : sequence of zarr.Array
        From `create_pyramid`; the first one is written.

    Yields
    ------
    str
    """
    for number, (finer, coarser) in enumerate(itertools.pairwise(levels), start=1):
        for y in range(0, coarser.shape[1], SHARD_SIDE):
            for x in range(0, coarser.shape[2], SHARD_SIDE):
                yield f"Writing level {number} of the CoMIR"
                _halve_block(finer, coarser, y, x)


def read_notes(path: Path) -> dict[str, Any]:
    """Return the notes of a pyramid; an empty dict if it has none.

    Parameters
    ----------
    path : Path
        Folder of the pyramid.

    Returns
    -------
    dict
    """
    import zarr

    return dict(cast("Any", zarr.open_group(path, mode="r").attrs.get(NOTES, {})))


def halve(comir: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average 2 x 2 pixels; a last odd row or column is left out, so that each pixel covers four.

    Parameters
    ----------
    comir : ndarray, (channel, y, x) uint8

    Returns
    -------
    ndarray, (channel, y // 2, x // 2) uint8

    Examples
    --------
    >>> halve(np.array([[[1, 3, 9], [5, 7, 9]]], np.uint8))
    array([[[4]]], dtype=uint8)
    """
    height, width = (side // 2 * 2 for side in comir.shape[1:])
    rows = np.add(comir[:, 0:height:2, :width], comir[:, 1:height:2, :width], dtype=np.uint16)
    total: npt.NDArray[np.uint16] = rows[..., ::2] + rows[..., 1::2]
    return ((total + np.uint16(2)) >> 2).astype(np.uint8)


def coarsest_level(height: int, width: int) -> int:
    """Give the number of the coarsest level of a pyramid of that height and width in px.

    Examples
    --------
    >>> coarsest_level(255, 900), coarsest_level(256, 900)
    (1, 2)
    """
    return max(0, (min(height, width) // SMALLEST_SIDE).bit_length() - 1)


def open_level(path: Path, level: int = 0) -> zarr.Array[Any]:
    """Open one level of a pyramid; its pixels are read when it is sliced.

    Parameters
    ----------
    path : Path
        The pyramid's folder.
    level : int
        0 is full resolution. Each further level halves the previous one.

    Returns
    -------
    zarr.Array, (channel, y, x) uint8

    Raises
    ------
    InputError
        If the pyramid is missing or has no such level.
    """
    import zarr

    try:
        return zarr.open_array(path / str(level), mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        message = (
            f"{path} has no level {level}; check the repository with 'info --verify', or Verify in napari."
        )
        raise InputError(message) from error


def open_coarsest(path: Path) -> zarr.Array[Any]:
    """Open the coarsest level of a pyramid; its shorter side is below 128 px. See `open_level`."""
    _, height, width = open_level(path).shape
    return open_level(path, coarsest_level(height, width))


def _halve_block(level: zarr.Array[Any], coarser: zarr.Array[Any], y: int, x: int) -> None:
    """Compute one shard of a level from the next finer level, read in bands."""
    n_channels, height, width = coarser.shape
    rows, columns = min(SHARD_SIDE, height - y), min(SHARD_SIDE, width - x)
    block = np.empty((n_channels, rows, columns), np.uint8)
    for top in range(0, rows, BAND):
        bottom = min(top + BAND, rows)
        area = (slice(2 * (y + top), 2 * (y + bottom)), slice(2 * x, 2 * (x + columns)))
        block[:, top:bottom] = halve(np.asarray(level[(slice(None), *area)]))
    coarser[:, y : y + rows, x : x + columns] = block


def _create_level(group: zarr.Group, name: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Create one empty level: one chunk up to `WHOLE_SIDE`, else chunks in shards."""
    from zarr.codecs import ZstdCodec

    n_channels, *sides = shape
    if max(sides) <= WHOLE_SIDE:
        chunks, shards = shape, None
    else:
        chunks = (n_channels, *(min(CHUNK_SIDE, side) for side in sides))
        shards = (
            n_channels,
            *(
                min(-(-side // chunk) * chunk, SHARD_SIDE // chunk * chunk)
                for side, chunk in zip(sides, chunks[1:], strict=True)
            ),
        )
    return group.create_array(
        name,
        shape=shape,
        dtype=np.uint8,
        chunks=chunks,
        shards=shards,
        compressors=ZstdCodec(level=EFFORT),
        dimension_names=("c", "y", "x"),
    )


def _describe(name: str, n_channels: int, n_levels: int, pixel_size: float | None) -> dict[str, Any]:
    """Make the OME-Zarr 0.5 metadata of a pyramid."""
    unit = {} if pixel_size is None else {"unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space", **unit} for axis in "yx")]
    size = 1.0 if pixel_size is None else pixel_size
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, *[size * 2.0**level] * 2]},
                # The centre of an averaged pixel lies between the centres of its four pixels.
                {"type": "translation", "translation": [0.0, *[size * (2.0**level - 1) / 2] * 2]},
            ],
        }
        for level in range(n_levels)
    ]
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": f"CoMIR {channel}", "color": "FFFFFF", "active": True, "window": window}
        for channel in range(n_channels)
    ]
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": "mean of 2 x 2"}],
        "omero": {"channels": channels},
    }
