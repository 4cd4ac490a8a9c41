"""SURF turned to the dominant orientation of each point (Bay et al. 2008, section 4.1).

The orientation is the direction of the longest sum of Haar responses (side 4 s, sampled every s within 6 s,
Gaussian of sigma 2 s) whose angles share a window of 60 degrees; the window moves in steps of 5 degrees. The
block is then sampled in turned axes from responses of the upright image, interpolated between pixels, as the
article has it. The channels of a CoMIR share one orientation.
"""

from __future__ import annotations

import numpy as np
import torch

from napari_cmrir.words.grid import (
    SAMPLES,
    grid_axis,
    region_weights,
    sample_lattice,
    sample_offsets,
)
from napari_cmrir.words.haar import Growth, haar_responses, haar_wavelet, response_maps
from napari_cmrir.words.settings import DescriptorSettings

__all__ = ["dominant_orientations", "dominant_values"]

RADIUS = 6
SIGMA = 2.0
BINS = 72
WINDOW = 12
POINTS_AT_ONCE = 1024


def dominant_orientations(growth: Growth, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Return the direction of the dominant gradient at all grid points for one block width.

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
    (rows, columns) float32 tensor
        Radians: 0 points to growing columns, pi / 2 to growing rows.

    Examples
    --------
    >>> from napari_cmrir.words.haar import growths
    >>> downwards = torch.arange(64.0).repeat(1, 64, 1).transpose(1, 2)
    >>> angles = dominant_orientations(growths(downwards), 32, DescriptorSettings(first=32, grid_step=64))
    >>> round(angles.item() / np.pi, 3)
    0.5
    """
    scale = width / SAMPLES
    steps = np.arange(-RADIUS + 1, RADIUS, dtype=np.float64)
    wavelets, indices = [], []
    for length in growth[0].shape[1:]:
        lattice, index = sample_lattice(grid_axis(length, settings), steps * scale)
        wavelets.append(haar_wavelet(lattice, 2 * scale, length, growth[0].device))
        indices.append(index)
    dx, dy = haar_responses(growth, *wavelets)
    near_y, near_x = np.nonzero(steps[:, None] ** 2 + steps**2 < RADIUS**2)
    weight = np.exp(-(steps[near_y] ** 2 + steps[near_x] ** 2) / (2 * SIGMA**2))
    rows = torch.from_numpy(indices[0][:, near_y]).to(growth[0].device)[:, None]
    columns = torch.from_numpy(indices[1][:, near_x]).to(growth[0].device)[None]
    weights = torch.from_numpy(weight).to(growth[0])
    vx, vy = ((r[:, rows, columns] * weights).permute(1, 2, 0, 3).flatten(2) for r in (dx, dy))
    return _longest_sum(vx, vy)


def _longest_sum(vx: torch.Tensor, vy: torch.Tensor) -> torch.Tensor:
    """Return the direction of the longest sum of vectors within a sliding window of angles."""
    bins = (torch.atan2(vy, vx) * (BINS / (2 * np.pi))).floor().long() % BINS
    sums = []
    for v in (vx, vy):
        binned = v.new_zeros((*v.shape[:2], BINS)).scatter_add_(2, bins, v)
        sums.append(torch.cat([binned, binned[..., : WINDOW - 1]], dim=2).unfold(2, WINDOW, 1).sum(3))
    best = (sums[0] ** 2 + sums[1] ** 2).argmax(2, keepdim=True)
    return torch.atan2(sums[1].gather(2, best), sums[0].gather(2, best))[..., 0]


def dominant_values(growth: Growth, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Return the raw turned descriptors of all grid points for one block width, (rows x columns, d)."""
    scale = width / SAMPLES
    angles = dominant_orientations(growth, width, settings).flatten()
    margin = int(np.ceil(SAMPLES / 2 * scale * np.sqrt(2))) + 1
    wavelets = [
        haar_wavelet(np.arange(-margin, n + margin, dtype=np.float64), scale, n, growth[0].device)
        for n in growth[0].shape[1:]
    ]
    responses = torch.stack(haar_responses(growth, *wavelets), dim=1)  # (channel, 2, y, x) with margins
    rows, columns = (grid_axis(n, settings) + margin for n in growth[0].shape[1:])
    y, x = np.meshgrid(rows, columns, indexing="ij")
    centres = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=-1)).to(growth[0])
    parts = zip(torch.split(centres, POINTS_AT_ONCE), torch.split(angles, POINTS_AT_ONCE), strict=True)
    return torch.cat([_turned(responses, c, a, scale, settings.extended) for c, a in parts])


def _turned(
    responses: torch.Tensor, centres: torch.Tensor, angles: torch.Tensor, scale: float, extended: bool
) -> torch.Tensor:
    """Return the raw descriptors of points (x, y), each in axes turned by its angle, (n, d)."""
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
