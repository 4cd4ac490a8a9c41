"""Finding image files in folders, their order, and the pairs among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.images.formats.base import (
    BIOIO_PLUGINS,
    BIOIO_SUFFIXES,
    IMAGE_SUFFIXES,
    added_suffixes,
    image_stem,
    natural_order,
    of_modality,
)
from napari_cmrir.settings import PAIR_PATTERN, ReadingSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BIOIO_PLUGINS",
    "IMAGE_SUFFIXES",
    "ArrayPair",
    "Pair",
    "PairFiles",
    "find_images",
    "find_pairs",
    "image_stem",
    "images_in",
    "is_remote",
    "is_zarr",
    "natural_order",
    "pair_identifier",
    "require_images",
    "unpaired_images",
]


def find_images(
    paths: Sequence[str | os.PathLike[str]], modality: str | None = None, other: str | None = None
) -> list[Path]:
    """List the image files among files and folders.

    Files and OME-Zarr folders are returned unchanged. Other folders are searched recursively, without
    hidden files and ``*.cmrir`` repositories; links to folders are not followed. Where a folder
    holds ``*_<modality>.<ext>`` files, only these are taken (upper and lower case matter only if there are
    files for both); else, where it holds folders of that name, the images in these; else all images that
    carry no other modality's name. An image is listed once, whatever links lead to it, and so is an OME-TIFF
    of several files.

    Parameters
    ----------
    paths : sequence of path-like
        Files and folders.
    modality : str, optional
        The modality wanted, as in the file names: ``"BF"``.
    other : str, optional
        The model's other modality, whose images are left out.

    Returns
    -------
    list of Path
        Each file once, in the order given, a folder's in natural order (``a2`` before ``a10``). Empty where
        all images of the folders are of another modality by their names.

    Raises
    ------
    InputError
        If a path does not exist, or a folder holds no image.

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
        images = [path] if alone else of_modality(path, images_in(path), modality, other)
        for image in images if alone else _each_once(images):
            found.setdefault(os.path.abspath(image), image)
    return list(found.values())


def require_images(
    paths: Sequence[str | os.PathLike[str]], modality: str, other: str | None = None
) -> list[Path]:
    """List the images of a modality as `find_images`, and refuse folders that hold another's only.

    Raises
    ------
    InputError
        As `find_images`; or all images carry another modality's name.
    """
    found = find_images(paths, modality, other)
    if not found:
        held = [image for path in map(Path, paths) for image in images_in(path)]
        some = ", ".join(image.name for image in held[:3]) + (", ..." if len(held) > 3 else "")
        where = " and ".join(str(path) for path in paths)
        raise InputError(
            f"{where} holds no {modality} image: its files are named as another modality's ({some}); give the"
            " files themselves, or the modality that they are of."
        )
    return found


