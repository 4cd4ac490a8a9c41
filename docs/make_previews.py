"""Draw CoMIR pairs of a model; print their correlation, and that of CoMIRs of rotated images.

    python docs/make_previews.py MODEL PAIRS --modalities A B [-o previews.png] [--rows 4] [--side 256]

A row of the figure is one pair: the first image, its CoMIR, the second image's CoMIR, the second image. With
``--comirs-only``, for images that may not be published, a column is one pair, one CoMIR above the other. The
script prints the correlation between the two CoMIRs of each pair, and between the CoMIR of a rotated image
and the rotated CoMIR, for 90, 15, 30 and 45 degrees, within the largest disc that all rotations keep.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.representations.comir.model import ComirModel

ANGLES = (90.0, 15.0, 30.0, 45.0)
GAP = 6  # px between the pictures


def main() -> None:
    """Draw the figure and print the correlations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("-o", "--output", type=Path, default=Path("previews.png"))
    parser.add_argument("--rows", type=int, default=4, help="pairs drawn and measured, evenly picked")
    parser.add_argument("--side", type=int, default=256, help="px shown of each, from the middle")
    parser.add_argument("--comirs-only", action="store_true", help="leave the images out")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    pairs = find_pairs(arguments.pairs, tuple(arguments.modalities))
    picked = np.unique(np.linspace(0, len(pairs) - 1, arguments.rows).round().astype(int))
    rows, alike = [], []
    turned: dict[tuple[str, float], list[float]] = {}
    for pair in (pairs[i] for i in picked):
        images = dict(zip(arguments.modalities, read_pair(pair), strict=True))
        comirs = {m: run(represent(model, image, m)) for m, image in images.items()}
        first, second = arguments.modalities
        alike.append(correlation(comirs[first], comirs[second]))
        print(f"{pair.identifier}: {first} and {second} CoMIRs correlate {alike[-1]:.3f}")
        for modality, image in images.items():
            for degrees in ANGLES:
                value = turning(model, image, comirs[modality], modality, degrees)
                turned.setdefault((modality, degrees), []).append(value)
        shown = [comirs[first], comirs[second]]
        if not arguments.comirs_only:
            shown = [images[first], *shown, images[second]]
        pictures = [framed(middle(shade(picture), arguments.side)) for picture in shown]
        rows.append(np.concatenate(pictures, 0 if arguments.comirs_only else 1))
    print(f"mean over {len(alike)} pairs: {np.mean(alike):.3f}")
    for (modality, degrees), values in turned.items():
        told = f"{np.mean(values):.3f} on the mean, {min(values):.3f} at least"
        print(f"{modality} turned by {degrees:.0f} degrees: CoMIR and turned CoMIR correlate {told}")
    write(arguments.output, np.concatenate(rows, 1 if arguments.comirs_only else 0))
    print(arguments.output)


def correlation(one: NDArray[Any], other: NDArray[Any], where: NDArray[np.bool_] | None = None) -> float:
    """Pearson correlation of two (channel, y, x) arrays, each channel without its mean."""
    flat = [
        (c.reshape(len(c), -1) if where is None else c[:, where]).astype(np.float64) for c in (one, other)
    ]
    centred = [c - c.mean(1, keepdims=True) for c in flat]
    return float((centred[0] * centred[1]).sum() / np.sqrt(np.prod([(c**2).sum() for c in centred])))


def turning(
    model: ComirModel, image: NDArray[Any], comir: NDArray[np.uint8], modality: str, degrees: float
) -> float:
    """Correlation of the CoMIR of a turned image with the turned CoMIR."""
    height, width = image.shape[:2]
    side = min(height, width)
    region = Region(((height - 1) / 2, (width - 1) / 2), side, side, degrees)
    seen, _ = cut(image, region)
    expected, _ = cut(np.moveaxis(comir, 0, -1), region)
    answer = run(represent(model, seen, modality))
    r = np.arange(side) - (side - 1) / 2
    inside = r[:, None] ** 2 + r[None] ** 2 <= (side / 2 - 16) ** 2
    return correlation(answer, np.moveaxis(expected, -1, 0), inside)


def shade(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (y, x, channel) or a CoMIR (channel, y, x) as (y, x, 3) uint8."""
    if picture.shape[0] < 9 and picture.shape[0] < picture.shape[-1]:  # a CoMIR: up to three of its channels
        picture = np.moveaxis(picture[:3], 0, -1)
    picture = picture if picture.shape[-1] == 3 else np.repeat(picture[..., :1], 3, -1)
    low, high = np.percentile(picture, (0.5, 99.5))
    return (np.clip((picture - low) / max(high - low, 1e-6), 0, 1) * 255).round().astype(np.uint8)


def middle(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The middle of a picture, at most a side high and wide."""
    y, x = (max(0, size - side) // 2 for size in picture.shape[:2])
    return picture[y : y + side, x : x + side]


def framed(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture with half a gap around it."""
    return np.pad(picture, ((GAP // 2,) * 2, (GAP // 2,) * 2, (0, 0)), constant_values=255)


def write(path: Path, figure: NDArray[np.uint8]) -> None:
    """Write a figure as PNG."""
    import imagecodecs

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(figure))


if __name__ == "__main__":
    main()
