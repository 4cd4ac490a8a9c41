"""Distractors: fields that answer no query, added to enlarge the searched repository."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.queries import share_inside
from napari_cmrir.images.discovery import Pair, find_images
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.settings import ReadingSettings
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.repository.sources import Source

__all__ = ["DISTRACTOR", "Distractors", "find_distractor_images"]

DISTRACTOR = "distractor"
"""Identifier under which distractors are indexed; no pair may have it."""

_GENERATED_SIDE = 2.0  # side of a generated image, in sides of a field
_CUTS = 8  # distractors cut from a generated image
_FIRST_SEED = 2**20  # of generated images: other tissue than that of samples
_ZOOM = 1.25
_TRIES = 16


@dataclass(frozen=True)
class Distractors:
    """Fields cut at random from other and from generated images, rotated, mirrored and zoomed at random.

    Every second field is cut from the given images, if there are any; the others from generated tissue. To a
    search, a field that is mirrored or rotated beyond its limits is other tissue.

    Parameters
    ----------
    count : int
        How many.
    side : int
        Side of each, px.
    images : tuple of Path
        Images of the modality that belong to no pair.
    intensity : Intensity
        Intensities of the modality; generated tissue gets their range and channels.
    seed : int
    reading : ReadingSettings
        Series, level, planes and channels to read of the images.
    """

    count: int
    side: int
    images: tuple[Path, ...]
    intensity: Intensity
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
        centres = rng.uniform(0, pixels.shape[:2], (_TRIES, 2)).tolist()
        regions = [Region((y, x), self.side * step, self.side * step, turned) for y, x in centres]
        region = max(regions, key=lambda region: share_inside(region, pixels.shape))
        field, _ = cut(pixels, region, pixel_step=step)
        return np.ascontiguousarray(field[:, ::-1] if rng.random() < 0.5 else field)

    def _generated(self, number: int) -> NDArray[Any]:
        pixels = _grown(_FIRST_SEED + number, round(_GENERATED_SIDE * self.side), len(self.intensity.low))
        low, high = np.array(self.intensity.low), np.array(self.intensity.high)
        brought: NDArray[np.float32] = (low + (high - low) * pixels).astype(np.float32)
        return brought


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
