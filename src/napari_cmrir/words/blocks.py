"""What dense descriptors share: the blocks of all grid points, width by width, from a CoMIR to features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.features import Features, as_channels, checked_mask, normalise, stretch, within
from napari_cmrir.words.grid import grid_points
from napari_cmrir.words.haar import Growth, growths
from napari_cmrir.words.settings import DescriptorSettings
from napari_cmrir.words.threads import alone, spread

__all__ = ["describe_blocks"]

NOTHING = 1e-6
"""Length of a raw descriptor, as a share of the image's range, up to which it is empty."""


def describe_blocks(
    comir: Any,
    settings: DescriptorSettings,
    mask: NDArray[np.bool_] | None,
    size: int,
    values_of: Callable[[Growth, int, DescriptorSettings], torch.Tensor],
) -> Features:
    """Describe the blocks of all grid points.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range; computed on the tensor's device.
    settings : DescriptorSettings
        Grid, block widths and normalisation.
    mask : (y, x) bool array or None
        Features whose centre, or more than a quarter of whose block, lies outside are left out.
    size : int
        Values of a descriptor, a channel.
    values_of : callable
        ``values_of(growth, width, settings)``: raw descriptors of all grid points for one block width.

    Raises
    ------
    InputError
        If the CoMIR or the mask has an unusable shape or type.
    """
    channels, finite = alone(as_channels)(comir)
    mask = checked_mask(mask, (channels.shape[1], channels.shape[2]))
    points = grid_points(channels.shape[1], channels.shape[2], settings)
    size = channels.shape[0] * size
    if len(points) == 0:
        return Features(points, np.zeros((0, size), np.float32), np.zeros(0, np.float32))
    growth = alone(lambda: growths(stretch(channels)))()
    each = len(points) // len(settings.block_widths)
    values, strengths = growth[0].new_empty((len(points), size)), growth[0].new_empty(len(points))

    def fill(scale: int) -> None:
        rows = slice(scale * each, (scale + 1) * each)
        raw = values_of(growth, settings.block_widths[scale], settings)
        values[rows].view(raw.shape).copy_(raw)
        strengths[rows] = normalise(values[rows], points[rows], settings, finite, floor=NOTHING)

    for _ in spread(fill, range(len(settings.block_widths))):
        pass
    return within(points, values, strengths, mask)
