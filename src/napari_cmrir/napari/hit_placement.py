"""Placement of a hit's two layers: beside the query, or registered under its region."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.images.geometry import Region
from napari_cmrir.napari.coordinates import Plane, data_to_world

if TYPE_CHECKING:
    from napari_cmrir.napari.pictures import Picture
    from napari_cmrir.search.hits import Hit

__all__ = [
    "Placement",
    "ShownHit",
    "View",
    "change_steps",
    "degrees",
    "fit_to_screen",
    "fits",
    "hit_features",
    "make_box",
    "make_image",
    "show_text",
]


_GAP = 0.03  # between the query's image and the hit, as a share of the image's width


@dataclass(frozen=True, eq=False)
class Placement:
    """Placement of the query's image in the world at the time of the search; the layer may be removed since.

    Parameters
    ----------
    plane : Plane
        The searched plane of the image.
    matrix : ndarray, (ndim + 1, ndim + 1)
        Maps the image's pixels to the world.
    shape : tuple of two int
        Height and width of the plane, in px.
    units, axis_labels : tuple
        As the layer's attributes of this name.
    """

    plane: Plane
    matrix: NDArray[np.float64]
    shape: tuple[int, int]
    units: tuple[Any, ...]
    axis_labels: tuple[str, ...]

    @classmethod
    def of(cls, image: Image, plane: Plane) -> Self:
        """Read the placement of a layer.

        Parameters
        ----------
        image : Image
            The layer that the region was drawn over.
        plane : Plane
            The searched plane of the layer.
        """
        finest = image.data[0] if image.multiscale else image.data
        y, x = plane.axes
        shape = int(finest.shape[y]), int(finest.shape[x])
        return cls(plane, data_to_world(image), shape, tuple(image.units), tuple(image.axis_labels))

    @property
    def ndim(self) -> int:
        """Axes of the query's image."""
        return len(self.matrix) - 1

    @property
    def pixel_size(self) -> NDArray[np.float64]:
        """Height and width of a pixel in world units."""
        size: NDArray[np.float64] = np.linalg.norm(self.matrix[:-1, list(self.plane.axes)], axis=0)
        return size

    @property
    def micrometres(self) -> float | None:
        """Side of a pixel in micrometres; ``None`` if the units are not lengths, such as pixels."""
        from pint import DimensionalityError

        try:
            sides = [
                float((size * self.units[axis]).to("micrometer").magnitude)
                for size, axis in zip(self.pixel_size.tolist(), self.plane.axes, strict=True)
            ]
        except DimensionalityError:
            return None
        return math.sqrt(sides[0] * sides[1])

    def beside(
        self, magnification: float = 1.0, centres: tuple[float, float] | None = None, shift: float = 0.0
    ) -> dict[str, Any]:
        """Return the keywords that place a hit upright to the right of the query's image, at its scale.

        Parameters
        ----------
        magnification : float
            Pixels of the query image to a pixel of the hit's: the tissue is as large in both.
        centres : tuple of two float, optional
            Height (y) in the world of the region's centre, and y of the match's centre in pixels of the hit:
            they come to lie at one height. By default the upper edges do.
        shift : float
            How much further to the right, in the world: room for hits that are kept.

        Returns
        -------
        dict
            scale, translate, affine and units, for a layer of two axes.
        """
        axes, size = list(self.plane.axes), self.pixel_size * magnification
        corners = self.world(Region.whole(self.shape).corners())
        (top, left), right = corners.min(axis=0), corners[:, 1].max()
        y = top + size[0] / 2 if centres is None else centres[0] - centres[1] * size[0]
        x = right + _GAP * (right - left) + shift + size[1] / 2
        return {
            "scale": size,
            "translate": np.array([y, x]),
            "affine": np.eye(3),
            "units": tuple(self.units[axis] for axis in axes),
        }

    def registered(self, region: Region, box: ArrayLike) -> dict[str, Any]:
        """Return the keywords that place a hit under the region that it was found for.

        Parameters
        ----------
        region : Region
            What was searched for, in the pixels of the query's image.
        box : array_like, (4, 2)
            The hit's match box: where the region's corners lie in the hit's pixels.

        Returns
        -------
        dict
            scale, translate, affine and units, for a layer of as many axes as the query's image: the hit's
            two stand where the plane's are, the others have one index.
        """
        here = np.column_stack([np.asarray(box, dtype=np.float64), np.ones(4)])
        flat = np.linalg.lstsq(here, region.corners(), rcond=None)[0].T
        return self._onto(np.asarray(flat, dtype=np.float64))

    def world(self, flat: ArrayLike) -> NDArray[np.float64]:
        """Map (y, x) pixels of the query's plane to the world's y and x, (n, 2)."""
        full = self._embed(np.asarray(flat, dtype=np.float64))
        there: NDArray[np.float64] = full @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]
        return there[:, list(self.plane.axes)]

    def region_frame(self, region: Region) -> dict[str, Any]:
        """Return the keywords that place an upright crop of the region on the region.

        Parameters
        ----------
        region : Region
            In the pixels of the query's image.
        """
        height, width = max(1, round(region.height)), max(1, round(region.width))
        return self.registered(region, Region.whole((height, width)).corners())

    def expanded(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Add the axes of the query's image to a plane, for `registered`.

        Parameters
        ----------
        pixels : ndarray, (y, x) or (y, x, 3)
            The plane.
        """
        others = tuple(axis for axis in range(self.ndim) if axis not in self.plane.axes)
        return np.expand_dims(pixels, others) if others else pixels

    def points(self, flat: ArrayLike) -> NDArray[np.float64]:
        """Add the axes of the query's image to (y, x) points, for `registered`.

        Parameters
        ----------
        flat : array_like, (n, 2)
            The points.
        """
        full = np.zeros((len(np.asarray(flat)), self.ndim))
        full[:, list(self.plane.axes)] = flat
        return full

    def _onto(self, flat: NDArray[np.float64]) -> dict[str, Any]:
        """Return the keywords that place pixels by a (2, 3) matrix to the query's pixels."""
        ndim, axes = self.ndim, list(self.plane.axes)
        to_query = np.eye(ndim + 1)
        to_query[:-1, -1] = [0 if axis in axes else self.plane.at[axis] for axis in range(ndim)]
        to_query[np.ix_(axes, axes)] = flat[:, :2]
        to_query[axes, -1] = flat[:, 2]
        return {
            "scale": np.ones(ndim),
            "translate": np.zeros(ndim),
            "affine": self.matrix @ to_query,
            "units": self.units,
        }

    def _embed(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        full = np.tile(np.asarray(self.plane.at, dtype=np.float64), (len(flat), 1))
        full[:, list(self.plane.axes)] = flat
        return full


View = Literal["beside", "registered"]

_BOX_ON_BRIGHT, _BOX_ON_DARK = "#0022cc", "#00d5ff"
_TEXT_AT_EDGE = "#006cff"  # 4.6 : 1 on white and on black
_TEXT_ROOM = 0.35  # for the text above a box, in heights of the box
_EDGE = 2.5  # screen px: seen beside the tissue, and no more than its outline


@dataclass(frozen=True, eq=False)
class ShownHit:
    """Everything that the layers of one hit show.

    Parameters
    ----------
    hit : Hit
        The hit.
    picture : Picture
        The hit's image.
    region : Region
        What it was found for, in the pixels of the query's image.
    placement : Placement
        How the query's image lies in the world.
    view : {"beside", "registered"}
        Upright beside the query's image, or under the region.
    drawn : tuple of str and ndarray, (n, 2), optional
        Kind and points, in pixels of the query's image, of a drawn shape that is not a rectangle.
    shift : float
        Room for kept hits between the query and this hit, in the world.
    """

    hit: Hit
    picture: Picture
    region: Region
    placement: Placement
    view: View
    drawn: tuple[str, NDArray[np.float64]] | None = None
    shift: float = 0.0

    @property
    def name(self) -> str:
        """Name of both layers: rank and file."""
        return f"{self.hit.rank} · {Path(self.hit.image).name}"

    @property
    def transform(self) -> dict[str, Any]:
        """Placement of both layers."""
        if self.view == "beside":
            side = np.linalg.norm(self.hit.box[3] - self.hit.box[0])
            height = float(self.placement.world([self.region.centre])[0, 0])
            centres = height, float(self.hit.box[:, 0].mean())
            return self.placement.beside(round(self.region.height / float(side), 6), centres, self.shift)
        return self.placement.registered(self.region, self.hit.box)

    @property
    def data(self) -> list[NDArray[Any]]:
        """Pixels of the image layer, one array for each level."""
        levels = self.picture.levels
        return levels if self.view == "beside" else [self.placement.expanded(level) for level in levels]

    @property
    def box(self) -> NDArray[np.float64]:
        """The match in the pixels of `data`: the corners of the box, or the points of the drawn shape."""
        flat = self.hit.box
        if self.drawn is not None:
            corners = np.column_stack([self.region.corners(), np.ones(4)])
            to_hit = np.linalg.lstsq(corners, self.hit.box, rcond=None)[0]
            flat = np.column_stack([self.drawn[1], np.ones(len(self.drawn[1]))]) @ to_hit
        return flat if self.view == "beside" else self.placement.points(flat)

    @property
    def shape_type(self) -> str:
        """Type of the shape that `box` holds the points of."""
        return "ellipse" if self.drawn is not None and self.drawn[0] == "ellipse" else "polygon"

    @property
    def frame(self) -> NDArray[np.float64]:
        """First and last corner (y, x) in the world of the region and the match beside it, (2, 2)."""
        seen = self.placement.world(self.region.corners())
        if self.view == "beside":
            transform = self.transform
            seen = np.vstack([seen, self.hit.box * transform["scale"] + transform["translate"]])
        low, high = seen.min(axis=0), seen.max(axis=0)
        return np.array([low, high])

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of both layers: the hit's record, and a mark that the plugin made the layer."""
        return {"napari-cmrir": {"is_result": True, **self.hit.as_dict()}}

    @property
    def features(self) -> dict[str, list[Any]]:
        """The hit's record for the features table."""
        return hit_features([self.hit])

    @property
    def edge_colour(self) -> str:
        """Colour of the match box."""
        return _BOX_ON_BRIGHT if self.picture.is_bright else _BOX_ON_DARK

    def text_colour(self, box: NDArray[np.float64]) -> str:
        """Colour of the text above a box on the hit's image; at an edge it lies on the canvas."""
        if not self.picture.is_bright or self.view == "registered":  # half transparent
            return _BOX_ON_DARK
        first, last = box.min(axis=0), box.max(axis=0)
        is_inside = first[0] > _TEXT_ROOM * (last[0] - first[0]) and first[1] > 0
        return "black" if is_inside else _TEXT_AT_EDGE


def hit_features(hits: Sequence[Hit]) -> dict[str, list[Any]]:
    """Return the records of hits as features of a Shapes layer, a row each; x and y in px of the image."""
    centres = [hit.box.mean(axis=0).tolist() for hit in hits]
    return {
        "rank": [hit.rank for hit in hits],
        "file": [Path(hit.image).name for hit in hits],
        "score": [hit.score for hit in hits],
        "confidence": [hit.confidence for hit in hits],
        "rotation_degrees": [hit.rotation_degrees for hit in hits],
        "mirrored": [hit.mirrored for hit in hits],
        "y": [y for y, _ in centres],
        "x": [x for _, x in centres],
        "label": [f"{hit.rank}:  {hit.score:.2f}\n{degrees(hit.rotation_degrees)}" for hit in hits],
    }


def degrees(rotation: float) -> str:
    """Write a rotation in whole degrees, with its sign.

    Examples
    --------
    >>> degrees(-0.3), degrees(12.4)
    ('0°', '+12°')
    """
    return f"{round(rotation):+d}°" if round(rotation) else "0°"


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


def make_box(shown: ShownHit) -> Shapes:
    """Make the layer of a hit's match box.

    Parameters
    ----------
    shown : ShownHit
        The hit.
    """
    return Shapes(
        [shown.box],
        shape_type=shown.shape_type,
        name=f"{shown.name} · match",
        features=shown.features,
        text={
            "string": "{label}",
            "visible": False,  # until `show_text`: drawing the first characters takes napari long
            "color": shown.text_colour(shown.hit.box),
            "anchor": "upper_left",  # drawn above the box
            "size": 12,
        },
        edge_color=shown.edge_colour,
        face_color="transparent",
        opacity=1,
        edge_width=line_width(np.array(shown.picture.levels[0].shape[:2])),
        metadata=shown.metadata,
        **shown.transform,
    )


def show_text(box: Shapes, shown: ShownHit) -> None:
    """Show the text of a match box; not where it is registered: napari would put it on turned pixels."""
    box.text.visible = shown.view == "beside"


def fit_to_screen(layers: Iterable[Shapes], zoom: float) -> None:
    """Give lines a width in pixels of the screen.

    Parameters
    ----------
    layers : iterable of Shapes
        Layers of regions and match boxes.
    zoom : float
        The camera's: screen px for one unit of the world.
    """
    for layer in layers:
        y, x = np.linalg.norm(data_to_world(layer)[:-1, -3:-1], axis=0)
        pixel = 1 / (max(zoom, 1e-9) * max(float(np.sqrt(y * x)), 1e-12))
        width = _EDGE * pixel
        if np.allclose([*layer.edge_width, layer.current_edge_width], width, rtol=0.05):
            continue
        chosen, layer.selected_data = set(layer.selected_data), set()
        layer.current_edge_width = width
        layer.edge_width = [width] * layer.nshapes
        layer.selected_data = chosen


def fits(layer: Image, shown: ShownHit) -> bool:
    """Return whether the existing layer can show another hit, which is faster than a new layer.

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
    """List the short steps that show another hit in the existing layers.

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
    """Compute a line width in px that is visible on the whole image and does not cover it.

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
    layer.data = [(shown.box, shown.shape_type)]
    layer.edge_color = shown.edge_colour


def _change_text(layer: Shapes, shown: ShownHit) -> None:
    layer.features = shown.features
    layer.text.color = shown.text_colour(shown.hit.box)
    show_text(layer, shown)
    layer.refresh_text()
    layer.name, layer.metadata = f"{shown.name} · match", shown.metadata
