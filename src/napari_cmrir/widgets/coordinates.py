"""World coordinates, known here alone: what is drawn to an image's pixels, and a hit's box back.

Points are mapped through the whole transform of both layers (scale, shear, rotate, translate, affine) and
through their units, which napari's own `Layer.world_to_data` leaves out. Pixel centres are integers; an RGB
axis is no axis; a multiscale layer counts in the pixels of its finest level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Layer, Shapes

__all__ = [
    "Outline",
    "Plane",
    "drawn_outline",
    "hit_transform",
    "map_points",
    "pixels_of",
    "plane_of",
    "region_and_mask",
    "shape_data",
    "transform_of",
]

_SHAPES_WITH_AREA = ("rectangle", "ellipse", "polygon")
_RIGHT_ANGLE = 1e-3  # cosine up to which two sides still count as upright to each other
_ELLIPSE_POINTS = 360


@dataclass(frozen=True)
class Plane:
    """The plane of an image layer that is looked at.

    Parameters
    ----------
    axes : tuple of two int
        The layer's axes that are y and x.
    at : tuple of int
        Index on every axis of the layer; of no meaning on ``axes``.
    """

    axes: tuple[int, int]
    at: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Outline:
    """What was drawn, in the pixels of a plane of an image.

    Parameters
    ----------
    kind : str
        ``"rectangle"``, ``"ellipse"`` or ``"polygon"``.
    points : ndarray, (n, 2)
        (y, x) of the corners; of an ellipse, the four corners of the box around it.
    plane : Plane
        Which plane.
    """

    kind: str
    points: NDArray[np.float64]
    plane: Plane


def map_points(
    points: ArrayLike, source: Layer, target: Layer, world_point: Sequence[float] = ()
) -> NDArray[np.float64]:
    """Map points from the data coordinates of one layer to those of another.

    Parameters
    ----------
    points : array_like, (n, source.ndim)
        In the data coordinates of ``source``.
    source, target : Layer
        Any layers of one viewer. Their last axes are the same, as in napari.
    world_point : sequence of float
        The viewer's position (``dims.point``), for axes that ``target`` has and ``source`` has not.

    Returns
    -------
    ndarray, (n, target.ndim)
        In the data coordinates of ``target``.
    """
    here = np.atleast_2d(np.asarray(points, dtype=np.float64))
    matrix = _data_to_world(source)
    world = here @ matrix[:-1, :-1].T + matrix[:-1, -1]
    shared = min(source.ndim, target.ndim)
    there = np.zeros((len(here), target.ndim))
    known = np.asarray(world_point, dtype=np.float64)[-target.ndim :]
    if len(known):
        there[:, target.ndim - len(known) :] = known
    there[:, target.ndim - shared :] = world[:, source.ndim - shared :] * _unit_factors(source, target)
    inverse = np.linalg.inv(_data_to_world(target))
    mapped: NDArray[np.float64] = there @ inverse[:-1, :-1].T + inverse[:-1, -1]
    return mapped


def plane_of(image: Image, dims: Dims) -> Plane:
    """Tell which plane of an image the viewer shows.

    Parameters
    ----------
    image : Image
        An image layer of the viewer.
    dims : Dims
        The viewer's ``dims``.

    Returns
    -------
    Plane
        With the axes in their own order, whatever the order on the canvas.

    Raises
    ------
    InputError
        The image has fewer than two of the axes that the viewer shows.
    """
    shown = sorted(axis - (dims.ndim - image.ndim) for axis in dims.displayed)[-2:]
    if shown[0] < 0:
        raise InputError(f"{image.name} lies across the plane that is shown; turn the axes back.")
    at = image.world_to_data(dims.point)
    return Plane((shown[0], shown[1]), tuple(int(index) for index in np.rint(at)))


def pixels_of(data: Any, plane: Plane, *, rgb: bool, multiscale: bool) -> NDArray[Any]:
    """Read a plane of an image layer's data.

    Parameters
    ----------
    data : array_like, or sequence of these
        What ``Image.data`` holds: in memory, dask or zarr, or the levels of a multiscale image.
    plane : Plane
        Which plane.
    rgb, multiscale : bool
        As the layer's attributes of this name.

    Returns
    -------
    ndarray, (y, x, channel)
        As `images.readers.read_image` reads a file: no alpha, one channel where it is grey.

    Raises
    ------
    InputError
        The plane lies outside the image.
    """
    finest = data[0] if multiscale else data
    where: list[int | slice] = list(plane.at)
    for axis in plane.axes:
        where[axis] = slice(None)
    for index, size in zip(where, finest.shape, strict=False):
        if isinstance(index, int) and not 0 <= index < size:
            raise InputError(
                "The image has no pixels at the position of the sliders; move them to a plane of it."
            )
    pixels = np.asarray(finest[tuple(where)])
    return pixels[..., :3] if rgb else pixels[..., np.newaxis]


def drawn_outline(shapes: Shapes, index: int, image: Image, dims: Dims) -> Outline:
    """Map a shape of a Shapes layer to the pixels of an image.

    Parameters
    ----------
    shapes : Shapes
        Where it was drawn.
    index : int
        Which of its shapes.
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


