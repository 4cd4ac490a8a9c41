"""What indexing will take, estimated from the first images before it starts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_cmrir.images.lazy import LazyImage
from napari_cmrir.jobs import run
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.fields import cut_fields
from napari_cmrir.repository.recipe import Tools
from napari_cmrir.repository.sources import AnySource, open_source

__all__ = ["Estimate", "estimate"]

SAMPLE_IMAGES = 3
SAMPLE_SIDE = 192
BYTES_A_PIXEL = 1.2
"""A CoMIR's channel and its halvings, compressed: noise hardly shrinks, and glass shrinks to nothing."""

BYTES_A_WORD = 6
FEW, FEW_PIXELS = 8, 8 * 1024**2
"""So few images, of so few pixels together, are indexed sooner than estimated."""


@dataclass(frozen=True)
class Estimate:
    """What indexing will take.

    Parameters
    ----------
    images : int
    bytes : int or None
        On the disk; ``None`` where nothing was measured.
    seconds : float or None
    free_bytes : int
        Room on the disk.

    Examples
    --------
    >>> print(Estimate(1000, 3_000_000_000, 5400.0, 10**12))
    1000 images to index: about 90 minutes and 3.0 GB of 1000.0 GB free
    >>> print(Estimate(3, None, None, 10**12))
    3 images to index
    """

    images: int
    bytes: int | None
    seconds: float | None
    free_bytes: int

    def __str__(self) -> str:
        if self.bytes is None or self.seconds is None:
            return f"{self.images} images to index"
        text = (
            f"{self.images} images to index: about {_duration(self.seconds)} and {_size(self.bytes)}"
            f" of {_size(self.free_bytes)} free"
        )
        return text + "; make room first" if self.bytes > self.free_bytes else text


def estimate(
    work: Sequence[tuple[int, AnySource]], tools: Tools, catalogue: Catalogue, crew_size: int
) -> Estimate:
    """Estimate time and disk by reading a few images, and representing and describing a patch of one.

    Images that cannot be read count like the others.

    Parameters
    ----------
    work : sequence of (int, Path, Source or Remote)
        What is to be indexed.
    tools : Tools
    catalogue : Catalogue
    crew_size : int
        Tasks that are done at once.
    """
    free = shutil.disk_usage(catalogue.folder).free
    waiting = [source for number, source in work if catalogue.image(number).state == "pending"]
    evenly = np.linspace(0, len(waiting) - 1, min(SAMPLE_IMAGES, len(waiting))).astype(int)
    found = [(waiting[position], size) for position in evenly if (size := _look(waiting[position], tools))]
    sizes = [size for _, size in found]
    n_pixels = float(np.mean([height * width for height, width in sizes])) * len(waiting) if sizes else 0.0
    is_worth_it = sizes and (len(waiting) > FEW or n_pixels > FEW_PIXELS)
    patch = _look_inside(*found[len(found) // 2], tools) if is_worth_it else None
    if patch is None:
        return Estimate(len(work), None, None, free)
    seconds, bytes_a_pixel = _measure(tools, patch, sizes)
    return Estimate(len(work), int(bytes_a_pixel * n_pixels), seconds * n_pixels / crew_size, free)


def _look(source: AnySource, tools: Tools) -> tuple[int, int] | None:
    """Return height and width of an image; the reason why it cannot be read is found when its turn comes."""
    with suppress(Exception), closing(_open(source, tools)) as image:
        return image.shape[:2]
    return None


def _look_inside(source: AnySource, size: tuple[int, int], tools: Tools) -> npt.NDArray[Any] | None:
    """Read a patch of the middle of an image, where a slide hardly is glass."""
    top, left = (max(0, side - SAMPLE_SIDE) // 2 for side in size)
    with suppress(Exception), closing(_open(source, tools)) as image:
        return image[top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE]
    return None


def _open(source: AnySource, tools: Tools) -> LazyImage:
    return open_source(source, tools.recipe.settings.reading, tools.model.pixel_size)


def _measure(tools: Tools, patch: npt.NDArray[Any], sizes: Sequence[tuple[int, ...]]) -> tuple[float, float]:
    """Measure seconds and bytes a pixel."""
    from napari_cmrir.comir.inference import represent
    from napari_cmrir.words.descriptors import describe

    recipe = tools.recipe
    settings = recipe.settings
    for _ in range(2):  # the first round loads and warms up
        started = time.perf_counter()
        comir = run(represent(tools.model, patch, recipe.modality, device=recipe.device))
        features = describe(comir, settings.descriptor)
        seconds = time.perf_counter() - started
    fields = np.concatenate([cut_fields(h, w, settings.field_size, settings.field_overlap) for h, w in sizes])
    described = float(fields[:, 2:].prod(axis=1).sum()) / sum(height * width for height, width in sizes)
    words = min(
        settings.vocabulary.size, len(features) / patch[..., 0].size * fields[:, 2:].prod(axis=1).mean()
    )
    n_pixels = patch[..., 0].size
    n_bytes = BYTES_A_PIXEL * len(comir) + BYTES_A_WORD * words * len(fields) / sum(h * w for h, w in sizes)
    return described * seconds / n_pixels, n_bytes


def _duration(seconds: float) -> str:
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'' if whole == 1 else 's'}"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"
