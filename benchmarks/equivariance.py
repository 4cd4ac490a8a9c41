"""Compare the representation of turned images with the turned representation, as the paper's Figure 4 does.

    python benchmarks/equivariance.py PAIRS SHG BF MODEL [MODEL ...] [--degrees 30 90] [--pictures FOLDER]

A square that fits into the image at any angle is cut at every angle, and represented; the same square is cut
from the representation of the whole image. Printed is the correlation of the two over the square, without its
border of a tenth, as mean over all images of a modality, with the lowest. 1: the representation turns with
the image. Images that a translation compares in are not represented by any network; it is turned to compare
in the other modality for them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from words_setting import describe_machine

from napari_cmrir.images.discovery import Pair, find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import Representation, load_model, represent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("modalities", nargs=2)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--degrees", nargs="+", type=float, default=[30.0, 90.0])
    parser.add_argument("--pictures", type=Path)
    arguments = parser.parse_args()
    describe_machine()
    modalities = tuple(arguments.modalities)
    pairs = find_pairs(arguments.pairs, modalities)
    for path in arguments.models:
        model = load_model(path)
        for side, modality in enumerate(modalities):
            compared = model.towards(modalities[1 - side]) if model.targets else model
            for degrees in arguments.degrees:
                found = [correlation(compared, pair, side, modality, degrees) for pair in pairs]
                print(
                    f"{model.name} {path.stem}, {modality}, {degrees:g} degrees: {np.mean(found):.3f},"
                    f" lowest {np.min(found):.3f}, {len(found)} images",
                    flush=True,
                )
    if arguments.pictures is not None:
        arguments.pictures.mkdir(parents=True, exist_ok=True)
        for pair in pairs:
            picture(pair, modalities, arguments.models, arguments.pictures / f"{pair.identifier}.png")


def correlation(model: Representation, pair: Pair, side: int, modality: str, degrees: float) -> float:
    """Correlate the representation of a turned square with the turned square of the representation."""
    pixels = np.atleast_3d(read_pair(pair)[side])
    shortest = min(pixels.shape[:2])
    square = int(shortest / np.sqrt(2)) - 2
    middle = tuple((n - 1) / 2 for n in pixels.shape[:2])
    region = Region((middle[0], middle[1]), square, square, degrees)
    turned, _ = cut(pixels, region)
    own = run(represent(model, turned, modality))[0].astype(float)
    whole = run(represent(model, pixels, modality))
    expected = cut(np.moveaxis(whole, 0, -1), region)[0][..., 0].astype(float)
    border = square // 10
    inner = (slice(border, -border),) * 2
    return float(np.corrcoef(own[inner].ravel(), expected[inner].ravel())[0, 1])


def picture(pair: Pair, modalities: tuple[str, str], models: list[Path], file: Path) -> None:
    """Write both images of a pair, and what each model makes of them, beside each other."""
    columns = []
    images = [np.atleast_3d(image) for image in read_pair(pair)]
    columns.append([as_rgb(np.moveaxis(image, -1, 0)) for image in images])
    for path in models:
        model = load_model(path)
        makes = getattr(model, "translate", None) or (
            lambda pixels, name, m=model: represent(m, pixels, name)
        )
        columns.append(
            [as_rgb(run(makes(image, name))) for image, name in zip(images, modalities, strict=True)]
        )
    rows = [np.concatenate([column[row] for column in columns], 1) for row in (0, 1)]
    Image.fromarray(np.concatenate(rows)).save(file)


def as_rgb(planes: np.ndarray) -> np.ndarray:
    """Bring (channel, y, x) to RGB of 8 bit."""
    if planes.dtype != np.uint8:
        planes = (255 * np.clip(planes / np.percentile(planes, 99.9), 0, 1)).astype(np.uint8)
    return np.moveaxis(np.repeat(planes[:1], 3, 0) if len(planes) != 3 else planes, 0, -1)


if __name__ == "__main__":
    main()
