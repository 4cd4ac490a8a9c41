"""OME-Zarr images (versions 0.1 to 0.5), in a folder or at an http, https or s3 address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import is_remote
from napari_cmrir.images.metadata import micrometres, pixel_size
from napari_cmrir.images.series import Level, Series, Stored

if TYPE_CHECKING:
    import zarr

__all__ = ["describe_zarr", "open_zarr"]

MOST_SERIES = 1000

_AXES = {"t", "c", "z", "y", "x", "time", "channel"}


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
        If it is a plate or a well, or Zarr without the metadata of OME-Zarr.
    Exception
        Whatever zarr or the network raises where there is no Zarr.
    """
    group = _open_group(address)
    series = [
        _series(address, each, multiscale)
        for each in _image_groups(group)
        for multiscale in _multiscales(each.attrs)
    ]
    if not series:
        ome = _ome(group.attrs)
        for kind, example in (("plate", "A/1/0"), ("well", "0")):
            if kind in ome:
                raise InputError(
                    f"{address} is a {kind}; give one of its images, such as {address}/{example}."
                )
        raise ValueError("it is a Zarr group without the OME metadata (multiscales) of an OME-Zarr image")
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
        try:
            return zarr.open_group(Path(address), mode="r")
        except zarr.errors.ContainsArrayError as error:
            raise InputError(
                f"{address} is a plain Zarr array without OME metadata; write it as an OME-Zarr image, or as"
                " TIFF."
            ) from error
    if str(address).startswith("s3://"):
        with suppress(PermissionError):
            return zarr.open_group(str(address), mode="r", storage_options={"anon": True})
    return zarr.open_group(str(address), mode="r")


def _ome(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata lie in an ``ome`` attribute since version 0.5, before that beside one another."""
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def _multiscales(attributes: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    found = _ome(attributes).get("multiscales") or ()
    return [each for each in found if isinstance(each, Mapping) and each.get("datasets")][:1]


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


def _series(address: str | Path, group: zarr.Group, multiscale: Mapping[str, Any]) -> Series:
    datasets = multiscale["datasets"]
    arrays = [group[dataset["path"]] for dataset in datasets]
    n_axes = arrays[0].ndim
    described = multiscale.get("axes") or "tczyx"[-n_axes:]
    axes = [str(axis if isinstance(axis, str) else axis.get("name", "")) for axis in described]
    kinds = ["" if isinstance(axis, str) else str(axis.get("type", "")) for axis in described]
    letters = "".join(
        "C" if kind == "channel" else axis[:1].upper() if axis.lower() in _AXES else "I"
        for axis, kind in zip(axes, kinds, strict=True)
    )
    if len(letters) != n_axes or letters.count("Y") != 1 or letters.count("X") != 1:
        raise InputError(
            f"{address} has axes named {', '.join(axes)} for {n_axes} dimensions; an OME-Zarr image"
            " names its axes t, c, z, y and x."
        )
    units = [None if isinstance(axis, str) else axis.get("unit") for axis in described]
    scale = [
        own * all_ for own, all_ in zip(_scale(datasets[0], n_axes), _scale(multiscale, n_axes), strict=True)
    ]
    sides = {
        axis: micrometres(length, unit) for axis, length, unit in zip(letters, scale, units, strict=True)
    }
    size = pixel_size(sides.get("Y"), sides.get("X"))
    levels = [Level(array, letters, size if at == 0 else None) for at, array in enumerate(arrays)]
    return Series(levels, _channel_names(group), name=str(multiscale.get("name") or ""))


def _scale(described: Mapping[str, Any], n_axes: int) -> list[float]:
    """Multiply the scales of an image or a level; metadata of another form scale nothing."""
    total = [1.0] * n_axes
    with suppress(TypeError, ValueError, AttributeError, KeyError):
        for step in described.get("coordinateTransformations") or ():
            if step.get("type") == "scale" and len(step["scale"]) == n_axes:
                total = [one * float(other) for one, other in zip(total, step["scale"], strict=True)]
    return total


def _channel_names(group: zarr.Group) -> tuple[str, ...]:
    omero = _ome(group.attrs).get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    names = []
    for at, channel in enumerate(channels if isinstance(channels, Sequence) else ()):
        label = channel.get("label") if isinstance(channel, Mapping) else None
        names.append(str(label or f"channel {at}"))
    return tuple(names)
