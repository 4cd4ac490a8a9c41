"""Computing and storing the CoMIR of an image as a pyramid; large images without their empty glass."""

from __future__ import annotations

import itertools
import math
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path, publish, sync
from napari_cmrir.images.lazy_image import LazyImage, overview
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.repository.pyramids import (
    SHARD_SIDE,
    create_pyramid,
    fill_coarser,
    forget_block,
    open_to_continue,
    write_pyramid,
)
from napari_cmrir.repository.segments import cut_fields
from napari_cmrir.repository.settings import RepositorySettings

if TYPE_CHECKING:
    import zarr

    from napari_cmrir.representations.base import Representation

__all__ = ["find_tissue", "is_stored", "notes_of", "nothing_to_write", "store_comir"]

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

UNFINISHED = "unfinished-"
"""Prefix of the folders of unfinished pyramids; `compact_repository` removes those that are left."""

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
    computed only under kept fields and is 0 elsewhere. Such an image is computed in strips of `PIECE` rows of
    a block, and written block by block, a shard per block. Each strip is read with the network's halo, so
    that strips join without a seam. If the job is stopped or killed, the same call continues with the first
    strip that is not on the disk.

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
        In pixels to compute, with the time that is left, if the image is computed in strips.

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
        yield Progress(0, None, "pixels", "looking for tissue")
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
    work = _Strips(image, model, modality, device, rectangles)
    with _unfinished(path) as folder:
        pyramid = folder / "pyramid"
        if not pyramid.is_dir():
            with atomic_path(pyramid) as partial_pyramid:
                create_pyramid(partial_pyramid, (model.channels, height, width), name, notes)
        levels = open_to_continue(pyramid)
        for y, x in itertools.product(range(0, height, SHARD_SIDE), range(0, width, SHARD_SIDE)):
            yield from work.write_block(folder, levels[0], y, x)
        when_read()
        for number in range(1, len(levels)):  # a killed job may have left torn files
            shutil.rmtree(pyramid / str(number) / "c", ignore_errors=True)
        for message in fill_coarser(levels):
            yield Progress(work.done, work.total, "pixels", message)
        publish(pyramid, path)
    return nothing_to_write


def is_stored(path: Path) -> bool:
    """Tell whether a pyramid is complete; remove the folder that a job killed at its very end left."""
    if not path.is_dir():
        return False
    shutil.rmtree(path.with_name(f"{UNFINISHED}{path.name}"), ignore_errors=True)
    return True


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """Yield the folder of a pyramid's unfinished work; it stays if the job is stopped, killed or out of disk.

    The folder is named after the pyramid, whose name is a key of all that decides its content. It is removed
    at the end, and if the image cannot be used. Those of other content of the same image are removed, too.

    Raises
    ------
    InputError
        If another process works in it.
    """
    folder = path.with_name(f"{UNFINISHED}{path.name}")
    image_number = path.name.split("-")[0]
    for other in path.parent.glob(f"{UNFINISHED}{image_number}-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    with closing(
        sqlite3.connect(folder / "lock", timeout=0, isolation_level=None, check_same_thread=False)
    ) as lock:
        try:
            lock.execute("BEGIN EXCLUSIVE")  # ends with the process, also if it is killed
        except sqlite3.OperationalError as error:
            raise InputError(
                f"{path.name} is being computed by another process; index again when it has ended."
            ) from error
        is_kept = True
        try:
            yield folder
            is_kept = False
        except InputError:
            is_kept = False
            raise
        finally:
            lock.close()
            if not is_kept:
                shutil.rmtree(folder, ignore_errors=True)


