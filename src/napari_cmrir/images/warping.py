"""Samples of an image along turned rows: what cutting a region takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["averaged", "inside", "sample"]

_BLOCK = 8192  # OpenCV warps at most 32767 px a side


def inside(
    shape: tuple[int, ...], first: NDArray[np.float64], steps: NDArray[np.float64], height: int, width: int
) -> NDArray[np.bool_]:
    """Tell which samples lie on an image.

    Parameters
    ----------
    shape : tuple of int
        (y, x, ...) of the image, in px.
    first : ndarray, (2,)
        (y, x) of the first sample.
    steps : ndarray, (2, 2)
        The sample (row, column) lies at ``first + steps @ (row, column)``.
    height, width : int
        Samples.

    Returns
    -------
    ndarray of bool, (height, width)

    Examples
    --------
    >>> inside((2, 2, 1), np.array([0.0, 1.0]), np.eye(2), 1, 2).tolist()
    [[True, False]]
    """
    rows, columns = np.arange(height)[:, np.newaxis], np.arange(width)
    lies = np.ones((height, width), bool)
    for size, start, (per_row, per_column) in zip(shape[:2], first, steps, strict=True):
        at = start + per_row * rows + per_column * columns
        lies &= (at >= -0.5 - 1e-6) & (at <= size - 0.5 + 1e-6)
    return lies


def sample(
    pixels: NDArray[Any], first: NDArray[np.float64], steps: NDArray[np.float64], height: int, width: int
) -> NDArray[Any]:
    """Sample an image, mirrored beyond its border, bilinearly, in blocks that OpenCV can take.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        uint8, uint16, float32 or float64.
    first : ndarray, (2,)
        (y, x) of the first sample.
    steps : ndarray, (2, 2)
        The sample (row, column) lies at ``first + steps @ (row, column)``.
    height, width : int
        Samples.

    Returns
    -------
    ndarray, (height, width, channel)
        Of the same type; exact copies where all samples fall on pixels.

    Examples
    --------
    >>> pixels = np.array([[[10], [20]]], np.uint8)
    >>> sample(pixels, np.array([0.0, 0.5]), np.eye(2), 1, 1).tolist()
    [[[15]]]
    """
    if np.array_equal(steps, np.eye(2)) and np.abs(first - np.rint(first)).max() < 1e-6:
        y, x = np.rint(first).astype(int)
        return _mirrored(pixels, y, x, height, width)
    patch = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    for top in range(0, height, _BLOCK):
        for left in range(0, width, _BLOCK):
            block = patch[top : top + _BLOCK, left : left + _BLOCK]
            block[:] = _warped(pixels, first + steps @ (top, left), steps, *block.shape[:2])
    return patch


def _warped(
    pixels: NDArray[Any], first: NDArray[np.float64], steps: NDArray[np.float64], height: int, width: int
) -> NDArray[Any]:
    import cv2

    ends = first + np.array([[0, 0], [0, width - 1], [height - 1, 0], [height - 1, width - 1]]) @ steps.T
    top, left = np.floor(ends.min(axis=0)).astype(int) - 1
    bottom, right = np.ceil(ends.max(axis=0)).astype(int) + 1
    source = _mirrored(pixels, top, left, bottom - top + 1, right - left + 1)
    y, x = first - (top, left)
    matrix = np.array([[steps[1, 1], steps[1, 0], x], [steps[0, 1], steps[0, 0], y]])  # OpenCV counts (x, y)
    warped: NDArray[Any] = cv2.warpAffine(
        source,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return warped.reshape(height, width, pixels.shape[2])


def _mirrored(pixels: NDArray[Any], y: int, x: int, height: int, width: int) -> NDArray[Any]:
    """Copy a rectangle that may reach beyond the image, mirrored about the border pixels."""
    rows, columns = (
        _mirror(np.arange(start, start + length), size)
        for start, length, size in zip((y, x), (height, width), pixels.shape[:2], strict=True)
    )
    if y >= 0 and y + height <= pixels.shape[0] and x >= 0 and x + width <= pixels.shape[1]:
        return pixels[y : y + height, x : x + width].copy()
    return pixels[np.ix_(rows, columns)]


def _mirror(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    if size == 1:
        return np.zeros_like(index)
    index = index % (2 * size - 2)
    return np.minimum(index, 2 * size - 2 - index)


def averaged(fine: NDArray[Any], factor: int) -> NDArray[Any]:
    """Average blocks of pixels.

    Parameters
    ----------
    fine : ndarray, (height * factor, width * factor, channel)
    factor : int
        Side of a block, in px.

    Returns
    -------
    ndarray, (height, width, channel)
        Of the same type, rounded for integers.

    Examples
    --------
    >>> averaged(np.array([[[1], [2]], [[3], [5]]], np.uint8), 2).tolist()
    [[[3]]]
    """
    height, width, channels = fine.shape
    blocks = fine.reshape(height // factor, factor, width // factor, factor, channels)
    mean = blocks.mean(axis=(1, 3), dtype=np.float32)
    rounded: NDArray[Any] = np.rint(mean) if fine.dtype.kind == "u" else mean
    return rounded.astype(fine.dtype)
