"""The query of Find region: a drawn shape or a painted label as a region of an image, and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import Signal

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.polygons import mask_bounds, polygon_bounds
from napari_cmrir.napari.coordinates import ImageSnapshot, Plane, map_points, plane_of
from napari_cmrir.napari.form_fields import LayerCombo
from napari_cmrir.napari.hit_placement import Placement
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari.components import Dims, ViewerModel
    from napari.layers import Image

__all__ = [
    "LabelOutline",
    "Outline",
    "Query",
    "RegionCombo",
    "chosen_shape",
    "drawn_outline",
    "drawn_shapes",
    "label_outline",
    "outline_of",
    "region_and_polygon",
]


_SHAPES_WITH_AREA = ("rectangle", "ellipse", "polygon")
_RIGHT_ANGLE = 1e-3  # cosine between two sides up to which their corner counts as a right angle
_ELLIPSE_POINTS = 360  # corners of the polygon for an ellipse: one for each degree


@dataclass(frozen=True, eq=False)
class Outline:
    """The drawn shape, in pixels of a plane of an image.

    Parameters
    ----------
    kind : str
        ``"rectangle"``, ``"ellipse"`` or ``"polygon"``.
    points : ndarray, (n, 2)
        (y, x) of the corners; of an ellipse, the four corners of the box around it.
    plane : Plane
        The plane of the image.
    """

    kind: str
    points: NDArray[np.float64]
    plane: Plane

    def polygon(self) -> NDArray[np.float64] | None:
        """The corners, (n, 2), of a shape that is not a rectangle; ``None`` for a rectangle."""
        return None if self.kind == "rectangle" and _is_rectangle(self.points) else _polygon(self)


@dataclass(frozen=True, eq=False)
class LabelOutline:
    """One label of a Labels layer, over a plane of an image. Its pixels are read when they are asked for.

    Parameters
    ----------
    name : str
        The layer's name.
    label : int
        Which label.
    data : array_like
        What ``Labels.data`` holds, of the finest level.
    where : tuple of (int or slice)
        The plane of it that lies over the image.
    matrix : ndarray, (2, 3)
        Maps (y, x, 1) in px of the image to (y, x) in px of that plane.
    plane : Plane
        The plane of the image.
    shape : tuple of two int
        Height and width of the image, in px.
    """

    name: str
    label: int
    data: Any
    where: tuple[int | slice, ...]
    matrix: NDArray[np.float64]
    plane: Plane
    shape: tuple[int, int]

    @cached_property
    def pixels(self) -> tuple[tuple[int, int], NDArray[np.bool_]]:
        """The first pixel (y, x) of the image's part around the label, and which pixels of it are the label.

        Raises
        ------
        InputError
            The image has no pixel of the label.
        """
        from scipy.ndimage import affine_transform

        inside = np.asarray(self.data[self.where]) == self.label
        there = mask_bounds(inside)
        if there is not None:
            (top, left), (bottom, right) = there
            corners = np.array([(y - 0.5, x - 0.5) for y in (top, bottom) for x in (left, right)])
            back = np.linalg.inv(self.matrix[:, :2])
            corners = (corners - self.matrix[:, 2]) @ back.T
            low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
            end = np.minimum(np.ceil(corners.max(axis=0)) + 1, self.shape).astype(int)
            if (end > low).all():
                part = np.pad(inside[top:bottom, left:right].astype(np.uint8), 1)
                first = self.matrix[:, :2] @ low + self.matrix[:, 2] - (top - 1, left - 1)
                size = tuple((end - low).tolist())
                mask = affine_transform(part, self.matrix[:, :2], first, output_shape=size, order=0) > 0
                own = mask_bounds(mask)
                if own is not None:
                    (top, left), (bottom, right) = own
                    return (int(low[0]) + top, int(low[1]) + left), mask[top:bottom, left:right]
        raise InputError(
            f"Label {self.label} of {self.name} has no pixel on the image; choose a painted label."
        )

    @property
    def region(self) -> Region:
        """The upright rectangle around the label, in px of the image."""
        first, mask = self.pixels
        return Region.from_rectangle(*first, *mask.shape)

    def labels(self) -> list[int]:
        """All labels of the plane, without the background."""
        return [int(label) for label in np.unique(np.asarray(self.data[self.where])) if label]


def outline_of(layer: Shapes | Labels, image: Image, dims: Dims) -> Outline | LabelOutline:
    """Return the region that a layer holds: the chosen shape of a Shapes layer, or the selected label.

    Parameters
    ----------
    layer : Shapes or Labels
        The layer.
    image : Image
        The image that it lies over.
    dims : Dims
        The viewer's ``dims``.

    Raises
    ------
    InputError
        As `chosen_shape`, `drawn_outline` and `label_outline`.
    """
    if isinstance(layer, Labels):
        return label_outline(layer, image, dims)
    return drawn_outline(layer, chosen_shape(layer), image, dims)


def label_outline(labels: Labels, image: Image, dims: Dims) -> LabelOutline:
    """Map the selected label of a Labels layer to the pixels of an image; no pixel is read.

    Parameters
    ----------
    labels : Labels
        The layer.
    image : Image
        The image that it lies over.
    dims : Dims
        The viewer's ``dims``.

    Raises
    ------
    InputError
        The background is selected, or the two layers do not lie in one plane.
    """
    if not labels.selected_label:
        raise InputError(f"Label 0 of {labels.name} is the background; select the label to search for.")
    shown = plane_of(image, dims)
    full = np.tile(np.asarray(shown.at, dtype=np.float64), (3, 1))
    full[:, shown.axes] = [(0, 0), (1, 0), (0, 1)]
    there = map_points(full, image, labels, dims.point)
    axes = tuple(axis - image.ndim + labels.ndim for axis in shown.axes)
    steps = there[1:] - there[0]
    others = [axis for axis in range(labels.ndim) if axis not in axes]
    if min(axes) < 0 or np.abs(steps[:, others]).max(initial=0) > 1e-6:
        raise InputError(f"{labels.name} does not lie in the plane of {image.name}; turn the axes back.")
    data = labels.data[0] if labels.multiscale else labels.data
    where: list[Any] = [slice(None)] * labels.ndim
    for axis in others:
        where[axis] = round(float(there[0, axis]))
        if not 0 <= where[axis] < data.shape[axis]:
            raise InputError(
                f"{labels.name} has no pixels at the position of the sliders; move them to a plane of it."
            )
    matrix = np.column_stack([steps[:, axes].T, there[0, list(axes)]])
    shape = Placement.of(image, shown).shape
    return LabelOutline(labels.name, int(labels.selected_label), data, tuple(where), matrix, shown, shape)


def drawn_shapes(shapes: Shapes) -> list[int]:
    """Return the indices of the shapes that enclose an area: of the selected ones, if several are, else all.

    Parameters
    ----------
    shapes : Shapes
        The layer.
    """
    selected = sorted(index for index in shapes.selected_data if index < len(shapes.data))
    chosen = selected if len(selected) > 1 else list(range(len(shapes.data)))
    return [index for index in chosen if shapes.shape_type[index] in _SHAPES_WITH_AREA]


def chosen_shape(shapes: Shapes) -> int:
    """Return the index of the selected shape, or of the shape drawn last.

    Parameters
    ----------
    shapes : Shapes
        The layer.

    Raises
    ------
    InputError
        Nothing is drawn.
    """
    if not len(shapes.data):
        raise InputError(f"{shapes.name} holds no region yet; draw a rectangle on it.")
    selected = [index for index in shapes.selected_data if index < len(shapes.data)]
    return int(selected[0]) if len(selected) == 1 else len(shapes.data) - 1


def drawn_outline(shapes: Shapes, index: int, image: Image, dims: Dims) -> Outline:
    """Map a shape of a Shapes layer to the pixels of an image.

    Parameters
    ----------
    shapes : Shapes
        Layer of the shape.
    index : int
        Index of the shape.
    image : Image
        The image that it was drawn over.
    dims : Dims
        The viewer's ``dims``, for what the shape itself leaves open.

    Returns
    -------
    Outline
        On the plane on which it was drawn.

    Raises
    ------
    InputError
        The shape is a line or a path, or it does not lie in the plane that is shown.
    """
    kind = str(shapes.shape_type[index])
    if kind not in _SHAPES_WITH_AREA:
        raise InputError(f"A {kind} encloses no region; draw a rectangle, an ellipse or a polygon.")
    shown = plane_of(image, dims)
    points = map_points(shapes.data[index], shapes, image, dims.point)
    at = np.rint(points.mean(axis=0)).astype(int)
    return Outline(kind, points[:, shown.axes], Plane(shown.axes, tuple(at.tolist())))


def region_and_polygon(outline: Outline, shape: tuple[int, int]) -> tuple[Region, NDArray[np.float64] | None]:
    """Convert an outline to the region and polygon of a search.

    Parameters
    ----------
    outline : Outline
        In the pixels of the image.
    shape : tuple of two int
        Height and width of the image, in px.

    Returns
    -------
    region : Region
        The drawn rectangle, with a rotation of at most 45 degrees. For any other shape, the part inside the
        image of the upright rectangle around the shape. No mask is drawn, so a large outline takes no time.
    polygon : ndarray, (n, 2), or None
        The corners of a shape that is not a rectangle; ``None`` for a rectangle.

    Raises
    ------
    InputError
        The outline has no area, or lies outside the image.

    Examples
    --------
    >>> corners = np.array([[9.5, 19.5], [9.5, 59.5], [49.5, 59.5], [49.5, 19.5]])
    >>> region_and_polygon(Outline("rectangle", corners, Plane((0, 1), (0, 0))), (100, 100))
    (Region(centre=(29.5, 39.5), height=40.0, width=40.0, rotation_degrees=0.0), None)
    """
    points = outline.points
    low, high = points.min(axis=0), points.max(axis=0)
    if (high < -0.5).any() or (low > np.array(shape) - 0.5).any():
        raise InputError("The region lies outside the image; draw it over the image that is searched with.")
    if outline.kind == "rectangle" and _is_rectangle(points):
        return _upright_as_can_be(points), None
    polygon, first, end = polygon_bounds(_polygon(outline), shape)
    return Region.from_rectangle(*first, end[0] - first[0], end[1] - first[1]), polygon


def _is_rectangle(points: NDArray[np.float64]) -> bool:
    if points.shape != (4, 2):
        return False
    right, down = _sides(points)
    lengths = np.hypot(*right) * np.hypot(*down)
    closed = np.abs(points[0] + points[2] - points[1] - points[3]).max()
    return bool(lengths > 0 and abs(right @ down) <= _RIGHT_ANGLE * lengths and closed <= 1e-3 * lengths**0.5)


def _upright_as_can_be(points: NDArray[np.float64]) -> Region:
    """Make a region from four corners, in any order around the rectangle."""
    region = Region.from_corners(points)
    quarters = round(region.rotation_degrees / 90)
    height, width = (region.height, region.width)[:: -1 if quarters % 2 else 1]
    return Region(region.centre, height, width, region.rotation_degrees - 90 * quarters + 0.0)


def _sides(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    right = (points[1] + points[2] - points[0] - points[3]) / 2
    down = (points[3] + points[2] - points[0] - points[1]) / 2
    return right, down


def _polygon(outline: Outline) -> NDArray[np.float64]:
    if outline.kind != "ellipse":
        return outline.points
    right, down = _sides(outline.points)
    turn = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)[:, np.newaxis]
    centre = outline.points.mean(axis=0)
    points: NDArray[np.float64] = centre + np.cos(turn) * right / 2 + np.sin(turn) * down / 2
    return points


@dataclass(frozen=True, eq=False)
class Query:
    """The query image and region, the repository, and the settings of a search.

    Parameters
    ----------
    repository : Path
        The repository to search.
    image : ImageSnapshot
        The image with the region.
    outline : Outline, LabelOutline or None
        The region; ``None`` is the whole image.
    modality : str
        Of the image; empty where the repository has not been read yet, see `with_modality`.
    hits : int
        Images to show at most.
    max_rotation : float
        How far the tissue may be turned against the image, in degrees either way.
    mirror : bool
        Whether it may be mirrored, too.
    placement : Placement
        Placement of the image in the world.
    name : str
        What it is called among several queries.
    preferences : mapping of str to str
        Settings of the search that the plugin's preferences change, by name.
    """

    repository: Path
    image: ImageSnapshot
    outline: Outline | LabelOutline | None
    modality: str
    hits: int
    max_rotation: float
    mirror: bool
    placement: Placement
    name: str = ""
    preferences: Mapping[str, str] = field(default_factory=dict)

    def region_and_polygon(self) -> tuple[Region, NDArray[np.float64] | None]:
        """Return the region in pixels of the image, and the corners of the outline in it.

        Raises
        ------
        InputError
            As `region_and_polygon`; or the label has no pixel on the image.
        """
        if self.outline is None:
            return Region.whole(self.image.shape), None
        if isinstance(self.outline, LabelOutline):
            return self.outline.region, None
        return region_and_polygon(self.outline, self.image.shape)

    @property
    def drawn(self) -> tuple[str, NDArray[np.float64]] | None:
        """Kind and points of the drawn shape, if it is not a rectangle."""
        if not isinstance(self.outline, Outline) or self.outline.polygon() is None:
            return None
        return self.outline.kind, self.outline.points

    @property
    def pixel_size(self) -> float | None:
        """Side of the image's pixels in micrometres, if the layer has a scale in a unit of length."""
        return self.placement.micrometres

    @property
    def settings(self) -> SearchSettings:
        """Settings of the search; the region's own rotation is added to the largest rotation."""
        turned = abs(self.region_and_polygon()[0].rotation_degrees)
        most = min(self.max_rotation + turned, 180.0)
        shown = {"hits": self.hits, "max_rotation": most, "mirror": self.mirror}
        return SearchSettings.model_validate({**shown, **self.preferences})


