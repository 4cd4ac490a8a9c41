"""Tissue and empty glass in a slide's overview."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_tissue"]

FLAT = 0.03
"""Share of the image's range; a cell is flat if its 3 x 3 neighbourhood spans less. Not measured.

A larger value takes smooth tissue for glass; a smaller value takes noisy glass for tissue.
"""

NEAR = 0.04
"""Share of the image's range around the commonest flat value within which a cell is glass. Not measured."""

LEAST_FLAT = 0.05
"""An image with a smaller share of flat cells has no glass. Not measured."""

ONE_SIDED = 0.9
"""Share of all other cells that glass must be lighter than, or darker than. Not measured.

A value with cells on both sides belongs to tissue.
"""


def find_tissue(overview: NDArray[Any]) -> NDArray[np.bool_]:
    """Separate tissue from empty glass; doubtful cells are tissue.

    Glass is flat and has one value. Nearly everything else is darker than glass (bright field) or lighter
    (dark field, second harmonic generation). An image without such a value is tissue everywhere.

    Parameters
    ----------
    overview : ndarray, (y, x, channel)
        Downsampled image; each pixel is the mean of a cell.

    Returns
    -------
    ndarray, (y, x) bool
        True for tissue and for its neighbour cells; False everywhere in a constant image.

    Examples
    --------
    >>> slide = np.full((20, 30, 1), 240.0)
    >>> slide[5:10, 5:15] = np.random.default_rng(0).uniform(20, 180, (5, 10, 1))
    >>> np.argwhere(find_tissue(slide)).min(0), np.argwhere(find_tissue(slide)).max(0)
    (array([3, 3]), array([11, 16]))
    """
    from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

    cells = np.nan_to_num(overview.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(cells, (0.5, 99.5), axis=(0, 1)).astype(np.float32)
    span = float((high - low).max() or np.ptp(cells, axis=(0, 1)).max())
    everywhere = np.ones(cells.shape[:2], bool)
    if span == 0:
        return ~everywhere
    scaled = (cells - low) / span
    around = (3, 3, 1)
    flat = (maximum_filter(scaled, around) - minimum_filter(scaled, around)).max(2) < FLAT
    if flat.mean() < LEAST_FLAT:
        return everywhere
    near = np.abs(scaled - _commonest(scaled[flat])).max(2) <= NEAR
    glass = flat & near
    others = scaled.mean(2)[~near]
    lighter = float((others > scaled.mean(2)[glass].mean()).mean()) if glass.any() and others.size else 0.5
    if others.size and not (lighter >= ONE_SIDED or lighter <= 1 - ONE_SIDED):
        return everywhere
    tissue: NDArray[np.bool_] = binary_dilation(~glass, np.ones((3, 3)))
    return tissue


def _commonest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the commonest value of each channel of (n, channel): the median of the fullest histogram bin."""
    found = []
    for channel in values.T:
        counts, edges = np.histogram(channel, bins=50)
        top = int(np.argmax(counts))
        found.append(np.median(channel[(channel >= edges[top]) & (channel <= edges[top + 1])]))
    return np.array(found, np.float32)
