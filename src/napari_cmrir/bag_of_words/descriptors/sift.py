"""SIFT: dense on the grid of the paper's SURF, or at keypoints as in the paper's comparison.

Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 60, 91 (2004),
doi:10.1023/B:VISI.0000029664.99615.94.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.features import (
    Features,
    as_channels,
    checked_mask,
    describe_blocks,
    normalise,
    stretch,
    within,
)
from napari_cmrir.bag_of_words.descriptors.grid import (
    REGIONS,
    grid_axis,
    grid_points,
    region_matrix,
    sample_lattice,
)
from napari_cmrir.bag_of_words.descriptors.haar import (
    Band,
    Gradient,
    Wavelet,
    across,
    along,
    bands,
    dominant_orientations,
    gradients,
    haar_responses,
)
from napari_cmrir.bag_of_words.settings import DescriptorSettings

__all__ = [
    "SMOOTHING",
    "dense_sift_values",
    "direction_maps",
    "gaussian_wavelet",
    "sift",
    "sift_at_keypoints",
]


DIRECTIONS = 8
"""Bins of the gradient's direction (Lowe 2004, section 6.1)."""
LARGEST = 0.2
"""Largest value of a descriptor, as a share of its length (Lowe 2004, section 6.1)."""
SAMPLES_A_BLOCK = 16
"""Samples along a side of a block: 4 cells of 4 samples (Lowe 2004, section 6.1)."""
REACH = 20
"""Samples along a side that count in a block: 2 more on each side contribute to the border cells."""
SMOOTHING = 1 / 20
"""Standard deviation of the smoothing, in block widths.

With it, descriptors have a cosine above 0.99 with OpenCV's (docs/words.md).
"""


