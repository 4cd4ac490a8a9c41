"""Random fields and fibre textures of which generated tissue is made."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["Fibres", "Map", "lay_fibres", "noise", "smoothstep"]

Map = NDArray[np.float32]
"""A (y, x) field."""


@dataclass(frozen=True, eq=False)
class Fibres:
    """Textures along one course of fibres, each (y, x).

    Parameters
    ----------
    direction : Map
        Radians, counter-clockwise from the x axis as seen on the screen.
    bundles : Map
        About standard normal: high inside bundles.
    fibrils : Map
        0 to 1, fine streaks.
    coherence : Map
        0 to 1, longer and softer streaks.
    gaps : Map
        Standard normal: high where fibres part.
    """

    direction: Map
    bundles: Map
    fibrils: Map
    coherence: Map
    gaps: Map


def noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> Map:
    """Draw a smooth random field.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (y, x) in px.
    grain : float
        Standard deviation of the Gaussian that smooths white noise, in px.

    Returns
    -------
    ndarray, (y, x), float32
        About mean 0 and standard deviation 1.

    Examples
    --------
    >>> bool(0.8 < noise(np.random.default_rng(1), (99, 99), 2.0).std() < 1.2)
    True
    """
    coarse = max(1.0, grain / 4)  # draw few values and enlarge them
    height, width = (int(np.ceil(side / coarse)) + 8 for side in shape)
    sigma = grain / coarse
    field = gaussian_filter(rng.standard_normal((height, width), np.float32), sigma, mode="wrap")
    field *= 2 * np.sqrt(np.pi) * sigma if sigma > 0.5 else 1.0
    if coarse > 1.0:
        scale = np.array([[1 / coarse, 0, 3.0], [0, 1 / coarse, 3.0]])
        field = cv2.warpAffine(field, scale, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.ascontiguousarray(field[: shape[0], : shape[1]])


def smoothstep(values: Map, low: float, high: float) -> Map:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``.

    Parameters
    ----------
    values : ndarray
        Any values.
    low, high : float
        Where the rise begins and ends.

    Returns
    -------
    ndarray, float32
        0 to 1, of the same shape.

    Examples
    --------
    >>> smoothstep(np.array([0.0, 1.0, 2.0, 9.0]), 0, 2).tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    t = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0, 1)
    result: Map = t * t * (3 - 2 * t)
    return result


def lay_fibres(rng: np.random.Generator, bodies: Map) -> Fibres:
    """Lay wavy fibres that part around bodies, by line integral convolution.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness, which decides on course, bends, crimp and thickness.
    bodies : Map
        1 where something is in the way, else 0.

    Returns
    -------
    Fibres
        Textures of the shape of ``bodies``.

    References
    ----------
    Cabral & Leedom, "Imaging vector fields using line integral convolution", SIGGRAPH 1993.

    Examples
    --------
    >>> fibres = lay_fibres(np.random.default_rng(1), np.zeros((64, 80), np.float32))
    >>> fibres.bundles.shape
    (64, 80)
    """
    shape = (bodies.shape[0], bodies.shape[1])
    direction = _along_borders(_course(rng, shape), bodies)
    grain = rng.uniform(1.7, 4.0)
    fine = np.dstack([noise(rng, shape, 0.6), noise(rng, shape, grain)])
    coarse = np.dstack([noise(rng, shape, 4.0), noise(rng, shape, 2.2)])
    short, long = _smeared(fine, direction, 4), _smeared(np.dstack([fine, coarse]), direction, 5)
    return Fibres(
        direction=direction,
        bundles=0.8 * long[..., 1] + 0.45 * long[..., 0],
        fibrils=smoothstep(short[..., 0], -1.3, 1.6),
        coherence=smoothstep(long[..., 2] + 0.5 * noise(rng, shape, 25), -0.9, 0.7),
        gaps=long[..., 3],
    )


def _course(rng: np.random.Generator, shape: tuple[int, int]) -> Map:
    """Direction of the fibres in radians: a course, its bends and its crimp."""
    bend, crimp = rng.uniform(0.2, 1.2), rng.uniform(0.1, 0.45)
    course = np.float32(rng.uniform(0, np.pi))
    return course + bend * noise(rng, shape, 75) + crimp * noise(rng, shape, 11)


def _along_borders(direction: Map, bodies: Map) -> Map:
    """Lay fibres along the border of what they run into."""
    soft = gaussian_filter(bodies, 5.0)
    y, x = np.gradient(soft)
    steepness = np.hypot(y, x)
    weight = np.clip(steepness / 0.04, 0, 1)
    across = (
        np.cos(direction) * y + np.sin(direction) * x
    )  # sign by which the border's direction is the nearer one
    border = np.where(across > 0, 1, -1) / (steepness + 1e-6)
    vx = (1 - weight) * np.cos(direction) + weight * border * y
    vy = (1 - weight) * -np.sin(direction) - weight * border * x
    turned: Map = np.arctan2(-vy, vx).astype(np.float32)
    return turned


def _smeared(image: Map, direction: Map, doublings: int) -> Map:
    """Average along the streamlines over 2 ** doublings px each way; unit variance again."""
    rows, columns = np.indices(direction.shape, np.float32)
    sums = np.zeros_like(image)
    for sign in (1, -1):
        shift = np.dstack([sign * np.cos(direction), -sign * np.sin(direction)])  # x, y
        way = image
        for _ in range(doublings):
            at = columns + shift[..., 0], rows + shift[..., 1]
            way = (way + cv2.remap(way, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)) / 2
            shift = shift + cv2.remap(shift, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        sums += way
    result: Map = sums / sums.std(axis=(0, 1))
    return result
