"""Where hits are put: beside the query in a frame of their own, or under its region, registered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_cmrir.images.geometry import Region
from napari_cmrir.widgets.coordinates import Plane, data_to_world

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["Placement"]


@dataclass(frozen=True, eq=False)
class Placement:
    """How the query's image lay in the world when it was searched with; the layer may be gone since.

    Parameters
    ----------
    plane : Plane
        The plane of it that was searched with.
    matrix : ndarray, (ndim + 1, ndim + 1)
        From its pixels to the world.
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
        """Take it from a layer.

        Parameters
        ----------
        image : Image
            The layer that the region was drawn over.
        plane : Plane
            The plane of it.
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
        """Height and width of a pixel in the world, in its units."""
        size: NDArray[np.float64] = np.linalg.norm(self.matrix[:-1, list(self.plane.axes)], axis=0)
        return size

    @property
    def micrometres(self) -> float | None:
        """Side of a pixel in micrometres; ``None`` where the units are no lengths, such as pixels."""
        from pint import DimensionalityError

        try:
            sides = [
                float((size * self.units[axis]).to("micrometer").magnitude)
                for size, axis in zip(self.pixel_size.tolist(), self.plane.axes, strict=True)
            ]
        except DimensionalityError:
            return None
        return math.sqrt(sides[0] * sides[1])

    def in_place(self, magnification: float = 1.0) -> dict[str, Any]:
        """Give the keywords with which a hit lies in its own frame, comparable to the query image.

        The tissue is as large as in the query image, and its upper left corner is where the query image has
        its own, so that both are seen together in napari's grid.

        Parameters
        ----------
        magnification : float
            Pixels of the query image to a pixel of the hit's.

        Returns
        -------
        dict
            scale, translate, affine and units, for a layer of two axes.
        """
        axes, size = list(self.plane.axes), self.pixel_size * magnification
        corners = self._embed(Region.whole(self.shape).corners())
        first = (corners @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]).min(axis=0)[axes]
        return {
            "scale": size,
            "translate": first + size / 2,
            "affine": np.eye(3),
            "units": tuple(self.units[axis] for axis in axes),
        }

    def registered(self, region: Region, box: ArrayLike) -> dict[str, Any]:
        """Give the keywords with which a hit lies under the region that it was found for.

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

    def region_frame(self, region: Region) -> dict[str, Any]:
        """Give the keywords with which a picture of the region, cut out upright, lies on the region.

        Parameters
        ----------
        region : Region
            In the pixels of the query's image.
        """
        height, width = max(1, round(region.height)), max(1, round(region.width))
        return self.registered(region, Region.whole((height, width)).corners())

    def expanded(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Give a plane the axes of the query's image, for `registered`.

        Parameters
        ----------
        pixels : ndarray, (y, x) or (y, x, 3)
            The plane.
        """
        others = tuple(axis for axis in range(self.ndim) if axis not in self.plane.axes)
        return np.expand_dims(pixels, others) if others else pixels

    def points(self, flat: ArrayLike) -> NDArray[np.float64]:
        """Give (y, x) points the axes of the query's image, for `registered`.

        Parameters
        ----------
        flat : array_like, (n, 2)
            The points.
        """
        full = np.zeros((len(np.asarray(flat)), self.ndim))
        full[:, list(self.plane.axes)] = flat
        return full

    def _onto(self, flat: NDArray[np.float64]) -> dict[str, Any]:
        """Place pixels by the (2, 3) matrix that leads to the query's."""
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
