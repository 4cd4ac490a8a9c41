"""What of a CoMIR tells one place from another: its detail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["detail"]


def detail(images: Tensor, mask: Tensor, deviation: float) -> Tensor:
    """Take from every pixel the mean of its neighbourhood.

    What varies slowly over an image agrees by chance between any two tissues; what is left tells them apart.

    Parameters
    ----------
    images : (n, channel, y, x) float tensor
    mask : (y, x) float tensor
        1 where the images count; the mean is that of these pixels.
    deviation : float
        Standard deviation of the Gaussian neighbourhood, in pixels, above 0.

    Returns
    -------
    (n, channel, y, x) tensor
        0 outside the mask.

    Examples
    --------
    >>> detail(torch.full((1, 1, 8, 8), 5.0), torch.ones(8, 8), 2.0).abs().max().item() < 1e-5
    True
    """
    down, across = (_smoothing(side, deviation, images) for side in images.shape[-2:])

    def smooth(x: Tensor) -> Tensor:  # (..., y, x)
        return down @ x @ across

    total = smooth(mask).clamp_min(1e-6)
    return (images - smooth(images * mask) / total) * mask


def _smoothing(side: int, deviation: float, like: Tensor) -> Tensor:
    """The convolution with a Gaussian, cut at three deviations, as a symmetric (side, side) matrix.

    Products of matrices are many times faster than convolutions with a kernel this long.
    """
    at = torch.arange(side, device=like.device, dtype=like.dtype)
    apart = (at[:, None] - at).abs()
    return torch.exp(-0.5 * (apart / deviation).square()) * (apart <= math.ceil(3 * deviation))
