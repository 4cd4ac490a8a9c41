"""Computing and storing the CoMIR of an image as a pyramid; large images without their empty glass."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path
from napari_cmrir.images.lazy_image import LazyImage, overview
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.repository.pyramids import SHARD_SIDE, create_pyramid, fill_coarser, write_pyramid
from napari_cmrir.repository.segments import cut_fields
from napari_cmrir.repository.settings import RepositorySettings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["find_tissue", "notes_of", "nothing_to_write", "store_comir"]

PIECE = 2048
"""Side of a piece, px: pieces that no kept field touches are not computed.

Smaller pieces skip more glass and compute more halo; not measured.
"""

CELL = 32
"""Side of the squares, px, that are classified as tissue or glass; not measured."""

SMALLEST_SIDE = 32
"""Smallest side of an image, px: smaller images hold no query, because a search refuses smaller ones."""

WHOLE_VALUES = 2**26
"""Largest number of values of an image that is read at once (64 to 256 MiB).

A region at a time would read the halos twice; larger images would need too much memory. Not measured.
"""

Result = TypeVar("Result")
Rectangle = tuple[int, int, int, int]
"""(y, x, height, width) in pixels."""


def nothing_to_write() -> None:
    """Do nothing: the CoMIR is on the disk already."""


def store_comir(
    path: Path,
    image: LazyImage,
    model: Representation,
    modality: str,
    settings: RepositorySettings,
    *,
    name: str,
    device: str,
    when_read: Callable[[], object] = nothing_to_write,
) -> Job[Callable[[], None]]:
    """Compute the CoMIR of an image, and write it atomically as a pyramid.

    An image of at most one shard is read and represented at once; the caller writes its pyramid. For an image
    of several fields, an overview finds the fields of empty glass. These are left out, and the CoMIR is
    computed only under kept fields and is 0 elsewhere. Such an image is computed and written block by block,
    a shard per block. Each block is read with the network's halo, so that blocks join without a seam.

    Parameters
    ----------
    path : Path
        Folder of the pyramid.
    image : LazyImage
    model : Representation
    modality : str
    settings : RepositorySettings
        Field size, overlap, and the smallest share of tissue.
    name : str
        Name that viewers show.
    device : str
        Device to compute on.
    when_read : callable
        Called after the last pixel is read; if it raises, nothing is stored.

    Yields
    ------
    Progress
        In blocks.

    Returns
    -------
    callable
        Writes the pyramid if it is not yet on the disk. Any thread may call it.

    Raises
    ------
    InputError
        If the image cannot be read, does not fit the model, is blank, too small, or shows only empty glass.
    """
    from napari_cmrir.representations.base import represent

    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(f"{name} ({height} x {width} px) is blank or too small to be described.")
    rectangles = cut_fields(height, width, settings.field_size, settings.field_overlap)
    notes = notes_of(image)
    if len(rectangles) > 1 and settings.least_tissue > 0:
        yield Progress(0, None, "blocks", "Looking for tissue")
        kept = _with_tissue(image, rectangles, settings.least_tissue)
        if not kept.any():
            raise InputError(
                f"{name} ({height} x {width} px) shows nothing but empty glass;"
                " index it with --keep-glass (in napari: Keep empty glass) if that is wrong."
            )
        if not kept.all():
            notes["fields"] = np.flatnonzero(kept).tolist()
            rectangles = rectangles[kept]
    if max(height, width) <= SHARD_SIDE and "fields" not in notes:
        pixels = _in_memory(image)
        if isinstance(pixels, np.ndarray) and _is_blank(pixels):
            raise InputError(f"{name} ({height} x {width} px) is blank or too small to be described.")
        comir = yield from represent(model, pixels, modality, device=device)
        when_read()
        return partial(write_pyramid, path, comir, name, notes)
    blocks = [(y, x) for y in range(0, height, SHARD_SIDE) for x in range(0, width, SHARD_SIDE)]
    with atomic_path(path) as unfinished:
        levels = create_pyramid(unfinished, (model.channels, height, width), name, notes)
        for done, (y, x) in enumerate(blocks):
            sides = (min(SHARD_SIDE, height - y), min(SHARD_SIDE, width - x))
            job = _represent_block(model, image, modality, device, (y, x, *sides), rectangles)
            block = yield from step_of(job, done, len(blocks), "blocks")
            if block is not None:
                levels[0][:, y : y + sides[0], x : x + sides[1]] = block
        block = None
        when_read()
        for message in fill_coarser(levels):
            yield Progress(len(blocks), len(blocks), "blocks", message)
    return nothing_to_write


def notes_of(image: LazyImage) -> dict[str, Any]:
    """Say what a hit needs to know of how an image was read, if it was not just read as it is."""
    step: Any = image.steps[0] if image.steps[0] == image.steps[1] else list(image.steps)
    notes = {
        "pixel_size": image.pixel_size,
        "pixel_step": step if step != 1 else None,
        "read": image.reading_note or None,
    }
    return {key: value for key, value in notes.items() if value is not None}


def _with_tissue(image: LazyImage, rectangles: NDArray[np.int64], least: float) -> NDArray[np.bool_]:
    """Tell which fields show at least a share of tissue."""
    tissue = find_tissue(overview(image, CELL))
    kept = []
    for y, x, height, width in rectangles.tolist():
        cells = tissue[y // CELL : -(-(y + height) // CELL), x // CELL : -(-(x + width) // CELL)]
        kept.append(bool(cells.mean() >= least))
    return np.array(kept)


def _in_memory(image: LazyImage) -> Any:
    return np.asarray(image) if math.prod(image.shape) <= WHOLE_VALUES else image


def _is_blank(pixels: NDArray[Any]) -> bool:
    """Tell whether every channel is constant; values that are not finite count as 0."""
    if not (pixels[:1, :1] == pixels[:4, :4]).all() and np.isfinite(pixels[:4, :4]).all():
        return False  # the first 16 pixels decide nearly every image without reading the rest
    values = np.nan_to_num(pixels.reshape(-1, pixels.shape[2]), nan=0.0, posinf=0.0, neginf=0.0)
    return bool((values == values[0]).all())


def _represent_block(
    model: Representation,
    image: LazyImage,
    modality: str,
    device: str,
    block: Rectangle,
    rectangles: NDArray[np.int64],
) -> Job[NDArray[np.uint8] | None]:
    """Compute a block in the pieces that fields touch; ``None`` if no field touches the block."""
    from napari_cmrir.representations.base import represent

    pixels = cast("Any", image)
    y, x, height, width = block
    pieces = [
        (top, left, min(PIECE, y + height - top), min(PIECE, x + width - left))
        for top in range(y, y + height, PIECE)
        for left in range(x, x + width, PIECE)
    ]
    needed = [piece for piece in pieces if _touches(piece, rectangles)]
    if len(needed) == len(pieces):
        return (yield from represent(model, pixels, modality, device=device, part=block))
    if not needed:
        return None
    comir = np.zeros((model.channels, height, width), np.uint8)
    for done, (top, left, rows, columns) in enumerate(needed):
        job = represent(model, pixels, modality, device=device, part=(top, left, rows, columns))
        part = yield from step_of(job, done, len(needed), "blocks")
        comir[:, top - y : top - y + rows, left - x : left - x + columns] = part
    return comir


def _touches(piece: Rectangle, rectangles: NDArray[np.int64]) -> bool:
    y, x, height, width = piece
    starts, ends = rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]
    return bool(((starts < (y + height, x + width)) & (ends > (y, x))).all(axis=1).any())


FLAT = 0.03
"""Share of the image's range; a cell is flat if its 3 x 3 neighbourhood spans less. Not measured.

