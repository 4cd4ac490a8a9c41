"""Fields, queries and distractors of an evaluation."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import Pair, find_images
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import Intensity, plain_type
from napari_cmrir.images.lazy_image import lazy_array
from napari_cmrir.images.readers import image_stem, open_image, read_image, read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.images.value_range import squared
from napari_cmrir.repository.sources import Source
from napari_cmrir.settings import ReadingSettings

__all__ = [
    "DISTRACTOR",
    "Distractors",
    "GridField",
    "QueryImage",
    "box_in_field",
    "centre_of",
    "cut_grid",
    "cut_query",
    "draw_patch",
    "draw_region",
    "find_distractor_images",
    "find_queries",
    "identifier_of",
    "read_square",
    "read_square_pair",
    "share_inside",
]


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
        """Name of the field in a repository: ``<identifier>/<row>-<column>``."""
        return f"{self.identifier}/{self.row}-{self.column}"

    @property
    def region(self) -> Region:
        """The field in its pair's images."""
        return Region.from_rectangle(self.y, self.x, self.height, self.width)

    def crop(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return the field's part of an image (y, x, channel) of its pair, as a view."""
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


def cut_grid(identifier: str, height: int, width: int, field_size: int) -> list[GridField]:
    """Cut a pair into a centred grid of as many whole fields as fit.

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
    """Return the full identifier of the pair of a field's name.

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


_TRIES = 32  # random shifts; the first that keeps the query inside the image is used, or the best


@dataclass(frozen=True, eq=False)
class QueryImage:
    """The image of a query.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
    mask : ndarray of bool, (y, x), or None
        True where the query counts: inside the image that it was cut from. ``None`` if it counts everywhere.
    """

    pixels: NDArray[Any]
    mask: NDArray[np.bool_] | None

    @property
    def inside(self) -> float:
        """Share of the query that counts, 0 to 1."""
        return 1.0 if self.mask is None else float(self.mask.mean())


def draw_region(field: GridField, image_shape: tuple[int, ...], settings: EvaluationSettings) -> Region:
    """Rotate and shift a field at random.

    The rotation is drawn once. The shift is drawn up to 32 times until the region lies inside the image; if
    it never does, the draw with the largest share inside counts. The draws depend only on the seed and the
    name of the field: every modality, size and configuration has the same.

    Parameters
    ----------
    field : GridField
        The field to transform.
    image_shape : tuple of int
        (y, x, ...) of the pair's images, px.
    settings : EvaluationSettings
        Its ``max_rotation``, ``max_shift`` and ``seed``.

    Returns
    -------
    Region
        In the pixels of the pair's images, of the field's size.

    Examples
    --------
    >>> field = GridField("a", 0, 0, 100, 100, 64, 64)
    >>> region = draw_region(field, (264, 264), EvaluationSettings(max_shift=0))
    >>> region.centre, abs(region.rotation_degrees) <= 30
    ((131.5, 131.5), True)
    """
    rng = np.random.default_rng([settings.seed, zlib.crc32(field.name.encode())])
    rotation = float(rng.uniform(-settings.max_rotation, settings.max_rotation))
    reach = settings.max_shift * np.array([field.height, field.width])
    best, most = field.region, -1.0
    for _ in range(_TRIES):
        dy, dx = rng.uniform(-reach, reach)
        centre = (field.region.centre[0] + float(dy), field.region.centre[1] + float(dx))
        region = Region(centre, field.height, field.width, rotation)
        inside = share_inside(region, image_shape)
        if inside > most:
            best, most = region, inside
        if most >= 1:
            break
    return best


def centre_of(region: Region, side: int) -> Region:
    """Return the patch in the middle of a region, with its rotation.

    Parameters
    ----------
    region : Region
        The whole.
    side : int
        Side of the patch in px; a shorter side of the region is taken whole.

    Returns
    -------
    Region
        With the same centre; without rotation rounded to half a pixel, so that it holds whole pixels.

    Examples
    --------
    >>> centre_of(Region.from_rectangle(0, 0, 9, 12), 4).corners()[0].tolist()
    [1.5, 3.5]
    """
    height, width = min(side, region.height), min(side, region.width)
    y, x = region.centre
    if region.rotation_degrees == 0:  # without rotation, the query stays an exact copy of pixels
        y, x = y - (region.height - height) % 2 / 2, x - (region.width - width) % 2 / 2
    return Region((y, x), height, width, region.rotation_degrees)


def draw_patch(field: GridField, number: int, pose: str, settings: EvaluationSettings) -> Region:
    """Place a patch at random in a field.

    Parameters
    ----------
    field : GridField
        The field; the patch lies in it entirely, so that no other field shows it.
    number : int
        Which of the field's patches. The draws depend only on it, the seed and the name of the field.
    pose : {"transformed", "untransformed"}
        With a random rotation, or without.
    settings : EvaluationSettings
        Its ``side_of_patch``, ``max_rotation`` and ``seed``.

    Returns
    -------
    Region
        In the pixels of the pair's images.

    Examples
    --------
    >>> field = GridField("a", 0, 0, 100, 100, 256, 256)
    >>> patch = draw_patch(field, 3, "untransformed", EvaluationSettings())
    >>> patch.height, patch.rotation_degrees, share_inside(patch, (356, 356))
    (96, 0.0, 1.0)
    """
    rng = np.random.default_rng([settings.seed, zlib.crc32(field.name.encode()), number])
    rotation = float(rng.uniform(-settings.max_rotation, settings.max_rotation))
    place = rng.uniform(-1, 1, 2)
    patch = centre_of(field.region, settings.side_of_patch)
    turned = replace(patch, rotation_degrees=rotation if pose == "transformed" else 0.0)
    reach = (np.array([field.height, field.width]) - np.ptp(turned.corners(), axis=0) - 1) / 2
    dy, dx = place * reach.clip(0)
    if turned.rotation_degrees == 0:
        dy, dx = round(dy), round(dx)
    return replace(turned, centre=(patch.centre[0] + float(dy), patch.centre[1] + float(dx)))


def cut_query(pixels: NDArray[Any], region: Region) -> QueryImage:
    """Cut a query from the larger image that it lies in.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        Image of a pair.
    region : Region
        Region of the query, in pixels of that image.

    Returns
    -------
    QueryImage
        With a mask if the region reaches beyond the image.

    Examples
    --------
    >>> pixels = np.zeros((80, 80, 1), np.uint8)
    >>> cut_query(pixels, Region.from_rectangle(0, 40, 80, 80)).inside
    0.5
    """
    patch, mask = cut(pixels, region)
    return QueryImage(patch, None if mask.all() else mask)


def box_in_field(region: Region, field: GridField) -> NDArray[np.float64]:
    """Compute a query's corners in the field's pixels.

    Parameters
    ----------
    region : Region
        The query in the pixels of the pair's images.
    field : GridField
        The field.

    Returns
    -------
    ndarray, (4, 2)
        (y, x) of the query's top-left, top-right, bottom-right and bottom-left corner.

    Examples
    --------
    >>> field = GridField("a", 0, 0, 10, 20, 64, 64)
    >>> box_in_field(field.region, field)[2].tolist()
    [63.5, 63.5]
    """
    box: NDArray[np.float64] = region.corners() - [field.y, field.x]
    return box


def find_queries(folder: Path, modality: str, identifiers: set[str]) -> dict[str, Path]:
    """Find ready queries, named ``<identifier>_<MODALITY>.<ext>``.

    Parameters
    ----------
    folder : Path
        Folder of the queries.
    modality : str
        Those of this modality.
    identifiers : set of str
        The pairs that there are.

    Returns
    -------
    dict
        File of each identifier, in the order of the files.

    Raises
    ------
    InputError
        If there is none of the modality, or one belongs to no pair or to one that has one already.
    """
    ending = f"_{modality}".lower()
    found: dict[str, Path] = {}
    for path in find_images([folder], modality):
        if not image_stem(path).lower().endswith(ending):
            continue
        stem = image_stem(path)[: -len(ending)]
        nested = path.relative_to(folder).with_name(stem).as_posix()
        identifier = nested if nested in identifiers else stem
        if identifier not in identifiers:
            raise InputError(f"The query {path} belongs to no pair; remove it or add the pair {identifier}.")
        if identifier in found:
            raise InputError(f"{found[identifier]} and {path} are both queries of {identifier}; remove one.")
        found[identifier] = path
    if not found:
        raise InputError(f"{folder} holds no query named <identifier>_{modality}.<ext>.")
    return found


def share_inside(region: Region, image_shape: tuple[int, ...]) -> float:
    """Compute the share of a region that lies in an image; 1 only if all of it does."""
    corners = region.corners()
    size = np.array(image_shape[:2])
    if (corners >= -0.5).all() and (corners <= size - 0.5).all():
        return 1.0
    steps = (np.arange(32) + 0.5) / 32
    down, right = corners[3] - corners[0], corners[1] - corners[0]
    points = corners[0] + steps[:, None, None] * down + steps[None, :, None] * right
    inside = ((points >= -0.5) & (points <= size - 0.5)).all(axis=-1)
    return min(float(inside.mean()), 1 - 1e-6)


DISTRACTOR = "distractor"
"""Identifier under which distractors are indexed; no pair may have it."""

_GENERATED_SIDE = 2.0  # side of a generated image, in sides of a field
_CUTS = 8  # distractors cut from a generated image
_FIRST_SEED = 2**20  # seeds of generated images: differ from those of the samples
# Types by the highest value that they hold.
_TYPES: dict[float | None, type[np.generic]] = {255.0: np.uint8, 65535.0: np.uint16}
_ZOOM = 1.25  # largest change of size, either way
_DISTRACTOR_TRIES = 16  # random places; the one with the largest share inside the image is used


@dataclass(frozen=True)
class Distractors:
    """Fields cut at random from other and from generated images, rotated, mirrored and zoomed at random.

    Every second field is cut from the given images, if there are any; the others from generated tissue. To a
    search, a field that is mirrored or rotated beyond its limits is other tissue.

    Parameters
    ----------
    count : int
        Number of distractors.
    side : int
        Side of each, px.
    images : tuple of Path
        Images of the modality that belong to no pair.
    intensity : Intensity
        Intensities of the modality; generated tissue gets their range and channels.
    full : float or None
        Highest value that an image of the modality can hold, if it is known: generated tissue gets the type.
    seed : int
    reading : ReadingSettings
        Series, level, planes and channels to read of the images.
    """

    count: int
    side: int
    images: tuple[Path, ...]
    intensity: Intensity
    full: float | None
    seed: int
    reading: ReadingSettings = field(default_factory=ReadingSettings)

    def __iter__(self) -> Iterator[Source]:
        """Draw the fields in order. Equal settings give equal fields."""
        for number in range(self.count):
            yield Source(f"{DISTRACTOR}/{number:06d}", self.draw(number))

    def draw(self, number: int) -> NDArray[Any]:
        """Draw a field, (side, side, channel)."""
        rng = np.random.default_rng([self.seed, number])
        if self.images and number % 2 == 0:
            pixels = _read(self.images[rng.integers(len(self.images))], self.reading)
        else:
            pixels = self._generated(number // (_CUTS * (2 if self.images else 1)))
        step, turned = float(rng.uniform(1 / _ZOOM, _ZOOM)), float(rng.uniform(-180, 180))
        centres = rng.uniform(0, pixels.shape[:2], (_DISTRACTOR_TRIES, 2)).tolist()
        regions = [Region((y, x), self.side * step, self.side * step, turned) for y, x in centres]
        region = max(regions, key=lambda region: share_inside(region, pixels.shape))
        field, _ = cut(pixels, region, pixel_step=step)
        return np.ascontiguousarray(field[:, ::-1] if rng.random() < 0.5 else field)

    def _generated(self, number: int) -> NDArray[Any]:
        pixels = _grown(_FIRST_SEED + number, round(_GENERATED_SIDE * self.side), len(self.intensity.low))
        low, high = np.array(self.intensity.low), np.array(self.intensity.high)
        brought = low + (high - low) * pixels
        if self.full in _TYPES:  # a reader would have to guess the range of other values
            brought = brought.round()
        return np.asarray(brought, _TYPES.get(self.full, np.float32))


def find_distractor_images(
    folders: Sequence[str | os.PathLike[str]], modality: str, pairs: Sequence[Pair]
) -> tuple[Path, ...]:
    """Find the images of a modality to cut distractors from.

    Raises
    ------
    InputError
        If a folder has no image of the modality, or an image belongs to a pair.
    """
    found = tuple(find_images(list(folders), modality)) if folders else ()
    asked = {Path(path).resolve() for pair in pairs for path in pair.paths}
    both = next((path for path in found if path.resolve() in asked), None)
    if both is not None:
        raise InputError(f"{both} is of a pair that is searched for; give folders of other images.")
    return found


@lru_cache(maxsize=256)
def _read(path: Path, reading: ReadingSettings) -> NDArray[Any]:
    return np.atleast_3d(read_image(path, reading))


@lru_cache(maxsize=2)
def _grown(seed: int, side: int, channels: int) -> NDArray[np.float32]:
    """Generated tissue, in brightfield for three channels, else in second harmonic generation, 0 to 1."""
    pair = sample_pair(seed, side)
    pixels = pair.bf if channels == 3 else np.repeat(pair.shg, channels, axis=2)
    lowest, highest = np.percentile(pixels, (0.1, 99.9))
    scaled = (pixels - lowest) / max(highest - lowest, 1e-6)
    grown: NDArray[np.float32] = np.clip(scaled, 0, 1).astype(np.float32)
    return grown


def read_square(path: Path, reading: ReadingSettings | None) -> NDArray[Any]:
    """Read an image (y, x, channel), resampled to square pixels if its file says that they are not."""
    with closing(open_image(path, reading)) as image:
        return plain_type(np.ascontiguousarray(squared(image)[:, :]))


def read_square_pair(pair: Pair) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read aligned images, both resampled to square pixels if the file of either says that they are not."""
    pixels = read_pair(pair)
    for path in pair.paths:
        with closing(open_image(path, pair.reading)) as image:
            size, aspect = image.pixel_size, image.aspect
        if squared(image) is not image:
            both = (replace(lazy_array(one, pixel_size=size), aspect=aspect) for one in pixels)
            first, second = (np.ascontiguousarray(squared(one)[:, :]) for one in both)
            return first, second
    return pixels
