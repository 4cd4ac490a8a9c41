"""What a descriptor returns, and the steps every descriptor shares: grid, mask, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.words.settings import DescriptorSettings

__all__ = [
    "INSIDE",
    "Features",
    "as_channels",
    "finish",
    "grid_axis",
    "grid_points",
    "inside_share",
    "stretch",
]

INSIDE = 0.75
"""Share of a feature's block (as far as it lies in the image) that must be inside the mask."""


@dataclass(frozen=True)
class Features:
    """Descriptors of one field.

    Parameters
    ----------
    points : (n, 3) float32 array
        Row, column and block width of each feature, px.
    descriptors : (n, d) float32 array
        Unit vectors; all zero where there is nothing to describe (a constant block), which no word names.
    strengths : (n,) float32 array
        Variance of the unit vector's values, as the published code ranks them; 0 where it is all zero.
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32]
    strengths: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)


def as_channels(comir: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a CoMIR as (channel, y, x) float64 and its finite pixels as a (y, x) bool tensor.

    Pixels that are not finite take the mean of the finite ones of their channel.

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
    channels = channels.detach().to(torch.float64)
    finite = torch.isfinite(channels)
    if not finite.all():
        clean = torch.where(finite, channels, 0.0)
        mean = clean.sum(dim=(1, 2)) / finite.sum(dim=(1, 2)).clamp(min=1)
        channels = torch.where(finite, channels, mean[:, None, None])
    return channels, finite.all(dim=0)


def stretch(channels: torch.Tensor) -> torch.Tensor:
    """Stretch a CoMIR to 0..1, all channels alike; a constant one becomes zero.

    Examples
    --------
    >>> stretch(torch.tensor([[[5.0, 7.0, 9.0]]])).tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    low, high = channels.amin(), channels.amax()
    return (channels - low) / torch.where(high > low, high - low, 1.0)


def _native(comir: Any) -> NDArray[Any]:
    array = np.asarray(comir)
    if array.dtype.kind not in "biuf":
        raise InputError(f"A CoMIR of type {array.dtype} cannot be described; give an array of numbers.")
    return np.ascontiguousarray(array, dtype=array.dtype if array.dtype == np.uint8 else np.float64)


def grid_axis(length: int, settings: DescriptorSettings) -> NDArray[np.float64]:
    """Return the grid's positions along an axis of so many pixels.

    Examples
    --------
    >>> len(grid_axis(834, DescriptorSettings())), len(grid_axis(256, DescriptorSettings()))
    (104, 32)
    """
    return np.arange(settings.first, length, settings.grid_step, dtype=np.float64)


def grid_points(height: int, width: int, settings: DescriptorSettings) -> NDArray[np.float32]:
    """Return all points of the grid, (n, 3): width by width, row by row.

    Examples
    --------
    >>> grid_points(256, 256, DescriptorSettings()).shape
    (4096, 3)
    """
    w, y, x = np.meshgrid(
        np.asarray(settings.block_widths, dtype=np.float64),
        grid_axis(height, settings),
        grid_axis(width, settings),
        indexing="ij",
    )
    return np.stack([y, x, w], axis=-1).reshape(-1, 3).astype(np.float32)


def inside_share(inside: NDArray[np.bool_], points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of each point's block, as far as the image goes, that lies inside a mask.

    Parameters
    ----------
    inside : (y, x) bool array
        The mask.
    points : (n, 3) array
        Row, column and block width, px.

    Returns
    -------
    (n,) float64 array
        From 0 to 1; 0 where the centre is outside.

    Examples
    --------
    >>> mask = np.ones((8, 8), bool); mask[:, :2] = False
    >>> inside_share(mask, np.array([[4, 4, 8], [4, 0, 4]], dtype=np.float32)).tolist()
    [0.75, 0.0]
    """
    height, width = inside.shape
    sums = np.pad(inside.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    half = points[:, 2] // 2
    y, x = points[:, 0], points[:, 1]
    top, bottom = np.clip([y - half, y + half], 0, height).astype(int)
    left, right = np.clip([x - half, x + half], 0, width).astype(int)
    area = np.maximum((bottom - top) * (right - left), 1)
    covered = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(covered / area * inside[y.astype(int), x.astype(int)])


def finish(
    points: NDArray[np.float32],
    values: torch.Tensor,
    floor: float,
    settings: DescriptorSettings,
    finite: torch.Tensor,
    mask: NDArray[np.bool_] | None,
) -> Features:
    """Normalise raw descriptors, measure their strength, and leave out what the mask excludes.

    Parameters
    ----------
    points : (n, 3) float32 array
        Row, column and block width, px.
    values : (n, d) float32 tensor
        Raw descriptors.
    floor : float
        Length up to which a raw descriptor is nothing but rounding.
    settings : DescriptorSettings
        Its `normalisation`.
    finite : (y, x) bool tensor
        Where the CoMIR is finite; features on other ground become zero.
    mask : (y, x) bool array or None
        Features whose centre, or more than a quarter of whose block, lies outside are dropped.

    Raises
    ------
    InputError
        If the mask is not of the CoMIR's size.
    """
    keep = None
    if mask is not None:
        mask = np.asarray(mask).astype(bool)
        if mask.shape != tuple(finite.shape):
            raise InputError(
                f"The mask is {mask.shape}, the CoMIR {tuple(finite.shape)}; give a mask of the same size."
            )
        if not mask.all():
            keep = inside_share(mask, points) >= INSIDE
            points = points[keep]
            values = values[torch.from_numpy(keep).to(values.device)]
    length = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    nothing = ~(length > floor)
    if not bool(finite.all()):
        known = inside_share(finite.cpu().numpy(), points) >= INSIDE
        nothing |= ~torch.from_numpy(known).to(values.device)[:, None]
    if settings.normalisation == "root":
        total = values.abs().sum(dim=1, keepdim=True)
        values = values.sign() * (values.abs() / total.where(~nothing, 1.0)).sqrt()
    else:
        values = values / length.where(~nothing, 1.0)
    values = values.masked_fill(nothing, 0.0)
    strengths = values.var(dim=1)
    return Features(points, values.cpu().numpy(), strengths.cpu().numpy())
