"""The choice of one image among the series, levels, planes and channels that a file stores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage, numbered, resample
from napari_cmrir.images.metadata import PixelSize, square
from napari_cmrir.settings import ReadingSettings

__all__ = ["Level", "Series", "Stored", "at_pixel_size", "choose_image", "require_plausible"]

SAME_SIZE = 0.02
"""Pixel sizes that differ by at most this share count as equal, so that rounded metadata do not resample.

Over a field of 1,024 px, 2 % are 20 px at the borders. Not measured.
"""

LARGEST_ENLARGEMENT, LARGEST_REDUCTION = 20.0, 100.0
"""A microscope's objectives span 1.25 to 100 x. What differs more is a unit mistaken, such as nm for µm: it
is refused before an image is enlarged to 400 times its pixels."""

_BOTTOM_UP, _RIGHT_TO_LEFT = {3, 4, 6, 7}, {2, 3, 7, 8}
"""Orientations whose first stored row is the lowest (of 5 to 8: the last column); numbers of TIFF 6.0."""


@dataclass(frozen=True)
class Level:
    """One resolution of a series.

    Parameters
    ----------
    pixels : array
        Lazy array: it has ``shape`` and is read when it is sliced by ints and slices.
    axes : str
        A letter an axis: Y, X, S (samples: RGB), C, Z, T, or another for pages of no known meaning.
    pixel_size : (float, float) or float or None
        Height and width of a pixel, or its side, micrometres.
    """

    pixels: Any
    axes: str
    pixel_size: PixelSize | float | None = None

    def size(self, axis: str) -> int:
        """Give the length of an axis, 1 if the level lacks it."""
        return int(self.pixels.shape[self.axes.index(axis)]) if axis and axis in self.axes else 1


@dataclass(frozen=True)
class Series:
    """One image of a file.

    Parameters
    ----------
    levels : sequence of Level
        Finest first.
    channel_names : tuple of str
        Names of the stored channels; empty if the file does not name them.
    colours : callable, optional
        Converts stored pixels (y, x, channel) to grey or RGB.
    is_rgb : bool
        Its samples, or what `colours` makes of them, are colours that belong together.
    name : str
        As the file names it.
    is_main : bool
        False for a label, a macro photograph, a thumbnail, and for an image whose pixels are in another file:
        such a series is read only where it is asked for.
    orientation : int
        Which way up it is stored, from 1 (as it is seen) to 8, as the orientation tag of TIFF and EXIF.
    bits : int or None
        Bits of a value, where the file states them.
    refusal : str
        Why the series cannot be read; empty where it can.
    """

    levels: Sequence[Level]
    channel_names: tuple[str, ...] = ()
    colours: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    is_rgb: bool = False
    name: str = ""
    is_main: bool = True
    orientation: int = 1
    bits: int | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Stored:
    """All series of a file or address, and the function that closes it."""

    name: str
    series: Sequence[Series]
    close: Callable[[], object] = lambda: None


def choose_image(stored: Stored, settings: ReadingSettings, pixel_size: float | None) -> LazyImage:
    """Choose the series, level, planes and channels to read.

    Parameters
    ----------
    stored : Stored
    settings : ReadingSettings
    pixel_size : float or None
        Pixel size of the result, in micrometres. The coarsest level that is fine enough is resampled to it.

    Returns
    -------
    LazyImage

    Raises
    ------
    InputError
        If the series, level, plane or channel does not exist, or the image has less than 2 x 2 pixels.
    """
    series, said = _choose_series(stored, settings)
    if series.refusal:
        raise ValueError(series.refusal)
    sizes = [_pixel_size(series, level, settings) for level in range(len(series.levels))]
    at = _choose_level(stored.name, series, sizes, settings, pixel_size)
    images = [
        _image(stored, series, level, sizes[level], settings) for level in range(at, len(series.levels))
    ]
    image = replace(images[0], coarser=tuple(images[1:]))
    _refuse_lines(image)
    if len(series.levels) > 1:
        size = f" of {square(sizes[at]):.3g} µm pixels" if sizes[at] else ""
        said.append(f"level {at} of {len(series.levels)}{size}")
    if series.orientation != 1:
        said.append("turned upright as its orientation tag says")
    image = replace(image, reading_note=", ".join([*said, *filter(None, [image.reading_note])]))
    return at_pixel_size(image, pixel_size)


def _choose_series(stored: Stored, settings: ReadingSettings) -> tuple[Series, list[str]]:
    count = len(stored.series)
    if settings.series is None:
        areas = [series.levels[0].size("Y") * series.levels[0].size("X") for series in stored.series]
        main = [at for at, series in enumerate(stored.series) if series.is_main] or list(range(count))
        at = max(main, key=lambda each: areas[each])  # of equal ones the first
        why = ", the largest" if at == int(np.argmax(areas)) else ", its main image"
    else:
        at, why = settings.series, ""
    if at >= count:
        raise InputError(f"{stored.name} has {count} series, counted from 0; there is no series {at}.")
    return stored.series[at], [f"series {at} of {count}{why}"] if count > 1 else []


def _pixel_size(series: Series, level: int, settings: ReadingSettings) -> PixelSize | None:
    """Height and width of the pixels of a level, of the image as it is seen."""
    finest, this = series.levels[0], series.levels[level]
    base = settings.pixel_size or finest.pixel_size
    if base is None:
        return None
    height, width = base if isinstance(base, tuple) else (base, base)
    height *= finest.size("Y") / max(this.size("Y"), 1)
    width *= finest.size("X") / max(this.size("X"), 1)
    return (width, height) if series.orientation >= 5 else (height, width)


def _choose_level(
    name: str,
    series: Series,
    sizes: Sequence[PixelSize | None],
    settings: ReadingSettings,
    pixel_size: float | None,
) -> int:
    """Choose the level of the settings, or the coarsest that is fine enough for the pixel size."""
    if settings.level is not None:
        if settings.level >= len(sizes):
            raise InputError(
                f"{name} has {len(sizes)} levels, counted from 0; there is no level {settings.level}."
            )
        return settings.level
    if pixel_size is None:
        return 0
    fine = [at for at, size in enumerate(sizes) if size and max(size) <= pixel_size * (1 + SAME_SIZE)]
    return max(fine, default=0)


def _image(
    stored: Stored, series: Series, at: int, pixel_size: PixelSize | None, settings: ReadingSettings
) -> LazyImage:
    """Make the lazy image of one level, with its planes and channels chosen."""
    level = series.levels[at]
    if not {"Y", "X"} <= set(level.axes):
        raise ValueError(f"its axes are {level.axes}, without Y and X")
    if 0 in level.pixels.shape:
        raise InputError(f"{stored.name} holds an empty image of shape {tuple(level.pixels.shape)}.")
    channel_axes = "".join(axis for axis in "CS" if axis in level.axes)
    if series.is_rgb and "S" in channel_axes:
        channel_axes = "S"
    planes, said = _choose_planes(stored.name, level, channel_axes, series.is_rgb, settings)
    stored_shape = (level.size("Y"), level.size("X"))

    def read_all(y: int, x: int, height: int, width: int, channels: slice) -> NDArray[Any]:
        rows, columns = _stored_area((y, x, height, width), stored_shape, series.orientation)
        area = {"Y": rows, "X": columns} | ({"C": channels} if "C" in channel_axes else {})
        pixels = _project(level, area, planes, channel_axes)
        return _upright(plain_type(series.colours(pixels) if series.colours else pixels), series.orientation)

    sample = read_all(0, 0, 1, 1, slice(None)) if series.colours else None
    n_stored = math.prod(level.size(axis) for axis in channel_axes)
    n_channels = n_stored if sample is None else sample.shape[2]
    names = series.channel_names if len(series.channel_names) == n_channels else numbered(n_channels)
    chosen = _choose_channels(stored.name, names, settings)

    def read(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        if channel_axes != "C" or series.colours or len(chosen) == n_channels:
            return read_all(y, x, height, width, slice(None))[..., chosen]
        each = [read_all(y, x, height, width, slice(channel, channel + 1)) for channel in chosen]
        return np.concatenate(each, axis=2, dtype=np.result_type(*each))

    if chosen != list(range(n_channels)):
        said.append("channels " + ", ".join(names[channel] for channel in chosen))
    shape = stored_shape[::-1] if series.orientation >= 5 else stored_shape
    steps = [series.levels[0].size(axis) / max(level.size(axis), 1) for axis in "YX"]
    return LazyImage(
        stored.name,
        (*shape, len(chosen)),
        read,
        pixel_size=square(pixel_size),
        aspect=1.0 if pixel_size is None else pixel_size[0] / pixel_size[1],
        channel_names=tuple(names[channel] for channel in chosen),
        reading_note=", ".join(said),
        steps=(steps[1], steps[0]) if series.orientation >= 5 else (steps[0], steps[1]),
        bits=series.bits,
        close=stored.close,
    )


def _stored_area(
    area: tuple[int, int, int, int], shape: tuple[int, int], orientation: int
) -> tuple[slice, slice]:
    """Find the stored rows and columns that show an area of the image as it is seen."""
    y, x, height, width = area
    if orientation >= 5:
        y, x, height, width = x, y, width, height
    top = shape[0] - y - height if orientation in _BOTTOM_UP else y
    left = shape[1] - x - width if orientation in _RIGHT_TO_LEFT else x
    return slice(top, top + height), slice(left, left + width)


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels as they are to be seen."""
    if orientation in _BOTTOM_UP:
        pixels = pixels[::-1]
    if orientation in _RIGHT_TO_LEFT:
        pixels = pixels[:, ::-1]
    return pixels.swapaxes(0, 1) if orientation >= 5 else pixels


