"""The CoMIR of an image, computed and stored as a pyramid, without its empty glass where it is large."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path
from napari_cmrir.images.lazy_image import LazyImage, overview
from napari_cmrir.images.tissue_mask import find_tissue
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.repository.pyramids import SHARD_SIDE, create_pyramid, fill_coarser, write_pyramid
from napari_cmrir.repository.segments import cut_fields
from napari_cmrir.repository.settings import RepositorySettings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["notes_of", "nothing_to_write", "store_comir"]

PIECE = 2048
"""Side of the pieces, px, that are left out where no field is kept."""

CELL = 32
"""Side of the squares, px, that are told to be tissue or glass."""

SMALLEST_SIDE = 32
"""Images of a shorter side, px, hold no query: the search takes none that is smaller."""

WHOLE_VALUES = 2**26
"""Images of so many values are read at once: a region at a time would read what lies around it again."""

Result = TypeVar("Result")
Rectangle = tuple[int, int, int, int]
"""y, x, height and width."""


def nothing_to_write() -> None:
    """Write nothing: all is on the disk already."""


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
    """Compute the CoMIR of an image, to be written as a pyramid whole or not at all.

    An image of one shard is read and represented at once, and its writing left to the caller. A larger one is
    looked at from afar first: fields of empty glass are left out, and the CoMIR is computed only where a
    field is kept, 0 elsewhere. It is written block by block; blocks of a shard are read with what the network
    looks at around them, so that there is no seam.

    Parameters
    ----------
    path : Path
        The pyramid's folder to write.
    image : LazyImage
    model : Representation
    modality : str
    settings : RepositorySettings
        Size of fields, and how much tissue one needs.
    name : str
        What viewers show.
    device : str
        Where to compute.
    when_read : callable
        Called when the image is read to its end; if it raises, nothing is stored.

    Yields
    ------
    Progress
        In blocks.

    Returns
    -------
    callable
        Writes what is not yet on the disk; any thread may call it.

    Raises
    ------
    InputError
        If the image cannot be read or does not fit the model, or shows nothing but empty glass.
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
    notes = {
        "pixel_size": image.pixel_size,
        "pixel_step": image.downsample if image.downsample != 1 else None,
        "read": image.reading_note or None,
    }
    return {key: value for key, value in notes.items() if value is not None}


def _with_tissue(image: LazyImage, rectangles: npt.NDArray[np.int64], least: float) -> npt.NDArray[np.bool_]:
    """Tell which fields show at least that share of tissue."""
    tissue = find_tissue(overview(image, CELL))
    kept = []
    for y, x, height, width in rectangles.tolist():
        seen = tissue[y // CELL : -(-(y + height) // CELL), x // CELL : -(-(x + width) // CELL)]
        kept.append(bool(seen.mean() >= least))
    return np.array(kept)


def _in_memory(image: LazyImage) -> Any:
    return np.asarray(image) if math.prod(image.shape) <= WHOLE_VALUES else image


def _is_blank(pixels: npt.NDArray[Any]) -> bool:
    """Tell whether every channel has one value throughout; what is no number counts for nothing."""
    if not (pixels[:1, :1] == pixels[:4, :4]).all() and np.isfinite(pixels[:4, :4]).all():
        return False
    values = np.nan_to_num(pixels.reshape(-1, pixels.shape[2]), nan=0.0, posinf=0.0, neginf=0.0)
    return bool((values == values[0]).all())


def _represent_block(
    model: Representation,
    image: LazyImage,
    modality: str,
    device: str,
    block: Rectangle,
    rectangles: npt.NDArray[np.int64],
) -> Job[npt.NDArray[np.uint8] | None]:
    """Compute a block wherever a field needs it; ``None`` if none does."""
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


def _touches(piece: Rectangle, rectangles: npt.NDArray[np.int64]) -> bool:
    y, x, height, width = piece
    starts, ends = rectangles[:, :2], rectangles[:, :2] + rectangles[:, 2:]
    return bool(((starts < (y + height, x + width)) & (ends > (y, x))).all(axis=1).any())
