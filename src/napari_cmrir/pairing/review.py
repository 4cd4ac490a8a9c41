"""What a user decides about found pairs: accept, reject, and the picture that the decision is made by."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.readers import open_image
from napari_cmrir.images.settings import ReadingSettings
from napari_cmrir.jobs import run
from napari_cmrir.pairing.pair_files import FoundPair, accepted_names, cut_pair, publish_pairs, read_table

__all__ = ["decide", "pair_picture"]

_SQUARES = 4  # of the checkerboard along a side: each shows some structure, and borders enough to compare
_WINDOW = 1024  # px a side at most that a picture is made of, so that a pair of slides takes no longer


def decide(
    folder: str | os.PathLike[str],
    number: int,
    accepted: bool,
    modalities: tuple[str, str],
    reading: ReadingSettings | None = None,
) -> list[FoundPair]:
    """Accept or reject one pair of a folder: write or remove its two files, and its row of the table.

    Parameters
    ----------
    folder : path-like
        A folder that `find_aligned_pairs` wrote.
    number : int
        Row of its table, from 0.
    accepted : bool
        Whether training shall read the pair.
    modalities : (str, str)
        Those of the search: the files of a pair end in them.
    reading : ReadingSettings, optional
        How the images are read.

    Returns
    -------
    list of FoundPair
        The table after the decision.

    Raises
    ------
    InputError
        If the pair has no pose, or an image cannot be read.
    """
    folder = Path(folder)
    pairs = read_table(folder)
    pair = pairs[number]
    if pair.matrix is None:
        raise InputError(f"{pair.first.name} has no partner with a pose; align the two by landmarks first.")
    before = accepted_names(pairs, modalities)
    reason = "accepted by the user" if accepted else "rejected by the user"
    pairs[number] = replace(pair, accepted=accepted, reason=reason)
    after = accepted_names(pairs, modalities)
    kept = {name for row, name in after.items() if before.get(row) == name}
    run(publish_pairs(folder, pairs, modalities, reading, kept))
    return pairs


def pair_picture(
    pair: FoundPair, side: int, reading: ReadingSettings | None = None
) -> NDArray[np.uint8] | None:
    """Make a picture of a pair: the first image, the second registered to it, and both in a checkerboard.

    Parameters
    ----------
    pair : FoundPair
    side : int
        Side of each of the three parts, px.
    reading : ReadingSettings, optional
        How the images are read.

    Returns
    -------
    (side, 3 * side, 3) uint8 array or None
        ``None`` if the pair has no pose, the images do not overlap in it, or one cannot be read.
    """
    import cv2

    if pair.matrix is None:
        return None
    try:
        with (
            closing(open_image(pair.first, reading)) as first,
            closing(open_image(pair.second, reading)) as second,
        ):
            middle, matrix = _middle(first, pair.matrix)
            cut = cut_pair(middle, second, matrix)[:2]
    except InputError:
        return None
    shown = [cv2.resize(_rgb8(pixels), (side, side), interpolation=cv2.INTER_AREA) for pixels in cut]
    squares = np.arange(side) * _SQUARES // side
    is_first = (squares[:, None] + squares) % 2 == 0
    picture: NDArray[np.uint8] = np.hstack([*shown, np.where(is_first[..., None], *shown)])
    return picture


def _middle(image: LazyImage, matrix: NDArray[np.float64]) -> tuple[LazyImage, NDArray[np.float64]]:
    """Return the middle of a large image, and the map from its pixels."""
    (height, width), window = image.shape[:2], _WINDOW
    y, x = max(0, (height - window) // 2), max(0, (width - window) // 2)
    move = np.array([[1.0, 0, y], [0, 1, x], [0, 0, 1]])
    return image.window(y, x, min(height, window), min(width, window)), matrix @ move


def _rgb8(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale an image (y, x, channel) between its 1st and 99th percentiles, as RGB."""
    colour = pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
    low, high = np.percentile(colour, (1, 99))
    scaled = (colour.astype(np.float32) - low) / max(float(high - low), 1e-9)
    return np.asarray(255 * scaled.clip(0, 1), np.uint8)
