"""SIFT: on the grid of the paper's SURF, or at keypoints, as the paper's own comparison has it.

Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 60, 91 (2004). Upright descriptors
on the grid are ours (`dense_sift`); turned ones and those at keypoints are OpenCV's, whose upright
descriptors have a cosine above 0.99 with ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.blocks import describe_blocks
from napari_cmrir.words.dense_sift import SMOOTHING, dense_sift_values
from napari_cmrir.words.features import Features, as_channels, checked_mask, normalise, stretch, within
from napari_cmrir.words.grid import grid_points
from napari_cmrir.words.haar import growths
from napari_cmrir.words.orientation import dominant_orientations
from napari_cmrir.words.settings import DescriptorSettings

__all__ = ["sift", "sift_at_keypoints"]

VALUES = 128
"""Values of a descriptor: 4 x 4 cells of 8 directions."""
WIDTH_OF_SIZE = 6.0
"""Side of the square that OpenCV's SIFT sees, in keypoint sizes: 4 cells of 1.5 sizes."""
SIGMA, LAYERS = 1.6, 4
"""Smoothing of the first octave's first image, px, and steps an octave (the paper's)."""
CONTRAST = 0.019
"""Least contrast of a keypoint, in OpenCV's measure: mpicbg's 0.025."""
LARGEST_OCTAVE, SMALLEST_OCTAVE = 512, 32
"""Longest side of the image in the first and in the last octave searched for keypoints, px (the paper's)."""


def sift(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by SIFT at every point of the grid.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range; if upright, computed on the tensor's device.
    settings : DescriptorSettings
        Grid, block widths, orientation and normalisation.
    mask : (y, x) bool array, optional
        Features whose centre, or more than a quarter of whose block, lies outside are left out.

    Returns
    -------
    Features
        128 values a channel, channel by channel; in each, cell by cell in rows, the sums of 8 directions.

    Raises
    ------
    InputError
        If the CoMIR or the mask has an unusable shape or type.

    Examples
    --------
    >>> image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    >>> sift(image, DescriptorSettings(name="sift", block_widths=(32, 64))).descriptors.shape
    (128, 128)
    """
    if settings.orientation == "upright":
        return describe_blocks(comir, settings, mask, VALUES, dense_sift_values)
    channels, finite = as_channels(comir)
    points = grid_points(channels.shape[1], channels.shape[2], settings)
    keypoints = _keypoints(points, _angles(channels, settings), SMOOTHING) if len(points) else []
    return _described(channels, finite, points, keypoints, settings, mask)


def sift_at_keypoints(
    comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None
) -> Features:
    """Describe a CoMIR by OpenCV's SIFT at the keypoints that it finds.

    As the paper's comparison as far as OpenCV allows: contrast stretched, 4 steps an octave from a smoothing
    of 1.6 px, octaves whose image has from 512 to 32 px (a larger image is reduced to 512 px first), 4 x 4
    cells of 8 directions. The paper's own (Fiji's mpicbg) differs in interpolation and smoothing.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range. Keypoints are those of the channels' mean.
    settings : DescriptorSettings
        Normalisation, and the orientation: dominant as in the paper, or upright. There is no grid.
    mask : (y, x) bool array, optional
        As `sift`.

    Returns
    -------
    Features
        128 values a channel; a point's width is the side of the square that its descriptor sees.

    Raises
    ------
    InputError
        If the CoMIR or the mask has an unusable shape or type.

    Examples
    --------
    >>> y, x = np.mgrid[:96, :128]
    >>> blob = 255 * np.exp(-((y - 40) ** 2 + (x - 70) ** 2) / (2 * 5.0**2))
    >>> features = sift_at_keypoints(blob, DescriptorSettings(name="sift-keypoints"))
    >>> features.points[:, :2].round().tolist()
    [[40.0, 70.0]]
    """
    import cv2

    channels, finite = as_channels(comir)
    longest = max(channels.shape[1:])
    if longest == 0 or min(channels.shape[1:]) == 0:
        return _described(channels, finite, np.zeros((0, 3), np.float32), [], settings, mask)
    image = np.round(stretch(channels.mean(dim=0)).cpu().numpy() * 255).astype(np.uint8)
    scale = max(1.0, longest / LARGEST_OCTAVE)
    if scale > 1:
        size = (max(1, round(image.shape[1] / scale)), max(1, round(image.shape[0] / scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    detector = cv2.SIFT.create(nOctaveLayers=LAYERS, contrastThreshold=CONTRAST, sigma=SIGMA)
    found = detector.detect(image)
    largest = np.log2(max(1.0, min(longest, LARGEST_OCTAVE) / SMALLEST_OCTAVE))
    rows = {
        (k.pt[1], k.pt[0], k.size, k.angle if settings.orientation == "dominant" else 0.0)
        for k in found
        if 0 <= _octave(k) <= largest
    }
    table = np.array(sorted(rows), dtype=np.float64).reshape(-1, 4)
    centres = np.clip((table[:, :2] + 0.5) * scale - 0.5, 0, np.array(channels.shape[1:]) - 1)
    points = np.column_stack([centres, table[:, 2] * scale * WIDTH_OF_SIZE]).astype(np.float32)
    return _described(channels, finite, points, _keypoints(points, table[:, 3], 1 / 12), settings, mask)


def _octave(keypoint: Any) -> int:
    """Return the octave of one of OpenCV's keypoints, -1 for that of the doubled image."""
    octave = int(keypoint.octave) & 255
    return octave - 256 if octave > 127 else octave


