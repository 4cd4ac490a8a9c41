"""The query of Find region: the drawn shape as a region of an image, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.polygons import polygon_bounds
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.coordinates import ImageSnapshot, Plane, map_points, plane_of
from napari_cmrir.napari.hit_placement import Placement
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.summaries import read_repository_summary
from napari_cmrir.search.query import pixels_per_searched, window_read
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Shapes

    from napari_cmrir.search.hits import SearchResult

__all__ = [
    "Found",
    "Outline",
    "Query",
    "chosen_shape",
    "drawn_outline",
    "find",
    "region_and_polygon",
    "with_modality",
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
    outline : Outline or None
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
    """

    repository: Path
    image: ImageSnapshot
    outline: Outline | None
    modality: str
    hits: int
    max_rotation: float
    mirror: bool
    placement: Placement

    def region_and_polygon(self) -> tuple[Region, NDArray[np.float64] | None]:
        """Return the region in pixels of the image, and the corners of the outline in it.

        Raises
        ------
        InputError
            As `outlines.region_and_polygon`.
        """
        if self.outline is None:
            return Region.whole(self.image.shape), None
        return region_and_polygon(self.outline, self.image.shape)

    @property
    def drawn(self) -> tuple[str, NDArray[np.float64]] | None:
        """Kind and points of the drawn shape, if it is not a rectangle."""
        if self.outline is None or self.outline.polygon() is None:
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
        return SearchSettings(hits=self.hits, max_rotation=most, mirror=self.mirror)


@dataclass(frozen=True, eq=False)
class Found:
    """A query and its result.

    Parameters
    ----------
    query : Query
        The query.
    region : Region
        What was searched for, in the pixels of the image.
    result : SearchResult
        The hits.
    """

    query: Query
    region: Region
    result: SearchResult


def with_modality(query: Query) -> Query:
    """Fill in the usual modality of a query if none was chosen; reads the repository.

    Parameters
    ----------
    query : Query
        The query.

    Raises
    ------
    InputError
        As `summaries.read_repository_summary`.
    """
    if query.modality:
        return query
    return replace(query, modality=read_repository_summary(query.repository).other_modality)


def find(query: Query) -> Job[Found]:
    """Search a repository.

    Parameters
    ----------
    query : Query
        The query.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    Found
        The hits.

    Raises
    ------
    InputError
        As `search.query.search` and `repository.store.open_repository`.
    """
    yield Progress(0, None, "%", "Reading the region")
    query = with_modality(query)
    region, polygon = query.region_and_polygon()
    searched = read_repository_summary(query.repository).pixel_size
    step = pixels_per_searched(searched, query.pixel_size)
    window = query.image.read_window(*window_read(region, query.image.shape, step))
    result = yield from in_worker_process(
        tasks.search,
        query.repository,
        window,
        query.modality,
        None if polygon is not None else region,
        polygon,
        query.pixel_size,
        query.settings,
    )
    return Found(query, result.region or region, result)
