"""Dense SIFT: all points and block widths of a CoMIR at once, upright.

Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 60, 91 (2004), section 6, on the grid
of the paper's SURF. A block of width w is 4 x 4 cells of w / 4. Gradients of the image, smoothed by a
Gaussian of w / 20 as SURF's scale, are sampled every w / 16 (16 x 16 samples a block, and the outer two on
either side that still reach a border cell), told apart by 8 directions and summed over the cells, between
which and between whose directions they are shared linearly, under a Gaussian window of half the block's
width. Beyond the image's border there is no gradient.

Everything but the direction is a linear step along the rows and one along the columns, and neighbouring
blocks share their samples, as in `surf`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.grid import REGIONS, grid_axis, region_matrix, sample_lattice
from napari_cmrir.words.haar import Band, Growth, Wavelet, across, along, bands, haar_responses
from napari_cmrir.words.settings import DescriptorSettings

__all__ = ["SMOOTHING", "dense_sift_values", "direction_maps", "gaussian_wavelet"]

DIRECTIONS = 8
"""Directions that gradients are told apart by."""
LARGEST = 0.2
"""Largest share that one value may have of a descriptor's length (Lowe 2004, section 6.1)."""
SAMPLES_A_BLOCK = 16
REACH = 20
"""Samples along a side that count in a block, those that reach a border cell from outside included."""
SMOOTHING = 1 / 20
"""Standard deviation of the smoothing, in block widths."""


def dense_sift_values(growth: Growth, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Return the raw upright descriptors of all grid points for one block width.

    Parameters
    ----------
    growth : (channel, y, x) float32 tensors
        From `haar.growths` of the CoMIR.
    width : int
        Block width, px.
    settings : DescriptorSettings
        The grid.

    Returns
    -------
    (rows x columns, channel x 4 x 4 x 8) float32 tensor
        Of any length, but no value above 0.2 of it (all channels together).

    Examples
    --------
    >>> from napari_cmrir.words.haar import growths
    >>> downwards = torch.arange(64.0).repeat(1, 64, 1).transpose(1, 2)
    >>> values = dense_sift_values(growths(downwards), 32, DescriptorSettings(first=32, grid_step=64))
    >>> values.shape, values.view(16, 8).sum(0).argmax().item()
    (torch.Size([1, 128]), 6)
    """
    height, length, device = *growth[0].shape[1:], str(growth[0].device)
    wavelet_y, cells_y = _axis(height, width, settings.first, settings.grid_step, device)
    wavelet_x, cells_x = _axis(length, width, settings.first, settings.grid_step, device)
    maps = direction_maps(*haar_responses(growth, wavelet_y, wavelet_x))
    channels, _, kinds, lattice_x = maps.shape
    sums = along(cells_y, maps.flatten(2))  # (channel, 4 rows, direction x lattice)
    sums = across(cells_x, sums.reshape(-1, lattice_x))  # (channel x 4 rows x direction, 4 columns)
    sums = sums.reshape(channels, -1, REGIONS, kinds, sums.shape[1] // REGIONS, REGIONS)
    values = sums.permute(1, 4, 0, 2, 5, 3).reshape(-1, channels * REGIONS**2 * kinds)
    return torch.minimum(values, LARGEST * torch.linalg.vector_norm(values, dim=1, keepdim=True))


def direction_maps(dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """Share out gradients among the two nearest of 8 directions.

    Parameters
    ----------
    dx, dy : (channel, n, m) float32 tensors
        Gradients.

    Returns
    -------
    (channel, n, 8, m) float32 tensor
        Lengths of gradients; direction k is k / 8 of a turn from growing columns to falling rows: counter-
        clockwise as seen on the screen, as in OpenCV.

    Examples
    --------
    >>> maps = direction_maps(torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[3.0, -2.0]]]))
    >>> maps[0, 0, :, 0].argmax().item(), maps[0, 0, :, 1].tolist()
    (7, [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    turns = torch.atan2(-dy, dx) * (DIRECTIONS / (2 * np.pi))  # from -4 to 4 directions
    directions = torch.arange(DIRECTIONS, device=dx.device, dtype=dx.dtype)[:, None]
    apart = (turns[:, :, None] - directions).abs_()  # from 0 to 11, modulo 8
    apart = torch.minimum(apart, (DIRECTIONS - apart).abs_())
    return (1 - apart).clamp_(min=0).mul_(torch.hypot(dx, dy)[:, :, None])


@lru_cache(maxsize=64)
def _axis(length: int, width: int, first: int, step: int, device: str) -> tuple[Wavelet, list[Band]]:
    """Return the matrices of an axis: gradients at all samples, and weighted sums over cells."""
    points = grid_axis(length, DescriptorSettings(first=first, grid_step=step))
    offsets = (np.arange(REACH) - (REACH - 1) / 2) * width / SAMPLES_A_BLOCK
    lattice, index = sample_lattice(points, offsets)
    wavelet = gaussian_wavelet(lattice, width * SMOOTHING, length, device)
    return wavelet, bands(region_matrix(index, len(lattice), _cell_weights()), device)


def _cell_weights() -> NDArray[np.float64]:
    """Return how much each of the samples along a side counts in each of the 4 cells, (4, 20)."""
    offsets = (np.arange(REACH) - (REACH - 1) / 2) / SAMPLES_A_BLOCK  # in block widths
    cells = (np.arange(REGIONS) - (REGIONS - 1) / 2) / REGIONS
    near = np.maximum(0, 1 - np.abs(offsets - cells[:, None]) * REGIONS)
    return np.asarray(near * np.exp(-(offsets**2) / (2 * 0.5**2)))


def gaussian_wavelet(
    positions: NDArray[np.float64], deviation: float, length: int, device: torch.device | str = "cpu"
) -> Wavelet:
    """Return the smoothing by a Gaussian, and its derivative, at many positions of an axis.

    Parameters
    ----------
    positions : (n,) array
        Where to take them, px; increasing.
    deviation : float
        Standard deviation, px.
    length : int
        Pixels of the axis; to be smoothed, the image goes on as its border pixel, but nothing is taken
        beyond.
    device : torch.device or str
        Where to keep the matrices.

    Examples
    --------
    >>> from napari_cmrir.words.haar import growths
    >>> wavelet = gaussian_wavelet(np.array([15.0]), 2.0, 32)
    >>> dx, dy = haar_responses(growths(3 * torch.arange(32.0).repeat(1, 32, 1)), wavelet, wavelet)
    >>> round(dx.item(), 3), dy.item()
    (3.0, 0.0)
    """
    reach = int(np.ceil(4 * deviation))
    low, high = int(np.floor(positions[0])) - reach, int(np.ceil(positions[-1])) + reach
    pixels = np.arange(min(low, 0), max(high, length) + 1)
    mean = _gaussian(positions[:, None] - pixels, deviation)
    inside = slice(-pixels[0], length - pixels[0])
    folded = mean[:, inside].copy()
    folded[:, 0] += mean[:, : inside.start].sum(axis=1)
    folded[:, -1] += mean[:, inside.stop :].sum(axis=1)
    slope = _gaussian(positions[:, None] - pixels - 0.5, deviation)[:, inside]
    beyond = (positions < -0.5) | (positions > length - 0.5)
    folded[beyond] = slope[beyond] = 0
    return Wavelet(bands(folded, device), bands(slope, device))


def _gaussian(distances: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return Gaussian weights, each row of which sums to 1, and none beyond four deviations."""
    weights = np.exp(-(distances**2) / (2 * deviation**2))
    weights[np.abs(distances) > 4 * deviation] = 0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
