"""The grid of points, the SURF samples around them, and the share of their blocks on a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.settings import DescriptorSettings

__all__ = [
    "REGIONS",
    "SAMPLES",
    "grid_axis",
    "grid_points",
    "inside_share",
    "region_matrix",
    "region_weights",
    "sample_lattice",
    "sample_offsets",
    "sample_weights",
]

SAMPLES = 20
"""Haar samples along each side of a block (Bay et al. 2008, section 4.2)."""
REGIONS = 4
"""Regions along each side of a block (Bay et al. 2008, section 4.2)."""
SIGMA = 3.3
"""Standard deviation of a block's Gaussian weight, in scales (Bay et al. 2008, section 4.2)."""


def grid_axis(length: int, settings: DescriptorSettings) -> NDArray[np.float64]:
    """Return the grid positions along an axis, given its length in pixels.

    Parameters
    ----------
    length : int
        Length of the axis, px.
    settings : DescriptorSettings
        `first` and `grid_step` are used.

    Returns
    -------
    (n,) float64 array
        Positions, px.

    Examples
    --------
    >>> len(grid_axis(834, DescriptorSettings())), len(grid_axis(256, DescriptorSettings()))
    (104, 32)
    """
    return np.arange(settings.first, length, settings.grid_step, dtype=np.float64)


def grid_points(height: int, width: int, settings: DescriptorSettings) -> NDArray[np.float32]:
    """Return all points of the grid as row, column and block width, (n, 3): width by width, row by row.

    Parameters
    ----------
    height, width : int
        Size of the CoMIR, px.
    settings : DescriptorSettings

    Returns
    -------
    (n, 3) float32 array

    Examples
    --------
    >>> grid_points(256, 256, DescriptorSettings.paper()).shape
    (4096, 3)
    """
    w, y, x = np.meshgrid(
        np.asarray(settings.block_widths, dtype=np.float64),
        grid_axis(height, settings),
        grid_axis(width, settings),
        indexing="ij",
    )
    return np.stack([y, x, w], axis=-1).reshape(-1, 3).astype(np.float32)


def inside_share(
    inside: NDArray[np.bool_], points: NDArray[np.float32], *, of_all: bool = False
) -> NDArray[np.float64]:
    """Compute the share of each point's block that lies inside a mask.

    Parameters
    ----------
    inside : (y, x) bool array
        The mask.
    points : (n, 3) array
        Row, column and block width, px.
    of_all : bool
        Take the share of the whole block. By default it is the share of the block's part in the image.

    Returns
    -------
    (n,) float64 array
        From 0 to 1; 0 for points whose centre is outside the mask.

    Examples
    --------
    >>> mask = np.ones((8, 8), bool); mask[:, :2] = False
    >>> inside_share(mask, np.array([[4, 4, 8], [4, 0, 4]], dtype=np.float32)).tolist()
    [0.75, 0.0]
    >>> inside_share(np.ones((4, 4), bool), np.array([[2, 2, 8]], dtype=np.float32), of_all=True).tolist()
    [0.25]
    """
    height, width = inside.shape
    sums = np.pad(inside.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    half = points[:, 2] // 2
    y, x = points[:, 0], points[:, 1]
    top, bottom = np.clip([y - half, y + half], 0, height).astype(int)
    left, right = np.clip([x - half, x + half], 0, width).astype(int)
    area = (2 * half) ** 2 if of_all else np.maximum((bottom - top) * (right - left), 1)
    covered = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(covered / area * inside[y.astype(int), x.astype(int)])


def sample_offsets() -> NDArray[np.float64]:
    """Return the positions of the 20 samples along a side of a block, in scales from its centre."""
    return np.arange(SAMPLES, dtype=np.float64) - (SAMPLES - 1) / 2


def sample_weights() -> NDArray[np.float64]:
    """Return the Gaussian weight of each of the 20 samples along a side of a block."""
    return np.asarray(np.exp(-(sample_offsets() ** 2) / (2 * SIGMA**2)))


def sample_lattice(
    points: NDArray[np.float64], offsets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """List the distinct sample positions of an axis, and the positions that each point uses.

    Parameters
    ----------
    points : (n,) array
        Positions of points along the axis, px.
    offsets : (m,) array
        Positions of samples from a point, px.

    Returns
    -------
    lattice : (p,) float64 array
        Distinct positions, px. Neighbouring points share samples, so p is far less than n m.
    index : (n, m) int64 array
        Indexes into the lattice.

    Examples
    --------
    >>> lattice, index = sample_lattice(np.array([0.0, 8.0, 16.0]), np.array([-4.0, 4.0]))
    >>> lattice.tolist(), index.tolist()
    ([-4.0, 4.0, 12.0, 20.0], [[0, 1], [1, 2], [2, 3]])
    """
    samples = points[:, None] + offsets
    lattice, index = np.unique(np.round(samples, 6), return_inverse=True)
    return lattice.astype(np.float64), index.reshape(samples.shape).astype(np.int64)


def region_weights() -> NDArray[np.float64]:
    """Return the weight of each of the 20 samples in each region along a side of a SURF block, (4, 20)."""
    own = np.arange(SAMPLES) * REGIONS // SAMPLES == np.arange(REGIONS)[:, None]
    return np.where(own, sample_weights(), 0.0)


def region_matrix(
    index: NDArray[np.int64], lattice_size: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Make the matrix that sums the weighted samples of each point's 4 regions along an axis.

    Parameters
    ----------
    index : (n, m) array
        Lattice positions of each point's samples, from `sample_lattice`.
    lattice_size : int
        Number of lattice positions.
    weights : (4, m) array
        Weight of each sample in each region.

    Returns
    -------
    (4 n, lattice_size) array
    """
    matrix = np.zeros((len(index), REGIONS, lattice_size))
    matrix[np.arange(len(index))[:, None, None], np.arange(REGIONS)[:, None], index[:, None]] = weights
    return matrix.reshape(-1, lattice_size)
