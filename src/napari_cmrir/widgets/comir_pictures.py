"""Small pictures of stored CoMIRs, for the table of a repository's images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut

__all__ = ["comir_thumbnails"]


def comir_thumbnails(comirs: Sequence[Path], side: int) -> dict[Path, NDArray[np.uint8] | None]:
    """Make small pictures of stored CoMIRs, from their coarsest levels: no image is read for it.

    Parameters
    ----------
    comirs : sequence of Path
        Pyramids of a repository.
    side : int
        Of the pictures, in px, at most.

    Returns
    -------
    dict of Path to (y, x, 3) uint8 array or None
        The first channel in grey; ``None`` for a pyramid that cannot be read.
    """
    return {comir: _thumbnail(comir, side) for comir in comirs}


def _thumbnail(comir: Path, side: int) -> NDArray[np.uint8] | None:
    from napari_cmrir.repository.pyramids import open_coarsest

    try:
        plane = np.asarray(open_coarsest(comir)[0])
    except (InputError, OSError, ValueError):
        return None
    whole = Region.whole(plane.shape)
    small, _ = cut(plane[..., np.newaxis], whole, pixel_step=max(1.0, max(plane.shape) / side))
    return np.repeat(small, 3, axis=2)
