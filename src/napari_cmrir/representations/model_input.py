"""Images made ready for a model: one that is searched or queried, and the pairs of a training.

Modality, channels and range of values of an image are checked, and its pixels made square. Pairs are read at
one pixel size, and each modality at one range of values.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import ImageWarning, InputError
from napari_cmrir.images.discovery import ArrayPair, Pair, pair_identifier
from napari_cmrir.images.formats.base import ends_with, image_stem
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.readers import open_image
from napari_cmrir.images.series import SAME_SIZE, at_pixel_size
from napari_cmrir.images.value_range import (
    at_full_scale,
    bring_to_scale,
    range_of_intensity,
    range_of_pixels,
    squared,
)

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = [
    "PixelSizes",
    "at_one_range",
    "fit_to_model",
    "model_range",
    "other_modality",
    "read_at",
    "survey_sizes",
    "warn_of",
]


def other_modality(model: Representation, modality: str) -> str:
    """Name the model's other modality."""
    return next(name for name in model.modalities if name != modality)


def model_range(model: Representation, modality: str) -> float | None:
    """Give the highest value that the training images of a modality could hold, where it was noted."""
    noted = model.provenance.get("value_ranges")
    value = noted.get(modality) if isinstance(noted, dict) else None
    return float(value) if isinstance(value, (int, float)) else None


def fit_to_model(
    image: LazyImage, model: Representation, modality: str, *, say_channels: bool = True
) -> tuple[LazyImage, list[str]]:
    """Bring an image to the pixels and values that a model takes, and say what is doubtful about it.

    Parameters
    ----------
    image : LazyImage
    model : Representation
    modality : str
        Which of its modalities the image is said to be.
    say_channels : bool
        Whether a grey image of a modality in colours is doubtful.

    Returns
    -------
    image : LazyImage
        The same object where nothing has to be changed.
    doubts : list of str
        Phrases without the image's name.

    Raises
    ------
    InputError
        The image has another number of channels than the model takes.
    """
    if model.takes_any_modality:  # it scales every image by its own values, and brings channels to one
        return squared(image), []
    doubts = _doubts_of_name(image.name, modality, other_modality(model, modality))
    of_channels = _doubts_of_channels(image, model, modality)
    doubts += of_channels if say_channels else []
    image = squared(image)
    wanted = range_of_intensity(model.intensities[modality].high, model_range(model, modality))
    image, doubt = at_full_scale(image, wanted)
    # A grey image of a modality in colours is doubted already: its range says nothing more.
    return image, doubts + ([doubt] if doubt and not of_channels else [])


def warn_of(name: str, doubts: list[str]) -> None:
    """Warn of what is doubtful about an image; the command line joins equal doubts of several images."""
    for doubt in doubts:
        warnings.warn(ImageWarning(Path(name).name, doubt), stacklevel=2)


def _doubts_of_name(name: str, modality: str, other: str) -> list[str]:
    stem, folder = image_stem(name), os.path.basename(os.path.dirname(name))
    by_stem = ends_with(stem, other) and not ends_with(stem, modality)
    by_folder = folder.lower() == other.lower() != modality.lower() and not ends_with(stem, modality)
    if not (by_stem or by_folder):
        return []
    where = "its name ends with" if by_stem else "its folder is named"
    return [f"{where} {other}, the model's other modality; check that it is {modality}"]


def _doubts_of_channels(image: LazyImage, model: Representation, modality: str) -> list[str]:
    other = other_modality(model, modality)
    have = image.shape[2]
    expected, others = (model.intensities[name].channels for name in (modality, other))
    if have == expected or (expected == 1 and have == 3):  # RGB of equal channels counts as grey
        return []
    if have == 1:
        also = f", and {other} images {others}" if others != expected else ""
        return [f"it has 1 channel, but {modality} images have {expected}{also}; check that it is {modality}"]
    names = ", ".join(image.channel_names)
    raise InputError(
        f"{image.name} has {have} channels ({names}), but {modality} images have {expected}; choose"
        f" {'one' if expected == 1 else expected} (--channel, in napari: Channels), or check the modality."
    )


_BELIEVED = (1e-4, 1e3)
"""Micrometres: an atom, and a millimetre. No microscope's pixel lies beyond."""

_ROUNDING = 2
"""Pixels by which the two images of a pair may differ after both were resampled to one pixel size."""


