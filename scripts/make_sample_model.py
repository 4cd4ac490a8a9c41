"""Train the small model that ships with the package, with which generated tissue can be searched at once.

From the top of the repository (some minutes on one core):

    python scripts/make_sample_model.py

It trains on generated pairs that are not among the samples, and writes
src/napari_cmrir/data/sample.safetensors (less than 300 kB). It then searches the sample folder with rotated
parts of its SHG images, and prints the number of first hits and their corner errors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from napari_cmrir.images.geometry import Region, corner_error
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.training.train import train
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.query import search

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "napari_cmrir" / "data" / "sample.safetensors"
SETTINGS = TrainingSettings(widths=(8, 16, 32), batch_size=24, patch_size=96, steps=700)
TRAINED_ON, SEARCHED = range(200, 232), range(12)


def main() -> None:
    """Train, and print how well the sample folder is searched."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_sample_folder(Path(folder, "pairs"), TRAINED_ON, 256)
        model = run(train(pairs, ("SHG", "BF"), SETTINGS))
        model.provenance["trained_on"] = f"{len(pairs)} generated pairs"
        model.save(OUTPUT)
        print(f"{OUTPUT.name}: {OUTPUT.stat().st_size / 1000:.0f} kB")
        check(Path(folder))


def check(folder: Path) -> None:
    """Search the sample folder with one rotated region of each image."""
    samples = write_sample_folder(folder / "samples", SEARCHED, 384)
    images = [pair.paths[1] for pair in samples]
    repository = run(build_repository(images, load_model(OUTPUT), "BF", folder / "samples.cmrir"))
    rng, first, off = np.random.default_rng(0), 0, []
    with repository:
        for pair in samples:
            y, x = rng.uniform(110, 274, 2)
            region = Region((float(y), float(x)), 130, 150, float(rng.uniform(-20, 20)))
            hit = run(search(repository, read_image(pair.paths[0]), "SHG", region=region)).hits[0]
            first += Path(hit.image) == pair.paths[1]
            off.append(corner_error(hit.box, region.corners()))
    print(f"first: {first} of {len(samples)}, median corner error {np.median(off):.1f} px")


if __name__ == "__main__":
    main()