def images_in(folder: Path) -> list[Path]:
    """List all images in a folder and its subfolders, in natural order.

    Parameters
    ----------
    folder : Path
        Hidden files and ``*.cmrir`` repositories in it are left out.

    Returns
    -------
    list of Path
        At least one file or OME-Zarr folder.

    Raises
    ------
    InputError
        If the folder does not exist, is not a folder of images, or holds no image.

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
        links = sorted(entry.name for entry in folder.iterdir() if entry.is_symlink() and entry.is_dir())
        if links:
            raise InputError(
                f"{folder} holds no image but the link {links[0]} to a folder; links to folders are not"
                " followed, give the folder itself."
            )
        others = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in BIOIO_PLUGINS)
        if others and not find_spec("bioio"):
            plugin = BIOIO_PLUGINS[Path(others[0]).suffix.lower()]
            raise InputError(
                f"{folder} holds no image that can be read without bioio; install it and its plugin for files"
                f" such as {others[0]} (pip install bioio {plugin})."
            )
        raise InputError(f"{folder} holds no image; give a folder with TIFF, OME-Zarr, PNG or JPEG files.")
    return images


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is an address such as ``https://...`` or ``s3://...``.

    Examples
    --------
    >>> is_remote("s3://bucket/slide.ome.zarr"), is_remote("C:/slides/a.tif")
    (True, False)
    """
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a Zarr image rather than a folder of images.

    Parameters
    ----------
    path : Path

    Returns
    -------
    bool
    """
    if not path.is_dir() or path.suffix.lower() == ".cmrir":
        return False
    return path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in ("zarr.json", ".zattrs"))


def _walk(folder: Path) -> Iterator[Path]:
    suffixes = (*IMAGE_SUFFIXES, *added_suffixes(), *(BIOIO_SUFFIXES if find_spec("bioio") else ()))
    for parent, folders, names in os.walk(folder):
        shown = [name for name in folders if not name.startswith(".") and not name.endswith(".cmrir")]
        zarrs = {name for name in shown if name.lower().endswith(".zarr")}
        folders[:] = [name for name in shown if name not in zarrs]
        for name in (*names, *zarrs):
            if not name.startswith(".") and name.lower().endswith(suffixes):
                yield Path(parent, name)


def _identity(path: Path) -> object:
    """What two names of one file have in common, links of any kind."""
    try:
        status = path.stat()
    except OSError:
        return os.path.abspath(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _each_once(images: list[Path]) -> list[Path]:
    """Leave out links to images that are listed, and the further files of a multi-file OME-TIFF."""
    from napari_cmrir.images.formats.tiff_series import same_set

    linked = {_identity(image) for image in images if not image.is_symlink()}
    kept: list[Path] = []
    taken: set[object] = set()
    for image in images:
        identity = _identity(image)
        if (image.is_symlink() and identity in linked) or identity in taken:
            continue
        kept.append(image)
        taken.add(identity)
        if ".ome.t" in image.name.lower() or ".ome.b" in image.name.lower():
            taken.update(_identity(image.with_name(name)) for name in same_set(image))
    return kept


ArrayPair = tuple["NDArray[Any]", "NDArray[Any]"]
"""Two aligned images (y, x, channel) in memory, which training takes in place of a `Pair`."""


@dataclass(frozen=True)
class Pair:
    """Two aligned images of the same tissue.

    Parameters
    ----------
    identifier : str
        Common part of the two file names.
    paths : tuple of two Path
        The files, in the order of the modalities.
    reading : ReadingSettings
        Series, level, planes and channels to read from both files.
    """

    identifier: str
    paths: tuple[Path, Path]
    reading: ReadingSettings = field(default_factory=ReadingSettings)


@dataclass(frozen=True)
class PairFiles:
    """Where the files of pairs lie, and how they are named.

    Parameters
    ----------
    folders : tuple of Path
        As of `find_pairs`.
    pattern : str
        As of `find_pairs`.
    """

    folders: tuple[Path, ...]
    pattern: str = PAIR_PATTERN

    def pairs(self, modalities: tuple[str, str]) -> list[Pair]:
        """Find the pairs, as `find_pairs`."""
        return find_pairs(self.folders, modalities, pattern=self.pattern)

    def alone(self, modalities: tuple[str, str]) -> list[Path]:
        """List the files without a partner, as `unpaired_images`."""
        return unpaired_images(self.folders, modalities, self.pattern)


def find_pairs(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modalities: tuple[str, str],
    reading: ReadingSettings | None = None,
    pattern: str = PAIR_PATTERN,
) -> list[Pair]:
    """Find the image pairs in folders.

    The folders, searched recursively, hold files of names such as ``<identifier>_<MODALITY>.<ext>``.
    Alternatively exactly two folders hold files of equal names, the first folder those of the first modality.
    Images without a partner are left out; `unpaired_images` lists them.

    Parameters
    ----------
    folders : path-like or sequence of path-like
        Folders to search.
    modalities : tuple of two str
        The modalities as they appear in the file names, such as ``("SHG", "BF")``. Case is ignored if no
        file matches exactly.
    reading : ReadingSettings, optional
        Series, level, planes and channels to read from every file.
    pattern : str
        File names without their suffix: ``<identifier>`` stands for what both files of a pair have in common,
        ``<MODALITY>`` for the modality, ``*`` for anything.

    Returns
    -------
    list of Pair
        At least one, in the natural order of the identifiers.

    Raises
    ------
    InputError
        If a folder is missing or without images, there is no pair, two files have the same identifier and
        modality, the modalities are equal, or the pattern lacks a part.

    Examples
    --------
    >>> import tempfile
    >>> temporary = tempfile.TemporaryDirectory()
    >>> folder = Path(temporary.name)
    >>> for name in ("1B_B1_SHG.tif", "1B_B1_BF.png", "1B_B10_BF.png"):
    ...     (folder / name).touch()
    >>> [pair.identifier for pair in find_pairs([folder], ("SHG", "BF"))]
    ['1B_B1']
    >>> [path.name for path in unpaired_images([folder], ("SHG", "BF"))]
    ['1B_B10_BF.png']
    """
    found = _as_list(folders)
    sides = _sides(found, modalities, pattern)
    shared = sorted(sides[0].keys() & sides[1].keys(), key=natural_order)
    if not shared:
        raise InputError(_no_pairs(found, modalities, pattern))
    read_as = reading or ReadingSettings()
    return [Pair(identifier, (sides[0][identifier], sides[1][identifier]), read_as) for identifier in shared]


def pair_identifier(pair: Pair | ArrayPair, number: int) -> str:
    """Return the identifier of a pair, or ``pair N`` for arrays.

    Parameters
    ----------
    pair : Pair or two arrays
    number : int
        Its position among the pairs, from 0.

    Examples
    --------
    >>> pair_identifier(Pair("core-1", (Path("core-1_SHG.tif"), Path("core-1_BF.tif"))), 4)
    'core-1'
    """
    return pair.identifier if isinstance(pair, Pair) else f"pair {number + 1}"


def unpaired_images(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    modalities: tuple[str, str],
    pattern: str = PAIR_PATTERN,
) -> list[Path]:
    """List the images that `find_pairs` leaves out because they have no partner.

    Parameters
    ----------
    folders, modalities, pattern
        See `find_pairs`.

    Returns
    -------
    list of Path
        Files of either modality without a partner, in natural order.

    Raises
    ------
    InputError
        See `find_pairs`; folders without any pair are accepted.

    Examples
    --------
    See `find_pairs`.
    """
    found = _as_list(folders)
    first, second = _sides(found, modalities, pattern)
    alone = [first[name] for name in first.keys() - second.keys()]
    alone += [second[name] for name in second.keys() - first.keys()]
    taken = {path for side in (first, second) for path in side.values()}
    for image in (image for folder in found for image in images_in(folder)):  # in the other case
        rivals = [name for name in modalities if _identifier(image, pattern, name, re.IGNORECASE)]
        if rivals and image not in taken and image not in alone:
            alone.append(image)
    return sorted(alone, key=natural_order)


def _as_list(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    listed = [Path(folders)] if isinstance(folders, (str, os.PathLike)) else [Path(f) for f in folders]
    return list({os.path.abspath(folder): folder for folder in listed}.values())


def _sides(
    folders: list[Path], modalities: tuple[str, str], pattern: str
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Map identifiers to the files of each modality, by file name or else by two folders."""
    if len(modalities) != 2 or modalities[0] == modalities[1] or not all(modalities):
        raise InputError(f"Give two different modalities, such as SHG and BF, not {list(modalities)}.")
    if not folders:
        raise InputError("Give at least one folder of image pairs.")
    images = list(
        {os.path.abspath(image): image for folder in folders for image in images_in(folder)}.values()
    )
    if any(pattern.count(part) != 1 for part in ("<identifier>", "<MODALITY>")):
        raise InputError(
            f"The pattern of file names, {pattern!r}, needs <identifier> and <MODALITY> once each: "
            f"{PAIR_PATTERN}."
        )
    first, second = (_named(images, modality, modalities, pattern) for modality in modalities)
    if len(folders) == 2 and not (first.keys() & second.keys()):
        in_first, in_second = (_by_relative_name(folder) for folder in folders)
        if in_first.keys() & in_second.keys():
            return in_first, in_second
    return first, second


