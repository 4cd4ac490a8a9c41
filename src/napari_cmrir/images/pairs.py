"""Which two files show the same tissue in two modalities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.readers import image_stem, images_in, natural_order, read_image

__all__ = ["Pair", "find_pairs", "read_pair", "unpaired_images"]


@dataclass(frozen=True)
class Pair:
    """Two aligned images of the same tissue.

    Parameters
    ----------
    identifier : str
        What the two file names share, compared whole.
    paths : tuple of two Path
        The files, in the order of the modalities.
    """

    identifier: str
    paths: tuple[Path, Path]


def find_pairs(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], modalities: tuple[str, str]
) -> list[Pair]:
    """Find the image pairs in folders.

    One or more folders (with all they contain) of ``<identifier>_<MODALITY>.<ext>`` files, or exactly two
    folders with equal file names, the first of the first modality. Images without a partner are left out:
    `unpaired_images` names them.

    Parameters
    ----------
    folders : path-like or sequence of path-like
        Where to look.
    modalities : tuple of two str
        The modalities as they stand in the file names, such as ``("SHG", "BF")``. Upper and lower case
        matter only if there are files for both.

    Returns
    -------
    list of Pair
        At least one, in the natural order of the identifiers.

    Raises
    ------
    InputError
        A folder is missing or without images, there is no pair, two files claim the same place in a pair, or
        the modalities are equal.

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
    sides = _sides(found, modalities)
    shared = sorted(sides[0].keys() & sides[1].keys(), key=natural_order)
    if not shared:
        raise InputError(_no_pairs(found, modalities))
    return [Pair(identifier, (sides[0][identifier], sides[1][identifier])) for identifier in shared]


def unpaired_images(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], modalities: tuple[str, str]
) -> list[Path]:
    """List the images of either modality that `find_pairs` leaves out for want of a partner.

    Parameters
    ----------
    folders : path-like or sequence of path-like
        As given to `find_pairs`.
    modalities : tuple of two str
        As given to `find_pairs`.

    Returns
    -------
    list of Path
        Files of either modality without a partner, in natural order.

    Raises
    ------
    InputError
        As `find_pairs`, except that having no pair at all is fine.

    Examples
    --------
    See `find_pairs`.
    """
    first, second = _sides(_as_list(folders), modalities)
    alone = [first[name] for name in first.keys() - second.keys()]
    alone += [second[name] for name in second.keys() - first.keys()]
    return sorted(alone, key=natural_order)


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
        An image cannot be read, or the two differ in size.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = Path(folder, "a_SHG.tif"), Path(folder, "a_BF.tif")
    ...     tifffile.imwrite(paths[0], np.zeros((8, 9), np.uint16))
    ...     tifffile.imwrite(paths[1], np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    ...     [pixels.shape for pixels in read_pair(Pair("a", paths))]
    [(8, 9, 1), (8, 9, 3)]
    """
    first, second = (read_image(path) for path in pair.paths)
    if first.shape[:2] != second.shape[:2]:
        (a, b), (c, d) = first.shape[:2], second.shape[:2]
        raise InputError(
            f"{pair.paths[0]} has {a} x {b} px but its partner {pair.paths[1]} has {c} x {d} px; "
            "the images of a pair have to be aligned pixel by pixel."
        )
    return first, second


def _as_list(folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    listed = [Path(folders)] if isinstance(folders, (str, os.PathLike)) else [Path(f) for f in folders]
    return list({os.path.abspath(folder): folder for folder in listed}.values())


def _sides(folders: list[Path], modalities: tuple[str, str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Files of each modality by identifier, from the names or else from two folders."""
    if len(modalities) != 2 or modalities[0] == modalities[1] or not all(modalities):
        raise InputError(f"Give two different modalities, such as SHG and BF, not {list(modalities)}.")
    if not folders:
        raise InputError("Give at least one folder of image pairs.")
    images = list(
        {os.path.abspath(image): image for folder in folders for image in images_in(folder)}.values()
    )
    first, second = (_named(images, modality, modalities) for modality in modalities)
    if len(folders) == 2 and not (first.keys() & second.keys()):
        one, other = (_by_relative_name(folder) for folder in folders)
        if one.keys() & other.keys():
            return one, other
    return first, second


def _named(images: list[Path], modality: str, modalities: tuple[str, str]) -> dict[str, Path]:
    """Images of one modality by the rest of their names."""

    def ends(stem: str, ending: str) -> bool:
        return stem.endswith(f"_{ending}") and len(stem) > len(ending) + 1

    # "x_BF" also ends with "_BF": the longer of two modalities wins
    rivals = [other for other in modalities if len(other) > len(modality)]
    exactly = [p for p in images if ends(image_stem(p), modality)]
    loosely = [p for p in images if ends(image_stem(p).lower(), modality.lower())]
    named: dict[str, Path] = {}
    for path in exactly or loosely:
        stem = image_stem(path)
        if not any(ends(stem, rival) for rival in rivals):
            _claim(named, stem[: -len(modality) - 1], path)
    return named


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


def _no_pairs(folders: list[Path], modalities: tuple[str, str]) -> str:
    names = [path.name for folder in folders for path in images_in(folder)]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    a, b = modalities
    return (
        f"{' and '.join(map(str, folders))} hold{'s' if len(folders) == 1 else ''} no pair: expected files "
        f"named <identifier>_{a}.<ext> and <identifier>_{b}.<ext>, or two folders with equal file names, "
        f"but found {some}."
    )
