from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.model_file import sample_model


def _placed(region: Region) -> np.ndarray:
    """The map from pixels of a whole image to those of a region that was cut out of it."""
    corners = region.corners()
    steps = np.stack(((corners[3] - corners[0]) / region.height, (corners[1] - corners[0]) / region.width), 1)
    there = np.eye(3)
    there[:2, :2], there[:2, 2] = steps, corners[0] + steps @ (0.5, 0.5)
    return np.linalg.inv(there)


@dataclass
class Folders:
    """Two folders of generated tissue that are not aligned, and what is true of them."""

    first: Path
    second: Path
    truth: dict[tuple[str, str], np.ndarray]


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = pixels.shape[2] == 3
    tifffile.imwrite(path, pixels if colour else pixels[..., 0], photometric="rgb" if colour else None)


@pytest.fixture(scope="session")
def model():
    return load_model(sample_model())


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Folders:
    """Three findable pairs under misleading names, and one image without a partner in each folder."""
    root = tmp_path_factory.mktemp("unaligned")
    first, second = root / "first", root / "second"
    truth = {}
    turns = {40: (0.0, 10, -20), 41: (137.0, -15, 12), 42: (-75.0, 20, 5)}
    for position, (seed, (degrees, down, right)) in enumerate(turns.items()):
        pair = sample_pair(seed, 320)
        region = Region((159.5 + down, 159.5 + right), 240, 240, degrees)
        names = f"core-{position}_SHG.tif", f"core-{(position + 1) % 4}_BF.tif"
        _write(first / names[0], pair.shg)
        _write(second / names[1], cut(pair.bf, region)[0])
        truth[names] = _placed(region)
    _write(first / "core-3_SHG.tif", sample_pair(50, 320).shg)
    _write(second / "core-0_BF.tif", sample_pair(60, 240).bf)
    return Folders(first, second, truth)


@pytest.fixture(scope="session")
def write():
    """Write an image as a TIFF."""
    return _write


@pytest.fixture(scope="session")
def placed():
    """Give the map from pixels of an image to those of a region cut out of it."""
    return _placed
