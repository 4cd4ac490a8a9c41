"""Draw a query and its hits as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.search.hits import Hit

__all__ = ["FoundImage", "Truth", "draw_hits"]

_PANEL, _GAP, _MARGIN, _HEADER, _LEGEND = 320, 14, 36, 84, 52  # px
_BACKGROUND, _FRAME = (24, 26, 31), (68, 72, 82)
_TEXT, _FAINT = (236, 238, 242), (158, 164, 176)
_MATCH, _TRUTH = (255, 214, 10), (0, 190, 255)
_SMALL, _LARGE = 21, 28  # text heights, px
_FINER = 16  # OpenCV draws at this fraction of a pixel

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class FoundImage:
    """A hit and its image.

    Parameters
    ----------
    hit : Hit
        Its rank, score, rotation and box.
    name : str
        What to call the image.
    pixels : (y, x, channel) array
        The image.
    comir : (channel, y, x) uint8 array
        The image's CoMIR.
    """

    hit: Hit
    name: str
    pixels: NDArray[Any]
    comir: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Truth:
    """The true place of the query.

    Parameters
    ----------
    image : str
        The image, named as in `Hit.image`.
    box : (4, 2) array
        Corners (y, x) of the query in that image's pixels.
    rotation_degrees : float
        Counter-clockwise rotation that takes the query to this place.
    """

    image: str
    box: NDArray[np.float64]
    rotation_degrees: float


def draw_hits(
    query: NDArray[Any],
    modality: str,
    comir: NDArray[np.uint8],
    found: Sequence[FoundImage],
    truth: Truth | None = None,
) -> Picture:
    """Draw a query beside its hits, all images above their CoMIRs.

    Parameters
    ----------
    query : (y, x, channel) array
        The query.
    modality : str
        Its modality.
    comir : (channel, y, x) uint8 array
        Its CoMIR.
    found : sequence of FoundImage
        A column each.
    truth : Truth, optional
        Outlined in the images where it lies.

    Returns
    -------
    (y, x, 3) uint8 array
        RGB.
    """
    columns = len(found) + 1
    height = 2 * _MARGIN + _HEADER + 2 * _PANEL + _GAP + _LEGEND
    width = 2 * _MARGIN + columns * _PANEL + (columns + 1) * _GAP  # twice the gap beside the query
    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    top, bottom = _MARGIN + _HEADER, _MARGIN + _HEADER + _PANEL + _GAP
    words = [
        _Words(_MARGIN, top - 50, "Query", _LARGE, _TEXT),
        _Words(_MARGIN, top - 16, f"{modality}, {query.shape[0]} x {query.shape[1]} px", _SMALL, _FAINT),
    ]
    _paste(canvas, top, _MARGIN, _panel(query, []))
    _paste(canvas, bottom, _MARGIN, _panel(comir.transpose(1, 2, 0), []))
    for column, image in enumerate(found, 1):
        left = _MARGIN + column * (_PANEL + _GAP) + _GAP
        outlines = _outlines(image.hit, truth)
        _paste(canvas, top, left, _panel(image.pixels, outlines))
        _paste(canvas, bottom, left, _panel(image.comir.transpose(1, 2, 0), outlines))
        words += _header(left, top, image)
    words += _legend(canvas, bottom + _PANEL + _LEGEND, found, truth)
    return _written(canvas, words)


@dataclass(frozen=True)
class _Words:
    """A line of text, its left end and base line in px."""

    x: int
    y: int
    text: str
    size: int
    colour: Colour
    anchor: str = "ls"


def _header(left: int, top: int, image: FoundImage) -> list[_Words]:
    hit = image.hit
    right = left + _PANEL
    return [
        _Words(left, top - 50, f"{hit.rank}", _LARGE, _TEXT),
        _Words(left + 30, top - 50, image.name, _SMALL, _TEXT),
        _Words(left, top - 16, f"score {hit.score:.3f}", _SMALL, _FAINT),
        _Words(right, top - 16, f"turned {hit.rotation_degrees:+.1f}°", _SMALL, _FAINT, "rs"),
    ]


def _outlines(hit: Hit, truth: Truth | None) -> list[tuple[NDArray[np.float64], Colour, int]]:
    """Boxes to draw into a hit's image, the true one wide and below: (box, colour, line width)."""
    match = (hit.box, _MATCH, 3)
    if truth is None or truth.image != hit.image:
        return [match]
    return [(truth.box, _TRUTH, 8), match]


def _panel(pixels: NDArray[Any], outlines: list[tuple[NDArray[np.float64], Colour, int]]) -> Picture:
    """An image in a square of fixed size, with boxes in its own pixels drawn over it."""
    import cv2

    scale = _PANEL / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    shown: Picture = cv2.resize(
        _visible(pixels), (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    for number, (box, colour, thickness) in enumerate(outlines):
        corners = ((box + 0.5) * scale - 0.5)[:, ::-1] * _FINER
        points, shift = [np.rint(corners).astype(np.int32)], _FINER.bit_length() - 1
        if number == 0:  # the lowest box gets a dark rim for contrast
            cv2.polylines(shown, points, True, _BACKGROUND, thickness + 2, cv2.LINE_AA, shift)
        cv2.polylines(shown, points, True, colour, thickness, cv2.LINE_AA, shift)
    cv2.rectangle(shown, (0, 0), (width - 1, height - 1), _FRAME, 1)
    return shown


def _visible(pixels: NDArray[Any]) -> Picture:
    """Convert to 8-bit RGB; stretch other types between their percentiles."""
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, (1, 99.7))
        scaled = (pixels.astype(np.float32) - low) / max(high - low, 1e-6)
        pixels = np.rint(255 * scaled.clip(0, 1) ** 0.7).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., [0, 0, 0]])


def _paste(canvas: Picture, top: int, left: int, panel: Picture) -> None:
    top, left = top + (_PANEL - panel.shape[0]) // 2, left + (_PANEL - panel.shape[1]) // 2
    canvas[top : top + panel.shape[0], left : left + panel.shape[1]] = panel


def _legend(canvas: Picture, base: int, found: Sequence[FoundImage], truth: Truth | None) -> list[_Words]:
    """Draw the symbols of the legend, and return its texts."""
    import cv2

    entries = [(_MATCH, 3, "match box")]
    if truth is not None:
        rank = next((image.hit.rank for image in found if image.hit.image == truth.image), None)
        where = f"in hit {rank}" if rank else f"in none of the best {len(found)}"
        entries.append((_TRUTH, 7, f"true place, {where}"))
    words, left = [_Words(_MARGIN, base, "CoMIRs below", _SMALL, _FAINT)], _MARGIN
    left += _PANEL + 2 * _GAP
    for colour, thickness, text in entries:
        cv2.rectangle(canvas, (left + 4, base - 20), (left + 38, base + 3), colour, thickness, cv2.LINE_AA)
        words.append(_Words(left + 54, base, text, _SMALL, _TEXT))
        left += _PANEL + _GAP
    return words


def _written(canvas: Picture, words: Sequence[_Words]) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for line in words:
        font = ImageFont.load_default(line.size)
        draw.text((line.x, line.y), line.text, fill=line.colour, font=font, anchor=line.anchor)
    written: Picture = np.asarray(picture)
    return written
