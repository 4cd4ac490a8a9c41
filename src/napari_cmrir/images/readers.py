"""Reading: from an image file to a lazy image or a ``(y, x, channel)`` array."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import (
    BIOIO_PLUGINS,
    IMAGE_SUFFIXES,
    Pair,
    find_images,
    image_stem,
    images_in,
    is_remote,
    is_zarr,
    natural_order,
    require_images,
)
from napari_cmrir.images.formats.base import format_of
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage, unreadable
from napari_cmrir.images.series import Stored, choose_image
from napari_cmrir.settings import ReadingSettings

__all__ = [
    "IMAGE_SUFFIXES",
    "converter_of",
    "find_images",
    "image_stem",
    "images_in",
    "natural_order",
    "open_image",
    "read_image",
    "read_pair",
    "require_images",
]


def open_image(
    path: str | os.PathLike[str],
    settings: ReadingSettings | None = None,
    *,
    pixel_size: float | None = None,
) -> LazyImage:
    """Open an image for reading by region.

    The file's content decides the format: TIFF (OME-TIFF, BigTIFF, .svs, .ndpi, .scn), OME-Zarr, PNG, JPEG,
    a format that another package adds (`IMAGE_FORMATS`), or any format that an installed bioio reads. PNG and
    JPEG are decoded whole. Palettes and CMYK become RGB, white-is-zero is inverted, and an alpha channel is
    dropped.

    Parameters
    ----------
    path : path-like
        An image file, an OME-Zarr folder, or the ``http://``, ``https://`` or ``s3://`` address of one.
    settings : ReadingSettings, optional
        Series, level, planes and channels to read. `LazyImage.reading_note` states what was chosen.
    pixel_size : float, optional
        Pixel size of the result, in micrometres. The coarsest level that is fine enough is resampled to it.

    Returns
    -------
    LazyImage
        The caller closes it.

    Raises
    ------
    InputError
        If the file is missing, not an image, damaged, lacks a part that the settings name, or holds less than
        2 x 2 pixels.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> temporary = tempfile.TemporaryDirectory()
    >>> path = Path(temporary.name, "core_SHG.tif")
    >>> tifffile.imwrite(path, np.zeros((3, 40, 50), np.uint16), metadata={"axes": "ZYX"}, ome=True)
    >>> with closing(open_image(path)) as image:
    ...     print(image.shape, image.reading_note, image[10:20, 5:9].shape)
    (40, 50, 1) maximum of 3 planes (10, 4, 1)
    """
    settings = settings or ReadingSettings()
    try:
        stored = _open(path)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise any exception, such as struct.error or their own classes
        raise unreadable(str(path), error) from error
    try:
        return choose_image(stored, settings, pixel_size)
    except (InputError, MemoryError):
        stored.close()
        raise
    except Exception as error:
        stored.close()
        raise unreadable(str(path), error) from error


def read_image(
    path: str | os.PathLike[str],
    settings: ReadingSettings | None = None,
    *,
    pixel_size: float | None = None,
) -> NDArray[Any]:
    """Read a whole image; see `open_image`.

    Parameters
    ----------
    path : path-like
        Image file, folder or address.
    settings : ReadingSettings, optional
        Series, level, planes and channels to read.
    pixel_size : float, optional
        Pixel size of the result, in micrometres.

    Returns
    -------
    ndarray, (y, x, channel), uint8, uint16 or float32
        Channels in the order red, green, blue, or as stored; a grey image has one channel.
        Black-and-white images hold 0 and 255.

    Raises
    ------
    InputError
        See `open_image`.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> temporary = tempfile.TemporaryDirectory()
    >>> folder = Path(temporary.name)
    >>> tifffile.imwrite(folder / "core_SHG.tif", np.zeros((4, 5), np.uint16))
    >>> read_image(folder / "core_SHG.tif").shape
    (4, 5, 1)
    """
    with closing(open_image(path, settings, pixel_size=pixel_size)) as image:
        return np.ascontiguousarray(plain_type(image[:, :]))


def converter_of(
    path: str | os.PathLike[str], shape: tuple[int, int], n_samples: int, dtype: np.dtype[Any]
) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    """Say what the stored samples of a file mean, for a program that shows them as they are stored.

    Parameters
    ----------
    path : path-like
        The file.
    shape : (int, int)
        Height and width of the stored image that is asked about.
    n_samples : int
        Samples of its pixels.
    dtype : dtype
        Of its samples.

    Returns
    -------
    callable or None
        Turns stored samples, (y, x, sample), into the (y, x, channel) of `read_image`. ``None`` where the
        file holds no such image, or its samples are channels as they are.
    """
    try:
        stored = _open(path)
    except Exception:  # what is shown stays; another file may be there by now
        return None
    try:
        for series in stored.series:
            level = series.levels[0]
            same = (level.size("Y"), level.size("X"), level.size("S")) == (*shape, n_samples)
            if not same or getattr(level.pixels, "dtype", dtype) != dtype:
                continue
            colours = series.colours
            if colours is not None:
                return lambda pixels: plain_type(colours(pixels))
            return plain_type if n_samples == 4 and not series.is_rgb else None
    finally:
        stored.close()
    return None


def _open(path: str | os.PathLike[str]) -> Stored:
    """Open a path or an address by the format of its content."""
    from napari_cmrir.images.formats.base import open_with_bioio
    from napari_cmrir.images.formats.ome_zarr import open_zarr

    if is_remote(path):
        return open_zarr(str(path))
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    if is_zarr(path):
        return open_zarr(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image; give a TIFF, PNG or JPEG file.")
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait forever
        raise ValueError("it is no regular file")
    known = format_of(path)
    if known is not None:
        return known.open(path)
    _refuse_companion(path)
    suffix = path.suffix.lower()
    if not find_spec("bioio"):
        if suffix in BIOIO_PLUGINS:
            raise InputError(
                f"{path} is not an image that can be read without bioio; install it and its plugin for"
                f" {suffix} files (pip install bioio {BIOIO_PLUGINS[suffix]})."
            )
        raise ValueError("its content is of another kind")
    try:
        return open_with_bioio(path)
    except Exception as error:
        plugin = BIOIO_PLUGINS.get(suffix)
        if plugin is None or find_spec(plugin.replace("-", "_")):
            raise
        raise InputError(
            f"{path} is not an image that can be read without bioio's plugin for {suffix} files; install it"
            f" (pip install {plugin})."
        ) from error


def _refuse_companion(path: Path) -> None:
    """Refuse the metadata of a multi-file OME-TIFF that lie in a file of their own."""
    if path.suffix.lower() not in (".ome", ".xml"):
        return
    from napari_cmrir.images.formats.tiff_series import ome_images

    images = ome_images(path.read_text(encoding="utf-8", errors="replace"), path.name)
    files = [name for image in images for name in image.files]
    if images:
        which = f", such as {files[0]}" if files else ""
        raise InputError(f"{path} holds the metadata of OME-TIFF files, not pixels; give these files{which}.")


def read_pair(pair: Pair) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read both images of a pair.

    Parameters
    ----------
    pair : Pair
        The pair to read.

    Returns
    -------
    tuple of two ndarray, (y, x, channel)
        In the order of ``pair.paths``, of equal height and width.

    Raises
    ------
    InputError
        If an image cannot be read, or the two images differ in size.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> from napari_cmrir.images.discovery import Pair
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = Path(folder, "a_SHG.tif"), Path(folder, "a_BF.tif")
    ...     tifffile.imwrite(paths[0], np.zeros((8, 9), np.uint16))
    ...     tifffile.imwrite(paths[1], np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    ...     [pixels.shape for pixels in read_pair(Pair("a", paths))]
    [(8, 9, 1), (8, 9, 3)]
    """
    first, second = (read_image(path, pair.reading) for path in pair.paths)
    if first.shape[:2] != second.shape[:2]:
        (a, b), (c, d) = first.shape[:2], second.shape[:2]
        raise InputError(
            f"{pair.paths[0]} has {a} x {b} px but its partner {pair.paths[1]} has {c} x {d} px; "
            "the images of a pair have to be aligned pixel by pixel."
        )
    return first, second
