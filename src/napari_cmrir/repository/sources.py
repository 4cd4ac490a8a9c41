"""Sources (image files, arrays, addresses), and the difference between sources and the catalogue."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum
from napari_cmrir.images.discovery import images_in, is_remote, require_images
from napari_cmrir.images.formats.ome_zarr import describe_zarr
from napari_cmrir.images.lazy_image import LazyImage, lazy_array, unreadable
from napari_cmrir.images.readers import open_image
from napari_cmrir.images.series import at_pixel_size
from napari_cmrir.repository.catalogue import Catalogue, ImageRow, text
from napari_cmrir.settings import ReadingSettings

__all__ = [
    "AnySource",
    "Remote",
    "Source",
    "Stamp",
    "diff_sources",
    "list_sources",
    "missing_comirs",
    "open_source",
    "relocate",
    "size_and_time",
    "stamp",
]


@dataclass(frozen=True)
class Source:
    """An image in memory, such as a layer of a viewer or a transformed image of an evaluation.

    Parameters
    ----------
    name : str
        Name in a list of hits. It identifies the array in the repository.
    pixels : ndarray, (y, x, channel)
        The image.
    pixel_size : float or None
        Side of a pixel in micrometres, if known.

    Examples
    --------
    >>> Source("core 1", np.zeros((40, 50, 3), np.uint8), pixel_size=0.5).pixels.shape
    (40, 50, 3)
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
        The address; also the name in a list of hits.
    """

    name: str


AnySource = Path | Source | Remote
"""An image that can be indexed."""


@dataclass(frozen=True)
class Stamp:
    """Values by which a changed image is recognised.

    Size and time of change are fast to read; the digest is certain.
    """

    sha256: str | None
    n_bytes: int
    mtime_ns: int | None


def list_sources(
    sources: Iterable[str | os.PathLike[str] | Source], modality: str, other: str | None = None
) -> dict[str, AnySource]:
    """List every image once.

    Parameters
    ----------
    sources : iterable of path-like or Source
        Image files, folders of them (see `find_images`), addresses of OME-Zarr images, and arrays.
    modality : str
        Modality of the images to take from a folder, if their names contain modalities.
    other : str, optional
        The model's other modality, whose images a folder may hold, too.

    Returns
    -------
    dict of str to Path, Source or Remote
        In the given order, with absolute paths. The keys identify the images.

    Raises
    ------
    InputError
        If there is no image, a folder holds no image, or two different arrays have the same name.
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
        paths = require_images([source], modality, other) if Path(source).is_dir() else [Path(source)]
        for path in paths:
            absolute = Path(os.path.abspath(path))
            found.setdefault(f"file {absolute}", absolute)
    if not found:
        raise InputError("There is no image to index; give image files or folders.")
    return found


def open_source(
    source: AnySource, reading: ReadingSettings | None = None, pixel_size: float | None = None
) -> LazyImage:
    """Open an image for reading by region.

    Parameters
    ----------
    source : Path, Source or Remote
        The image.
    reading : ReadingSettings, optional
        Series, level, planes and channels to read from a file.
    pixel_size : float, optional
        Pixel size of the result, in micrometres.

    Returns
    -------
    LazyImage

    Raises
    ------
    InputError
        If the source is not an image.
    """
    if isinstance(source, Source):
        array = lazy_array(np.atleast_3d(source.pixels), source.name, pixel_size=source.pixel_size)
        return at_pixel_size(array, pixel_size)
    return open_image(source if isinstance(source, Path) else source.name, reading, pixel_size=pixel_size)


def stamp(source: AnySource, *, thorough: bool = True) -> Stamp:
    """Compute an image's stamp.

    Parameters
    ----------
    source : Path, Source or Remote
        The image.
    thorough : bool
        Compute the digest of a file, which reads the whole file. Arrays always get a digest; addresses get
        one of their metadata.

    Returns
    -------
    Stamp

    Raises
    ------
    OSError
        If the file is missing or cannot be read.
    InputError
        If an address cannot be read.
    """
    if isinstance(source, Path):
        n_bytes, mtime_ns = size_and_time(source)
        return Stamp(checksum(source) if thorough else None, n_bytes, mtime_ns)
    if isinstance(source, Remote):
        try:
            described, n_bytes = describe_zarr(source.name)
        except Exception as error:  # the network and its libraries raise any exception
            raise unreadable(source.name, error) from error
        return Stamp(hashlib.sha256(described.encode()).hexdigest(), n_bytes, None)
    header = f"{source.pixels.shape} {source.pixels.dtype.str} "
    content = hashlib.sha256(header.encode())
    content.update(np.ascontiguousarray(source.pixels).data)
    return Stamp(content.hexdigest(), source.pixels.nbytes, None)


def size_and_time(path: Path) -> tuple[int, int]:
    """Return size in bytes and time of change of a file, or of all files of an OME-Zarr folder.

    Parameters
    ----------
    path : Path

    Returns
    -------
    n_bytes : int
    mtime_ns : int

    Raises
    ------
    OSError
        If the file is missing.
    InputError
        If it is neither a file nor a folder.
    """
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        return status.st_size, status.st_mtime_ns
    if not stat.S_ISDIR(status.st_mode):  # reading a pipe would wait forever
        raise InputError(f"{path} is no regular file; give image files.")
    found = [entry.stat() for entry in path.rglob("*") if entry.is_file()]
    return sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)


