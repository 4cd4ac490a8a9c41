"""Which images are trained on, and which are kept to choose the model by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.comir.settings import TrainingSettings

__all__ = ["Split", "split_pairs"]

_FEWEST_IMAGES = 4
_FEWEST_FIELDS = 4
_SMALLEST_FIELD = 96  # px
_TOO_SMALL = "The images are too few and too small to validate on; the last model is kept."

ArrayPair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Split:
    """Image pairs for training and for validation.

    Parameters
    ----------
    training, validation : list of (first, second)
        ``(y, x, channel)`` arrays.
    held_out : tuple of int
        Which of the pairs given are kept for validation, whole.
    manner : str
        One sentence on what is validated on.
    """

    training: list[ArrayPair]
    validation: list[ArrayPair]
    held_out: tuple[int, ...]
    manner: str


def split_pairs(images: Sequence[ArrayPair], settings: TrainingSettings) -> Split:
    """Keep some images for validation: whole ones of four or more, else a strip of each.

    Parameters
    ----------
    images : sequence of (first, second)
        ``(y, x, channel)`` arrays, aligned.
    settings : TrainingSettings
        ``validation_share``, ``patch_size`` and ``seed`` count.

    Returns
    -------
    Split
        With nothing to validate on where the images are too few and too small, or the share is 0.

    Examples
    --------
    >>> images = [(np.zeros((300, 200, 1)), np.zeros((300, 200, 3)))] * 8
    >>> split = split_pairs(images, TrainingSettings(validation_share=0.25))
    >>> len(split.training), len(split.validation), split.manner
    (6, 2, 'Two of 8 pairs are kept for validation.')
    >>> split = split_pairs([(np.zeros((900, 400, 1)), np.zeros((900, 400, 3)))], TrainingSettings())
    >>> split.training[0][0].shape, split.validation[0][1].shape
    ((765, 400, 1), (135, 400, 3))
    """
    share = settings.validation_share
    if share == 0:
        return Split(list(images), [], (), "Nothing is validated; the last model is kept.")
    whole = len(images) >= _FEWEST_IMAGES
    split = _by_image(images, share, settings.seed) if whole else _by_strip(images, settings)
    if sum(_fields(pair) for pair in split.validation) < _FEWEST_FIELDS:
        return Split(list(images), [], (), _TOO_SMALL)
    return split


def _fields(pair: ArrayPair) -> int:
    height, width = pair[0].shape[:2]
    return int((height // _SMALLEST_FIELD) * (width // _SMALLEST_FIELD))


def _by_image(images: Sequence[ArrayPair], share: float, seed: int) -> Split:
    count = max(1, round(share * len(images)))
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    held_out = tuple(sorted(chosen.tolist()))
    spelled = {1: "One", 2: "Two", 3: "Three"}.get(count, str(count))
    return Split(
        [pair for i, pair in enumerate(images) if i not in held_out],
        [images[i] for i in held_out],
        held_out,
        f"{spelled} of {len(images)} pairs {'is' if count == 1 else 'are'} kept for validation.",
    )


def _by_strip(images: Sequence[ArrayPair], settings: TrainingSettings) -> Split:
    parts = [_strip(pair, settings.validation_share, settings.patch_size) for pair in images]
    validation = [strip for _, strip in parts if strip is not None]
    return Split([kept for kept, _ in parts], validation, (), "A strip of each image is kept for validation.")


def _strip(pair: ArrayPair, share: float, patch_size: int) -> tuple[ArrayPair, ArrayPair | None]:
    """Cut a pair in two across its longer side, if both parts are large enough to be of use."""
    shape = pair[0].shape[:2]
    axis = int(shape[1] > shape[0])
    width = max(_SMALLEST_FIELD, round(share * shape[axis]))
    at = shape[axis] - width
    if at < max(patch_size, width) or min(shape) < _SMALLEST_FIELD:
        return pair, None
    (kept, strip), (other_kept, other_strip) = (np.split(image, [at], axis) for image in pair)
    return (kept, other_kept), (strip, other_strip)