def region_and_mask(outline: Outline, shape: tuple[int, int]) -> tuple[Region, NDArray[np.bool_] | None]:
    """Turn an outline into what a search takes.

    Parameters
    ----------
    outline : Outline
        In the pixels of the image.
    shape : tuple of two int
        Height and width of the image, in px.

    Returns
    -------
    region : Region
        A rectangle as it is, by at most 45 degrees turned; for anything else the upright rectangle around it.
    mask : ndarray of bool, (y, x), or None
        True inside the outline, for the whole image; ``None`` for a rectangle.

    Raises
    ------
    InputError
        The outline has no area, or lies outside the image.

    Examples
    --------
    >>> corners = np.array([[9.5, 19.5], [9.5, 59.5], [49.5, 59.5], [49.5, 19.5]])
    >>> region_and_mask(Outline("rectangle", corners, Plane((0, 1), (0, 0))), (100, 100))
    (Region(centre=(29.5, 39.5), height=40.0, width=40.0, rotation_degrees=0.0), None)
    """
    points = outline.points
    low, high = points.min(axis=0), points.max(axis=0)
    if (high < -0.5).any() or (low > np.array(shape) - 0.5).any():
        raise InputError("The region lies outside the image; draw it over the image that is searched with.")
    if outline.kind == "rectangle" and _is_rectangle(points):
        return _upright_as_can_be(points), None
    mask = _inside(_polygon(outline), shape)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise InputError("The region holds no pixel of the image; draw it larger.")
    height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    return Region.from_rectangle(int(rows[0]), int(columns[0]), height, width), mask


def shape_data(points: ArrayLike, image: Image, plane: Plane, shapes: Shapes) -> NDArray[np.float64]:
    """Map pixels of an image to the data coordinates of a Shapes layer, such as a box that is to be drawn.

    Parameters
    ----------
    points : array_like, (n, 2)
        (y, x) in the pixels of the image.
    image : Image
        The image.
    plane : Plane
        The plane of it that they lie on.
    shapes : Shapes
        The layer to draw on.

    Returns
    -------
    ndarray, (n, shapes.ndim)
        For `Shapes.add`.
    """
    flat = np.asarray(points, dtype=np.float64)
    full = np.tile(np.asarray(plane.at, dtype=np.float64), (len(flat), 1))
    full[:, plane.axes] = flat
    return map_points(full, image, shapes)


def transform_of(layer: Layer) -> dict[str, Any]:
    """Give the keywords that make another layer lie exactly on this one.

    Parameters
    ----------
    layer : Layer
        The layer to lie on.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units and axis_labels, for a layer of the same ``ndim``.
    """
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine.affine_matrix,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def hit_transform(image: Image, plane: Plane) -> dict[str, Any]:
    """Give the keywords with which a hit lies in its own frame, comparable to the query image.

    Its pixels are as large as the query's, since the search compares pixel by pixel, and its upper left
    corner is where the query image has its own, so that both are seen together in napari's grid.

    Parameters
    ----------
    image : Image
        The image that was searched with.
    plane : Plane
        The plane of it that was searched with.

    Returns
    -------
    dict
        scale, translate and units, for a layer of two axes.
    """
    matrix = _data_to_world(image)
    linear, axes = matrix[:-1, :-1], list(plane.axes)
    scale = np.linalg.norm(linear[:, axes], axis=0)
    height, width = (_finest(image).shape[axis] for axis in axes)
    corners = np.tile(np.asarray(plane.at, dtype=np.float64), (4, 1))
    corners[:, axes] = Region.whole((height, width)).corners()
    first = (corners @ linear.T + matrix[:-1, -1]).min(axis=0)[axes]
    return {"scale": scale, "translate": first + scale / 2, "units": [image.units[axis] for axis in axes]}


def _data_to_world(layer: Layer) -> NDArray[np.float64]:
    """Matrix from data to world coordinates, (ndim + 1, ndim + 1), in the layer's units."""
    origin = np.asarray(layer.data_to_world((0.0,) * layer.ndim))
    matrix = np.eye(layer.ndim + 1)
    matrix[:-1, -1] = origin
    for axis, unit in enumerate(np.eye(layer.ndim)):
        matrix[:-1, axis] = np.asarray(layer.data_to_world(tuple(unit))) - origin
    return matrix


def _unit_factors(source: Layer, target: Layer) -> NDArray[np.float64]:
    """What turns world coordinates of the shared axes from the one's units to the other's."""
    shared = min(source.ndim, target.ndim)
    pairs = zip(source.units[-shared:], target.units[-shared:], strict=True)
    return np.array([_unit_factor(one, other) for one, other in pairs])


def _unit_factor(one: Any, other: Any) -> float:
    from pint import DimensionalityError

    try:
        return float((1.0 * one).to(other).magnitude)
    except DimensionalityError:  # such as pixel and micrometre: napari then draws them as equal
        return 1.0


def _is_rectangle(points: NDArray[np.float64]) -> bool:
    if points.shape != (4, 2):
        return False
    right, down = _sides(points)
    lengths = np.hypot(*right) * np.hypot(*down)
    closed = np.abs(points[0] + points[2] - points[1] - points[3]).max()
    return bool(lengths > 0 and abs(right @ down) <= _RIGHT_ANGLE * lengths and closed <= 1e-3 * lengths**0.5)


def _upright_as_can_be(points: NDArray[np.float64]) -> Region:
    """The region of four corners, whichever of them was drawn first and whichever way round."""
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


def _inside(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    from skimage.draw import polygon as pixels_inside

    mask = np.zeros(shape, dtype=bool)
    mask[pixels_inside(polygon[:, 0], polygon[:, 1], shape)] = True
    return mask


def _finest(image: Image) -> Any:
    return image.data[0] if image.multiscale else image.data
