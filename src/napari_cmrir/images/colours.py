"""Palettes, CMYK, alpha and odd types become plain grey or RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["from_palette", "inverted", "plain_type", "rgb_from_cmyk", "without_alpha"]


def without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """Drop the alpha channel of grey (of 2 channels) or RGB (of 4), (y, x, channel)."""
    return {2: pixels[..., :1], 4: pixels[..., :3]}.get(pixels.shape[2], pixels)


def rgb_from_cmyk(pixels: NDArray[Any]) -> NDArray[Any]:
    """Mix cyan, magenta, yellow and black of an unsigned type to RGB of the same.

    Examples
    --------
    >>> rgb_from_cmyk(np.array([[[255, 0, 0, 0]]], np.uint8)).tolist()
    [[[0, 255, 255]]]
    """
    full = np.iinfo(pixels.dtype).max
    light = 1.0 - pixels.astype(np.float32) / full
    rgb: NDArray[Any] = np.rint(light[..., :3] * light[..., 3:] * full).astype(pixels.dtype)
    return rgb


def from_palette(pixels: NDArray[Any], colormap: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Look up the colours, (3, n) of 16 bit, of a palette's numbers, (y, x, 1).

    Examples
    --------
    >>> from_palette(np.array([[[1]]]), np.array([[0, 0xFF00], [0, 0x8000], [0, 0]], np.uint16)).tolist()
    [[[255, 128, 0]]]
    """
    rgb: NDArray[np.uint8] = np.moveaxis(colormap[:, pixels[..., 0]] >> 8, 0, -1).astype(np.uint8)
    return rgb


def inverted(pixels: NDArray[Any]) -> NDArray[Any]:
    """Make white of zero and black of the highest; masks of bool stay, whatever their tag says."""
    return ~pixels if pixels.dtype.kind == "u" else pixels


def plain_type(pixels: NDArray[Any]) -> NDArray[Any]:
    """Turn any real type into the smallest of uint8, uint16 and float32 that holds the values.

    Black-and-white becomes 0 and 255.

    Raises
    ------
    ValueError
        If the pixels are complex or no numbers.

    Examples
    --------
    >>> plain_type(np.array([1, 300], np.int32)).dtype, plain_type(np.array([-1, 300], np.int32)).dtype
    (dtype('uint16'), dtype('float32'))
    """
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    if pixels.dtype.kind not in "iu":
        raise ValueError(f"its pixels are of type {pixels.dtype}")
    if pixels.dtype.kind == "i" and pixels.min(initial=0) < 0:
        return pixels.astype(np.float32)
    if pixels.dtype.itemsize == 1:
        return pixels.astype(np.uint8, copy=False)
    native = pixels.dtype.itemsize == 2 or pixels.max(initial=0) < 2**16
    return pixels.astype(np.uint16 if native else np.float32, copy=False)
