"""What of a CoMIR tells one place from another: its detail."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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
    reach = math.ceil(3 * deviation)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offsets / deviation).square())

    def smooth(x: Tensor) -> Tensor:  # (n, 1, y, x)
        x = F.conv2d(x, kernel[None, None, :, None], padding=(reach, 0))
        return F.conv2d(x, kernel[None, None, None], padding=(0, reach))

    total = smooth(mask[None, None]).clamp_min(1e-6)
    flat = (images * mask).flatten(0, 1)[:, None]  # (n * channel, 1, y, x)
    return (images - (smooth(flat) / total).view_as(images)) * mask
