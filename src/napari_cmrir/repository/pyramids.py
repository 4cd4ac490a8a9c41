"""CoMIR pyramids: OME-Zarr 0.5 images of a few files each, which napari and others open as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.repository.publishing import publishing

if TYPE_CHECKING:
    import zarr

__all__ = ["halve", "open_level", "write_pyramid"]

CHUNK_SIDE = 256
SHARD_SIDE = 8192
SMALLEST_SIDE = 64


def write_pyramid(path: Path, comir: npt.NDArray[np.uint8], name: str) -> None:
    """Write a CoMIR and its halvings as one OME-Zarr image; it appears whole or not at all.

    Parameters
    ----------
    path : Path
        The folder to write, by custom ``*.ome.zarr``.
    comir : ndarray, (channel, y, x) uint8
        The CoMIR. Each next level averages 2 x 2 pixels, while its smaller side keeps at least 64. A level is
        one file (a shard) up to 8,192 px a side, one a shard of that size beyond.
    name : str
        The name that viewers show.
    """
    import zarr

    with publishing(path) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        n_levels = 0
        level: npt.NDArray[np.uint8] | None = comir
        while level is not None:
            _write_level(group, str(n_levels), level)
            level = halve(level) if min(level.shape[1:]) >= 2 * SMALLEST_SIDE else None
            n_levels += 1
        group.attrs["ome"] = _describe(name, len(comir), n_levels)


def halve(comir: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Average 2 x 2 pixels; a last odd row or column is left out, so that a pixel always covers four.

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
    quads = comir[:, :height, :width].reshape(len(comir), height // 2, 2, width // 2, 2)
    total: npt.NDArray[np.uint16] = quads.sum(axis=(2, 4), dtype=np.uint16)
    return ((total + 2) // 4).astype(np.uint8)


def open_level(path: Path, level: int = 0) -> zarr.Array[Any]:
    """Open one level of a pyramid; its pixels are read when it is sliced.

    Parameters
    ----------
    path : Path
        The pyramid's folder.
    level : int
        0 is full resolution, each further one half of that before.

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
        message = f"{path} has no level {level}; check the repository with 'info --verify'."
        raise InputError(message) from error


def _write_level(group: zarr.Group, name: str, level: npt.NDArray[np.uint8]) -> None:
    n_channels, *sides = level.shape
    chunks = (n_channels, *(min(CHUNK_SIDE, max(side, 1)) for side in sides))
    shards = (
        n_channels,
        *(
            min(-(-side // chunk) * chunk, SHARD_SIDE // chunk * chunk)
            for side, chunk in zip(sides, chunks[1:], strict=True)
        ),
    )
    array = group.create_array(
        name,
        shape=level.shape,
        dtype=level.dtype,
        chunks=chunks,
        shards=shards,
        dimension_names=("c", "y", "x"),
    )
    array[...] = level


def _describe(name: str, n_channels: int, n_levels: int) -> dict[str, Any]:
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0, 2.0**level, 2.0**level]},
                # The centre of an averaged pixel lies between those it covers.
                {"type": "translation", "translation": [0.0, *[(2.0**level - 1) / 2] * 2]},
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
