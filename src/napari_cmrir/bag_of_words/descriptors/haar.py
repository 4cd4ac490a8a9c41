"""Haar responses of a CoMIR, and dominant orientations computed from them.

Responses at all positions of an axis are one product with a band matrix. Matrices act on differences of
neighbouring pixels rather than on pixels, so that flat areas give exactly 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.grid import (
    SAMPLES,
    grid_axis,
    region_weights,
    sample_lattice,
    sample_offsets,
)
from napari_cmrir.bag_of_words.settings import DescriptorSettings

__all__ = [
    "Band",
    "Gradient",
    "Wavelet",
    "across",
    "along",
    "bands",
    "dominant_orientations",
    "dominant_values",
    "gradients",
    "haar_responses",
    "haar_wavelet",
    "response_maps",
]


FLAT = 1e-4
"""Slope, as a share of the image's range, below which a response counts partly as positive and negative.

It lies above float32 rounding and below one 8-bit step (1 / 255). Not measured.
"""
ROWS_A_BAND = 32
"""Rows of a dense piece of a band matrix: fewer cost more products, more cost more zeros. Not measured."""

Band = tuple[slice, slice, torch.Tensor]
"""Rows of a band matrix, the columns with entries in these rows, and that part of the matrix."""
Gradient = tuple[torch.Tensor, torch.Tensor]
"""Difference of each pixel to the next along y, and along x; (channel, y, x) each."""


class Wavelet(NamedTuple):
    """A wavelet at many positions of an axis of n pixels, as two (positions, n) band matrices.

    Parameters
    ----------
    mean : bands
        The mean of the values under the wavelet.
    tent : bands
        Applied to differences of neighbouring pixels, it gives the mean of the wavelet's second half minus
        the mean of its first half.
    """

    mean: list[Band]
    tent: list[Band]


def bands(matrix: NDArray[np.float64], device: torch.device | str = "cpu") -> list[Band]:
    """Cut a band matrix into dense pieces.

    Parameters
    ----------
    matrix : (rows, columns) array
        Only a few neighbouring entries of each row differ from 0.
    device : torch.device or str
        Device of the pieces.

    Returns
    -------
    list of Band

    Examples
    --------
    >>> [(rows, columns)] = [band[:2] for band in bands(np.eye(4)[:2])]
    >>> rows, columns
    (slice(0, 2, None), slice(0, 2, None))
    """
    pieces = []
    for start in range(0, len(matrix), ROWS_A_BAND):
        rows = slice(start, min(start + ROWS_A_BAND, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        piece = np.ascontiguousarray(matrix[rows, columns], dtype=np.float32)
        pieces.append((rows, columns, torch.from_numpy(piece).to(device)))
    return pieces


def along(pieces: Sequence[Band], images: torch.Tensor) -> torch.Tensor:
    """Multiply a band matrix with the rows of images: (..., y, x) -> (..., rows, x).

    Parameters
    ----------
    pieces : sequence of Band
        From `bands` of a (rows, y) matrix.
    images : (..., y, x) tensor

    Returns
    -------
    (..., rows, x) tensor

    Examples
    --------
    >>> along(bands(np.array([[0.5, 0.5]])), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[2.0, 3.0]]
    """
    return torch.cat([torch.matmul(part, images[..., columns, :]) for _, columns, part in pieces], dim=-2)


def across(pieces: Sequence[Band], images: torch.Tensor) -> torch.Tensor:
    """Multiply a band matrix with the columns of images: (..., y, x) -> (..., y, rows).

    Parameters
    ----------
    pieces : sequence of Band
        From `bands` of a (rows, x) matrix.
    images : (..., y, x) tensor

    Returns
    -------
    (..., y, rows) tensor

    Examples
    --------
    >>> across(bands(np.array([[0.5, 0.5]])), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.5], [3.5]]
    """
    return torch.cat([torch.matmul(images[..., columns], part.T) for _, columns, part in pieces], dim=-1)


def haar_wavelet(
    positions: NDArray[np.float64], reach: float, length: int, device: torch.device | str = "cpu"
) -> Wavelet:
    """Return a Haar wavelet at many positions of an axis.

    Parameters
    ----------
    positions : (n,) array
        Centres of the wavelet, px; increasing.
    reach : float
        Half the wavelet's side, px.
    length : int
        Pixels of the axis.
    device : torch.device or str
        Device of the matrices.

    Returns
    -------
    Wavelet
    """
    first = _coverage(positions - reach, positions, length)
    second = _coverage(positions, positions + reach, length)
    tent = np.cumsum(first - second, axis=1) / reach
    tent[np.abs(tent) < 1e-12] = 0  # rounding errors beyond the wavelet
    return Wavelet(bands((first + second) / (2 * reach), device), bands(tent, device))


def _coverage(starts: NDArray[np.float64], stops: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Measure how much of each interval each pixel covers, (n, length) px; border pixels extend forever."""
    lower, upper = np.arange(length) - 0.5, np.arange(length) + 0.5
    lower[0], upper[-1] = -np.inf, np.inf
    cover = np.minimum(stops[:, None], upper) - np.maximum(starts[:, None], lower)
    return np.asarray(np.maximum(cover, 0.0))


