"""Haar responses of a CoMIR at any position, from an integral image that is read between pixels.

Pixels are squares around integer centres. Beyond the border the image goes on as its border pixel; with an
integral image this is linear extrapolation.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["REGIONS", "SAMPLES", "haar_responses", "integral_image", "response_maps", "sample_weights"]

SAMPLES = 20
"""Haar samples along each side of a block."""
REGIONS = 4
"""Regions along each side of a block."""
SIGMA = 3.3
"""Standard deviation of the Gaussian weight, in scales."""
FLAT = 1e-7
"""Response, as a share of the image's range, up to which there is no slope."""


def integral_image(channels: torch.Tensor) -> torch.Tensor:
    """Return the sums over all pixels above and left, (channel, y + 1, x + 1) float64."""
    return torch.nn.functional.pad(channels.cumsum(1).cumsum(2), (1, 0, 1, 0))


def read_between(integral: torch.Tensor, positions: NDArray[np.float64], dim: int) -> torch.Tensor:
    """Read an integral image along one axis at any position, beyond its ends by extrapolation.

    Parameters
    ----------
    integral : (channel, y + 1, x + 1) tensor
        From `integral_image`.
    positions : (n,) array
        In pixels; the border between pixels 0 and 1 lies at 0.5.
    dim : int
        Axis of `integral` to read along.
    """
    edges = positions + 0.5
    below = np.clip(np.floor(edges), 0, integral.shape[dim] - 2)
    index = torch.from_numpy(below.astype(np.int64)).to(integral.device)
    share = torch.from_numpy(edges - below).to(integral.device)
    share = share.reshape([-1 if axis == dim else 1 for axis in range(3)])
    return torch.lerp(integral.index_select(dim, index), integral.index_select(dim, index + 1), share)


def haar_responses(
    integral: torch.Tensor, rows: NDArray[np.float64], columns: NDArray[np.float64], reach: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Haar responses along x and y at every crossing of rows and columns.

    Parameters
    ----------
    integral : (channel, y + 1, x + 1) tensor
        From `integral_image`.
    rows, columns : (n,), (m,) arrays
        Positions, px.
    reach : float
        Half the wavelet's side, px.

    Returns
    -------
    (channel, n, m) float32 tensors
        Mean of the right half less mean of the left half, and mean of the lower less that of the upper.

    Examples
    --------
    >>> ramp = torch.arange(8.0, dtype=torch.float64).repeat(1, 8, 1)
    >>> dx, dy = haar_responses(integral_image(ramp), np.array([4.0]), np.array([4.0]), 2.0)
    >>> dx.item(), dy.item()
    (2.0, 0.0)
    """
    above, middle, below = (read_between(integral, rows + o, 1) for o in (-reach, 0, reach))
    box, step = below - above, below - 2 * middle + above  # (channel, n, x + 1)
    left, middle, right = (read_between(box, columns + o, 2) for o in (-reach, 0, reach))
    dx = right - 2 * middle + left
    dy = read_between(step, columns + reach, 2) - read_between(step, columns - reach, 2)
    area = 2 * reach**2
    return (dx / area).float(), (dy / area).float()


def sample_weights() -> NDArray[np.float64]:
    """Return the Gaussian weight of each of the 20 samples along an axis."""
    offsets = np.arange(SAMPLES) - (SAMPLES - 1) / 2
    return np.asarray(np.exp(-(offsets**2) / (2 * SIGMA**2)))


def response_maps(dx: torch.Tensor, dy: torch.Tensor, extended: bool) -> torch.Tensor:
    """Stack what is summed over a region behind the channel axis: 4 maps, or 8 if extended.

    The extended form parts dx by the sign of dy and dy by the sign of dx; where that sign is neither (flat
    ground), half counts on either side, so that it is not left to rounding.
    """
    if not extended:
        return torch.stack([dx, dy, dx.abs(), dy.abs()], dim=1)
    parts = []
    for response, other in ((dx, dy), (dy, dx)):
        positive = (torch.sign(other) * (other.abs() > FLAT) + 1) / 2
        parts += [response * (1 - positive), response * positive]
        parts += [response.abs() * (1 - positive), response.abs() * positive]
    return torch.stack(parts, dim=1)