def _named(images: list[Path], modality: str, modalities: tuple[str, str], pattern: str) -> dict[str, Path]:
    """Map the identifiers in the file names to the images of one modality."""
    # With the modalities "BF" and "x_BF", a file "a_x_BF" belongs to the longer one.
    rivals = [other for other in modalities if len(other) > len(modality)]
    named: dict[str, Path] = {}
    for flags in (re.NOFLAG, re.IGNORECASE):
        for path in images:
            identifier = _identifier(path, pattern, modality, flags)
            if identifier and not any(_identifier(path, pattern, rival) for rival in rivals):
                _claim(named, identifier, path)
        if named:
            break
    return named


def _identifier(path: Path, pattern: str, modality: str, flags: int = 0) -> str:
    """Return what a file name has in the place of the identifier, or "" if it does not fit the pattern."""
    matched = re.fullmatch(_expression(pattern, modality), image_stem(path), flags)
    return "" if matched is None else matched["identifier"]


@cache
def _expression(pattern: str, modality: str) -> str:
    parts = {"<identifier>": "(?P<identifier>.+)", "<MODALITY>": re.escape(modality), "*": ".*"}
    words = re.split(r"(<identifier>|<MODALITY>|\*)", pattern.removesuffix(".<ext>"))
    return "".join(parts.get(word, re.escape(word)) for word in words)


def _by_relative_name(folder: Path) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in images_in(folder):
        _claim(named, path.relative_to(folder).with_name(image_stem(path)).as_posix(), path)
    return named


def _claim(named: dict[str, Path], identifier: str, path: Path) -> None:
    if identifier in named:
        raise InputError(
            f"{named[identifier]} and {path} are both named {identifier}; "
            "rename or remove one, so that the pair is clear."
        )
    named[identifier] = path


def _no_pairs(folders: list[Path], modalities: tuple[str, str], pattern: str) -> str:
    names = [path.name for folder in folders for path in images_in(folder)]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    a, b = (f"{pattern.removesuffix('.<ext>').replace('<MODALITY>', name)}.<ext>" for name in modalities)
    return (
        f"{' and '.join(map(str, folders))} hold{'s' if len(folders) == 1 else ''} no pair: expected files "
        f"named {a} and {b}, or two folders with equal file names, "
        f"but found {some}."
    )
