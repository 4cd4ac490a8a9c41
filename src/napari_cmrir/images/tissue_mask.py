"""Where a slide is empty glass, seen from afar."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_tissue"]

FLAT = 0.03
"""A cell whose neighbourhood spans less of the image's range than this is flat."""

NEAR = 0.04
"""Glass lies within this share of the image's range around the value that most flat cells have."""

LEAST_FLAT = 0.05
"""With fewer flat cells than this share there is no glass."""

ONE_SIDED = 0.9
"""Glass is lighter, or darker, than this share of everything else: else the value is a tissue's."""


def find_tissue(overview: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell tissue from empty glass, in doubt tissue.

    Glass is flat and of one value, which nearly everything else is darker than (bright field) or lighter than
    (dark field, second harmonic generation). An image without such a value is tissue everywhere.

    Parameters
    ----------
    overview : ndarray, (y, x, channel)
        The image from afar, each pixel the mean of a cell.

    Returns
    -------
    ndarray, (y, x) bool
        True at tissue and at cells beside it; nowhere in an image of one value.

    Examples
    --------
    >>> slide = np.full((20, 30, 1), 240.0)
    >>> slide[5:10, 5:15] = np.random.default_rng(0).uniform(20, 180, (5, 10, 1))
    >>> np.argwhere(find_tissue(slide)).min(0), np.argwhere(find_tissue(slide)).max(0)
    (array([3, 3]), array([11, 16]))
    """
    from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

    seen = np.nan_to_num(overview.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(seen, (0.5, 99.5), axis=(0, 1)).astype(np.float32)
    span = float((high - low).max() or np.ptp(seen, axis=(0, 1)).max())
    everywhere = np.ones(seen.shape[:2], bool)
    if span == 0:
        return ~everywhere
    scaled = (seen - low) / span
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
    """Return the commonest value of (n, channel), in each channel."""
    found = []
    for channel in values.T:
        counts, edges = np.histogram(channel, bins=50)
        top = int(np.argmax(counts))
        found.append(np.median(channel[(channel >= edges[top]) & (channel <= edges[top + 1])]))
    return np.array(found, np.float32)
