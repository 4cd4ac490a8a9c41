"""Queries whose pixels are of another size than those of the images searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_cmrir.errors import InputError
from napari_cmrir.images.series import SAME_SIZE

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository

__all__ = ["pixel_step", "searched_pixel_size"]


def searched_pixel_size(repository: Repository) -> float | None:
    """Find the pixel size that queries are brought to.

    Parameters
    ----------
    repository : Repository

    Returns
    -------
    float or None
        Micrometres: the model's, or where it has none, that of some images searched, if they agree.
    """
    if repository.model.pixel_size is not None:
        return repository.model.pixel_size
    return repository.common_pixel_size


def pixel_step(repository: Repository, pixel_size: float | None) -> tuple[float, list[str]]:
    """Say how many pixels of a query's image make one of the images searched.

    Parameters
    ----------
    repository : Repository
    pixel_size : float or None
        Side of the pixels of the query's image, in micrometres, if it is known.

    Returns
    -------
    step : float
        1 where either size is unknown, or both are the same.
    warnings : list of str
        A sentence where one of them is unknown and the other is not.

    Raises
    ------
    InputError
        If the pixel size is not above 0.
    """
    if pixel_size is not None and not (np.isfinite(pixel_size) and pixel_size > 0):
        raise InputError(f"A pixel size of {pixel_size:g} µm is not possible; give one above 0.")
    searched = searched_pixel_size(repository)
    if searched is None and pixel_size is None:
        return 1.0, []
    if pixel_size is None:
        return 1.0, [
            "The pixel size of the region's image is not known and taken to be that of the images searched,"
            f" {searched:.3g} µm; give it if it is another."
        ]
    if searched is None:
        return 1.0, [
            "The pixel size of the images searched is not known and taken to be that of the region's image,"
            f" {pixel_size:.3g} µm; hits are wrong if it is another."
        ]
    step = searched / pixel_size
    return (1.0 if abs(step - 1) <= SAME_SIZE else step), []
