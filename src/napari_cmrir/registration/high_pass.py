"""The high-pass filter of CoMIRs: their detail distinguishes one place from another."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["high_pass"]

_FILTERED = (torch.float32, torch.float64)


def high_pass(images: Tensor, mask: Tensor | None, deviation: float) -> Tensor:
    """Subtract the mean of its neighbourhood from every pixel.

    Slow variation agrees by chance between any two tissues; the remaining detail distinguishes them.

    Parameters
    ----------
    images : (n, channel, y, x) float tensor
    mask : (y, x) float tensor or None
        1 where the images count; the mean is that of these pixels. ``None`` where all do, which is faster.
    deviation : float
        Standard deviation of the Gaussian neighbourhood, in pixels; 0 applies the mask only.

    Returns
    -------
    (n, channel, y, x) tensor
        0 outside the mask.

    Examples
    --------
    >>> high_pass(torch.full((1, 1, 8, 8), 5.0), torch.ones(8, 8), 2.0).abs().max().item() < 1e-5
    True
    """
    if deviation <= 0:
        return images if mask is None else images * mask
    if mask is None:
        if images.device.type == "cpu" and not images.requires_grad and images.dtype in _FILTERED:
            return _filtered(images, deviation)
        mask = torch.ones_like(images[0, 0])
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


def _filtered(images: Tensor, deviation: float) -> Tensor:
    """The detail of whole images on the CPU, by OpenCV's filters."""
    import cv2

    side = 2 * math.ceil(3 * deviation) + 1

    def smooth(plane: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(cv2.GaussianBlur(plane, (side, side), deviation, borderType=cv2.BORDER_CONSTANT))

    planes = images.numpy()
    total = smooth(np.ones_like(planes[0, 0]))
    result = np.empty_like(planes)
    for index in np.ndindex(*planes.shape[:2]):
        result[index] = planes[index] - smooth(planes[index]) / total
    return torch.from_numpy(result)
