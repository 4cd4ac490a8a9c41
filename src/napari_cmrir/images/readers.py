"""Image files in, ``(y, x, channel)`` arrays out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError

__all__ = ["IMAGE_SUFFIXES", "find_images", "image_stem", "images_in", "natural_order", "read_image"]

IMAGE_SUFFIXES = (".ome.tif", ".ome.tiff", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
"""Endings, in lower case, by which a folder's images are recognised."""

_FORMATS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG"} | dict.fromkeys(
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"
)


def read_image(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a TIFF (OME-TIFF), PNG or JPEG file.

    The format is told by the file's content. Of a TIFF, the largest series is read; of several grey planes
    (z, time, pages) the maximum projection, of several RGB pages the first. Palettes become RGB, CMYK becomes
    RGB, white-is-zero is inverted and an alpha channel is dropped.

    Parameters
    ----------
    path : path-like
        The image file.

    Returns
    -------
    ndarray, (y, x, channel), uint8, uint16 or float32
        Channels in the order red, green, blue, or as stored; a grey image has one.
        Black-and-white images hold 0 and 255.

    Raises
    ------
    InputError
        The file is missing, not an image, damaged, or holds less than 2 x 2 pixels.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> temporary = tempfile.TemporaryDirectory()
    >>> folder = Path(temporary.name)
    >>> tifffile.imwrite(folder / "core_SHG.tif", np.zeros((4, 5), np.uint16))
    >>> read_image(folder / "core_SHG.tif").shape
    (4, 5, 1)
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not an image; give a TIFF, PNG or JPEG file.")
    try:
        pixels = _as_plain_type(_decode(path))
    except Exception as error:  # decoders raise all kinds, from struct.error to their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{path} is not an image that can be read (TIFF, PNG or JPEG): {reason[0]}"
        ) from error
    if min(pixels.shape) == 0:
        raise InputError(f"{path} holds an empty image of shape {pixels.shape}; give one with pixels.")
    if min(pixels.shape[:2]) < 2:
        raise InputError(f"{path} holds a line of {pixels.shape[0]} x {pixels.shape[1]} px, not an image.")
    return np.ascontiguousarray(pixels)


def find_images(paths: Sequence[str | os.PathLike[str]], modality: str | None = None) -> list[Path]:
    """List the images that files and folders stand for.

    Files are taken as they are. Folders are searched with all they contain, without hidden files and
    ``*.cmrir`` repositories. Where a folder holds ``*_<modality>.<ext>`` files, only these are taken
    (upper and lower case matter only if there are files for both), else all images.

    Parameters
    ----------
    paths : sequence of path-like
        Files and folders.
    modality : str, optional
        The modality wanted, as in the file names: ``"BF"``.

    Returns
    -------
    list of Path
        Each file once, in the order given, a folder's in natural order (``a2`` before ``a10``).

    Raises
    ------
    InputError
        A path does not exist, or a folder holds no image.

    Examples
    --------
    >>> import tempfile
    >>> temporary = tempfile.TemporaryDirectory()
    >>> folder = Path(temporary.name)
    >>> for name in ("a10_BF.tif", "a2_BF.tif", "a2_SHG.tif", "notes.txt"):
    ...     (folder / name).touch()
    >>> [path.name for path in find_images([folder], "BF")]
    ['a2_BF.tif', 'a10_BF.tif']
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        for image in [path] if path.is_file() else _of_modality(images_in(path), modality):
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def images_in(folder: Path) -> list[Path]:
    """List all images in a folder and its subfolders, in natural order.

    Parameters
    ----------
    folder : Path
        The folder; hidden files and ``*.cmrir`` repositories in it are left out.

    Returns
    -------
    list of Path
        At least one file.

    Raises
    ------
    InputError
        The folder does not exist, is no folder of images, or holds no image.

    Examples
    --------
    >>> import tempfile
    >>> temporary = tempfile.TemporaryDirectory()
    >>> folder = Path(temporary.name)
    >>> (folder / "a.png").touch()
    >>> [path.name for path in images_in(folder)]
    ['a.png']
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist; check the path.")
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder of images.")
    if folder.suffix == ".cmrir":
        raise InputError(f"{folder} is a repository, not a folder of images; give the images themselves.")
    images = sorted(_walk(folder), key=lambda image: natural_order(image.relative_to(folder)))
    if not images:
        raise InputError(f"{folder} holds no image; give a folder with TIFF, PNG or JPEG files.")
    return images


def image_stem(path: str | os.PathLike[str]) -> str:
    """Name a file without its folder and its image suffix.

    Parameters
    ----------
    path : path-like
        The image file.

    Returns
    -------
    str
        The name without the longest suffix of `IMAGE_SUFFIXES`, else without its last suffix.

    Examples
    --------
    >>> image_stem("cores/1B.2_BF.ome.tif")
    '1B.2_BF'
    """
    name = Path(path).name
    suffix = next((s for s in IMAGE_SUFFIXES if name.lower().endswith(s)), Path(name).suffix)
    return name[: len(name) - len(suffix)]


