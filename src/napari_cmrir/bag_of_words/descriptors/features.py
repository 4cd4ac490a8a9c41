"""Features, the steps that dense descriptors share, and the registry of descriptors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.grid import grid_points, inside_share
from napari_cmrir.bag_of_words.descriptors.haar import Gradient, gradients
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.errors import InputError
from napari_cmrir.registry import Registry
from napari_cmrir.representations.devices import on_one_thread, parallel_map

__all__ = [
    "DESCRIPTORS",
    "INSIDE",
    "Descriptor",
    "Features",
    "as_channels",
    "checked_mask",
    "describe",
    "describe_blocks",
    "normalise",
    "stretch",
    "within",
]


INSIDE = 0.75
"""Smallest share of a block's part in the image that must lie inside the mask; not measured."""


@dataclass(frozen=True)
class Features:
    """Descriptors of one field.

    Parameters
    ----------
    points : (n, 3) float32 array
        Row, column and block width of each feature, px.
    descriptors : (n, d) float32 array
        Unit vectors. The descriptor of a constant block is all zero and gets no word.
    strengths : (n,) float32 array
        Variance of the unit vector's values, by which the published code ranks features; 0 for all zero.
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    strengths: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)


def as_channels(comir: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Convert a CoMIR to a float tensor.

    Pixels that are not finite take the mean of the finite pixels of their channel.

    Parameters
    ----------
    comir : (channel, y, x) or (y, x) array or tensor
        Any real type.

    Returns
    -------
    channels : (channel, y, x) float tensor
    finite : (y, x) bool tensor or None
        Pixels that are finite in all channels; None if all pixels are.

    Raises
    ------
    InputError
        If the CoMIR is not a (channel, y, x) or (y, x) array of real numbers.

    Examples
    --------
    >>> channels, finite = as_channels(np.array([[1.0, np.nan], [3.0, 2.0]]))
    >>> channels.tolist(), finite.tolist()
    ([[[1.0, 2.0], [3.0, 2.0]]], [[True, False], [True, True]])
    """
    channels = comir if isinstance(comir, torch.Tensor) else torch.from_numpy(_native(comir))
    if channels.ndim == 2:
        channels = channels[None]
    if channels.ndim != 3 or channels.shape[0] == 0 or channels.is_complex():
        raise InputError(
            f"A CoMIR of shape {tuple(channels.shape)} cannot be described; give a (channel, y, x) array."
        )
    channels = channels.detach()
    if channels.dtype in (torch.uint8, torch.bool):
        return channels.float(), None
    channels = channels.double()
    finite = torch.isfinite(channels)
    if bool(finite.all()):
        return channels, None
    known = torch.where(finite, channels, 0.0)
    mean = known.sum(dim=(1, 2)) / finite.sum(dim=(1, 2)).clamp(min=1)
    return torch.where(finite, channels, mean[:, None, None]), finite.all(dim=0)


def _native(comir: Any) -> NDArray[Any]:
    array = np.asarray(comir)
    if array.dtype.kind not in "biuf":
        raise InputError(f"A CoMIR of type {array.dtype} cannot be described; give an array of numbers.")
    return np.ascontiguousarray(array, dtype=np.uint8 if array.dtype in (np.uint8, np.bool_) else np.float64)


def stretch(channels: torch.Tensor) -> torch.Tensor:
    """Scale a CoMIR to 0 to 1 as float32, all channels by one range; a constant CoMIR becomes zero.

    Parameters
    ----------
    channels : (channel, y, x) tensor

    Returns
    -------
    (channel, y, x) float32 tensor

    Examples
    --------
    >>> stretch(torch.tensor([[[5.0, 7.0, 9.0]]])).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    low, high = channels.aminmax()
    return ((channels - low) / torch.where(high > low, high - low, 1.0)).float()


def normalise(
    values: torch.Tensor,
    points: NDArray[np.float32],
    settings: DescriptorSettings,
    finite: torch.Tensor | None,
    *,
    floor: float,
) -> torch.Tensor:
    """Normalise descriptors in place, and return their strengths.

    Parameters
    ----------
    values : (n, d) float32 tensor
        Descriptors of any length; overwritten.
    points : (n, 3) float32 array
        Row, column and block width, px.
    settings : DescriptorSettings
        `normalisation` is used.
    finite : (y, x) bool tensor or None
        Finite pixels of the CoMIR; a descriptor of a block with too few of them becomes zero.
    floor : float
        Largest length that is rounding error only; such descriptors become zero.

    Returns
    -------
    (n,) float32 tensor
        Variances of the unit vectors' values; 0 for descriptors that are zero.

    Examples
    --------
    >>> values = torch.tensor([[3.0, -4.0], [1e-9, 0.0]])
    >>> strengths = normalise(values, np.zeros((2, 3)), DescriptorSettings.paper(), None, floor=1e-6)
    >>> values.numpy().round(3), strengths.numpy().round(3)
    (array([[ 0.6, -0.8],
           [ 0. ,  0. ]], dtype=float32), array([0.98, 0.  ], dtype=float32))
    """
    nonzero = torch.linalg.vector_norm(values, dim=1) > floor
    if finite is not None:
        known = inside_share(finite.cpu().numpy(), points) >= INSIDE
        nonzero &= torch.from_numpy(known).to(values.device)
    values[~nonzero] = 0
    if settings.normalisation == "root":
        total = torch.linalg.vector_norm(values, ord=1, dim=1, keepdim=True)
        torch.mul(values.sign(), values.abs().div_(total.masked_fill_(total == 0, 1.0)).sqrt_(), out=values)
    else:
        length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
        values.div_(length.masked_fill_(length == 0, 1.0))
    d = values.shape[1]
    strengths = (nonzero.float() - d * values.mean(1).square()) / (
        d - 1
    )  # variance: the squares sum to 1 or 0
    return torch.clamp(strengths, min=0)


def within(
    points: NDArray[np.float32],
    values: torch.Tensor,
    strengths: torch.Tensor,
    mask: NDArray[np.bool_] | None,
) -> Features:
    """Select the features whose centre and at least `INSIDE` of whose block lie within a mask.

    Parameters
    ----------
    points : (n, 3) float32 array
        Row, column and block width, px.
    values : (n, d) tensor
        Unit vectors.
    strengths : (n,) tensor
    mask : (y, x) bool array or None
        None selects all.

    Returns
    -------
    Features
    """
    descriptors, variances = values.cpu().numpy(), strengths.cpu().numpy()
    if mask is None:
        return Features(points, descriptors, variances)
    inside = inside_share(mask, points) >= INSIDE
    return Features(points[inside], descriptors[inside], variances[inside])


def checked_mask(mask: Any, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Convert a mask to (y, x) bool, or to None if it excludes nothing.

    Parameters
    ----------
    mask : array_like or None
    shape : (int, int)
        Height and width of the CoMIR.

    Returns
    -------
    (y, x) bool array or None

    Raises
    ------
    InputError
        If the mask does not have the CoMIR's shape.
    """
    if mask is None:
        return None
    mask = np.asarray(mask).astype(bool)
    if mask.shape != shape:
        raise InputError(f"The mask is {mask.shape}, the CoMIR {shape}; give a mask of the same size.")
    return None if mask.all() else mask


