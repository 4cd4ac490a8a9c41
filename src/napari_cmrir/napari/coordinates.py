"""World coordinates and layer snapshots; no other module uses world coordinates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import ImageWindow
from napari_cmrir.images.readers import converter_of

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Layer, Shapes

__all__ = [
    "ImageSnapshot",
    "Plane",
    "data_to_world",
    "map_points",
    "pixels_of",
    "plane_of",
    "shape_data",
    "transform_of",
    "world_frame",
]


@dataclass(frozen=True)
class Plane:
    """The visible plane of an image layer.

    Parameters
    ----------
    axes : tuple of two int
        The layer's axes that are y and x.
    at : tuple of int
        Index on every axis of the layer; of no meaning on ``axes``.
    """

    axes: tuple[int, int]
    at: tuple[int, ...]


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
    matrix = data_to_world(source)
    world = here @ matrix[:-1, :-1].T + matrix[:-1, -1]
    shared = min(source.ndim, target.ndim)
    there = np.zeros((len(here), target.ndim))
    known = np.asarray(world_point, dtype=np.float64)[-target.ndim :]
    if len(known):
        there[:, target.ndim - len(known) :] = known
    there[:, target.ndim - shared :] = world[:, source.ndim - shared :] * _unit_factors(source, target)
    inverse = np.linalg.inv(data_to_world(target))
    mapped: NDArray[np.float64] = there @ inverse[:-1, :-1].T + inverse[:-1, -1]
    return mapped


def plane_of(image: Image, dims: Dims) -> Plane:
    """Return the plane of an image that the viewer shows.

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


def pixels_of(
    data: Any,
    plane: Plane,
    *,
    rgb: bool,
    multiscale: bool,
    window: tuple[slice, slice] = (slice(None), slice(None)),
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """Read a plane of an image layer's data.

    Parameters
    ----------
    data : array_like, or sequence of these
        What ``Image.data`` holds: in memory, dask or zarr, or the levels of a multiscale image.
    plane : Plane
        Which plane.
    rgb, multiscale : bool
        As the layer's attributes of this name.
    window : tuple of two slice
        The rows and columns to read, by default all.
    convert : callable, optional
        What the samples mean, as the file that the layer was opened from says (`readers.converter_of`).

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
    for axis, part in zip(plane.axes, window, strict=True):
        where[axis] = part
    for index, size in zip(where, finest.shape, strict=False):
        if isinstance(index, int) and not 0 <= index < size:
            raise InputError(
                "The image has no pixels at the position of the sliders; move them to a plane of it."
            )
    pixels = np.asarray(finest[tuple(where)])
    if convert is not None:
        return convert(pixels if rgb else pixels[..., np.newaxis])
    return plain_type(pixels[..., :3] if rgb else pixels[..., np.newaxis])


def shape_data(points: ArrayLike, image: Image, plane: Plane, shapes: Shapes) -> NDArray[np.float64]:
    """Map pixels of an image to the data coordinates of a Shapes layer, to draw a box for example.

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
    """Return the keywords that place another layer exactly on this one.

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


def world_frame(layer: Layer) -> NDArray[np.float64]:
    """Return the smallest and the largest y and x that a layer covers in the world, (2, 2)."""
    frame: NDArray[np.float64] = np.asarray(layer.extent.world, dtype=np.float64)[:, -2:]
    return frame


def data_to_world(layer: Layer) -> NDArray[np.float64]:
    """Return the matrix from data to world coordinates.

    Parameters
    ----------
    layer : Layer
        The layer.

    Returns
    -------
    ndarray, (ndim + 1, ndim + 1)
        In the layer's units.
    """
    origin = np.asarray(layer.data_to_world((0.0,) * layer.ndim))
    matrix = np.eye(layer.ndim + 1)
    matrix[:-1, -1] = origin
    for axis, unit in enumerate(np.eye(layer.ndim)):
        matrix[:-1, axis] = np.asarray(layer.data_to_world(tuple(unit))) - origin
    return matrix


def _unit_factors(source: Layer, target: Layer) -> NDArray[np.float64]:
    """Return the factors from the world units of one layer to those of another, for the shared axes."""
    shared = min(source.ndim, target.ndim)
    pairs = zip(source.units[-shared:], target.units[-shared:], strict=True)
    return np.array([_unit_factor(one, other) for one, other in pairs])


def _unit_factor(one: Any, other: Any) -> float:
    from pint import DimensionalityError

    try:
        return float((1.0 * one).to(other).magnitude)
    except DimensionalityError:  # such as pixel and micrometre: napari then draws them as equal
        return 1.0


@dataclass(frozen=True, eq=False)
class ImageSnapshot:
    """A plane of an image layer; the layer may later be renamed or deleted.

    Parameters
    ----------
    name : str
        The layer's name.
    data : array_like
        What ``Image.data`` holds.
    plane : Plane
        Which plane of it.
    rgb, multiscale : bool
        As the layer's attributes of this name.
    path : str or None
        The file that it was opened from.
    is_read : bool
        Whether the pixels are what `images.readers` reads of the file, as for a large image opened by a dock.
    """

    name: str
    data: Any
    plane: Plane
    rgb: bool
    multiscale: bool
    path: str | None = None
    is_read: bool = False

    @classmethod
    def of(cls, image: Image, dims: Dims, plane: Plane | None = None) -> ImageSnapshot:
        """Take a snapshot.

        Parameters
        ----------
        image : Image
            The layer.
        dims : Dims
            The viewer's ``dims``.
        plane : Plane, optional
            Which plane, by default the one that is shown.
        """
        own = image.metadata.get("napari-cmrir", {}).get("path")
        return cls(
            image.name,
            image.data,
            plane or plane_of(image, dims),
            image.rgb,
            image.multiscale,
            own or image.source.path,
            own is not None,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the plane in px."""
        finest = self.data[0] if self.multiscale else self.data
        y, x = self.plane.axes
        return int(finest.shape[y]), int(finest.shape[x])

    @cached_property
    def _convert(self) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
        """How the layer's samples are read, where its file has them in another meaning than grey or RGB."""
        if self.path is None or self.is_read:
            return None
        finest = self.data[0] if self.multiscale else self.data
        n_samples = int(finest.shape[-1]) if self.rgb else 1
        return converter_of(self.path, self.shape, n_samples, np.dtype(finest.dtype))

    def read(self) -> NDArray[Any]:
        """Read the pixels, (y, x, channel)."""
        return pixels_of(
            self.data, self.plane, rgb=self.rgb, multiscale=self.multiscale, convert=self._convert
        )

    def read_window(self, rows: slice, columns: slice) -> ImageWindow:
        """Read a part of the plane, without the rest of a lazy layer."""
        pixels = pixels_of(
            self.data,
            self.plane,
            rgb=self.rgb,
            multiscale=self.multiscale,
            window=(rows, columns),
            convert=self._convert,
        )
        return ImageWindow(self.name, self.shape, (rows.start, columns.start), np.ascontiguousarray(pixels))
