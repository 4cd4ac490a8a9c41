"""Turned regions of images: their corners, and the pixels in them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, floor, radians, sin
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.warping import averaged, inside, sample

__all__ = ["Region", "corner_error", "cut", "rotation_difference"]


@dataclass(frozen=True)
class Region:
    """A rectangle in an image, turned about its centre.

    Parameters
    ----------
    centre : tuple of two float
        (y, x) in px, where pixel centres are integers.
    height, width : float
        Size before turning, in px, above 0.
    rotation_degrees : float
        Turned counter-clockwise as seen on the screen.

    Raises
    ------
    InputError
        The size is not above 0, or a value is not finite.
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
            Its corners are the outer borders of the corner pixels.

        Raises
        ------
        InputError
            The size is not above 0, or a value is not finite.

        Examples
        --------
        >>> Region.from_rectangle(10, 20, 5, 4)
        Region(centre=(12.0, 21.5), height=5, width=4, rotation_degrees=0.0)
        """
        return cls((y - 0.5 + height / 2, x - 0.5 + width / 2), height, width)

    @property
    def rectangle(self) -> tuple[float, float, float, float]:
        """``(y, x, height, width)`` before it is turned: what `from_rectangle` makes it of.

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
            The image is empty.

        Examples
        --------
        >>> Region.whole((4, 6, 3)).corners()[2].tolist()
        [3.5, 5.5]
        """
        return cls.from_rectangle(0, 0, shape[0], shape[1])

    @classmethod
    def from_corners(cls, box: ArrayLike) -> Region:
        """Find the region that has these corners.

        Parameters
        ----------
        box : array_like, (4, 2)
            (y, x) of the top-left, top-right, bottom-right and bottom-left corner of the region before it
            was turned. Where they make no exact rectangle, opposite sides are averaged.

        Returns
        -------
        Region
            With a rotation in (-180, 180] degrees.

        Raises
        ------
        InputError
            The box has another shape or no area.

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
        """Give the four corners.

        Returns
        -------
        ndarray, (4, 2)
            (y, x) of the top-left, top-right, bottom-right and bottom-left corner before turning.

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
        Where to cut; it may reach beyond the image, which is mirrored there.
    pixel_step : float
        Distance of the samples in px, above 0; where above 1, the pixels between are averaged.

    Returns
    -------
    patch : ndarray, (height / pixel_step, width / pixel_step, channel), rounded
        Bilinear samples about the region's centre, exact copies where the samples fall on pixels.
    mask : ndarray of bool, (height / pixel_step, width / pixel_step)
        True where the sample lies inside the image.

    Raises
    ------
    InputError
        The step is not above 0.

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
    """Measure how far two boxes lie apart.

    Parameters
    ----------
    box_a, box_b : array_like, (4, 2)
        Corners in the same order and unit.

    Returns
    -------
    float
        Mean distance of the corners, in px, at least 0.

    Raises
    ------
    InputError
        A box has another shape.

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
        Rotations in degrees, any number of turns.

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
    """Matrix that turns (y, x) offsets counter-clockwise on the screen, exact at quarter turns."""
    quarters, rest = divmod(degrees + 45, 90)
    c, s = cos(radians(rest - 45)), sin(radians(rest - 45))
    for _ in range(int(quarters) % 4):
        c, s = -s, c
    return np.array([[c, -s], [s, c]])
