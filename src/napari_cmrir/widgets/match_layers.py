"""The two layers of a hit: its image, and the match box on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.widgets.pictures import Picture
    from napari_cmrir.widgets.placement import Placement

__all__ = ["ShownHit", "View", "change_steps", "fits", "make_box", "make_image", "show_name"]

View = Literal["beside", "registered"]

_BOX_ON_BRIGHT, _BOX_ON_DARK = "#0022cc", "#00d5ff"
_NAME_SIZE = 8.0


@dataclass(frozen=True, eq=False)
class ShownHit:
    """A hit as it is to be shown.

    Parameters
    ----------
    hit : Hit
        The hit.
    picture : Picture
        Its image.
    region : Region
        What it was found for, in the pixels of the query's image.
    placement : Placement
        How the query's image lies in the world.
    view : {"beside", "registered"}
        In its own frame, or under the region.
    """

    hit: Hit
    picture: Picture
    region: Region
    placement: Placement
    view: View

    @property
    def name(self) -> str:
        """Its rank and file."""
        return f"{self.hit.rank} · {Path(self.hit.image).name}"

    @property
    def transform(self) -> dict[str, Any]:
        """Where both layers lie."""
        if self.view == "beside":
            side = np.linalg.norm(self.hit.box[3] - self.hit.box[0])
            return self.placement.in_place(round(self.region.height / float(side), 6))
        return self.placement.registered(self.region, self.hit.box)

    @property
    def data(self) -> list[NDArray[Any]]:
        """What the image layer shows, a level each."""
        levels = self.picture.levels
        return levels if self.view == "beside" else [self.placement.expanded(level) for level in levels]

    @property
    def box(self) -> NDArray[np.float64]:
        """The match box in the pixels of `data`."""
        return self.hit.box if self.view == "beside" else self.placement.points(self.hit.box)

    @property
    def metadata(self) -> dict[str, Any]:
        """The hit's record, and that the layers are no images of the user."""
        return {"napari-cmrir": {"is_result": True, **self.hit.as_dict()}}

    @property
    def features(self) -> dict[str, list[Any]]:
        """The hit's record for the features table."""
        hit = self.hit
        return {
            "rank": [hit.rank],
            "score": [hit.score],
            "rotation_degrees": [hit.rotation_degrees],
            "confidence": [hit.confidence],
            "image": [hit.image],
        }

    @property
    def colours(self) -> tuple[str, str]:
        """Of the match box and of its text."""
        if self.picture.is_bright:
            return _BOX_ON_BRIGHT, "black"
        return _BOX_ON_DARK, _BOX_ON_DARK


def make_image(shown: ShownHit) -> Image:
    """Make the layer of a hit's image.

    Parameters
    ----------
    shown : ShownHit
        The hit.
    """
    data = shown.data
    return Image(
        data if len(data) > 1 else data[0],
        rgb=shown.picture.rgb,
        multiscale=len(data) > 1,
        contrast_limits=None if shown.picture.rgb else shown.picture.limits,
        name=shown.name,
        metadata=shown.metadata,
        **shown.transform,
    )


def show_name(image: Image) -> None:
    """Show the name of a hit on its image, where napari can (from 0.9 on).

    Parameters
    ----------
    image : Image
        The layer of a hit's image.
    """
    if hasattr(image, "name_overlay") and not image.name_overlay.visible:
        image.name_overlay.font_size = _NAME_SIZE
        image.name_overlay.visible = True


def make_box(shown: ShownHit) -> Shapes:
    """Make the layer of a hit's match box.

    Parameters
    ----------
    shown : ShownHit
        The hit.
    """
    edge, text = shown.colours
    return Shapes(
        [shown.box],
        shape_type="polygon",
        name=f"{shown.name} · match",
        features=shown.features,
        text={
            "string": "{rank}:  {score:.2f}\n{rotation_degrees:+.0f}°",
            "color": text,
            "anchor": "center",
            "size": 12,
        },
        edge_color=edge,
        face_color="transparent",
        opacity=1,
        edge_width=line_width(np.array(shown.picture.levels[0].shape[:2])),
        metadata=shown.metadata,
        **shown.transform,
    )


def fits(layer: Image, shown: ShownHit) -> bool:
    """Tell whether another hit can be shown in the layer that is there, which is quicker than a new one.

    Parameters
    ----------
    layer : Image
        The image layer of a hit.
    shown : ShownHit
        The hit to show.
    """
    data = shown.data
    same_axes = layer.ndim == data[0].ndim - shown.picture.rgb
    same_kind = layer.rgb == shown.picture.rgb and not layer.multiscale and len(data) == 1
    return same_axes and same_kind and tuple(layer.units) == tuple(shown.transform["units"])


def change_steps(image: Image, box: Shapes, shown: ShownHit) -> list[Callable[[], object]]:
    """List the steps that show another hit in the layers that are there, each a quick one.

    Parameters
    ----------
    image, box : Image, Shapes
        The layers of a hit.
    shown : ShownHit
        The hit to show.
    """
    transform = shown.transform
    return [
        partial(_change_image, image, shown),
        *(partial(_change_transform, layer, transform) for layer in (image, box)),
        partial(_change_box, box, shown),
        partial(_change_text, box, shown),
    ]


def line_width(sides: NDArray[Any]) -> float:
    """Choose a line that is seen on the whole image and does not hide it, in px.

    Parameters
    ----------
    sides : ndarray
        Height and width of the image, in px.
    """
    return max(1.0, float(np.min(sides)) / 75)


def _change_image(layer: Image, shown: ShownHit) -> None:
    layer.data = shown.data[0]
    if not shown.picture.rgb:
        layer.contrast_limits = shown.picture.limits
    layer.name, layer.metadata = shown.name, shown.metadata


def _change_transform(layer: Image | Shapes, transform: dict[str, Any]) -> None:
    for name in ("scale", "translate"):
        if not np.allclose(getattr(layer, name), transform[name], rtol=1e-12, atol=1e-12):
            setattr(layer, name, transform[name])
    if not np.allclose(layer.affine.affine_matrix, transform["affine"], rtol=1e-12, atol=1e-12):
        layer.affine = transform["affine"]


def _change_box(layer: Shapes, shown: ShownHit) -> None:
    layer.data = [(shown.box, "polygon")]
    layer.edge_color = shown.colours[0]


def _change_text(layer: Shapes, shown: ShownHit) -> None:
    layer.features = shown.features
    layer.text.color = shown.colours[1]
    layer.refresh_text()
    layer.name, layer.metadata = f"{shown.name} · match", shown.metadata
