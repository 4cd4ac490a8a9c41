"""What a job may know of a layer: taken in the window's thread, read in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from napari_cmrir.widgets.coordinates import Plane, pixels_of, plane_of

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image

__all__ = ["ImageSnapshot"]


@dataclass(frozen=True, eq=False)
class ImageSnapshot:
    """A plane of an image layer; the layer may be renamed or deleted meanwhile.

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
    """

    name: str
    data: Any
    plane: Plane
    rgb: bool
    multiscale: bool
    path: str | None = None

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
        return cls(
            image.name,
            image.data,
            plane or plane_of(image, dims),
            image.rgb,
            image.multiscale,
            image.source.path,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in px."""
        finest = self.data[0] if self.multiscale else self.data
        y, x = self.plane.axes
        return int(finest.shape[y]), int(finest.shape[x])

    def read(self) -> NDArray[Any]:
        """Read the pixels, (y, x, channel)."""
        return pixels_of(self.data, self.plane, rgb=self.rgb, multiscale=self.multiscale)