A larger value takes smooth tissue for glass; a smaller value takes noisy glass for tissue.
"""

NEAR = 0.04
"""Share of the image's range around the commonest flat value within which a cell is glass. Not measured."""

LEAST_FLAT = 0.05
"""An image with a smaller share of flat cells has no glass. Not measured."""

ONE_SIDED = 0.9
"""Share of all other cells that glass must be lighter than, or darker than. Not measured.

A value with cells on both sides belongs to tissue.
"""


def find_tissue(overview: NDArray[Any]) -> NDArray[np.bool_]:
    """Separate tissue from empty glass; doubtful cells are tissue.

    Glass is flat and has one value. Nearly everything else is darker than glass (bright field) or lighter
    (dark field, second harmonic generation). An image without such a value is tissue everywhere.

    Parameters
    ----------
    overview : ndarray, (y, x, channel)
        Downsampled image; each pixel is the mean of a cell.

    Returns
    -------
    ndarray, (y, x) bool
        True for tissue and for its neighbour cells; False everywhere in a constant image.

    Examples
    --------
    >>> slide = np.full((20, 30, 1), 240.0)
    >>> slide[5:10, 5:15] = np.random.default_rng(0).uniform(20, 180, (5, 10, 1))
    >>> np.argwhere(find_tissue(slide)).min(0), np.argwhere(find_tissue(slide)).max(0)
    (array([3, 3]), array([11, 16]))
    """
    from scipy.ndimage import binary_dilation, maximum_filter, minimum_filter

    cells = np.nan_to_num(overview.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(cells, (0.5, 99.5), axis=(0, 1)).astype(np.float32)
    span = float((high - low).max() or np.ptp(cells, axis=(0, 1)).max())
    everywhere = np.ones(cells.shape[:2], bool)
    if span == 0:
        return ~everywhere
    scaled = (cells - low) / span
    around = (3, 3, 1)
    flat = (maximum_filter(scaled, around) - minimum_filter(scaled, around)).max(2) < FLAT
    if flat.mean() < LEAST_FLAT:
        return everywhere
    near = np.abs(scaled - _commonest(scaled[flat])).max(2) <= NEAR
    glass = flat & near
    others = scaled.mean(2)[~near]
    lighter = float((others > scaled.mean(2)[glass].mean()).mean()) if glass.any() and others.size else 0.5
    if others.size and not (lighter >= ONE_SIDED or lighter <= 1 - ONE_SIDED):
        return everywhere
    tissue: NDArray[np.bool_] = binary_dilation(~glass, np.ones((3, 3)))
    return tissue


def _commonest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the commonest value of each channel of (n, channel): the median of the fullest histogram bin."""
    found = []
    for channel in values.T:
        counts, edges = np.histogram(channel, bins=50)
        top = int(np.argmax(counts))
        found.append(np.median(channel[(channel >= edges[top]) & (channel <= edges[top + 1])]))
    return np.array(found, np.float32)
