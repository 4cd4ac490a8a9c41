"""Reading: from an image file to a lazy image or a ``(y, x, channel)`` array."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import (
    IMAGE_SUFFIXES,
    Pair,
    find_images,
    image_stem,
    images_in,
    is_remote,
    is_zarr,
    natural_order,
)
from napari_cmrir.images.formats.base import format_of
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage, unreadable
from napari_cmrir.images.series import Stored, choose_image
from napari_cmrir.images.settings import ReadingSettings

__all__ = [
    "IMAGE_SUFFIXES",
    "find_images",
    "image_stem",
    "images_in",
    "natural_order",
    "open_image",
    "read_image",
    "read_pair",
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


def _open(path: str | os.PathLike[str]) -> Stored:
    """Open a path or an address by the format of its content."""
    from napari_cmrir.images.formats.bioio import open_with_bioio
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
    if find_spec("bioio"):
        return open_with_bioio(path)
    raise ValueError("its content is of another kind")


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
