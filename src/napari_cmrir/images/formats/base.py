"""The registry of image formats, what a format returns, and the file names that formats claim."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_cmrir.images.metadata import pixel_size
from napari_cmrir.images.series import Level, Series, Stored
from napari_cmrir.registry import Registry

__all__ = [
    "BIOIO_PLUGINS",
    "BIOIO_SUFFIXES",
    "IMAGE_FORMATS",
    "IMAGE_SUFFIXES",
    "ImageFormat",
    "added_suffixes",
    "dialog_pattern",
    "ends_with",
    "format_of",
    "image_stem",
    "natural_order",
    "of_modality",
    "open_with_bioio",
]

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


IMAGE_SUFFIXES = (
    *(".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr"),
    *(".ome.tf2", ".ome.tf8", ".tif", ".tiff", ".btf", ".btif", ".tf2", ".tf8", ".zarr"),
    *(".svs", ".ndpi", ".scn", ".qptiff", ".bif", ".lsm", ".stk", ".png", ".jpg", ".jpeg"),
)
"""Lower-case suffixes by which images in a folder are recognised."""


BIOIO_PLUGINS = {
    **dict.fromkeys((".czi",), "bioio-czi"),
    **dict.fromkeys((".nd2",), "bioio-nd2"),
    **dict.fromkeys((".lif", ".xlef"), "bioio-lif"),
    **dict.fromkeys((".dv", ".r3d"), "bioio-dv"),
    **dict.fromkeys((".sldy", ".dir"), "bioio-sldy"),
    **dict.fromkeys((".bmp", ".gif", ".mp4", ".avi", ".webp"), "bioio-imageio"),
    **dict.fromkeys((".oib", ".oif", ".oir", ".sld", ".vsi", ".ims", ".ipl", ".mrxs"), "bioio-bioformats"),
    **dict.fromkeys((".mvd2", ".lei", ".zvi", ".vms", ".czt", ".dm3", ".dm4", ".mrc"), "bioio-bioformats"),
}
"""The plugin of bioio that reads the files of an ending."""

BIOIO_SUFFIXES = (".czi", ".dv", ".lif", ".nd2", ".oib", ".oif", ".oir", ".sld", ".sldy", ".vsi", ".ims")
"""Further suffixes if bioio is installed. Files of other suffixes are read only if they are named."""


def dialog_pattern() -> str:
    """Give the filter of a file dialog that shows images only.

    Examples
    --------
    >>> dialog_pattern().startswith("Images (*.ome.tif "), "*.svs" in dialog_pattern()
    (True, True)
    """
    suffixes = (*IMAGE_SUFFIXES, *added_suffixes(), *(BIOIO_SUFFIXES if find_spec("bioio") else ()))
    return f"Images ({' '.join(f'*{suffix}' for suffix in suffixes)});;All files (*)"


def image_stem(path: str | os.PathLike[str]) -> str:
    """Name a file without its folder and its image suffix.

    Parameters
    ----------
    path : path-like
        The image file.

    Returns
    -------
    str
        The name without its image suffix, such as ``.ome.tif``, else without its last suffix.

    Examples
    --------
    >>> image_stem("cores/1B.2_BF.ome.tif")
    '1B.2_BF'
    """
    name = Path(path).name
    known = (*IMAGE_SUFFIXES, *added_suffixes())
    suffix = next((s for s in known if name.lower().endswith(s)), Path(name).suffix)
    return name[: len(name) - len(suffix)]


def natural_order(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """Make a sort key that compares numbers in names by value.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    tuple
        Key for `sorted`.

    Examples
    --------
    >>> sorted(["core10", "core9", "Core1"], key=natural_order)
    ['Core1', 'core9', 'core10']
    """
    text = Path(path).as_posix()
    pieces = re.split(r"([0-9]+)", text.lower())
    return (*((int(piece), "") if i % 2 else (0, piece) for i, piece in enumerate(pieces)), (0, text))


def of_modality(folder: Path, images: list[Path], modality: str | None, other: str | None) -> list[Path]:
    """Choose the images of a modality among those of a folder; see `find_images`."""
    if modality is None:
        return images
    if other is not None:
        longer = [other] if other.lower().endswith(f"_{modality.lower()}") else []
        images = [image for image in images if not any(ends_with(image_stem(image), end) for end in longer)]
    named = [image for image in images if ends_with(image_stem(image), modality)]
    exactly = [image for image in named if image_stem(image).endswith(f"_{modality}")]
    if named:
        return _without_longer(exactly or named, modality)
    inside = [image for image in images if _is_inside(folder, image, modality)]
    if inside:
        return inside
    if other is None:
        return [] if _end_with_one_word(images) else images
    return [
        image
        for image in images
        if not ends_with(image_stem(image), other) and not _is_inside(folder, image, other)
    ]


def ends_with(stem: str, modality: str) -> bool:
    """Tell whether a stem ends with ``_<modality>``, in upper or lower case."""
    return stem.lower().endswith(f"_{modality.lower()}") and len(stem) > len(modality) + 1


def _without_longer(images: list[Path], modality: str) -> list[Path]:
    """Leave out the images of a modality whose name ends with this one's, such as pol_BF for BF.

    It is told by its words: each identifier without it is there, too, as ``a_BF`` is beside ``a_pol_BF``.
    """
    of_image = {image: image_stem(image)[: -len(modality) - 1] for image in images}
    identifiers = {(image.parent, identifier) for image, identifier in of_image.items()}
    words: dict[str, list[bool]] = {}
    for image, identifier in of_image.items():
        shorter, _, word = identifier.rpartition("_")
        if shorter and word.isalpha():
            words.setdefault(word, []).append((image.parent, shorter) in identifiers)
    longer = {word for word, beside in words.items() if all(beside)}
    return [
        image for image, name in of_image.items() if "_" not in name or name.rpartition("_")[2] not in longer
    ]


def _is_inside(folder: Path, image: Path, modality: str) -> bool:
    return modality.lower() in (part.lower() for part in image.relative_to(folder).parts[:-1])


def _end_with_one_word(images: list[Path]) -> bool:
    """Tell whether all names end with one word in capitals, such as ``_SHG``: that of another modality."""
    stems = [image_stem(image) for image in images]
    last = {stem.rpartition("_")[2] for stem in stems}
    word = next(iter(last), "")
    all_end = all("_" in stem for stem in stems)
    return all_end and len(last) == 1 and word.isalnum() and word.isupper() and not word.isdigit()