class RegionCombo(LayerCombo):
    """Chooses the layer with the region, and follows its shapes or labels.

    Parameters
    ----------
    viewer : ViewerModel
        The viewer.
    """

    region_changed = Signal()
    """Signal: another layer was chosen, or its shapes, labels or the selection among them have changed."""

    def __init__(self, viewer: ViewerModel) -> None:
        tip = (
            "The layer with the region: of shapes the selected one, else the one drawn last; of labels the"
            " selected one"
        )
        super().__init__(viewer, (Shapes, Labels), tip, none="the whole image")
        self.setAccessibleName("Region")
        self._watched: Shapes | Labels | None = None
        self.layer_changed.connect(self.watch)

    def take_up(self, layer: Any) -> None:
        """Choose a layer that is active, unless its shapes enclose no area."""
        if layer in self.layers and (
            isinstance(layer, Labels) or not len(layer.data) or set(_SHAPES_WITH_AREA) & set(layer.shape_type)
        ):
            self.choose(layer)

    def watch(self) -> None:
        """Follow the chosen layer."""
        if self.layer is not self._watched:
            self.unwatch()
            self._watched = self.layer
            for event in self._events():
                event.connect(self._tell_region)
        self.region_changed.emit()

    def unwatch(self) -> None:
        """Follow no layer."""
        for event in self._events():
            event.disconnect(self._tell_region)
        self._watched = None

    def _events(self) -> list[Any]:
        if self._watched is None:
            return []
        events = self._watched.events
        if isinstance(self._watched, Labels):
            return [events.data, events.paint, events.selected_label]
        return [events.data, events.highlight]

    def _tell_region(self, _: object = None) -> None:
        self.region_changed.emit()
