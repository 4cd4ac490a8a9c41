"""The layers that a search adds to the viewer, and takes away again: these and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import NDArray

from napari_cmrir.widgets.coordinates import transform_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_cmrir.search.hits import Hit

__all__ = ["AddedLayers", "hit_name", "make_region_layer"]

_REGION_COLOUR = "#ffcc00"
_BOX_ON_BRIGHT, _BOX_ON_DARK = "#0022cc", "#00d5ff"
_NAME_SIZE = 8.0
_GRID_STRIDE = -2  # an image and the box on it share a cell, counted from the top of the layer list


def hit_name(hit: Hit) -> str:
    """Name a hit by its rank and file.

    Parameters
    ----------
    hit : Hit
        The hit.
    """
    return f"{hit.rank} · {Path(hit.image).name}"


def make_region_layer(image: Image) -> Shapes:
    """Make an empty Shapes layer that lies exactly on an image, ready to draw a rectangle.

    Parameters
    ----------
    image : Image
        The image to draw on.
    """
    layer = Shapes(
        ndim=image.ndim,
        name=f"Region of {image.name}",
        edge_color=_REGION_COLOUR,
        face_color="transparent",
        opacity=1,
        edge_width=_line_width(image.extent.data[1][-2:] - image.extent.data[0][-2:]),
        **transform_of(image),
    )
    layer.mode = "add_rectangle"
    return layer


class AddedLayers:
    """What this plugin has added to a viewer.

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._hits: dict[int, list[Layer]] = {}
        self._regions: list[Layer] = []
        self._grid_before: tuple[bool, int] | None = None

    def add_region(self, image: Image) -> Shapes:
        """Add an empty region layer above the layers of the user and below the hits.

        Parameters
        ----------
        image : Image
            The image to draw on.
        """
        layer = make_region_layer(image)
        own = [self._viewer.layers.index(hit) for hit in self._all_hits()]
        self._viewer.layers.insert(min(own, default=len(self._viewer.layers)), layer)
        self._regions.append(layer)
        self._viewer.layers.selection.active = layer
        return layer

    def show_hits(
        self, hits: Sequence[Hit], pictures: Mapping[int, NDArray[Any]], transform: Mapping[str, Any]
    ) -> None:
        """Add every hit's image with its match box, the best on top, in place of the hits before.

        Parameters
        ----------
        hits : sequence of Hit
            The hits.
        pictures : mapping of int to (y, x, channel) array
            Their images by rank; a hit without one is left out.
        transform : mapping
            scale, translate and units of the layers.
        """
        with _without_grid(self._viewer):
            self.remove_hits()
            for hit in reversed([hit for hit in hits if hit.rank in pictures]):
                image = _hit_image(hit, pictures[hit.rank], transform)
                box = _match_box(hit, pictures[hit.rank], transform)
                self._hits[hit.rank] = [image, box]
                for layer in (image, box):
                    self._viewer.layers.append(layer)

    def lay_side_by_side(self, side_by_side: bool) -> None:
        """Give each hit a cell of napari's grid, or put the grid back as it was.

        Parameters
        ----------
        side_by_side : bool
            Whether the hits lie beside each other, else on top of each other.
        """
        grid = _grid(self._viewer)
        if side_by_side and self._hits and self._grid_before is None:
            self._grid_before = grid.enabled, grid.stride
            grid.stride, grid.enabled = _GRID_STRIDE, True
        elif not (side_by_side and self._hits) and self._grid_before is not None:
            grid.enabled, grid.stride = self._grid_before
            self._grid_before = None
        else:
            return
        self._viewer.reset_view()

    def bring_up(self, rank: int) -> None:
        """Show a hit: select its image and, unless all lie side by side, hide the other hits.

        Parameters
        ----------
        rank : int
            Its rank; nothing happens where it has no layers.
        """
        chosen = self._present(self._hits.get(rank, []))
        if not chosen:
            return
        for layer in self._all_hits():
            layer.visible = layer in chosen or _grid(self._viewer).enabled
        self._viewer.layers.selection.active = chosen[0]

    def remove_hits(self) -> None:
        """Remove the hits' layers, however they are called now."""
        self._remove(self._all_hits())
        self._hits = {}

    def remove_all(self) -> None:
        """Remove every layer that was added, and leave all others as they are."""
        self.lay_side_by_side(False)
        with _without_grid(self._viewer):
            self.remove_hits()
            self._remove(self._present(self._regions))
        self._regions = []

    def _all_hits(self) -> list[Layer]:
        return self._present([layer for layers in self._hits.values() for layer in layers])

    def _present(self, layers: Sequence[Layer]) -> list[Layer]:
        """Those that the user has not removed."""
        there = {id(layer) for layer in self._viewer.layers}
        return [layer for layer in layers if id(layer) in there]

    def _remove(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            self._viewer.layers.remove(layer)


@contextmanager
def _without_grid(viewer: Viewer) -> Iterator[None]:
    """Change layers with the grid off: napari lays it out anew for every single one."""
    grid = _grid(viewer)
    enabled = grid.enabled
    grid.enabled = False
    try:
        yield
    finally:
        grid.enabled = enabled


def _hit_image(hit: Hit, pixels: NDArray[Any], transform: Mapping[str, Any]) -> Image:
    channels = pixels.shape[2]
    shown = pixels if channels == 3 else pixels[..., 0] if channels == 1 else np.moveaxis(pixels, -1, 0)
    layer = Image(
        shown,
        rgb=channels == 3,
        name=hit_name(hit),
        metadata={"napari-cmrir": {"is_result": True, **hit.as_dict()}},
        **(transform if shown.ndim == 2 or channels == 3 else {}),
    )
    if hasattr(layer, "name_overlay"):  # napari 0.9
        layer.name_overlay.visible = True
        layer.name_overlay.font_size = _NAME_SIZE
    return layer


def _match_box(hit: Hit, pixels: NDArray[Any], transform: Mapping[str, Any]) -> Shapes:
    bright = _is_bright(pixels)
    colour = _BOX_ON_BRIGHT if bright else _BOX_ON_DARK
    features = {
        "rank": [hit.rank],
        "score": [hit.score],
        "rotation_degrees": [hit.rotation_degrees],
        "confidence": [hit.confidence],
        "image": [hit.image],
    }
    return Shapes(
        [hit.box],
        shape_type="polygon",
        name=f"{hit_name(hit)} · match",
        features=features,
        text={
            "string": "{rank}:  {score:.2f}\n{rotation_degrees:+.0f}°",
            "color": "black" if bright else colour,
            "anchor": "center",
            "size": 12,
        },
        edge_color=colour,
        face_color="transparent",
        opacity=1,
        edge_width=_line_width(np.array(pixels.shape[:2])),
        metadata={"napari-cmrir": {"is_result": True, **hit.as_dict()}},
        **transform,
    )


def _line_width(sides: NDArray[Any]) -> float:
    """A line that is seen on the whole image and does not hide it, in px."""
    return max(1.0, float(np.min(sides)) / 75)


def _is_bright(pixels: NDArray[Any]) -> bool:
    """Whether an image is shown bright, as brightfield is."""
    few = pixels[::16, ::16]
    return bool(np.median(few) > (float(few.min()) + float(few.max())) / 2)


def _grid(viewer: Viewer) -> Any:
    canvas = getattr(viewer, "canvas", None)  # napari 0.9
    return viewer.grid if canvas is None else canvas.grid
