"""The range of an image's values: 8, 12 or 16 bits, or floats from 0 to 1, and one brought to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.series import SAME_SIZE, at_pixel_size

__all__ = [
    "ValueRange",
    "at_full_scale",
    "bring_to_scale",
    "range_of_intensity",
    "range_of_pixels",
    "squared",
]

_WINDOW = 128
"""Side, px, of the windows of a large image whose values are looked at: a tile or a strip or two each."""

_WINDOWS = 4
"""Such windows along each axis; the brightest of 16 windows of a slide is close to the slide's."""

_WHOLE_VALUES = 2**22
"""Values of an image up to which all of them are looked at; 4 million take milliseconds."""

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits of cameras."""


@dataclass(frozen=True)
class ValueRange:
    """What the values of an image range over.

    Parameters
    ----------
    full : float or None
        The highest value that the image can hold: 255, 4095, 65535, 1.0; ``None`` if it is unknown.
    is_certain : bool
        The type or the file says so; else it is the smallest range that holds the values.

    Examples
    --------
    >>> str(ValueRange(65535.0)), str(ValueRange(1.0))
    ('0 to 65,535', '0 to 1')
    """

    full: float | None
    is_certain: bool = True

    def __str__(self) -> str:
        """Write the range in words."""
        return "an unknown range" if self.full is None else f"0 to {self.full:,.10g}"


def range_of_pixels(pixels: NDArray[Any], bits: int | None = None) -> ValueRange:
    """Find the range of an image's values, from its type, its bits and its values.

    Parameters
    ----------
    pixels : ndarray
        Of the image, or a part of it.
    bits : int, optional
        Bits of a value, where the file states them.

    Examples
    --------
    >>> camera = np.array([0, 4000], np.uint16)
    >>> range_of_pixels(camera.astype(np.uint8)).full, range_of_pixels(camera, 12).full
    (255.0, 4095.0)
    >>> range_of_pixels(camera, 16)
    ValueRange(full=4095.0, is_certain=False)
    >>> range_of_pixels(np.array([0.0, 0.9])).full, range_of_pixels(np.array([-3.0, 900.0])).full
    (1.0, None)
    """
    if pixels.dtype.kind == "u" and bits is not None and bits < 8 * pixels.dtype.itemsize:
        return ValueRange(float(2**bits - 1))
    if pixels.dtype == np.uint8:
        return ValueRange(255.0)
    finite = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if pixels.dtype == np.uint16:
        full = next(float(2**depth - 1) for depth in _DEPTHS if highest < 2**depth)
        return ValueRange(full, full == 65535.0)
    if lowest < 0:
        return ValueRange(None, False)
    if highest <= 1:
        return ValueRange(1.0)
    return ValueRange(255.0, False) if highest <= 255 else ValueRange(None, False)


def range_of_intensity(high: Sequence[float], noted: float | None = None) -> ValueRange:
    """Find the range of values that a model was trained on.

    Parameters
    ----------
    high : sequence of float
        Values that its scaling maps to 1.
    noted : float, optional
        The range that the training noted.

    Examples
    --------
    >>> range_of_intensity((231.0, 240.0)).full, range_of_intensity((9000.0,)).full
    (255.0, 65535.0)
    """
    if noted is not None:
        return ValueRange(noted)
    highest = max(high)
    if highest <= 1:
        return ValueRange(1.0, False)
    # Colours of transmitted light reach the end of their range, and grey values of fluorescence need not.
    return ValueRange(255.0, len(high) == 3) if highest <= 255 else ValueRange(65535.0, False)


def at_full_scale(image: LazyImage, wanted: ValueRange) -> tuple[LazyImage, str]:
    """Bring the values of an image to another range, where both are known.

    An image whose type alone says that it has the range is returned as it is, unread.

    Parameters
    ----------
    image : LazyImage
    wanted : ValueRange
        Of the model.

    Returns
    -------
    image : LazyImage
        With ``reading_note`` if its values are scaled.
    doubt : str
        A sentence without the image's name, where the ranges are not certain; else empty.
    """
    if wanted.full is None:
        return image, ""
    dtype = image[:1, :1].dtype if image.known is None else image.known.dtype
    if _has_range_by_type(dtype, image.bits, wanted):
        return image, ""
    own = range_of_pixels(_looked_at(image) if image.known is None else image.known, image.bits)
    if own.full == wanted.full:
        return image, ""
    if own.full is None or not (own.is_certain or wanted.is_certain):
        return image, (
            f"its values ({dtype}) are of an unknown range, but the model was trained on values of {wanted};"
            " convert the image to that range"
        )
    words = f"values of {own} scaled to {wanted}"
    note = ", ".join(filter(None, [image.reading_note, words]))
    scaled = _scaled(image, wanted.full / own.full)
    doubt = ""
    if not (own.is_certain and wanted.is_certain):
        doubt = (
            f"its values of {own} were scaled to {wanted}, on which the model was trained; check that these"
            " are the ranges"
        )
    return replace(scaled, reading_note=note), doubt


def bring_to_scale(pixels: NDArray[Any], own: float, wanted: float) -> NDArray[Any]:
    """Bring values of one range to another, whole numbers if the ranges divide without a rest.

    Examples
    --------
    >>> bring_to_scale(np.array([0, 255], np.uint8), 255.0, 65535.0)
    array([    0, 65535], dtype=uint16)
    >>> bring_to_scale(np.array([0, 65535], np.uint16), 65535.0, 1.0)
    array([0., 1.], dtype=float32)
    """
    if own == wanted:
        return pixels
    if wanted == 65535.0:
        scaled = np.rint(np.clip(pixels.astype(np.float64) * (wanted / own), 0, wanted))
        return scaled.astype(np.uint16)
    return (pixels.astype(np.float64) * (wanted / own)).astype(np.float32)


def squared(image: LazyImage) -> LazyImage:
    """Resample an image whose pixels are not square to squares of their shorter side."""
    if image.pixel_size is None or abs(image.aspect - 1) <= SAME_SIZE:
        return image
    return at_pixel_size(image, min(image.pixel_sides))


def _has_range_by_type(dtype: np.dtype[Any], bits: int | None, wanted: ValueRange) -> bool:
    whole = bits is None or bits >= 8 * dtype.itemsize
    if dtype == np.uint8:
        return whole and wanted.full == 255.0
    return dtype == np.uint16 and wanted.full == 65535.0 and (whole or not wanted.is_certain)


def _scaled(image: LazyImage, factor: float) -> LazyImage:
    read = image.read_region

    def read_scaled(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        scaled: NDArray[Any] = (read(y, x, height, width).astype(np.float64) * factor).astype(np.float32)
        return scaled

    coarser = tuple(_scaled(level, factor) for level in image.coarser)
    return replace(image, read_region=read_scaled, coarser=coarser, bits=None)


def _looked_at(image: LazyImage) -> NDArray[Any]:
    """Read all of a small image, and windows spread over a large one."""
    height, width, channels = image.shape
    if height * width * channels <= _WHOLE_VALUES:
        return image[:, :]
    rows = np.linspace(0, max(0, height - _WINDOW), _WINDOWS).astype(int).tolist()
    columns = np.linspace(0, max(0, width - _WINDOW), _WINDOWS).astype(int).tolist()
    windows = [image[y : y + _WINDOW, x : x + _WINDOW] for y in rows for x in columns]
    return np.concatenate([window.reshape(-1, channels) for window in windows])
