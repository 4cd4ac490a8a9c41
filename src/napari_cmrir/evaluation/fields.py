"""The fields that are searched in an evaluation: a centred grid in every pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from napari_cmrir.images.geometry import Region

__all__ = ["GridField", "cut_grid", "identifier_of"]


@dataclass(frozen=True)
class GridField:
    """A rectangle of both images of a pair.

    Parameters
    ----------
    identifier : str
        The pair.
    row, column : int
        Place in the pair's grid.
    y, x : int
        First pixel in the pair's images.
    height, width : int
        Size in px.
    """

    identifier: str
    row: int
    column: int
    y: int
    x: int
    height: int
    width: int

    @property
    def name(self) -> str:
        """What the field is called in a repository: ``<identifier>/<row>-<column>``."""
        return f"{self.identifier}/{self.row}-{self.column}"

    @property
    def region(self) -> Region:
        """The field in its pair's images."""
        return Region.from_rectangle(self.y, self.x, self.height, self.width)

    def crop(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the field's part of an image (y, x, channel) of its pair, as a view."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def cut_grid(identifier: str, height: int, width: int, field_size: int) -> list[GridField]:
    """Cut a pair into as many whole fields as fit, about its centre.

    Parameters
    ----------
    identifier : str
        The pair.
    height, width : int
        Size of its images, px.
    field_size : int
        Side of a field, px; along a shorter side of the images a field takes all of it.

    Returns
    -------
    list of GridField
        At least one, row by row.

    Examples
    --------
    >>> [(f.name, f.y, f.x) for f in cut_grid("1B_B1", 300, 520, 256)]
    [('1B_B1/0-0', 22, 4), ('1B_B1/0-1', 22, 260)]
    >>> cut_grid("1B_B10", 100, 80, 256)[0].region.height
    100
    """
    return [
        GridField(identifier, row, column, y, x, tall, wide)
        for row, (y, tall) in enumerate(_cut_side(height, field_size))
        for column, (x, wide) in enumerate(_cut_side(width, field_size))
    ]


def identifier_of(name: str) -> str:
    """Return the pair that a field's name belongs to, whole.

    Examples
    --------
    >>> identifier_of("plate 1/1B_B10/0-1")
    'plate 1/1B_B10'
    """
    return name.rpartition("/")[0]


def _cut_side(length: int, field_size: int) -> list[tuple[int, int]]:
    count, side = max(1, length // field_size), min(length, field_size)
    margin = (length - count * side) // 2
    return [(margin + position * side, side) for position in range(count)]