def gradients(image: torch.Tensor) -> Gradient:
    """Subtract each pixel from the next along y and along x, 0 at the end; (channel, y, x) each.

    Parameters
    ----------
    image : (channel, y, x) tensor

    Returns
    -------
    Gradient
    """
    return torch.diff(image, dim=1, append=image[:, -1:]), torch.diff(image, dim=2, append=image[:, :, -1:])


def haar_responses(gradient: Gradient, rows: Wavelet, columns: Wavelet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Haar responses along x and y at every crossing of rows and columns.

    Parameters
    ----------
    gradient : (channel, y, x) float32 tensors
        From `gradients` of the CoMIR.
    rows, columns : Wavelet
        From `haar_wavelet`, along y and along x.

    Returns
    -------
    (channel, n, m) float32 tensors
        dx: mean of the right half minus mean of the left half. dy: mean of the lower half minus mean of the
        upper half.

    Examples
    --------
    >>> ramp = torch.arange(8.0).repeat(1, 8, 1)
    >>> wavelet = haar_wavelet(np.array([4.0]), 2.0, 8)
    >>> dx, dy = haar_responses(gradients(ramp), wavelet, wavelet)
    >>> dx.item(), dy.item()
    (2.0, 0.0)
    """
    along_y, along_x = gradient
    dx = across(columns.tent, along(rows.mean, along_x))
    dy = across(columns.mean, along(rows.tent, along_y))
    return dx, dy


def response_maps(dx: torch.Tensor, dy: torch.Tensor, extended: bool) -> torch.Tensor:
    """Stack the maps that are summed over a region, (channel, n, 4 or 8, m).

    The extended form splits dx by the sign of dy, and dy by the sign of dx (Bay et al. 2008, section 4.2).
    The split is gradual within `FLAT`, so that rounding does not decide it; on flat areas half counts on each
    side.

    Parameters
    ----------
    dx, dy : (channel, n, m) tensors
        From `haar_responses`.
    extended : bool

    Returns
    -------
    (channel, n, 4 or 8, m) tensor
    """
    if not extended:
        return torch.stack([dx, dy, dx.abs(), dy.abs()], dim=2)
    parts = []
    for response, other in ((dx, dy), (dy, dx)):
        rising = (other / (2 * FLAT) + 0.5).clamp(0, 1)
        parts += [response * (1 - rising), response * rising]
        parts += [response.abs() * (1 - rising), response.abs() * rising]
    return torch.stack(parts, dim=2)


# Dominant orientation, after Bay et al. 2008, section 4.1: Haar responses within 6 scales of a point,
# weighted by a Gaussian of 2 scales; a sliding window of a sixth of a turn, here 12 of 72 bins.
RADIUS = 6
SIGMA = 2.0
BINS = 72
WINDOW = 12
POINTS_AT_ONCE = 1024  # points sampled at once, which bounds memory; not measured


def dominant_orientations(gradient: Gradient, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Return the direction of the dominant gradient at all grid points for one block width.

    Parameters
    ----------
    gradient : (channel, y, x) float32 tensors
        From `gradients` of the CoMIR.
    width : int
        Block width, px.
    settings : DescriptorSettings
        The grid.

    Returns
    -------
    (rows, columns) float32 tensor
        Radians: 0 points to increasing columns, pi / 2 to increasing rows.

    Examples
    --------
    >>> from napari_cmrir.bag_of_words.descriptors.haar import gradients
    >>> downwards = torch.arange(64.0).repeat(1, 64, 1).transpose(1, 2)
    >>> angles = dominant_orientations(gradients(downwards), 32, DescriptorSettings(first=32, grid_step=64))
    >>> round(angles.item() / np.pi, 3)
    0.5
    """
    scale = width / SAMPLES
    steps = np.arange(-RADIUS + 1, RADIUS, dtype=np.float64)
    wavelets, indices = [], []
    for length in gradient[0].shape[1:]:
        lattice, index = sample_lattice(grid_axis(length, settings), steps * scale)
        wavelets.append(haar_wavelet(lattice, 2 * scale, length, gradient[0].device))
        indices.append(index)
    dx, dy = haar_responses(gradient, *wavelets)
    near_y, near_x = np.nonzero(steps[:, None] ** 2 + steps**2 < RADIUS**2)
    weight = np.exp(-(steps[near_y] ** 2 + steps[near_x] ** 2) / (2 * SIGMA**2))
    rows = torch.from_numpy(indices[0][:, near_y]).to(gradient[0].device)[:, None]
    columns = torch.from_numpy(indices[1][:, near_x]).to(gradient[0].device)[None]
    weights = torch.from_numpy(weight).to(gradient[0])
    vx, vy = ((r[:, rows, columns] * weights).permute(1, 2, 0, 3).flatten(2) for r in (dx, dy))
    return _longest_sum(vx, vy)


def _longest_sum(vx: torch.Tensor, vy: torch.Tensor) -> torch.Tensor:
    """Find the direction of the longest sum of vectors within a sliding window of angles."""
    bins = (torch.atan2(vy, vx) * (BINS / (2 * np.pi))).floor().long() % BINS
    sums = []
    for v in (vx, vy):
        binned = v.new_zeros((*v.shape[:2], BINS)).scatter_add_(2, bins, v)
        sums.append(torch.cat([binned, binned[..., : WINDOW - 1]], dim=2).unfold(2, WINDOW, 1).sum(3))
    best = (sums[0] ** 2 + sums[1] ** 2).argmax(2, keepdim=True)
    return torch.atan2(sums[1].gather(2, best), sums[0].gather(2, best))[..., 0]


def dominant_values(gradient: Gradient, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Compute the turned SURF descriptors, not normalised, of all grid points for one block width: (n, d).

    Parameters
    ----------
    gradient : (channel, y, x) float32 tensors
        From `gradients` of the CoMIR.
    width : int
        Block width, px.
    settings : DescriptorSettings
        The grid and the form.

    Returns
    -------
    (n, d) float32 tensor
    """
    scale = width / SAMPLES
    angles = dominant_orientations(gradient, width, settings).flatten()
    margin = int(np.ceil(SAMPLES / 2 * scale * np.sqrt(2))) + 1
    wavelets = [
        haar_wavelet(np.arange(-margin, n + margin, dtype=np.float64), scale, n, gradient[0].device)
        for n in gradient[0].shape[1:]
    ]
    responses = torch.stack(haar_responses(gradient, *wavelets), dim=1)  # (channel, 2, y, x) with margins
    rows, columns = (grid_axis(n, settings) + margin for n in gradient[0].shape[1:])
    y, x = np.meshgrid(rows, columns, indexing="ij")
    centres = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=-1)).to(gradient[0])
    parts = zip(torch.split(centres, POINTS_AT_ONCE), torch.split(angles, POINTS_AT_ONCE), strict=True)
    return torch.cat([_turned(responses, c, a, scale, settings.extended) for c, a in parts])


def _turned(
    responses: torch.Tensor, centres: torch.Tensor, angles: torch.Tensor, scale: float, extended: bool
) -> torch.Tensor:
    """Compute the descriptors of points (x, y), not normalised, in axes turned by their angles: (n, d)."""
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    offsets = torch.from_numpy(sample_offsets() * scale).to(responses)
    v, u = offsets[:, None], offsets[None, :]
    x = (centres[:, 0, None, None] + cos * u - sin * v) * (2 / (responses.shape[3] - 1)) - 1
    y = (centres[:, 1, None, None] + sin * u + cos * v) * (2 / (responses.shape[2] - 1)) - 1
    grid = torch.stack([x, y], dim=-1).flatten(1, 2)[None]
    sampled = torch.nn.functional.grid_sample(responses.flatten(0, 1)[None], grid, align_corners=True)
    sampled = sampled.reshape(-1, 2, len(centres), SAMPLES, SAMPLES)
    along = cos * sampled[:, 0] + sin * sampled[:, 1]
    across = cos * sampled[:, 1] - sin * sampled[:, 0]
    maps = response_maps(along, across, extended)  # (channel, point, kind, 20, 20)
    return _region_sums(maps).permute(1, 0, 3, 4, 2).reshape(len(centres), -1)


def _region_sums(maps: torch.Tensor) -> torch.Tensor:
    """Sum the weighted samples of 4 x 4 regions: (..., 20, 20) -> (..., 4, 4)."""
    sums = torch.from_numpy(region_weights()).to(maps)
    return torch.matmul(torch.matmul(sums, maps), sums.T)