@dataclass(frozen=True)
class PixelSizes:
    """The pixel sizes of the images of some pairs.

    Parameters
    ----------
    common : float or None
        Side of a pixel that the pairs are read at, micrometres; ``None`` if none is known.
    of_pair : list of (float or None, float or None)
        As the files state them.
    doubts : list of (int, str)
        Pair, and a sentence about it.
    """

    common: float | None
    of_pair: list[tuple[float | None, float | None]] = field(default_factory=list)
    doubts: list[tuple[int, str]] = field(default_factory=list)


def survey_sizes(pairs: Sequence[Any]) -> PixelSizes:
    """Find the pixel size that most pairs have; files that cannot be opened count for nothing.

    Parameters
    ----------
    pairs : sequence of Pair or of arrays
        Arrays have none.
    """
    of_pair: list[tuple[float | None, float | None]] = []
    doubts = []
    for number, pair in enumerate(pairs):
        sizes: list[float | None] = []
        for path in pair.paths if isinstance(pair, Pair) else ():
            size = _size_of(path, pair)
            if size is not None and not _BELIEVED[0] <= size <= _BELIEVED[1]:
                sentence = (
                    f"{path} states a pixel size of {size:.3g} µm, which cannot be right and is not used;"
                    " give the right one (--pixel-size, in napari: Pixel size)."
                )
                doubts.append((number, sentence))
                size = None
            sizes.append(size)
        first, second = (*sizes, None, None)[:2]
        if first and second and abs(first / second - 1) > SAME_SIZE and _are_equally_large(pair):
            sentence = (
                f"{pair.paths[0]} states pixels of {first:.3g} µm and {pair.paths[1]} of {second:.3g} µm, but"
                " they are equally large; neither size is used."
            )
            doubts.append((number, sentence))
            first = second = None
        of_pair.append((first, second))
    known = [size for sizes in of_pair for size in sizes if size]
    if not known:
        return PixelSizes(None, of_pair, doubts)
    groups = Counter(min(other for other in known if size <= other * (1 + SAME_SIZE)) for size in known)
    common = max(groups, key=lambda size: (groups[size], size))
    doubts += _unlike(pairs, of_pair, common)
    return PixelSizes(common, of_pair, doubts)


def _unlike(
    pairs: Sequence[Any], of_pair: Sequence[tuple[float | None, float | None]], common: float
) -> list[tuple[int, str]]:
    """Say which pairs are resampled, and which are assumed to have the size of most."""
    other = [
        at for at, sizes in enumerate(of_pair) if any(s and abs(s / common - 1) > SAME_SIZE for s in sizes)
    ]
    none = [at for at, (first, second) in enumerate(of_pair) if first is None and second is None]
    doubts = []
    for numbers, words in (
        (other, f"other pixels than the {common:.3g} µm of most; they are resampled to these"),
        (none, f"no known pixel size; they are taken to have the {common:.3g} µm of the others"),
    ):
        if numbers:
            names = ", ".join(pair_identifier(pairs[at], at) for at in numbers[:3]) + (
                ", ..." if len(numbers) > 3 else ""
            )
            doubts.append((numbers[0], f"{len(numbers)} of {len(pairs)} pairs ({names}) have {words}."))
    return doubts


def read_at(
    pair: Pair, sizes: tuple[float | None, float | None], common: float | None
) -> tuple[ArrayPair, str]:
    """Read both images of a pair at a pixel size.

    Parameters
    ----------
    pair : Pair
    sizes : (float or None, float or None)
        Of its images, as `survey_sizes` believes them.
    common : float or None
        Wanted, in micrometres.

    Returns
    -------
    images : (first, second)
        ``(y, x, channel)`` arrays.
    doubt : str
        A sentence if one of them was turned by its orientation tag, and the other was not; else empty.

    Raises
    ------
    InputError
        An image cannot be read, its size cannot be right, or the two are not equally large.
    """
    images, turned = [], []
    for path, size in zip(pair.paths, sizes, strict=True):
        with closing(open_image(path, pair.reading)) as image:
            square = squared(image)
            turned.append("orientation tag" in image.reading_note)
            images.append(_read(square if size is None else at_pixel_size(square, common)))
    first, second = images
    differ = [abs(a - b) for a, b in zip(first.shape[:2], second.shape[:2], strict=True)]
    is_resampled = any(size and common and abs(size / common - 1) > SAME_SIZE for size in sizes)
    if is_resampled and 0 < max(differ) <= _ROUNDING:
        height, width = (min(sides) for sides in zip(first.shape[:2], second.shape[:2], strict=True))
        first, second = first[:height, :width], second[:height, :width]
    doubt = ""
    if turned[0] != turned[1]:
        one, other = pair.paths if turned[0] else pair.paths[::-1]
        doubt = (
            f"{one} is turned as its orientation tag says, {other} has no such tag; check that they match."
        )
    return (first, second), doubt