def diff_sources(catalogue: Catalogue, sources: Iterable[AnySource]) -> Iterator[tuple[int, AnySource]]:
    """Find the images to index, and enter new and changed images into the catalogue.

    Parameters
    ----------
    catalogue : Catalogue
        Open for writing, in a transaction.
    sources : iterable of Path, Source or Remote
        The images to make searchable.

    Yields
    ------
    (int, Path, Source or Remote)
        Number and source of each image that is new, changed, unfinished or failed.
    """
    vanished = _Vanished(catalogue)
    for source in sources:
        row = catalogue.find_file(source) if isinstance(source, Path) else catalogue.find_array(source.name)
        row = row or vanished.claim(source)
        if row is None:
            yield catalogue.add_image(**_names(catalogue, source)), source
        elif row.state == "pending" or row.state == "failed":
            catalogue.change_image(row.id, state="pending", reason=None, **_names(catalogue, source))
            yield row.id, source
        else:
            yield from _compare(catalogue, row, source)


def missing_comirs(catalogue: Catalogue, sources: Iterable[AnySource]) -> Iterator[tuple[int, AnySource]]:
    """Find searched images whose stored CoMIRs were deleted, and enter them again, within a transaction.

    A damaged CoMIR is repaired in this way: the user deletes its folder, as `verify_repository` advises, and
    indexes the image again.

    Parameters
    ----------
    catalogue : Catalogue
        Open for writing.
    sources : iterable of Path, Source or Remote
        Images that can be read again.

    Yields
    ------
    (int, Path, Source or Remote)
        New number and source of each image.
    """
    lost = [row for row in catalogue.images("indexed") if not (catalogue.folder / str(row.comir)).is_dir()]
    if not lost:
        return
    taken = {row.replaces for row in catalogue.images("pending", "failed")}
    by_place = {source if isinstance(source, Path) else source.name: source for source in sources}
    for row in lost:
        source = by_place.get(catalogue.resolve(row) or row.name)
        if source is not None and row.id not in taken:
            columns = {"relative_path": row.relative_path, "absolute_path": row.absolute_path}
            yield catalogue.add_image(row.name, replaces=row.id, **columns), source


def relocate(catalogue: Catalogue, folder: Path) -> list[str]:
    """Find indexed files that have moved into a folder, by their content, within a transaction.

    Parameters
    ----------
    catalogue : Catalogue
        Open for writing.
    folder : Path
        Where they lie now, also in folders below it. Other images in it are left alone.

    Returns
    -------
    list of str
        The new path of each.

    Raises
    ------
    InputError
        If the folder is missing or without images.
    """
    vanished, found = _Vanished(catalogue), []
    for path in map(Path, map(os.path.abspath, images_in(folder))):
        row = None if catalogue.find_file(path) else vanished.claim(path)
        if row is not None:
            catalogue.change_image(row.id, **_names(catalogue, path))
            found.append(str(path))
    return found


def _compare(catalogue: Catalogue, row: ImageRow, source: AnySource) -> Iterator[tuple[int, AnySource]]:
    """Compare an indexed image with its row; enter and yield it again if it changed."""
    names = _names(catalogue, source)
    if (row.relative_path, row.absolute_path) != (names["relative_path"], names["absolute_path"]):
        catalogue.change_image(row.id, **names)
    if _changed(catalogue, row, source):
        yield catalogue.add_image(replaces=row.id, **names), source


def _changed(catalogue: Catalogue, row: ImageRow, source: AnySource) -> bool:
    try:
        now = stamp(source, thorough=False)
        if now.mtime_ns is not None and (now.n_bytes, now.mtime_ns) == (row.n_bytes, row.mtime_ns):
            return False
        now = stamp(source)
    except (OSError, InputError):
        return False  # the file vanished since it was listed: its stored CoMIR stays
    if now.sha256 != row.sha256:
        return True
    catalogue.change_image(row.id, n_bytes=now.n_bytes, mtime_ns=now.mtime_ns)
    return False


def _names(catalogue: Catalogue, source: AnySource) -> dict[str, Any]:
    if isinstance(source, Path):
        relative = catalogue.relative_path(source)
        return {"name": text(Path(source.name)), "relative_path": relative, "absolute_path": text(source)}
    return {"name": source.name, "relative_path": None, "absolute_path": None}


class _Vanished:
    """Indexed files that are no longer at their paths; a file of the same content takes over the entry."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._by_size: dict[int, list[ImageRow]] | None = None

    def claim(self, source: AnySource) -> ImageRow | None:
        """Take the entry of a vanished file with the content of this one, or ``None``."""
        if not isinstance(source, Path):
            return None
        if self._by_size is None:
            self._by_size = self._find()
        try:
            candidates = self._by_size.get(size_and_time(source)[0], [])
            if not candidates:
                return None
            content = checksum(source)
        except (OSError, InputError):
            return None
        row = next((row for row in candidates if row.sha256 == content), None)
        if row is not None:
            candidates.remove(row)
        return row

    def _find(self) -> dict[int, list[ImageRow]]:
        by_size: dict[int, list[ImageRow]] = {}
        for row in list(self._catalogue.images("indexed")):
            path = self._catalogue.resolve(row)
            if row.n_bytes is not None and path is not None and not path.exists():
                by_size.setdefault(row.n_bytes, []).append(row)
        return by_size
