"""Dense SURF: all points and block widths of a CoMIR at once.

Bay, Ess, Tuytelaars and Van Gool, "Speeded-Up Robust Features (SURF)", CVIU 110, 346 (2008),
doi:10.1016/j.cviu.2007.09.014, section 4, on the grid of the paper's published code.

A block of width w is described at the scale s = w / 20: 20 x 20 samples, s apart, of the Haar responses dx
and dy of side 2 s, weighted by a Gaussian of sigma 3.3 s and summed over 4 x 4 regions of 5 x 5 samples.
Neighbouring blocks share samples, so the responses are computed once on the lattice of all sample rows and
columns; the weighted sums are then one pass along each axis. Points near the border are kept: the image goes
on as its border pixel, as in OpenCV's SURF, on which the published code rests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.words.features import Features, as_channels, finish, grid_axis, grid_points, stretch
from napari_cmrir.words.haar import (
    REGIONS,
    SAMPLES,
    haar_responses,
    integral_image,
    response_maps,
    sample_weights,
)
from napari_cmrir.words.orientation import dominant_values
from napari_cmrir.words.settings import DescriptorSettings

__all__ = ["surf", "turn_descriptors"]

ROUNDING = 1e-6
"""Length, as a share of the image's range, below which a descriptor is rounding."""


def surf(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by dense SURF.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range; computed on the tensor's device. A (y, x) array is one channel.
    settings : DescriptorSettings
        Grid, block widths, form, orientation and normalisation.
    mask : (y, x) bool array, optional
        Features whose centre, or more than a quarter of whose block, lies outside are left out.

    Returns
    -------
    Features
        64 values a channel (128 if extended), channel by channel; in each, region by region in rows, the
        sums of dx, dy, abs(dx), abs(dy) (extended: dx where dy < 0, dx where dy >= 0, the same of abs(dx),
        dy where dx < 0, dy where dx >= 0, the same of abs(dy)).

    Raises
    ------
    InputError
        If the CoMIR or the mask has an unusable shape or type.

    Examples
    --------
    >>> ramp = np.arange(64.0).repeat(64).reshape(64, 64)
    >>> features = surf(ramp, DescriptorSettings(block_widths=(32,)))
    >>> features.descriptors.shape
    (64, 64)
    >>> first = features.descriptors[27].reshape(4, 4, 4)[1, 1]
    >>> bool(abs(first[0]) < 1e-6 and first[1] > 0 and first[1] == first[3])
    True
    """
    channels, finite = as_channels(comir)
    height, width = channels.shape[1:]
    points = grid_points(height, width, settings)
    size = channels.shape[0] * (128 if settings.extended else 64)
    if len(points) == 0:
        return Features(points, np.zeros((0, size), np.float32), np.zeros(0, np.float32))
    integral = integral_image(stretch(channels))
    rows, columns = grid_axis(height, settings), grid_axis(width, settings)
    describe = upright_values if settings.orientation == "upright" else dominant_values
    values = [describe(integral, rows, columns, w, settings.extended) for w in settings.block_widths]
    return finish(points, torch.cat(values), ROUNDING, settings, finite, mask)


def upright_values(
    integral: torch.Tensor,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    width: int,
    extended: bool,
) -> torch.Tensor:
    """Return the raw upright descriptors of all grid points for one block width, (rows x columns, d)."""
    scale = width / SAMPLES
    row_lattice, row_index = sample_lattice(rows, scale)
    column_lattice, column_index = sample_lattice(columns, scale)
    dx, dy = haar_responses(integral, row_lattice, column_lattice, scale)
    maps = response_maps(dx, dy, extended)
    sums = regional_sums(maps, row_index, 2)  # (channel, kind, row, region, column lattice)
    sums = regional_sums(sums.flatten(2, 3).transpose(2, 3).contiguous(), column_index, 2)
    return _one_row_a_point(sums, len(rows))


def sample_lattice(
    points: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return all sample positions of an axis once, and which of them each point uses, (points, 20)."""
    samples = points[:, None] + (np.arange(SAMPLES) - (SAMPLES - 1) / 2) * scale
    lattice, index = np.unique(np.round(samples, 6), return_inverse=True)
    return lattice.astype(np.float64), index.reshape(samples.shape).astype(np.int64)


def regional_sums(maps: torch.Tensor, index: NDArray[np.int64], dim: int) -> torch.Tensor:
    """Sum the weighted samples of each point's 4 regions along one axis: lattice -> (n, 4)."""
    weights = torch.from_numpy(sample_weights()).to(maps)
    indices = torch.from_numpy(index).to(maps.device)
    total: torch.Tensor | None = None
    for k in range(SAMPLES // REGIONS):
        which = indices[:, k :: SAMPLES // REGIONS].flatten()
        weight = weights[k :: SAMPLES // REGIONS].repeat(len(index))
        part = maps.index_select(dim, which)
        part = part.mul_(weight.reshape([-1 if axis == dim else 1 for axis in range(part.ndim)]))
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.reshape(*maps.shape[:dim], len(index), REGIONS, *maps.shape[dim + 1 :])


def _one_row_a_point(sums: torch.Tensor, rows: int) -> torch.Tensor:
    channels, kinds, columns, region_columns = sums.shape[:4]
    sums = sums.reshape(channels, kinds, columns, region_columns, rows, REGIONS)
    return sums.permute(4, 2, 0, 5, 3, 1).reshape(rows * columns, -1)


def turn_descriptors(
    descriptors: NDArray[np.float32], quarter_turns: int, extended: bool = False
) -> NDArray[np.float32]:
    """Return the upright descriptors that the same points have in the image turned by quarter turns.

    A permutation with signs, exact: nothing is computed anew. Holds for l2 and root normalisation.

    Parameters
    ----------
    descriptors : (n, 64 C) or (n, 128 C) array
        Upright SURF descriptors of a CoMIR with C channels.
    quarter_turns : int
        Turns by 90 degrees counter-clockwise as seen on the screen (`numpy.rot90` of rows and columns).
    extended : bool
        Whether they are of the extended form (128 values a channel).

    Examples
    --------
    >>> square = np.random.default_rng(0).random((65, 65))
    >>> settings = DescriptorSettings(block_widths=(32,))
    >>> turned = surf(np.rot90(square), settings).descriptors.reshape(8, 8, 64)
    >>> ours = turn_descriptors(surf(square, settings).descriptors, 1).reshape(8, 8, 64)
    >>> bool(np.allclose(turned, np.rot90(ours), atol=1e-5))
    True
    """
    kinds = 8 if extended else 4
    if descriptors.shape[1] % (16 * kinds):
        raise InputError(
            f"Descriptors of {descriptors.shape[1]} values are not SURF's; turn upright SURF descriptors."
        )
    regions = descriptors.reshape(len(descriptors), -1, REGIONS, REGIONS, kinds)
    for _ in range(quarter_turns % 4):
        regions = _turn_once(np.rot90(regions, axes=(2, 3)), extended)
    return np.ascontiguousarray(regions).reshape(descriptors.shape)


def _turn_once(regions: NDArray[np.float32], extended: bool) -> NDArray[np.float32]:
    """Rename the sums for a quarter turn: the new dx is the old dy, the new dy the old -dx."""
    if extended:
        order, sign = [5, 4, 7, 6, 0, 1, 2, 3], [1, 1, 1, 1, -1, -1, 1, 1]
    else:
        order, sign = [1, 0, 3, 2], [1, -1, 1, 1]
    return regions[..., order] * np.asarray(sign, dtype=np.float32)
