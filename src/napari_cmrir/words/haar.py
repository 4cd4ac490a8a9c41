"""Haar responses of a CoMIR at any rows and columns, and their weighted sums, as products with band matrices.

Both a Haar response and a weighted sum of responses are one linear step along the rows and one along the
columns. Written as matrices, whose rows have few neighbouring entries, they are a handful of small dense
products on any device, without an integral image and its cancellation. The difference in a Haar response is
taken between neighbouring pixels, and then weighted by a tent: on flat ground it is exactly zero.

Pixels are squares around integer centres. Beyond the border the image goes on as its border pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "Band",
    "Growth",
    "Wavelet",
    "across",
    "along",
    "bands",
    "growths",
    "haar_responses",
    "haar_wavelet",
    "response_maps",
]

FLAT = 1e-4
"""Slope, as a share of the image's range, within which its sign fades from one side to the other."""
ROWS_A_BAND = 32

Band = tuple[slice, slice, torch.Tensor]
"""Rows of a matrix, the columns that they use, and that part of the matrix."""
Growth = tuple[torch.Tensor, torch.Tensor]
"""Each pixel's difference to the next along y and along x."""


class Wavelet(NamedTuple):
    """A Haar wavelet at many positions of an axis of n pixels, as two (positions, n) band matrices.

    Parameters
    ----------
    mean : bands
        The mean of the pixels under the wavelet.
    tent : bands
        The mean of the wavelet's second half less the mean of its first, from the pixels' differences to
        their next ones.
    """

    mean: list[Band]
    tent: list[Band]


def bands(matrix: NDArray[np.float64], device: torch.device | str = "cpu") -> list[Band]:
    """Cut a band matrix into dense pieces.

    Parameters
    ----------
    matrix : (rows, columns) array
        Few neighbouring entries of each row differ from zero.
    device : torch.device or str
        Where to keep the pieces.

    Examples
    --------
    >>> [(rows, columns)] = [band[:2] for band in bands(np.eye(4)[:2])]
    >>> rows, columns
    (slice(0, 2, None), slice(0, 2, None))
    """
    pieces = []
    for start in range(0, len(matrix), ROWS_A_BAND):
        rows = slice(start, min(start + ROWS_A_BAND, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        piece = np.ascontiguousarray(matrix[rows, columns], dtype=np.float32)
        pieces.append((rows, columns, torch.from_numpy(piece).to(device)))
    return pieces


def along(pieces: Sequence[Band], images: torch.Tensor) -> torch.Tensor:
    """Multiply a band matrix with the rows of images: (..., y, x) -> (..., rows, x).

    Examples
    --------
    >>> along(bands(np.array([[0.5, 0.5]])), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[2.0, 3.0]]
    """
    return torch.cat([torch.matmul(part, images[..., columns, :]) for _, columns, part in pieces], dim=-2)


def across(pieces: Sequence[Band], images: torch.Tensor) -> torch.Tensor:
    """Multiply a band matrix with the columns of images: (..., y, x) -> (..., y, rows).

    Examples
    --------
    >>> across(bands(np.array([[0.5, 0.5]])), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.5], [3.5]]
    """
    return torch.cat([torch.matmul(images[..., columns], part.T) for _, columns, part in pieces], dim=-1)


def haar_wavelet(
    positions: NDArray[np.float64], reach: float, length: int, device: torch.device | str = "cpu"
) -> Wavelet:
    """Return a Haar wavelet at many positions of an axis.

    Parameters
    ----------
    positions : (n,) array
        Where to centre the wavelet, px; increasing.
    reach : float
        Half the wavelet's side, px.
    length : int
        Pixels of the axis.
    device : torch.device or str
        Where to keep the matrices.
    """
    first = _coverage(positions - reach, positions, length)
    second = _coverage(positions, positions + reach, length)
    tent = np.cumsum(first - second, axis=1) / reach
    tent[np.abs(tent) < 1e-12] = 0  # past the wavelet
    return Wavelet(bands((first + second) / (2 * reach), device), bands(tent, device))


def _coverage(starts: NDArray[np.float64], stops: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return how much of each interval each pixel covers, (n, length) px; the border pixels have no end."""
    lower, upper = np.arange(length) - 0.5, np.arange(length) + 0.5
    lower[0], upper[-1] = -np.inf, np.inf
    cover = np.minimum(stops[:, None], upper) - np.maximum(starts[:, None], lower)
    return np.asarray(np.maximum(cover, 0.0))


def growths(image: torch.Tensor) -> Growth:
    """Return each pixel's difference to the next along y and along x, 0 at the end; (channel, y, x) each."""
    return torch.diff(image, dim=1, append=image[:, -1:]), torch.diff(image, dim=2, append=image[:, :, -1:])


def haar_responses(growth: Growth, rows: Wavelet, columns: Wavelet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the Haar responses along x and y at every crossing of rows and columns.

    Parameters
    ----------
    growth : (channel, y, x) float32 tensors
        From `growths` of the CoMIR.
    rows, columns : Wavelet
        From `haar_wavelet`, along y and along x.

    Returns
    -------
    (channel, n, m) float32 tensors
        Mean of the right half less mean of the left half, and mean of the lower less that of the upper.

    Examples
    --------
    >>> ramp = torch.arange(8.0).repeat(1, 8, 1)
    >>> wavelet = haar_wavelet(np.array([4.0]), 2.0, 8)
    >>> dx, dy = haar_responses(growths(ramp), wavelet, wavelet)
    >>> dx.item(), dy.item()
    (2.0, 0.0)
    """
    along_y, along_x = growth
    dx = across(columns.tent, along(rows.mean, along_x))
    dy = across(columns.mean, along(rows.tent, along_y))
    return dx, dy


def response_maps(dx: torch.Tensor, dy: torch.Tensor, extended: bool) -> torch.Tensor:
    """Stack what is summed over a region behind the second axis: 4 maps, or 8 if extended.

    The extended form parts dx by the sign of dy and dy by the sign of dx. Where that sign is neither, on flat
    ground, half counts on either side, and the change from one to the other is gradual: no rounding shows.
    """
    if not extended:
        return torch.stack([dx, dy, dx.abs(), dy.abs()], dim=2)
    parts = []
    for response, other in ((dx, dy), (dy, dx)):
        rising = (other / (2 * FLAT) + 0.5).clamp(0, 1)
        parts += [response * (1 - rising), response * rising]
        parts += [response.abs() * (1 - rising), response.abs() * rising]
    return torch.stack(parts, dim=2)
