"""Regions of images: turned rectangles, their corners, and the pixels in them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, floor, radians, sin
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError

__all__ = [
    "Region",
    "averaged",
    "corner_error",
    "cut",
    "inside",
    "rotation_difference",
    "sample",
    "window_of",
]


@dataclass(frozen=True)
class Region:
    """A rectangle in an image, turned about its centre.

    Parameters
    ----------
    centre : tuple of two float
        (y, x) in px; pixel centres are integers.
    height, width : float
        Size before turning, in px, above 0.
    rotation_degrees : float
        Counter-clockwise rotation, as seen on the screen.

    Raises
    ------
    InputError
        If the size is not above 0, or a value is not finite.

    Examples
    --------
    >>> Region.from_rectangle(10, 20, 64, 128)
    Region(centre=(41.5, 83.5), height=64, width=128, rotation_degrees=0.0)
    """

    centre: tuple[float, float]
    height: float
    width: float
    rotation_degrees: float = 0.0

    def __post_init__(self) -> None:
        if not np.isfinite([*self.centre, self.height, self.width, self.rotation_degrees]).all():
            raise InputError("A region's position, size and rotation have to be finite numbers.")
        if self.height <= 0 or self.width <= 0:
            raise InputError(f"A region of {self.height:g} x {self.width:g} px is empty; give a larger one.")

    @classmethod
    def from_rectangle(cls, y: float, x: float, height: float, width: float) -> Region:
        """Make the region of the pixels ``y`` to ``y + height - 1`` and ``x`` to ``x + width - 1``.

        Parameters
        ----------
        y, x : float
            First pixel.
        height, width : float
            Size in px, above 0.

        Returns
        -------
        Region
            Its corners are the outer corners of the corner pixels.

        Raises
        ------
        InputError
            If the size is not above 0, or a value is not finite.

        Examples
        --------
        >>> Region.from_rectangle(10, 20, 5, 4)
        Region(centre=(12.0, 21.5), height=5, width=4, rotation_degrees=0.0)
        """
        return cls((y - 0.5 + height / 2, x - 0.5 + width / 2), height, width)

    @property
    def rectangle(self) -> tuple[float, float, float, float]:
        """``(y, x, height, width)`` before turning: the arguments of `from_rectangle`.

        Examples
        --------
        >>> Region.from_rectangle(10, 20, 5, 4).rectangle
        (10.0, 20.0, 5, 4)
        """
        y, x = self.centre
        return y - self.height / 2 + 0.5, x - self.width / 2 + 0.5, self.height, self.width

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Region:
        """Make the region of a whole image.

        Parameters
        ----------
        shape : tuple of int
            (y, x, ...) in px.

        Returns
        -------
        Region
            All pixels of the image.

        Raises
        ------
        InputError
            If the image is empty.

        Examples
        --------
        >>> Region.whole((4, 6, 3)).corners()[2].tolist()
        [3.5, 5.5]
        """
        return cls.from_rectangle(0, 0, shape[0], shape[1])

    @classmethod
    def from_corners(cls, box: ArrayLike) -> Region:
        """Make the region of a box.

        Parameters
        ----------
        box : array_like, (4, 2)
            (y, x) of the corners that were top-left, top-right, bottom-right and bottom-left before turning.
            If they are not exactly a rectangle, opposite sides are averaged.

        Returns
        -------
        Region
            Its rotation is in (-180, 180] degrees.

        Raises
        ------
        InputError
            If the box has another shape or no area.

        Examples
        --------
        >>> Region.from_corners([[3.5, -0.5], [-0.5, -0.5], [-0.5, 5.5], [3.5, 5.5]])
        Region(centre=(1.5, 2.5), height=6.0, width=4.0, rotation_degrees=90.0)
        """
        corners = _as_box(box)
        right = (corners[1] + corners[2] - corners[0] - corners[3]) / 2
        down = (corners[3] + corners[2] - corners[0] - corners[1]) / 2
        y, x = corners.mean(axis=0)
        return cls(
            centre=(float(y), float(x)),
            height=float(np.hypot(*down)),
            width=float(np.hypot(*right)),
            rotation_degrees=float(np.degrees(np.arctan2(-right[0], right[1]))),
        )

    def corners(self) -> NDArray[np.float64]:
        """Compute the four corners.

        Returns
        -------
        ndarray, (4, 2)
            (y, x) of the corners that were top-left, top-right, bottom-right and bottom-left before turning.

        Examples
        --------
        >>> Region.from_rectangle(0, 0, 2, 4).corners().tolist()
        [[-0.5, -0.5], [-0.5, 3.5], [1.5, 3.5], [1.5, -0.5]]
        """
        halves = np.array([self.height, self.width]) / 2
        offsets = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * halves
        corners: NDArray[np.float64] = np.array(self.centre) + offsets @ _turn(self.rotation_degrees).T
        return corners


def cut(
    pixels: NDArray[Any], region: Region, *, pixel_step: float = 1.0
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Cut a turned region out of an image, upright.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        uint8, uint16, float32 or float64; other types become float32.
    region : Region
        It may reach beyond the image; the image is mirrored there.
    pixel_step : float
        Distance of the samples in px, above 0. Above 1, each sample is the mean of the pixels around it.

    Returns
    -------
    patch : ndarray, (height / pixel_step, width / pixel_step, channel), rounded
        Bilinear samples, or exact copies if all samples fall on pixels.
    mask : ndarray of bool, (height / pixel_step, width / pixel_step)
        True where the sample lies inside the image.

    Raises
    ------
    InputError
        If the step is not above 0.

    Examples
    --------
    >>> pixels = np.arange(12).reshape(3, 4, 1).astype(np.uint8)
    >>> patch, mask = cut(pixels, Region.from_rectangle(1, 2, 2, 3))
    >>> patch[..., 0].tolist(), mask.tolist()
    ([[6, 7, 6], [10, 11, 10]], [[True, True, False], [True, True, False]])
    """
    if not (np.isfinite(pixel_step) and pixel_step > 0):
        raise InputError(f"A step of {pixel_step:g} px is not possible; give one above 0.")
    height, width = (max(1, floor(side / pixel_step + 0.5)) for side in (region.height, region.width))
    finer = ceil(pixel_step - 1e-9)  # samples averaged per pixel and axis
    steps = _turn(region.rotation_degrees) * pixel_step
    first = np.array(region.centre) - steps @ ((np.array([height, width]) - 1) / 2)
    mask = inside(pixels.shape, first, steps, height, width)
    if pixels.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        pixels = pixels.astype(np.float32)
    first = first - steps @ np.full(2, (1 - 1 / finer) / 2)
    fine = sample(pixels, first, steps / finer, height * finer, width * finer)
    return (averaged(fine, finer) if finer > 1 else fine), mask