def _choose_planes(
    name: str, level: Level, channel_axes: str, is_rgb: bool, settings: ReadingSettings
) -> tuple[dict[str, list[int]], list[str]]:
    """List the planes to read along each axis that is neither space nor channel, and note each choice."""
    planes: dict[str, list[int]] = {}
    notes = []
    for axis in level.axes:
        if axis in "YX" or axis in channel_axes:
            continue
        size = level.size(axis)
        if axis == "T":
            planes[axis] = [_existing(name, "points in time", settings.t, size)]
            words = f"point in time {settings.t} of {size}"
        elif is_rgb and axis != "Z":
            planes[axis], words = [0], f"page 0 of {size}"
        else:
            wanted = settings.z if settings.z is not None else "middle" if is_rgb else "max"
            planes[axis], words = _z_planes(name, wanted, size)
        if size > 1:
            notes.append(words)
    return planes, notes


def _z_planes(name: str, wanted: int | str, size: int) -> tuple[list[int], str]:
    if wanted == "max":
        return list(range(size)), f"maximum of {size} planes"
    if wanted == "middle":
        return [(size - 1) // 2], f"middle of {size} planes"
    return [_existing(name, "planes", int(wanted), size)], f"plane {wanted} of {size}"


def _existing(name: str, what: str, wanted: int, size: int) -> int:
    if wanted >= size:
        raise InputError(f"{name} has {size} {what}, counted from 0; there is no number {wanted}.")
    return wanted


def _choose_channels(name: str, names: Sequence[str], settings: ReadingSettings) -> list[int]:
    if settings.channels is None:
        return list(range(len(names)))
    chosen = []
    for channel in settings.channels:
        named = str(channel)  # a name such as 488 goes before a number
        number = names.index(named) if named in names else int(named) if named.isdecimal() else -1
        if not 0 <= number < len(names):
            raise InputError(
                f"{name} has no channel {channel}; its channels, counted from 0, are {', '.join(names)}."
            )
        chosen.append(number)
    return chosen


def _project(
    level: Level, area: dict[str, slice], planes: dict[str, list[int]], channel_axes: str
) -> NDArray[Any]:
    """Read an area as (y, x, channel); several planes are combined by their maximum."""
    kept = [axis for axis in level.axes if axis not in planes]
    order = [kept.index(axis) for axis in "YX" + channel_axes]
    projection: NDArray[Any] | None = None
    for numbers in itertools.product(*planes.values()):
        at = dict(zip(planes, numbers, strict=True)) | area
        plane = np.asarray(level.pixels[tuple(at.get(axis, slice(None)) for axis in level.axes)])
        plane = plane.transpose(order)
        plane = plane.reshape(*plane.shape[:2], -1)
        projection = plane if projection is None else np.maximum(projection, plane)
    assert projection is not None
    return projection


def _refuse_lines(image: LazyImage) -> None:
    if min(image.shape[:2]) < 2:
        raise InputError(
            f"{image.name} holds a line of {image.shape[0]} x {image.shape[1]} px, not an image."
        )


def at_pixel_size(image: LazyImage, pixel_size: float | None) -> LazyImage:
    """Resample an image to the pixel size that is wanted, where both are known; else say what was assumed.

    Parameters
    ----------
    image : LazyImage
    pixel_size : float or None
        Side of the square pixels wanted, in micrometres.

    Raises
    ------
    InputError
        The sizes are so far apart that one of them must be wrong, or nothing would be left of the image.
    """
    if pixel_size is None:
        return image
    if image.pixel_size is None:
        assumption = (
            f"Images without a known pixel size are taken to have the model's, {pixel_size:.3g} µm;"
            " give it (--pixel-size, in napari: Pixel size) if they have another."
        )
        return replace(image, assumption=assumption)
    require_plausible(image.name, image.pixel_size, pixel_size)
    factors = tuple(pixel_size / side for side in image.pixel_sides)
    if all(abs(factor - 1) <= SAME_SIZE for factor in factors):
        return image
    height, width = image.pixel_sides
    size = f"{height:.3g}" if abs(image.aspect - 1) <= SAME_SIZE else f"{height:.3g} x {width:.3g}"
    words = f"resampled from {size} to {pixel_size:.3g} µm pixels"
    image = replace(image, reading_note=", ".join(filter(None, [image.reading_note, words])))
    resampled = resample(image, (factors[0], factors[1]) if image.aspect != 1 else factors[0])
    _refuse_lines(resampled)
    return resampled


def require_plausible(name: str, own: float, wanted: float) -> None:
    """Refuse a pixel size that must be wrong, such as metres given as micrometres.

    Parameters
    ----------
    name : str
        The image's.
    own, wanted : float
        Its pixel size, and the one that it is brought to, in micrometres.

    Raises
    ------
    InputError
        Names both sizes.
    """
    if not (math.isfinite(own) and own > 0):
        raise InputError(f"A pixel size of {own:g} µm is not possible; give one above 0.")
    if own > LARGEST_ENLARGEMENT * wanted or own * LARGEST_REDUCTION < wanted:
        raise InputError(
            f"{name} states a pixel size of {own:.3g} µm, but the images are searched at {wanted:.3g} µm; if"
            " that is wrong, give the right one (--pixel-size, in napari: Pixel size)."
        )
