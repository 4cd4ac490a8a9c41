"""Dense SIFT on the grid of the paper's SURF, by OpenCV.

Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 60, 91 (2004). The paper used Fiji's
SIFT at its own keypoints; OpenCV's descriptor differs from it in interpolation and smoothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.features import Features, as_channels, checked_mask, normalise, stretch, within
from napari_cmrir.words.grid import grid_points
from napari_cmrir.words.haar import growths
from napari_cmrir.words.orientation import dominant_orientations
from napari_cmrir.words.settings import DescriptorSettings

__all__ = ["sift"]

WIDTH_OF_SIZE = 6.0
"""Side of the square that OpenCV's SIFT sees, in keypoint sizes: 4 cells of 1.5 sizes."""


def sift(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by SIFT at every point of the grid.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type; other than uint8 is stretched to 0..255 first, all channels alike.
    settings : DescriptorSettings
        Grid, block widths, orientation and normalisation.
    mask : (y, x) bool array, optional
        Features whose centre, or more than a quarter of whose block, lies outside are left out.

    Returns
    -------
    Features
        128 values a channel, channel by channel.

    Raises
    ------
    InputError
        If the CoMIR or the mask has an unusable shape or type.

    Examples
    --------
    >>> image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    >>> sift(image, DescriptorSettings(name="sift")).descriptors.shape
    (256, 128)
    """
    channels, finite = as_channels(comir)
    mask = checked_mask(mask, (channels.shape[1], channels.shape[2]))
    points = grid_points(channels.shape[1], channels.shape[2], settings)
    if len(points) == 0:
        return Features(points, np.zeros((0, 128 * len(channels)), np.float32), np.zeros(0, np.float32))
    keypoints = _keypoints(points, _angles(channels, settings, len(points)))
    described = [_describe(image, keypoints) for image in _as_bytes(channels)]
    values = torch.from_numpy(np.concatenate(described, axis=1))
    strengths = normalise(values, points, settings, finite, floor=0.0)
    return within(points, values, strengths, mask)


def _angles(channels: torch.Tensor, settings: DescriptorSettings, points: int) -> NDArray[np.float64]:
    """Return each point's direction in degrees, clockwise as seen on the screen from the x axis."""
    if settings.orientation == "upright":
        return np.zeros(points)
    growth = growths(stretch(channels))
    found = [dominant_orientations(growth, width, settings) for width in settings.block_widths]
    radians = torch.stack(found).flatten().cpu().numpy()
    return np.asarray(np.degrees(radians) % 360, dtype=np.float64)


def _keypoints(points: NDArray[np.float32], angles: NDArray[np.float64]) -> list[Any]:
    import cv2

    sizes = points[:, 2] / WIDTH_OF_SIZE
    octaves = np.clip(np.round(np.log2(points[:, 2] / 32)), 0, 8).astype(int)
    return [
        cv2.KeyPoint(float(x), float(y), float(size), float(angle), 0.0, int(octave))
        for (y, x, _), size, angle, octave in zip(points, sizes, angles, octaves, strict=True)
    ]


def _as_bytes(channels: torch.Tensor) -> NDArray[np.uint8]:
    low, high = float(channels.amin()), float(channels.amax())
    if low >= 0 and high <= 255 and bool((channels == channels.round()).all()):
        return channels.to(torch.uint8).cpu().numpy()
    return (stretch(channels) * 255).round().to(torch.uint8).cpu().numpy()


def _describe(image: NDArray[np.uint8], keypoints: list[Any]) -> NDArray[np.float32]:
    import cv2

    described, values = cv2.SIFT.create().compute(np.ascontiguousarray(image), keypoints)
    if len(described) != len(keypoints):
        raise RuntimeError("OpenCV's SIFT left out points of the grid.")
    return np.asarray(values, dtype=np.float32)