class _Strips:
    """The strips of an image's CoMIR: rows of pieces of a block, each of which is kept once computed.

    A strip is `PIECE` rows of a block. It is stored until its block is written: a killed job computes again
    at most the strip at which it was.

    Parameters
    ----------
    image : LazyImage
    model : Representation
    modality, device : str
    rectangles : ndarray, (n, 4) int64
        The fields. Pieces that none of them touches are not computed.

    Attributes
    ----------
    done, total : int
        Pixels on the disk, and pixels to compute.
    """

    def __init__(
        self,
        image: LazyImage,
        model: Representation,
        modality: str,
        device: str,
        rectangles: NDArray[np.int64],
    ) -> None:
        self._image, self._model, self._modality, self._device = image, model, modality, device
        self._rectangles = rectangles
        height, width = self._sides = image.shape[:2]
        blocks = itertools.product(range(0, height, SHARD_SIDE), range(0, width, SHARD_SIDE))
        self.total = sum(_pixels(self._needed(strip)) for y, x in blocks for strip in self._of(y, x))
        self.done, self._computed, self._started = 0, 0, time.monotonic()

    def _of(self, y: int, x: int) -> list[Rectangle]:
        """List the strips of the block at a pixel."""
        bottom, right = min(y + SHARD_SIDE, self._sides[0]), min(x + SHARD_SIDE, self._sides[1])
        return [(top, x, min(PIECE, bottom - top), right - x) for top in range(y, bottom, PIECE)]

    def _needed(self, strip: Rectangle) -> list[Rectangle]:
        """List the pieces of a strip that fields touch; one piece, the strip, if they touch all."""
        top, left, height, width = strip
        pieces = [(top, x, height, min(PIECE, left + width - x)) for x in range(left, left + width, PIECE)]
        needed = [piece for piece in pieces if _touches(piece, self._rectangles)]
        return [strip] if len(needed) == len(pieces) else needed

    def write_block(self, folder: Path, level: zarr.Array[Any], y: int, x: int) -> Job[None]:
        """Compute the strips of a block that are not stored, and write the block, unless it is written."""
        strips = self._of(y, x)
        written = folder / f"{y}-{x}.written"
        pixels = sum(_pixels(self._needed(strip)) for strip in strips)
        if not pixels or written.exists():
            self.done += pixels
            return
        height, width = sum(strip[2] for strip in strips), strips[0][3]
        block = np.zeros((self._model.channels, height, width), np.uint8)
        for strip in strips:
            part = block[:, strip[0] - y : strip[0] - y + strip[2]]
            stored = folder / f"{strip[0]}-{x}.npy"
            if stored.exists():
                part[...] = np.load(stored)
                self.done += _pixels(self._needed(strip))
            elif needed := self._needed(strip):
                for piece in needed:
                    yield from self._represent(piece, part, strip)
                with atomic_path(stored) as partial_strip:
                    np.save(partial_strip, part)
        forget_block(folder / "pyramid", level, y, x)
        level[:, y : y + height, x : x + width] = block
        sync(folder / "pyramid" / "0")
        written.touch()
        for strip in strips:
            (folder / f"{strip[0]}-{x}.npy").unlink(missing_ok=True)

    def _represent(self, piece: Rectangle, part: NDArray[np.uint8], strip: Rectangle) -> Job[None]:
        """Compute a piece, and enter it in the pixels of its strip."""
        from napari_cmrir.representations.base import represent

        job = represent(
            self._model, cast("Any", self._image), self._modality, device=self._device, part=piece
        )
        top, left, height, width = piece
        end = self.done + height * width
        comir = yield from portion(job, self.done, end, self.total, "pixels", lambda _: self._state())
        part[:, top - strip[0] : top - strip[0] + height, left - strip[1] : left - strip[1] + width] = comir
        self.done, self._computed = end, self._computed + height * width

    def _state(self) -> str:
        """Say how much is done and, from the speed of this process alone, how long the rest takes."""
        state = f"{self.done / 1e6:.0f} of {self.total / 1e6:.0f} megapixels"
        if self._computed:
            seconds = (time.monotonic() - self._started) / self._computed * (self.total - self.done)
            state += f", {max(1, round(seconds / 60))} min left"
        return state


def _pixels(pieces: Sequence[Rectangle]) -> int:
    return sum(height * width for _, _, height, width in pieces)


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