NOTHING = 1e-6
"""Largest length of an empty descriptor before normalisation, as a share of the image's range.

It lies above float32 rounding and below one 8-bit step; not measured.
"""


def describe_blocks(
    comir: Any,
    settings: DescriptorSettings,
    mask: NDArray[np.bool_] | None,
    size: int,
    values_of: Callable[[Gradient, int, DescriptorSettings], torch.Tensor],
) -> Features:
    """Describe the blocks of all grid points.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range. A tensor's device computes.
    settings : DescriptorSettings
        Grid, block widths and normalisation.
    mask : (y, x) bool array or None
        A feature is left out if its centre, or more than a quarter of its block, lies outside.
    size : int
        Values of a descriptor per channel.
    values_of : callable
        ``values_of(gradient, width, settings)`` computes the descriptors, not normalised, of all grid points
        for one block width.

    Returns
    -------
    Features

    Raises
    ------
    InputError
        If the CoMIR or the mask has an unusable shape or type.
    """
    channels, finite = on_one_thread(as_channels)(comir)
    mask = checked_mask(mask, (channels.shape[1], channels.shape[2]))
    points = grid_points(channels.shape[1], channels.shape[2], settings)
    size = channels.shape[0] * size
    if len(points) == 0:
        return Features(points, np.zeros((0, size), np.float32), np.zeros(0, np.float32))
    gradient = on_one_thread(lambda: gradients(stretch(channels)))()
    each = len(points) // len(settings.block_widths)
    values, strengths = gradient[0].new_empty((len(points), size)), gradient[0].new_empty(len(points))

    def fill(scale: int) -> None:
        rows = slice(scale * each, (scale + 1) * each)
        raw = values_of(gradient, settings.block_widths[scale], settings)
        values[rows].view(raw.shape).copy_(raw)
        strengths[rows] = normalise(values[rows], points[rows], settings, finite, floor=NOTHING)

    for _ in parallel_map(fill, range(len(settings.block_widths))):
        pass
    return within(points, values, strengths, mask)


Descriptor = Callable[[Any, DescriptorSettings, NDArray[np.bool_] | None], Features]
"""``describe(comir, settings, mask) -> Features``."""

DESCRIPTORS: Registry[Descriptor] = Registry(
    "descriptor",
    "napari_cmrir.descriptors",
    {
        "surf": "napari_cmrir.bag_of_words.descriptors.surf:surf",
        "sift": "napari_cmrir.bag_of_words.descriptors.sift:sift",
        "sift-keypoints": "napari_cmrir.bag_of_words.descriptors.sift:sift_at_keypoints",
        "resnet152": "napari_cmrir.bag_of_words.descriptors.resnet:resnet152",
    },
)
"""Descriptors by name. Other packages add descriptors as entry points of ``napari_cmrir.descriptors``."""


def describe(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by the descriptor that the settings name.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        A (y, x) array is one channel.
    settings : DescriptorSettings
        The descriptor's name and its settings.
    mask : (y, x) bool array, optional
        Features outside are left out.

    Returns
    -------
    Features

    Raises
    ------
    InputError
        If there is no descriptor of that name, or the CoMIR or the mask cannot be used.

    Examples
    --------
    >>> len(describe(np.zeros((1, 256, 256), np.uint8), DescriptorSettings.paper()))
    4096
    """
    return DESCRIPTORS[settings.name](comir, settings, mask)