def dense_sift_values(gradient: Gradient, width: int, settings: DescriptorSettings) -> torch.Tensor:
    """Compute the upright descriptors, not normalised, of all grid points for one block width.

    Parameters
    ----------
    gradient : (channel, y, x) float32 tensors
        From `gradients` of the CoMIR.
    width : int
        Block width, px.
    settings : DescriptorSettings
        The grid.

    Returns
    -------
    (rows x columns, channel x 4 x 4 x 8) float32 tensor
        Descriptors of any length. No value exceeds 0.2 of the length (over all channels).

    Examples
    --------
    >>> from napari_cmrir.bag_of_words.descriptors.haar import gradients
    >>> downwards = torch.arange(64.0).repeat(1, 64, 1).transpose(1, 2)
    >>> values = dense_sift_values(gradients(downwards), 32, DescriptorSettings(first=32, grid_step=64))
    >>> values.shape, values.view(16, 8).sum(0).argmax().item()
    (torch.Size([1, 128]), 6)
    """
    height, length, device = *gradient[0].shape[1:], str(gradient[0].device)
    wavelet_y, cells_y = _axis(height, width, settings.first, settings.grid_step, device)
    wavelet_x, cells_x = _axis(length, width, settings.first, settings.grid_step, device)
    maps = direction_maps(*haar_responses(gradient, wavelet_y, wavelet_x))
    channels, _, kinds, lattice_x = maps.shape
    sums = along(cells_y, maps.flatten(2))  # (channel, 4 rows, direction x lattice)
    sums = across(cells_x, sums.reshape(-1, lattice_x))  # (channel x 4 rows x direction, 4 columns)
    sums = sums.reshape(channels, -1, REGIONS, kinds, sums.shape[1] // REGIONS, REGIONS)
    values = sums.permute(1, 4, 0, 2, 5, 3).reshape(-1, channels * REGIONS**2 * kinds)
    return torch.minimum(values, LARGEST * torch.linalg.vector_norm(values, dim=1, keepdim=True))


def direction_maps(dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """Divide the length of each gradient among the two nearest of 8 directions.

    Parameters
    ----------
    dx, dy : (channel, n, m) float32 tensors
        Gradients.

    Returns
    -------
    (channel, n, 8, m) float32 tensor
        Direction k is k / 8 of a turn from increasing columns to decreasing rows: counter-clockwise as seen
        on the screen, as in OpenCV.

    Examples
    --------
    >>> maps = direction_maps(torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[3.0, -2.0]]]))
    >>> maps[0, 0, :, 0].argmax().item(), maps[0, 0, :, 1].tolist()
    (7, [0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    turns = torch.atan2(-dy, dx) * (DIRECTIONS / (2 * np.pi))  # from -4 to 4 directions
    directions = torch.arange(DIRECTIONS, device=dx.device, dtype=dx.dtype)[:, None]
    distance = (turns[:, :, None] - directions).abs_()  # from 0 to 11, modulo 8
    distance = torch.minimum(distance, (DIRECTIONS - distance).abs_())
    return (1 - distance).clamp_(min=0).mul_(torch.hypot(dx, dy)[:, :, None])


@lru_cache(maxsize=64)
def _axis(length: int, width: int, first: int, step: int, device: str) -> tuple[Wavelet, list[Band]]:
    """Make the matrices of an axis: gradients at all samples, and weighted sums over cells."""
    points = grid_axis(length, DescriptorSettings(first=first, grid_step=step))
    offsets = (np.arange(REACH) - (REACH - 1) / 2) * width / SAMPLES_A_BLOCK
    lattice, index = sample_lattice(points, offsets)
    wavelet = gaussian_wavelet(lattice, width * SMOOTHING, length, device)
    return wavelet, bands(region_matrix(index, len(lattice), _cell_weights()), device)


def _cell_weights() -> NDArray[np.float64]:
    """Return the weight of each sample along a side in each of the 4 cells, (4, 20)."""
    offsets = (np.arange(REACH) - (REACH - 1) / 2) / SAMPLES_A_BLOCK  # in block widths
    cells = (np.arange(REGIONS) - (REGIONS - 1) / 2) / REGIONS
    near = np.maximum(0, 1 - np.abs(offsets - cells[:, None]) * REGIONS)
    return np.asarray(near * np.exp(-(offsets**2) / (2 * 0.5**2)))


def gaussian_wavelet(
    positions: NDArray[np.float64], deviation: float, length: int, device: torch.device | str = "cpu"
) -> Wavelet:
    """Return the smoothing by a Gaussian and its derivative at many positions of an axis.

    Parameters
    ----------
    positions : (n,) array
        Positions, px; increasing.
    deviation : float
        Standard deviation, px.
    length : int
        Pixels of the axis. Border pixels extend the image for smoothing; positions outside the image give 0.
    device : torch.device or str
        Device of the matrices.

    Returns
    -------
    Wavelet
        ``mean`` smooths, ``tent`` gives the derivative from differences of neighbouring pixels.

    Examples
    --------
    >>> from napari_cmrir.bag_of_words.descriptors.haar import gradients
    >>> wavelet = gaussian_wavelet(np.array([15.0]), 2.0, 32)
    >>> dx, dy = haar_responses(gradients(3 * torch.arange(32.0).repeat(1, 32, 1)), wavelet, wavelet)
    >>> round(dx.item(), 3), dy.item()
    (3.0, 0.0)
    """
    reach = int(np.ceil(4 * deviation))
    low, high = int(np.floor(positions[0])) - reach, int(np.ceil(positions[-1])) + reach
    pixels = np.arange(min(low, 0), max(high, length) + 1)
    mean = _gaussian(positions[:, None] - pixels, deviation)
    inside = slice(-pixels[0], length - pixels[0])
    folded = mean[:, inside].copy()
    folded[:, 0] += mean[:, : inside.start].sum(axis=1)
    folded[:, -1] += mean[:, inside.stop :].sum(axis=1)
    slope = _gaussian(positions[:, None] - pixels - 0.5, deviation)[:, inside]
    beyond = (positions < -0.5) | (positions > length - 0.5)
    folded[beyond] = slope[beyond] = 0
    return Wavelet(bands(folded, device), bands(slope, device))


def _gaussian(distances: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Compute Gaussian weights, 0 beyond four deviations; each row sums to 1."""
    weights = np.exp(-(distances**2) / (2 * deviation**2))
    weights[np.abs(distances) > 4 * deviation] = 0
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


VALUES = 128
"""Values of a descriptor: 4 x 4 cells of 8 directions."""
WIDTH_OF_SIZE = 6.0
"""Side of the square that OpenCV's SIFT covers, in keypoint sizes: 4 cells of 1.5 sizes."""
SIGMA, LAYERS = 1.6, 4
"""Smoothing of the first image of the first octave, px, and steps per octave (the paper's)."""
CONTRAST = 0.019
"""Smallest contrast of a keypoint in OpenCV's measure, equivalent to 0.025 in mpicbg's."""
LARGEST_OCTAVE, SMALLEST_OCTAVE = 512, 32
"""Longest side of the image in the first and in the last octave, px (the paper's)."""


def sift(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by SIFT at every point of the grid.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range. Upright descriptors are computed on the tensor's device.
    settings : DescriptorSettings
        Grid, block widths, orientation and normalisation.
    mask : (y, x) bool array, optional
        A feature is left out if its centre, or more than a quarter of its block, lies outside.

    Returns
    -------
    Features
        128 values per channel, channel by channel. Each channel holds, cell by cell in rows, the sums of 8
        directions.

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
    """Describe a CoMIR by OpenCV's SIFT at OpenCV's keypoints.

    The parameters follow the paper's comparison as far as OpenCV allows: stretched contrast, 4 steps per
    octave from a smoothing of 1.6 px, octaves whose image has 512 to 32 px (a larger image is first reduced
    to 512 px), 4 x 4 cells of 8 directions. The paper's implementation (Fiji's mpicbg) differs in
    interpolation and smoothing.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        Any real type and range. Keypoints are found in the mean of the channels.
    settings : DescriptorSettings
        Normalisation and orientation (dominant as in the paper, or upright). The grid is not used.
    mask : (y, x) bool array, optional
        See `sift`.

    Returns
    -------
    Features
        128 values per channel. A point's width is the side of the square that its descriptor covers.

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
    """Read the octave of an OpenCV keypoint; -1 is the octave of the doubled image."""
    octave = int(keypoint.octave) & 255
    return octave - 256 if octave > 127 else octave


def _angles(channels: torch.Tensor, settings: DescriptorSettings) -> NDArray[np.float64]:
    """Compute each grid point's direction in degrees, clockwise as seen on the screen from the x axis."""
    gradient = gradients(stretch(channels))
    found = [dominant_orientations(gradient, width, settings) for width in settings.block_widths]
    radians = torch.stack(found).flatten().cpu().numpy()
    return np.asarray(np.degrees(radians) % 360, dtype=np.float64)


def _keypoints(points: NDArray[np.float32], angles: NDArray[np.float64], smoothing: float) -> list[Any]:
    """Convert points to OpenCV keypoints in the octave whose smoothing is that share of their widths."""
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
    """Describe each channel by OpenCV at the keypoints."""
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