def natural_order(path: str | os.PathLike[str]) -> tuple[object, ...]:
    """Sort key by which numbers in names count as numbers.

    Parameters
    ----------
    path : path-like
        The path to sort.

    Returns
    -------
    tuple
        A key to compare with others of this function.

    Examples
    --------
    >>> sorted(["core10", "core9", "Core1"], key=natural_order)
    ['Core1', 'core9', 'core10']
    """
    text = Path(path).as_posix()
    pieces = re.split(r"([0-9]+)", text.lower())
    return (*((int(piece), "") if i % 2 else (0, piece) for i, piece in enumerate(pieces)), (0, text))


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".cmrir")]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(parent, name)


def _of_modality(images: list[Path], modality: str | None) -> list[Path]:
    if modality is None:
        return images
    exactly = [image for image in images if image_stem(image).endswith(f"_{modality}")]
    loosely = [image for image in images if image_stem(image).lower().endswith(f"_{modality.lower()}")]
    return exactly or loosely or images


def _decode(path: Path) -> NDArray[Any]:
    """Read a file into (y, x, channel), any dtype."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ValueError("the file is empty")
    kind = next((kind for magic, kind in _FORMATS.items() if start.startswith(magic)), None)
    if kind is None:
        raise ValueError("its content is of another kind")
    if kind == "TIFF":
        return _read_tiff(path)
    pixels = _decode_png(path.read_bytes()) if kind == "PNG" else _decode_jpeg(path.read_bytes())
    return _without_alpha(pixels[..., np.newaxis] if pixels.ndim == 2 else pixels)


def _decode_png(data: bytes) -> NDArray[Any]:
    import imagecodecs

    pixels: NDArray[Any] = imagecodecs.png_decode(data)
    return pixels


def _decode_jpeg(data: bytes) -> NDArray[Any]:
    import imagecodecs

    if b"\xff\xd9" not in data:  # the decoder would fill the rest with grey
        raise ValueError("the file is cut off")
    pixels: NDArray[Any] = imagecodecs.jpeg_decode(data)
    if pixels.ndim == 3 and pixels.shape[2] == 4:  # CMYK, which only OpenCV converts
        import cv2

        converted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if converted is None:
            raise ValueError("its CMYK pixels are damaged")
        pixels = converted[..., ::-1]
    return pixels


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise ValueError("it has no page")
        series = max(tiff.series, key=lambda series: int(np.prod(series.shape)))
        pixels, axes, page = series.asarray(), series.axes, series.keyframe
        colormap, photometric = page.colormap, page.photometric
    if not {"Y", "X"} <= set(axes):
        raise ValueError(f"its axes are {axes}, without Y and X")
    if photometric == tifffile.PHOTOMETRIC.PALETTE and colormap is not None:
        pixels, axes = np.moveaxis(colormap[:, pixels] >> 8, 0, -1).astype(np.uint8), axes + "S"
    pixels = _channels_last(pixels, axes)
    if photometric == tifffile.PHOTOMETRIC.SEPARATED and pixels.shape[2] == 4:
        return _rgb_from_cmyk(pixels)
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = ~pixels  # masks of bool stay as tifffile wrote them, whatever their tag says
    return _without_alpha(pixels) if "S" in axes else pixels


def _channels_last(pixels: NDArray[Any], axes: str) -> NDArray[Any]:
    """Reduce an array of named axes to (y, x, channel)."""
    channel = "S" if "S" in axes else "C" if "C" in axes else ""
    for axis in [axis for axis in axes if axis not in "YX" + channel]:
        at = axes.index(axis)
        pixels = pixels.take(0, axis=at) if channel == "S" else pixels.max(axis=at)
        axes = axes[:at] + axes[at + 1 :]
    pixels = pixels.transpose([axes.index(axis) for axis in "YX" + channel])
    return pixels if channel else pixels[..., np.newaxis]


def _without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    return {2: pixels[..., :1], 4: pixels[..., :3]}.get(pixels.shape[2], pixels)


def _rgb_from_cmyk(pixels: NDArray[Any]) -> NDArray[Any]:
    full = np.iinfo(pixels.dtype).max
    light = 1.0 - pixels.astype(np.float32) / full
    rgb: NDArray[Any] = np.rint(light[..., :3] * light[..., 3:] * full).astype(pixels.dtype)
    return rgb


def _as_plain_type(pixels: NDArray[Any]) -> NDArray[Any]:
    """Turn any real dtype into the smallest of uint8, uint16 and float32 that holds it."""
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32)
    if pixels.dtype.kind not in "iu":
        raise ValueError(f"its pixels are of type {pixels.dtype}")
    if pixels.dtype.kind == "i" and pixels.min(initial=0) < 0:
        return pixels.astype(np.float32)
    if pixels.dtype.itemsize == 1:
        return pixels.astype(np.uint8)
    native = pixels.dtype.itemsize == 2 or pixels.max(initial=0) < 2**16
    return pixels.astype(np.uint16 if native else np.float32)
