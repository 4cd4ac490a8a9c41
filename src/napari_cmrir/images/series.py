"""The choice of one image among the series, levels, planes and channels that a file stores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage, numbered, resample
from napari_cmrir.images.settings import ReadingSettings

__all__ = ["Level", "Series", "Stored", "at_pixel_size", "choose_image"]

SAME_SIZE = 0.02
"""Pixel sizes that differ by at most this share count as equal, so that rounded metadata do not resample.

Over a field of 1,024 px, 2 % are 20 px at the borders. Not measured.
"""


@dataclass(frozen=True)
class Level:
    """One resolution of a series.

    Parameters
    ----------
    pixels : array
        Lazy array: it has ``shape`` and is read when it is sliced by ints and slices.
    axes : str
        One letter per axis: Y, X, S (samples: RGB), C, Z, T, or another letter for pages of unknown meaning.
    pixel_size : float or None
        Side of a pixel, in micrometres.
    """

    pixels: Any
    axes: str
    pixel_size: float | None = None

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
        Whether the samples, or the result of `colours`, are the colours of one RGB image.
    """

    levels: Sequence[Level]
    channel_names: tuple[str, ...] = ()
    colours: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    is_rgb: bool = False


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
    series, notes = _choose_series(stored, settings)
    sizes = [_pixel_size(series, level, settings) for level in range(len(series.levels))]
    at = _choose_level(stored.name, series, sizes, settings, pixel_size)
    images = [
        _image(stored, series, level, sizes[level], settings) for level in range(at, len(series.levels))
    ]
    image = replace(images[0], coarser=tuple(images[1:]))
    _refuse_lines(image)
    if len(series.levels) > 1:
        size = f" of {sizes[at]:.3g} µm pixels" if sizes[at] else ""
        notes.append(f"level {at} of {len(series.levels)}{size}")
    image = replace(image, reading_note=", ".join([*notes, *filter(None, [image.reading_note])]))
    return at_pixel_size(image, pixel_size)


def _choose_series(stored: Stored, settings: ReadingSettings) -> tuple[Series, list[str]]:
    count = len(stored.series)
    if settings.series is None:
        volumes = [int(np.prod(series.levels[0].pixels.shape)) for series in stored.series]
        at, why = int(np.argmax(volumes)), ", the largest"
    else:
        at, why = settings.series, ""
    if at >= count:
        raise InputError(f"{stored.name} has {count} series, counted from 0; there is no series {at}.")
    return stored.series[at], [f"series {at} of {count}{why}"] if count > 1 else []


def _pixel_size(series: Series, level: int, settings: ReadingSettings) -> float | None:
    finest, this = series.levels[0], series.levels[level]
    base = settings.pixel_size or finest.pixel_size
    return None if base is None else base * finest.size("Y") / max(this.size("Y"), 1)


def _choose_level(
    name: str,
    series: Series,
    sizes: Sequence[float | None],
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
    fine = [at for at, size in enumerate(sizes) if size and size <= pixel_size * (1 + SAME_SIZE)]
    return max(fine, default=0)


def _image(
    stored: Stored, series: Series, at: int, pixel_size: float | None, settings: ReadingSettings
) -> LazyImage:
    """Make the lazy image of one level, with its planes and channels chosen."""
    level = series.levels[at]
    if not {"Y", "X"} <= set(level.axes):
        raise ValueError(f"its axes are {level.axes}, without Y and X")
    if 0 in level.pixels.shape:
        raise InputError(f"{stored.name} holds an empty image of shape {tuple(level.pixels.shape)}.")
    channel_axis = "S" if "S" in level.axes else "C" if "C" in level.axes else ""
    planes, notes = _choose_planes(stored.name, level, channel_axis, series.is_rgb, settings)

    def read_all(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        area = {"Y": slice(y, y + height), "X": slice(x, x + width)}
        pixels = _project(level, area, planes, channel_axis)
        return plain_type(series.colours(pixels) if series.colours else pixels)

    sample = read_all(0, 0, 1, 1) if series.colours else None
    n_channels = level.size(channel_axis) if sample is None else sample.shape[2]
    names = series.channel_names if len(series.channel_names) == n_channels else numbered(n_channels)
    chosen = _choose_channels(stored.name, names, settings)

    def read(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        return read_all(y, x, height, width)[..., chosen]

    if chosen != list(range(n_channels)):
        notes.append("channels " + ", ".join(names[channel] for channel in chosen))
    return LazyImage(
        stored.name,
        (level.size("Y"), level.size("X"), len(chosen)),
        read,
        pixel_size=pixel_size,
        channel_names=tuple(names[channel] for channel in chosen),
        reading_note=", ".join(notes),
        downsample=series.levels[0].size("Y") / level.size("Y"),
        close=stored.close,
    )


def _choose_planes(
    name: str, level: Level, channel_axis: str, is_rgb: bool, settings: ReadingSettings
) -> tuple[dict[str, list[int]], list[str]]:
    """List the planes to read along each axis that is neither space nor channel, and note each choice."""
    planes: dict[str, list[int]] = {}
    notes = []
    for axis in level.axes:
        if axis in "YX" or axis == channel_axis:
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
        number = names.index(channel) if channel in names else int(channel) if str(channel).isdigit() else -1
        if not 0 <= number < len(names):
            raise InputError(
                f"{name} has no channel {channel}; its channels, counted from 0, are {', '.join(names)}."
            )
        chosen.append(number)
    return chosen


def _project(
    level: Level, area: dict[str, slice], planes: dict[str, list[int]], channel_axis: str
) -> NDArray[Any]:
    """Read an area as (y, x, channel); several planes are combined by their maximum."""
    kept = [axis for axis in level.axes if axis not in planes]
    order = [kept.index(axis) for axis in "YX" + channel_axis]
    projection: NDArray[Any] | None = None
    for numbers in itertools.product(*planes.values()):
        at = dict(zip(planes, numbers, strict=True)) | area
        plane = np.asarray(level.pixels[tuple(at.get(axis, slice(None)) for axis in level.axes)])
        plane = plane.transpose(order)
        projection = plane if projection is None else np.maximum(projection, plane)
    assert projection is not None
    return projection if channel_axis else projection[..., np.newaxis]


def _refuse_lines(image: LazyImage) -> None:
    if min(image.shape[:2]) < 2:
        raise InputError(
            f"{image.name} holds a line of {image.shape[0]} x {image.shape[1]} px, not an image."
        )


def at_pixel_size(image: LazyImage, pixel_size: float | None) -> LazyImage:
    """Resample an image to a pixel size.

    Parameters
    ----------
    image : LazyImage
    pixel_size : float or None
        Pixel size of the result, in micrometres; ``None`` leaves the image unchanged.

    Returns
    -------
    LazyImage
        If the image's own pixel size is unknown, it is not resampled and its ``assumption`` says so.

    Raises
    ------
    InputError
        If the result would have less than 2 x 2 pixels.
    """
    if pixel_size is None:
        return image
    if image.pixel_size is None:
        assumption = (
            f"Images without a known pixel size are taken to have the model's, {pixel_size:.3g} µm;"
            " give it (--pixel-size, in napari: Pixel size) if they have another."
        )
        return replace(image, assumption=assumption)
    factor = pixel_size / image.pixel_size
    if abs(factor - 1) <= SAME_SIZE:
        return image
    words = f"resampled from {image.pixel_size:.3g} to {pixel_size:.3g} µm pixels"
    image = replace(image, reading_note=", ".join(filter(None, [image.reading_note, words])))
    resampled = resample(image, factor)
    _refuse_lines(resampled)
    return resampled
