"""OME-Zarr images (versions 0.1 to 0.5), in a folder or at an http, https or s3 address."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import is_remote
from napari_cmrir.images.metadata import micrometres, square
from napari_cmrir.images.series import Level, Series, Stored

if TYPE_CHECKING:
    import zarr

__all__ = ["describe_zarr", "open_zarr"]

MOST_SERIES = 1000


def open_zarr(address: str | Path) -> Stored:
    """Open an OME-Zarr image without reading its pixels.

    Parameters
    ----------
    address : str or Path
        A folder, or an ``http://``, ``https://`` or ``s3://`` address; of s3, what anybody may read, and what
        the credentials in the environment open.

    Raises
    ------
    InputError
        If it is a plate.
    Exception
        Whatever zarr or the network raises where there is no Zarr image.
    """
    group = _open_group(address)
    series = [
        _series(each, multiscale) for each in _image_groups(group) for multiscale in _multiscales(each.attrs)
    ]
    if not series:
        if "plate" in _ome(group.attrs):
            raise InputError(f"{address} is a plate; give one of its images, such as {address}/A/1/0.")
        raise ValueError("it is a Zarr group without the multiscales of an OME-Zarr image")
    return Stored(str(address), series)


def describe_zarr(address: str) -> tuple[str, int]:
    """Return an image's metadata as text, and its size in bytes uncompressed."""
    group = _open_group(address)
    stored = open_zarr(address)
    levels = [level.pixels for series in stored.series for level in series.levels]
    parts = [f"{dict(group.attrs)}", *(f"{array.metadata.to_dict()}" for array in levels)]
    return "\n".join(parts), sum(int(array.nbytes) for array in levels)


def _open_group(address: str | Path) -> zarr.Group:
    import zarr

    if not is_remote(str(address)):
        return zarr.open_group(Path(address), mode="r")
    if str(address).startswith("s3://"):
        with suppress(PermissionError):
            return zarr.open_group(str(address), mode="r", storage_options={"anon": True})
    return zarr.open_group(str(address), mode="r")


def _ome(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata lie in an ``ome`` attribute since version 0.5, before that beside one another."""
    ome: Mapping[str, Any] = attributes.get("ome", attributes)
    return ome


def _multiscales(attributes: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = _ome(attributes).get("multiscales", ())
    return found[:1]


def _image_groups(group: zarr.Group) -> list[zarr.Group]:
    """List the images of a group: itself, or the numbered ones that bioformats2raw writes."""
    if _multiscales(group.attrs) or "bioformats2raw.layout" not in _ome(group.attrs):
        return [group]
    found = []
    for number in range(MOST_SERIES):
        try:
            found.append(group[str(number)])
        except KeyError:
            break
    return found


def _series(group: zarr.Group, multiscale: Mapping[str, Any]) -> Series:
    datasets = multiscale["datasets"]
    arrays = [group[dataset["path"]] for dataset in datasets]
    described = multiscale.get("axes") or "tczyx"[-arrays[0].ndim :]
    axes = [axis if isinstance(axis, str) else axis["name"] for axis in described]
    units = [None if isinstance(axis, str) else axis.get("unit") for axis in described]
    overall = _scale(multiscale, len(axes))
    scale = [own * all_ for own, all_ in zip(_scale(datasets[0], len(axes)), overall, strict=True)]
    sides = {axis: micrometres(length, unit) for axis, length, unit in zip(axes, scale, units, strict=True)}
    letters = "".join(axis.upper() for axis in axes)
    pixel_size = square(sides.get("y"), sides.get("x"))
    levels = [Level(array, letters, pixel_size if at == 0 else None) for at, array in enumerate(arrays)]
    return Series(levels, _channel_names(group))


def _scale(described: Mapping[str, Any], n_axes: int) -> list[float]:
    scales = [
        [float(value) for value in step["scale"]]
        for step in described.get("coordinateTransformations", ())
        if step.get("type") == "scale"
    ]
    return [math.prod(values) for values in zip(*scales, strict=True)] if scales else [1.0] * n_axes


def _channel_names(group: zarr.Group) -> tuple[str, ...]:
    channels = (_ome(group.attrs).get("omero") or {}).get("channels") or ()
    return tuple(str(channel.get("label") or f"channel {at}") for at, channel in enumerate(channels))