def corner_error(box_a: ArrayLike, box_b: ArrayLike) -> float:
    """Measure the mean distance of the corners of two boxes.

    Parameters
    ----------
    box_a, box_b : array_like, (4, 2)
        Corners in the same order and unit.

    Returns
    -------
    float
        In the unit of the corners, at least 0.

    Raises
    ------
    InputError
        If a box has another shape.

    Examples
    --------
    >>> box = Region.from_rectangle(0, 0, 10, 10).corners()
    >>> corner_error(box, box + [3, 4])
    5.0
    """
    return float(np.hypot(*(_as_box(box_a) - _as_box(box_b)).T).mean())


def rotation_difference(degrees_a: float, degrees_b: float) -> float:
    """Measure the angle between two rotations.

    Parameters
    ----------
    degrees_a, degrees_b : float
        Rotations in degrees, not limited to one turn.

    Returns
    -------
    float
        0 to 180 degrees.

    Examples
    --------
    >>> rotation_difference(350, 10)
    20.0
    """
    return float(abs((degrees_a - degrees_b + 180) % 360 - 180))


def _as_box(box: ArrayLike) -> NDArray[np.float64]:
    corners = np.asarray(box, dtype=np.float64)
    if corners.shape != (4, 2):
        raise InputError(f"A box has four (y, x) corners; this one has the shape {corners.shape}.")
    return corners


def _turn(degrees: float) -> NDArray[np.float64]:
    """Make the matrix that turns (y, x) offsets counter-clockwise on the screen, exact at quarter turns."""
    quarters, rest = divmod(degrees + 45, 90)
    c, s = cos(radians(rest - 45)), sin(radians(rest - 45))
    for _ in range(int(quarters) % 4):
        c, s = -s, c
    return np.array([[c, -s], [s, c]])


_BLOCK = 8192  # px a side warped at once: OpenCV's limit is 32,767, and smaller blocks need less memory


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
        Number of samples along each axis.

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
    """Sample an image bilinearly on a turned grid; the image is mirrored beyond its border.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        uint8, uint16, float32 or float64.
    first : ndarray, (2,)
        (y, x) of the first sample.
    steps : ndarray, (2, 2)
        The sample (row, column) lies at ``first + steps @ (row, column)``.
    height, width : int
        Number of samples along each axis.

    Returns
    -------
    ndarray, (height, width, channel)
        Of the image's type; exact copies if all samples fall on pixels.

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
    """Sample one block by OpenCV, from the smallest mirrored part of the image that it needs."""
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
        Of the input's type; integers are rounded.

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


def window_of(region: Region, shape: tuple[int, ...], margin: float) -> tuple[slice, slice]:
    """Find the rows and columns of an image that `cut` reads for a region.

    Parameters
    ----------
    region : Region
    shape : tuple of int
        (y, x, ...) of the image, in px.
    margin : float
        Additional pixels on every side, such as those that interpolation needs.

    Returns
    -------
    rows, columns : slice
        They include the pixels that mirroring at the image's border reads.

    Examples
    --------
    >>> window_of(Region.from_rectangle(10, -5, 4, 20), (100, 200), 2)
    (slice(7, 17, None), slice(0, 18, None))
    """
    corners = region.corners()
    low = np.floor(corners.min(axis=0) - margin).astype(int).tolist()
    high = np.ceil(corners.max(axis=0) + margin).astype(int).tolist()
    places = [
        _mirror(np.arange(first, last + 1), size)
        for first, last, size in zip(low, high, shape[:2], strict=True)
    ]
    rows, columns = (slice(int(place.min()), int(place.max()) + 1) for place in places)
    return rows, columns
