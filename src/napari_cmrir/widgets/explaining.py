"""Why a hit is one: both representations in the region's frame, and where they agree, as layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import run
from napari_cmrir.widgets import tasks
from napari_cmrir.widgets.elsewhere import elsewhere

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_cmrir.search.explain import Explanation
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.widgets.placement import Placement
    from napari_cmrir.widgets.query import Found

__all__ = ["Shown", "explain"]


@dataclass(frozen=True, eq=False)
class Shown:
    """What of a region and of a hit was compared.

    Parameters
    ----------
    rank : int
        Of the hit.
    explanation : Explanation
        Everything in the frame of the region.
    """

    rank: int
    explanation: Explanation

    @property
    def sentence(self) -> str:
        """How much of the region agrees."""
        agreement, mask = self.explanation.agreement, self.explanation.mask
        share = float((agreement[mask] > 0.5).mean()) if mask.any() else 0.0
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
        frame = placement.registered(region, Region.whole(self.explanation.mask.shape).corners())
        maps: tuple[tuple[str, NDArray[Any], dict[str, Any]], ...] = (
            ("CoMIR of the region", self.explanation.query[0], {}),
            (f"CoMIR of hit {self.rank}", self.explanation.field[0], {}),
            (
                f"Agreement with hit {self.rank}",
                self.explanation.agreement,
                {"colormap": "PiYG", "contrast_limits": (-1, 1), "opacity": 0.8},
            ),
        )
        return [partial(_layer, name, placement, pixels, {**frame, **more}) for name, pixels, more in maps]


def explain(found: Found, hit: Hit) -> Shown:
    """Compare a region with a hit, pixel by pixel.

    Parameters
    ----------
    found : Found
        The query and its hits.
    hit : Hit
        One of them.

    Returns
    -------
    Shown
        In the frame of the region.

    Raises
    ------
    InputError
        The repository has changed since the search, or cannot be opened.
    """
    job = elsewhere(tasks.explain, found.query.repository, found.result, hit)
    return Shown(hit.rank, run(job))


def _layer(name: str, placement: Placement, pixels: NDArray[Any], keywords: dict[str, Any]) -> Image:
    from napari.layers import Image

    return Image(
        placement.expanded(pixels), name=name, metadata={"napari-cmrir": {"is_result": True}}, **keywords
    )
