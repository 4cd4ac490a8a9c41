"""What an image format is, the registry of the formats, and bioio, which opens what no format here claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_cmrir.images.metadata import pixel_size
from napari_cmrir.images.series import Level, Series, Stored
from napari_cmrir.registry import Registry

__all__ = ["IMAGE_FORMATS", "ImageFormat", "added_suffixes", "format_of", "open_with_bioio"]

_LONGEST_MAGIC = 64  # bytes read of a file; the built-in formats need 4


@dataclass(frozen=True)
class ImageFormat:
    r"""How the files of a format are recognised and opened.

    Parameters
    ----------
    open : callable
        ``open(path) -> Stored``; any exception but `InputError` means that the file is damaged.
    magics : tuple of bytes
        What files of the format begin with, up to 64 bytes.
    suffixes : tuple of str
        Endings in lower case, such as ``(".npy",)``: `find_images` lists such files, and a file with such an
        ending is of this format whatever it begins with.

    Examples
    --------
    >>> import numpy as np
    >>> from napari_cmrir.images.series import Level, Series
    >>> def open_npy(path):
    ...     return Stored(str(path), [Series([Level(np.load(path, mmap_mode="r"), "YX")])])
    >>> ImageFormat(open_npy, magics=(b"\x93NUMPY",), suffixes=(".npy",)).suffixes
    ('.npy',)
    """

    open: Callable[[Path], Stored]
    magics: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()


IMAGE_FORMATS: Registry[ImageFormat] = Registry(
    "image format",
    "napari_cmrir.image_formats",
    {
        "tiff": "napari_cmrir.images.formats.tiff:TIFF",
        "png": "napari_cmrir.images.formats.png_jpeg:PNG",
        "jpeg": "napari_cmrir.images.formats.png_jpeg:JPEG",
    },
)
"""Formats of image files; other packages add theirs as entry points of ``napari_cmrir.image_formats``.

Two readers are not in the registry: OME-Zarr, whose images are folders and addresses, and bioio, which gets
the files that no format here claims.
"""


def added_suffixes() -> tuple[str, ...]:
    """List the endings of the formats that other packages added."""
    return tuple(suffix for added in IMAGE_FORMATS.extensions().values() for suffix in added.suffixes)


def format_of(path: Path) -> ImageFormat | None:
    """Recognise the format of a file: an added one by its ending, any by what the file begins with.

    Parameters
    ----------
    path : Path
        A regular file.

    Returns
    -------
    ImageFormat or None
        None where no format claims the file.

    Raises
    ------
    ValueError
        The file is empty.
    """
    with path.open("rb") as file:
        start = file.read(_LONGEST_MAGIC)
    if not start:
        raise ValueError("the file is empty")
    for added in IMAGE_FORMATS.extensions().values():
        if added.suffixes and path.name.lower().endswith(added.suffixes):
            return added
    formats = (IMAGE_FORMATS[name] for name in IMAGE_FORMATS)
    return next((known for known in formats if known.magics and start.startswith(known.magics)), None)


def open_with_bioio(path: Path) -> Stored:
    """Open a file with whichever of bioio's plugins reads it.

    Raises
    ------
    Exception
        Whatever bioio raises for a file that none of its plugins reads.
    """
    from bioio import BioImage  # type: ignore[import-not-found,unused-ignore]

    image = BioImage(path)
    return Stored(str(path), [_series(image, scene) for scene in image.scenes])


def _series(image: Any, scene: str) -> Series:
    image.set_scene(scene)
    levels = []
    for resolution in image.resolution_levels:
        image.set_resolution_level(resolution)
        pixels, axes = image.dask_data, str(image.dims.order)
        levels.append(Level(_Computed(pixels), axes))
    image.set_resolution_level(0)
    sizes = image.physical_pixel_sizes
    levels[0] = Level(levels[0].pixels, levels[0].axes, pixel_size(sizes.Y, sizes.X))
    names = tuple(str(name) for name in image.channel_names or ())
    return Series(levels, names, is_rgb="S" in levels[0].axes)


class _Computed:
    """A dask array whose slices are computed at once."""

    def __init__(self, pixels: Any) -> None:
        self.shape = pixels.shape
        self._pixels = pixels

    def __getitem__(self, key: Any) -> Any:
        return self._pixels[key].compute(scheduler="synchronous")
