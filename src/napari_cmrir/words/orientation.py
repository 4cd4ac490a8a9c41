"""SURF turned to the dominant orientation of each point (Bay et al. 2008, section 4.1).

The orientation is the direction of the longest sum of Haar responses (side 4 s, sampled every s within 6 s,
Gaussian of sigma 2 s) whose angles share a window of 60 degrees; the window moves in steps of 5 degrees. The
block is then sampled in turned axes from responses of the upright image, interpolated between pixels, as the
article has it. The channels of a CoMIR share one orientation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.haar import REGIONS, SAMPLES, haar_responses, response_maps, sample_weights

__all__ = ["dominant_orientations", "dominant_values"]

RADIUS = 6
SIGMA = 2.0
BINS = 72
WINDOW = 12
POINTS_AT_ONCE = 4096


def dominant_values(
    integral: torch.Tensor,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    width: int,
    extended: bool,
) -> torch.Tensor:
    """Return the raw turned descriptors of all grid points for one block width, (rows x columns, d)."""
    scale = width / SAMPLES
    angles = dominant_orientations(integral, rows, columns, scale).flatten()
    margin = int(np.ceil(SAMPLES / 2 * scale * np.sqrt(2))) + 1
    size_y, size_x = integral.shape[1] - 1, integral.shape[2] - 1
    all_rows, all_columns = (np.arange(-margin, n + margin, dtype=np.float64) for n in (size_y, size_x))
    dx, dy = haar_responses(integral, all_rows, all_columns, scale)
    y, x = np.meshgrid(rows + margin, columns + margin, indexing="ij")
    centres = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=-1)).to(dx)
    parts = zip(torch.split(centres, POINTS_AT_ONCE), torch.split(angles, POINTS_AT_ONCE), strict=True)
    return torch.cat([_turned(dx, dy, centre, angle, scale, extended) for centre, angle in parts])


def dominant_orientations(
    integral: torch.Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64], scale: float
) -> torch.Tensor:
    """Return the direction of the dominant gradient at all grid points, (rows, columns) float32 radians.

    0 points to growing columns, pi / 2 to growing rows.

    Examples
    --------
    >>> from napari_cmrir.words.haar import integral_image
    >>> downwards = torch.arange(64.0, dtype=torch.float64).repeat(1, 64, 1).transpose(1, 2)
    >>> angle = dominant_orientations(integral_image(downwards), np.array([32.0]), np.array([32.0]), 1.6)
    >>> round(angle.item() / np.pi, 3)
    0.5
    """
    steps = np.arange(-RADIUS + 1, RADIUS)
    dx, dy = haar_responses(
        integral, _around(rows, steps, scale), _around(columns, steps, scale), 2 * scale
    )  # wavelets of side 4 s
    shape = (dx.shape[0], len(rows), len(steps), len(columns), len(steps))
    near = torch.from_numpy(steps[:, None] ** 2 + steps**2 < RADIUS**2)
    weight = torch.from_numpy(np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * SIGMA**2))).to(dx)
    vectors = [r.reshape(shape).permute(1, 3, 0, 2, 4)[..., near] * weight[near] for r in (dx, dy)]
    vx, vy = (v.flatten(2) for v in vectors)  # (rows, columns, channels x samples)
    bins = (torch.atan2(vy, vx) * (BINS / (2 * np.pi))).floor().long() % BINS
    windows = []
    for v in (vx, vy):
        summed = v.new_zeros((*v.shape[:2], BINS)).scatter_add_(2, bins, v)
        running = torch.cat([summed, summed[..., : WINDOW - 1]], dim=2).unfold(2, WINDOW, 1).sum(3)
        windows.append(running)
    best = (windows[0] ** 2 + windows[1] ** 2).argmax(2, keepdim=True)
    return torch.atan2(windows[1].gather(2, best), windows[0].gather(2, best))[..., 0]


def _around(points: NDArray[np.float64], steps: NDArray[np.int64], scale: float) -> NDArray[np.float64]:
    return (points[:, None] + steps * scale).ravel()


def _turned(
    dx: torch.Tensor,
    dy: torch.Tensor,
    centres: torch.Tensor,
    angles: torch.Tensor,
    scale: float,
    extended: bool,
) -> torch.Tensor:
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    offsets = (torch.arange(SAMPLES, device=dx.device, dtype=dx.dtype) - (SAMPLES - 1) / 2) * scale
    v, u = offsets[:, None], offsets[None, :]
    x = centres[:, 0, None, None] + cos * u - sin * v
    y = centres[:, 1, None, None] + sin * u + cos * v
    grid = torch.stack([x / (dx.shape[2] - 1) * 2 - 1, y / (dx.shape[1] - 1) * 2 - 1], dim=-1)
    sampled = torch.nn.functional.grid_sample(
        torch.stack([dx, dy], dim=1).flatten(0, 1)[None], grid.flatten(1, 2)[None], align_corners=True
    )
    sampled = sampled.reshape(dx.shape[0], 2, len(centres), SAMPLES, SAMPLES)
    along = cos * sampled[:, 0] + sin * sampled[:, 1]
    across = cos * sampled[:, 1] - sin * sampled[:, 0]
    maps = response_maps(along, across, extended)  # (channel, kind, point, 20, 20)
    weights = torch.from_numpy(sample_weights()).to(dx)
    maps = maps * (weights[:, None] * weights)
    each = SAMPLES // REGIONS
    sums = maps.reshape(*maps.shape[:3], REGIONS, each, REGIONS, each).sum(dim=(4, 6))
    return sums.permute(2, 0, 3, 4, 1).reshape(len(centres), -1)
