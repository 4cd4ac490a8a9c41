"""The outline of a query: outside it nothing counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_outside"]


def fill_outside(comir: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Let a CoMIR go on beyond its outline as the nearest pixel inside it.

    A descriptor at the outline sees a little beyond it; what it sees there is to say nothing, as at the
    border of an image.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
    mask : (y, x) bool array
        True inside the outline, at one pixel or more.

    Returns
    -------
    (channel, y, x) uint8 array
        Equal to ``comir`` inside; what it held outside does not matter.

    Examples
    --------
    >>> row = np.array([[[7, 8, 99, 99]]], np.uint8)
    >>> fill_outside(row, np.array([[True, True, False, False]])).tolist()
    [[[7, 8, 8, 8]]]
    """
    if mask.all():
        return comir
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    filled: NDArray[np.uint8] = comir[:, rows, columns]
    return filled