def at_one_range(
    images: Sequence[ArrayPair], names: Sequence[Sequence[str]], left_out: Container[int] = ()
) -> tuple[list[ArrayPair], list[float | None], list[tuple[int, str]]]:
    """Bring the images of each modality to one range of values, the deepest of them.

    Parameters
    ----------
    images : sequence of (first, second)
        Empty ones, of pairs that cannot be read, stay.
    names : sequence of (str, str)
        Of the images.
    left_out : container of int
        Pairs that are not trained on, which decide nothing and stay.

    Returns
    -------
    images : list of (first, second)
    ranges : list of two (float or None)
        The highest value that the images of either modality can hold; ``None`` where it is not known.
    doubts : list of (int, str)
        Pair, and a sentence about its images.

    Examples
    --------
    >>> small, large = np.full((4, 4, 1), 255, np.uint8), np.full((4, 4, 1), 65535, np.uint16)
    >>> found, ranges, doubts = at_one_range([(small, small), (large, small)], [("a", "b"), ("c", "d")])
    >>> found[0][0][0, 0].tolist(), ranges
    ([65535], [65535.0, 255.0])
    """
    sides: list[list[NDArray[Any]]] = [[pair[side] for pair in images] for side in (0, 1)]
    ranges: list[float | None] = []
    doubts: list[tuple[int, str]] = []
    for side, of_side in enumerate(sides):
        read = [at for at, image in enumerate(of_side) if image.size and at not in left_out]
        kinds = {of_side[at].dtype for at in read}
        found = {at: range_of_pixels(of_side[at]) for at in read}
        if len(kinds) <= 1 and not kinds & {np.dtype(np.float32), np.dtype(np.float64)}:
            ranges.append(_range_of_type(next(iter(kinds), None)))
            continue
        full = {found[at].full for at in read}
        unknown = [at for at in read if found[at].full is None or not found[at].is_certain]
        if len(full) == 1:
            ranges.append(next(iter(full)))
            continue
        if len(kinds) > 1 or unknown != read:
            doubts.append((read[0], _mixed(side, found, names)))
        if any(found[at].full is None for at in read):
            ranges.append(None)
            continue
        deepest = max(value for value in full if value is not None)
        for at in read:
            own = found[at].full
            assert own is not None
            of_side[at] = bring_to_scale(of_side[at], own, deepest)
        ranges.append(deepest)
    return list(zip(*sides, strict=True)), ranges, doubts


def _mixed(side: int, found: dict[int, Any], names: Sequence[Sequence[str]]) -> str:
    by_range: dict[str, list[str]] = {}
    for at, each in found.items():
        by_range.setdefault(str(each), []).append(names[at][side])
    parts = [
        f"{len(some)} of {words} ({some[0]}{', ...' if len(some) > 1 else ''})"
        for words, some in by_range.items()
    ]
    known = all(each.full is not None for each in found.values())
    what = (
        "they are brought to the widest range" if known else "they are used as they are; convert them to one"
    )
    return f"The images of one modality have values of several ranges, {' and '.join(parts)}; {what}."


def _range_of_type(dtype: np.dtype[Any] | None) -> float | None:
    return {"uint8": 255.0, "uint16": 65535.0}.get("" if dtype is None else dtype.name)


def _size_of(path: Path, pair: Pair) -> float | None:
    if path.suffix.lower() in (".png", ".jpg", ".jpeg") and pair.reading.pixel_size is None:
        return None  # they state none, and would be decoded for it
    try:
        with closing(open_image(path, pair.reading)) as image:
            return squared(image).pixel_size
    except (InputError, OSError):
        return None  # the reason is said when the pair is read


def _are_equally_large(pair: Pair) -> bool:
    try:
        shapes = []
        for path in pair.paths:
            with closing(open_image(path, pair.reading)) as image:
                shapes.append(squared(image).shape[:2])
    except (InputError, OSError):
        return False
    return shapes[0] == shapes[1]


def _read(image: LazyImage) -> NDArray[Any]:
    return np.ascontiguousarray(plain_type(image[:, :]))