def _angles(channels: torch.Tensor, settings: DescriptorSettings) -> NDArray[np.float64]:
    """Return each grid point's direction in degrees, clockwise as seen on the screen from the x axis."""
    growth = growths(stretch(channels))
    found = [dominant_orientations(growth, width, settings) for width in settings.block_widths]
    radians = torch.stack(found).flatten().cpu().numpy()
    return np.asarray(np.degrees(radians) % 360, dtype=np.float64)


def _keypoints(points: NDArray[np.float32], angles: NDArray[np.float64], smoothing: float) -> list[Any]:
    """Return points as OpenCV's, to be read from an image smoothed by that share of their widths."""
    import cv2

    steps = np.round(LAYERS * np.log2(np.maximum(points[:, 2] * smoothing / SIGMA, 1))).astype(int)
    packed = np.minimum(steps // LAYERS, 8) | (steps % LAYERS) << 8
    return [
        cv2.KeyPoint(float(x), float(y), float(width / WIDTH_OF_SIZE), float(angle), 0.0, int(octave))
        for (y, x, width), angle, octave in zip(points, angles, packed, strict=True)
    ]


def _described(
    channels: torch.Tensor,
    finite: torch.Tensor | None,
    points: NDArray[np.float32],
    keypoints: list[Any],
    settings: DescriptorSettings,
    mask: NDArray[np.bool_] | None,
) -> Features:
    """Describe each channel by OpenCV at the given keypoints."""
    mask = checked_mask(mask, (channels.shape[1], channels.shape[2]))
    if len(points) == 0:
        return Features(points, np.zeros((0, VALUES * len(channels)), np.float32), np.zeros(0, np.float32))
    described = [_describe(image, keypoints) for image in _as_bytes(channels)]
    values = torch.from_numpy(np.concatenate(described, axis=1))
    strengths = normalise(values, points, settings, finite, floor=0.0)
    return within(points, values, strengths, mask)


def _as_bytes(channels: torch.Tensor) -> NDArray[np.uint8]:
    low, high = float(channels.amin()), float(channels.amax())
    if low >= 0 and high <= 255 and bool((channels == channels.round()).all()):
        return channels.to(torch.uint8).cpu().numpy()
    return (stretch(channels) * 255).round().to(torch.uint8).cpu().numpy()


def _describe(image: NDArray[np.uint8], keypoints: list[Any]) -> NDArray[np.float32]:
    import cv2

    described, values = cv2.SIFT.create(nOctaveLayers=LAYERS, sigma=SIGMA).compute(
        np.ascontiguousarray(image), keypoints
    )
    if len(described) != len(keypoints):
        raise RuntimeError("OpenCV's SIFT left out points.")
    return np.asarray(values, dtype=np.float32)
