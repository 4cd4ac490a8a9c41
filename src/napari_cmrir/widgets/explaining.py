"""Why a hit is one: both representations in the region's frame, and where they agree, as layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.widgets.hit_files import cut_upright

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_cmrir.images.geometry import Region
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.widgets.placement import Placement
    from napari_cmrir.widgets.query import Found

__all__ = ["Explanation", "agreement", "explain"]

_WINDOW = 8.0  # px, standard deviation of the neighbourhood that is compared


@dataclass(frozen=True, eq=False)
class Explanation:
    """What of a region and of a hit was compared.

    Parameters
    ----------
    rank : int
        Of the hit.
    query, hit : ndarray, (y, x, channel), uint8
        The CoMIRs of the region and of the hit under it.
    agreement : ndarray, (y, x), float32
        Their correlation around each pixel, in [-1, 1]; 0 where the region does not count.
    """

    rank: int
    query: NDArray[np.uint8]
    hit: NDArray[np.uint8]
    agreement: NDArray[np.float32]

    @property
    def sentence(self) -> str:
        """How much of the region agrees."""
        share = float((self.agreement > 0.5).mean())
        return f"Hit {self.rank}: {share:.0%} of the region agrees (correlation above 0.5)."

    def layers(self, placement: Placement, region: Region) -> list[Callable[[], Image]]:
        """Give what makes the layers, the agreement on top.

        Parameters
        ----------
        placement : Placement
            How the query's image lies in the world.
        region : Region
            What was searched for, in its pixels.
        """
        frame = placement.region_frame(region)
        maps: tuple[tuple[str, NDArray[Any], dict[str, Any]], ...] = (
            ("CoMIR of the region", self.query, {}),
            (f"CoMIR of hit {self.rank}", self.hit, {}),
            (
                f"Agreement with hit {self.rank}",
                self.agreement,
                {"colormap": "PiYG", "contrast_limits": (-1, 1), "opacity": 0.8},
            ),
        )
        return [partial(_layer, name, placement, pixels, {**frame, **more}) for name, pixels, more in maps]


def explain(found: Found, hit: Hit) -> Explanation:
    """Compare a region with a hit, pixel by pixel.

    Parameters
    ----------
    found : Found
        The query and its hits.
    hit : Hit
        One of them.

    Returns
    -------
    Explanation
        In the frame of the region.

    Raises
    ------
    InputError
        The repository has changed since the search, or cannot be opened.
    """
    from napari_cmrir.repository.store import open_repository

    with open_repository(found.query.repository) as repository:
        known = hit.field < len(repository) and hit.image in (
            repository.image_name(hit.field),
            str(repository.image_path(hit.field)),
        )
        if not known:
            raise InputError(
                f"{Path(hit.image).name} is no longer in the repository as it was; search again."
            )
        comir = np.moveaxis(repository.comir(hit.field), 0, -1)
        y, x = repository.fields[["y", "x"]][hit.field].item()
    under = cut_upright(comir, hit.box - np.array([y, x]))
    query = np.moveaxis(found.result.comir, 0, -1)
    height, width = min(under.shape[0], query.shape[0]), min(under.shape[1], query.shape[1])
    under, query = under[:height, :width], query[:height, :width]
    return Explanation(hit.rank, query, under, agreement(query, under, found.result.mask[:height, :width]))


def agreement(
    first: NDArray[Any], second: NDArray[Any], mask: NDArray[np.bool_], window: float = _WINDOW
) -> NDArray[np.float32]:
    """Correlate two images around each pixel, in a Gaussian neighbourhood.

    Parameters
    ----------
    first, second : ndarray, (y, x, channel)
        The images.
    mask : ndarray of bool, (y, x)
        Where the result counts; 0 elsewhere.
    window : float
        Standard deviation of the neighbourhood, in px.

    Returns
    -------
    ndarray, (y, x), float32
        In [-1, 1], all channels together; 0 where either is flat.
    """
    from scipy.ndimage import gaussian_filter

    def smooth(image: NDArray[Any]) -> NDArray[Any]:
        blurred: NDArray[Any] = gaussian_filter(image, (window, window, 0))
        return blurred

    one, other = first.astype(np.float64), second.astype(np.float64)
    mean, other_mean = smooth(one), smooth(other)
    covariance = (smooth(one * other) - mean * other_mean).sum(-1)
    variances = [
        (smooth(image * image) - middle * middle).sum(-1).clip(0)
        for image, middle in ((one, mean), (other, other_mean))
    ]
    scale = np.sqrt(variances[0] * variances[1])
    result = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-6)
    return np.where(mask, result.clip(-1, 1), 0).astype(np.float32)


def _layer(name: str, placement: Placement, pixels: NDArray[Any], keywords: dict[str, Any]) -> Image:
    from napari.layers import Image

    flat = pixels if pixels.ndim == 2 else pixels[..., 0]
    return Image(
        placement.expanded(flat), name=name, metadata={"napari-cmrir": {"is_result": True}}, **keywords
    )
