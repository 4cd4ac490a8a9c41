"""What is given to a repository, and which of it is new to the catalogue."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.images.finding import find_images, is_remote
from napari_cmrir.images.lazy import LazyImage, lazy_array, unreadable
from napari_cmrir.images.omezarr import describe_zarr
from napari_cmrir.images.readers import open_image
from napari_cmrir.images.series import at_pixel_size
from napari_cmrir.images.settings import ReadingSettings
from napari_cmrir.repository.publishing import digest

__all__ = ["AnySource", "Remote", "Source", "Stamp", "list_sources", "open_source", "size_and_time", "stamp"]


@dataclass(frozen=True)
class Source:
    """An image that is in memory: a layer of a viewer, a transformed image of an evaluation.

    Parameters
    ----------
    name : str
        What it is called in a list of hits; one array of a repository a name.
    pixels : ndarray, (y, x, channel)
        The image.
    pixel_size : float or None
        Side of a pixel in micrometres, if it is known.
    """

    name: str
    pixels: npt.NDArray[Any]
    pixel_size: float | None = None


@dataclass(frozen=True)
class Remote:
    """An OME-Zarr image at an address.

    Parameters
    ----------
    name : str
        The address, by which it is called in a list of hits.
    """

    name: str


AnySource = Path | Source | Remote
"""What can be indexed."""


@dataclass(frozen=True)
class Stamp:
    """By what a changed image is recognised: size and time of change at a glance, the digest surely."""

    sha256: str | None
    n_bytes: int
    mtime_ns: int | None


def list_sources(sources: Iterable[str | os.PathLike[str] | Source], modality: str) -> dict[str, AnySource]:
    """List every image once.

    Parameters
    ----------
    sources : iterable of path-like or Source
        Image files, folders of them (see `find_images`), addresses of OME-Zarr images, and arrays.
    modality : str
        Which images of a folder are meant, where their names tell.

    Returns
    -------
    dict
        Absolute path of each file, or `Source`, in the order given; the keys tell them apart.

    Raises
    ------
    InputError
        If there is none, a folder holds none, or two different arrays have one name.
    """
    if isinstance(sources, (str, os.PathLike, Source)):
        sources = [sources]
    found: dict[str, AnySource] = {}
    for source in sources:
        if isinstance(source, Source):
            earlier = found.setdefault(f"array {source.name}", source)
            if earlier is not source:
                raise InputError(f"Two arrays are named {source.name!r}; give each its own name.")
            continue
        if is_remote(source):
            found.setdefault(f"address {source}", Remote(str(source)))
            continue
        paths = find_images([source], modality) if Path(source).is_dir() else [Path(source)]
        for path in paths:
            absolute = Path(os.path.abspath(path))
            found.setdefault(f"file {absolute}", absolute)
    if not found:
        raise InputError("There is no image to index; give image files or folders.")
    return found


def open_source(
    source: AnySource, reading: ReadingSettings | None = None, pixel_size: float | None = None
) -> LazyImage:
    """Open an image to read regions of it.

    Parameters
    ----------
    source : Path, Source or Remote
        The image.
    reading : ReadingSettings, optional
        What is read of a file that holds more than one plain image.
    pixel_size : float, optional
        The pixel size wanted, in micrometres.

    Raises
    ------
    InputError
        If it is not an image.
    """
    if isinstance(source, Source):
        array = lazy_array(np.atleast_3d(source.pixels), source.name, pixel_size=source.pixel_size)
        return at_pixel_size(array, pixel_size)
    return open_image(source if isinstance(source, Path) else source.name, reading, pixel_size=pixel_size)


def stamp(source: AnySource, *, thorough: bool = True) -> Stamp:
    """Take an image's stamp.

    Parameters
    ----------
    source : Path, Source or Remote
        The image.
    thorough : bool
        With the digest, for which a file is read through; that of an array is always taken.

    Raises
    ------
    OSError
        If the file is not there or cannot be read.
    """
    if isinstance(source, Path):
        n_bytes, mtime_ns = size_and_time(source)
        return Stamp(digest(source) if thorough else None, n_bytes, mtime_ns)
    if isinstance(source, Remote):
        try:
            described, n_bytes = describe_zarr(source.name)
        except Exception as error:  # whatever the network and its libraries raise
            raise unreadable(source.name, error) from error
        return Stamp(hashlib.sha256(described.encode()).hexdigest(), n_bytes, None)
    header = f"{source.pixels.shape} {source.pixels.dtype.str} "
    content = hashlib.sha256(header.encode())
    content.update(np.ascontiguousarray(source.pixels).data)
    return Stamp(content.hexdigest(), source.pixels.nbytes, None)


def size_and_time(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of change of a file, or of all files of an OME-Zarr folder."""
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        return status.st_size, status.st_mtime_ns
    if not stat.S_ISDIR(status.st_mode):  # reading a pipe would wait for ever
        raise InputError(f"{path} is no regular file; give image files.")
    found = [entry.stat() for entry in path.rglob("*") if entry.is_file()]
    return sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)
