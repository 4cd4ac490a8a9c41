"""Dense SURF: all points and block widths of a CoMIR at once.

Bay, Ess, Tuytelaars and Van Gool, "Speeded-Up Robust Features (SURF)", CVIU 110, 346 (2008),
doi:10.1016/j.cviu.2007.09.014, section 4, on the grid of the paper's published code.

A block of width w has the scale s = w / 20. Its 20 x 20 samples, s apart, are the Haar responses dx and dy of
side 2 s, weighted by a Gaussian of sigma 3.3 s and summed over 4 x 4 regions of 5 x 5 samples. Neighbouring
blocks share samples, so the responses are computed once on the lattice of all sample rows and columns, and
the weighted sums are one matrix product along each axis. Points near the border are kept: the border pixels
extend the image, as in OpenCV's SURF, which the published code uses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.features import Features, describe_blocks
from napari_cmrir.bag_of_words.descriptors.grid import (
    REGIONS,
    SAMPLES,
    grid_axis,
    region_matrix,
    region_weights,
    sample_lattice,
    sample_offsets,
)
from napari_cmrir.bag_of_words.descriptors.haar import (
    Band,
    Gradient,
    Wavelet,
    across,
    along,
    bands,
    dominant_values,
    haar_responses,
    haar_wavelet,
    response_maps,
)
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.errors import InputError

__all__ = ["surf", "turn_descriptors"]


def surf(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by dense SURF.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range. A tensor's device computes. A (y, x) array is one channel.
    settings : DescriptorSettings
        Grid, block widths, form, orientation and normalisation.
    mask : (y, x) bool array, optional
        A feature is left out if its centre, or more than a quarter of its block, lies outside.

    Returns
    -------
    Features
        64 values per channel (128 if extended), channel by channel. Each channel holds, region by region in
        rows, the sums of dx, dy, abs(dx), abs(dy). The extended form holds dx where dy < 0, dx where dy >= 0,
        both for abs(dx), dy where dx < 0, dy where dx >= 0, and both for abs(dy).

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
    >>> bool(first[0] == 0 and first[1] > 0 and first[1] == first[3])
    True
    """
    describe = upright_values if settings.orientation == "upright" else dominant_values
    return describe_blocks(comir, settings, mask, 128 if settings.extended else 64, describe)


def upright_values(gradient: Gradient, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Compute the upright descriptors, not normalised, of all grid points for one block width.

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
    (rows, columns, channel, 4, 4, 4 or 8) float32 tensor
        A view.
    """
    height, length, device = *gradient[0].shape[1:], str(gradient[0].device)
    wavelet_y, regions_y = _axis(height, width, settings.first, settings.grid_step, device)
    wavelet_x, regions_x = _axis(length, width, settings.first, settings.grid_step, device)
    maps = response_maps(*haar_responses(gradient, wavelet_y, wavelet_x), settings.extended)
    channels, _, kinds, lattice_x = maps.shape
    sums = along(regions_y, maps.flatten(2))  # (channel, 4 rows, kind x lattice)
    sums = across(regions_x, sums.reshape(-1, lattice_x))  # (channel x 4 rows x kind, 4 columns)
    sums = sums.reshape(channels, -1, REGIONS, kinds, sums.shape[1] // REGIONS, REGIONS)
    return sums.permute(1, 4, 0, 2, 5, 3)


@lru_cache(maxsize=64)
def _axis(length: int, width: int, first: int, step: int, device: str) -> tuple[Wavelet, list[Band]]:
    """Make the matrices of an axis: Haar responses at all samples, and weighted sums over regions."""
    scale = width / SAMPLES
    points = grid_axis(length, DescriptorSettings(first=first, grid_step=step))
    lattice, index = sample_lattice(points, sample_offsets() * scale)
    return haar_wavelet(lattice, scale, length, device), bands(
        region_matrix(index, len(lattice), region_weights()), device
    )


def turn_descriptors(
    descriptors: NDArray[np.float32], quarter_turns: int, extended: bool = False
) -> NDArray[np.float32]:
    """Convert upright descriptors to those of the same points in the image turned by quarter turns.

    The result is an exact permutation with signs, for l2 and for root normalisation.

    Parameters
    ----------
    descriptors : (n, 64 C) or (n, 128 C) array
        Upright SURF descriptors of a CoMIR with C channels.
    quarter_turns : int
        Turns by 90 degrees counter-clockwise as seen on the screen (`numpy.rot90` of rows and columns).
    extended : bool
        Whether the descriptors are extended (128 values per channel).

    Returns
    -------
    array of the descriptors' shape

    Raises
    ------
    InputError
        If the descriptors have another number of values.

    Examples
    --------
    >>> square = np.random.default_rng(0).random((65, 65))
    >>> settings = DescriptorSettings(block_widths=(32,))
    >>> turned = surf(np.rot90(square), settings).descriptors.reshape(8, 8, 64)
    >>> converted = turn_descriptors(surf(square, settings).descriptors, 1).reshape(8, 8, 64)
    >>> bool(np.allclose(turned, np.rot90(converted), atol=1e-5))
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
    """Permute the sums for a quarter turn: the new dx is the old dy, and the new dy is the old -dx."""
    if extended:
        order, sign = [5, 4, 7, 6, 0, 1, 2, 3], [1, 1, 1, 1, -1, -1, 1, 1]
    else:
        order, sign = [1, 0, 3, 2], [1, -1, 1, 1]
    return regions[..., order] * np.asarray(sign, dtype=np.float32)
