"""Which files and folders are images, and in what order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from napari_cmrir.errors import InputError

__all__ = [
    "IMAGE_SUFFIXES",
    "find_images",
    "image_stem",
    "images_in",
    "is_remote",
    "is_zarr",
    "natural_order",
]

IMAGE_SUFFIXES = (
    *(".ome.tif", ".ome.tiff", ".ome.btf", ".ome.zarr"),
    *(".tif", ".tiff", ".btf", ".zarr", ".svs", ".ndpi", ".scn", ".png", ".jpg", ".jpeg"),
)
"""Endings, in lower case, by which a folder's images are recognised."""


def find_images(paths: Sequence[str | os.PathLike[str]], modality: str | None = None) -> list[Path]:
    """List the images that files and folders stand for.

    Files and OME-Zarr folders are taken as they are. Other folders are searched with all they contain,
    without hidden files and ``*.cmrir`` repositories; links to folders are not followed. Where a folder
    holds ``*_<modality>.<ext>`` files, only these are taken (upper and lower case matter only if there are
    files for both), else all images.

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
        alone = path.is_file() or is_zarr(path)
        for image in [path] if alone else _of_modality(images_in(path), modality):
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
        At least one file or OME-Zarr folder.

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
        raise InputError(f"{folder} holds no image; give a folder with TIFF, OME-Zarr, PNG or JPEG files.")
    return images


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell an address, such as ``https://...`` or ``s3://...``, from a path.

    Examples
    --------
    >>> is_remote("s3://bucket/slide.ome.zarr"), is_remote("C:/slides/a.tif")
    (True, False)
    """
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a Zarr image rather than a folder of images."""
    if not path.is_dir() or path.suffix.lower() == ".cmrir":
        return False
    return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in ("zarr.json", ".zattrs"))


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
        shown = [name for name in folders if not name.startswith(".") and not name.endswith(".cmrir")]
        zarrs = {name for name in shown if name.lower().endswith(".zarr")}
        folders[:] = [name for name in shown if name not in zarrs]
        for name in (*names, *zarrs):
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES):
                yield Path(parent, name)


def _of_modality(images: list[Path], modality: str | None) -> list[Path]:
    if modality is None:
        return images
    exactly = [image for image in images if image_stem(image).endswith(f"_{modality}")]
    loosely = [image for image in images if image_stem(image).lower().endswith(f"_{modality.lower()}")]
    return exactly or loosely or images
