"""Measure images a minute of indexing, the parts of its time, and indexing without changes.

Run it as ``python benchmarks/index_throughput.py``. Generated 834 x 834 RGB images are added to a repository
that has a vocabulary, in this process, with an untrained network: weights do not change the speed.
``OMP_NUM_THREADS`` sets the number of threads.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import tifffile
import torch

from napari_cmrir.bag_of_words import bags
from napari_cmrir.bag_of_words.descriptors import features as descriptors
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import Vocabulary
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository import comirs as storing
from napari_cmrir.repository import tasks as representing
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings

SIDE = 834
PARTS = {
    "reading": [(representing, "stamp"), (representing, "open_source"), (storing, "_in_memory")],
    "CoMIR": [(ComirModel, "represent")],
    "SURF": [(descriptors, "describe")],
    "words": [(Vocabulary, "assign"), (bags, "count_words")],
}
"""The functions whose time is each part's; all else is writing and bookkeeping."""

BESIDE = {"CoMIRs written": [(storing, "write_pyramid"), (representing, "checksum")]}
"""What a thread of its own does while the next image is computed."""


def make_model(settings: TrainingSettings, channels: int) -> ComirModel:
    torch.manual_seed(0)
    networks = {modality: build_network(settings, channels).eval() for modality in ("BF", "SHG")}
    scales = {}
    for modality, network in networks.items():
        with torch.inference_mode():
            answer = network(torch.rand(1, channels, 128, 128))
        scales[modality] = OutputScale((float(answer.mean()),), (float(answer.std()),))
    intensities = dict.fromkeys(networks, Intensity(low=(0.0,) * channels, high=(255.0,) * channels))
    return ComirModel(("BF", "SHG"), settings, intensities, networks, scales)


def write_images(folder: Path, n_images: int) -> None:
    """Write RGB images: a few generated tissues, each rotated and mirrored."""
    folder.mkdir()
    tissue = None
    for number in range(n_images):
        if number % 8 == 0:
            tissue = np.atleast_3d(sample_pair(number // 8, SIDE).bf)
            tissue = np.ascontiguousarray(np.broadcast_to(tissue[..., :3], (SIDE, SIDE, 3)))
        pixels = np.rot90(tissue[:, :: -1 if number % 2 else 1], number // 2)
        tifffile.imwrite(folder / f"core{number:03d}.tif", np.ascontiguousarray(pixels), photometric="rgb")


class Clock:
    """Counts the seconds spent in functions and generators, by their parts of the build."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        for part, functions in (PARTS | BESIDE).items():
            for home, name in functions:
                setattr(home, name, self.timed(part, getattr(home, name)))

    def timed(self, part, function):
        def clocked(*arguments, **options):
            started = time.perf_counter()
            answer = function(*arguments, **options)
            self.seconds[part] += time.perf_counter() - started
            return self.each(part, answer) if hasattr(answer, "send") else answer

        return clocked

    def each(self, part, job):
        while True:
            started = time.perf_counter()
            try:
                progress = next(job)
            except StopIteration as end:
                return end.value
            finally:
                self.seconds[part] += time.perf_counter() - started
            yield progress


def measure(network: str, n_images: int, folder: Path, clock: Clock) -> None:
    model = make_model(TrainingSettings(network=network), 3)
    write_images(folder / network, n_images + 1)
    images = sorted((folder / network).iterdir())
    settings = RepositorySettings(vocabulary=VocabularySettings(iterations=2))
    path = folder / f"{network}.cmrir"
    run(build_repository(images[:1], model, "BF", path, settings)).close()
    clock.seconds.clear()
    started = time.perf_counter()
    run(build_repository(images, model, "BF", path)).close()
    total = time.perf_counter() - started
    rest = total - sum(clock.seconds[part] for part in PARTS)
    shares, beside = (
        [f"{part} {clock.seconds[part] / total:.1%}" for part in parts] for parts in (PARTS, BESIDE)
    )
    print(
        f"{network}: {60 * n_images / total:.1f} images a minute ({n_images} images, {total:.1f} s):"
        f" {', '.join(shares)}, writing and bookkeeping {rest / total:.1%}"
        f" (and, beside the others in a thread, {', '.join(beside)})",
        flush=True,
    )


def measure_again(n_images: int, folder: Path) -> None:
    """Index many small images, and then again."""
    model = make_model(TrainingSettings(widths=(4, 8), stem=1), 1)
    settings = RepositorySettings(
        descriptor=DescriptorSettings(block_widths=(16,)), vocabulary=VocabularySettings(size=50)
    )
    images = folder / "small"
    images.mkdir()
    generator = np.random.default_rng(0)
    for number in range(n_images):
        tifffile.imwrite(images / f"{number:05d}.tif", generator.integers(0, 256, (64, 64), dtype=np.uint8))
    path = folder / "small.cmrir"
    run(build_repository([images], model, "BF", path, settings)).close()
    started = time.perf_counter()
    run(build_repository([images], model, "BF", path)).close()
    print(f"again, {n_images} images and nothing changed: {time.perf_counter() - started:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--unet", type=int, default=24, help="Images for the unet; 0 leaves it out.")
    parser.add_argument("--tiramisu", type=int, default=4)
    parser.add_argument("--again", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    folder = Path(tempfile.mkdtemp())
    print(f"{torch.get_num_threads()} threads")
    try:
        if options.again:
            measure_again(options.again, folder)
        clock = Clock()
        for network in ("unet", "tiramisu"):
            if getattr(options, network):
                measure(network, getattr(options, network), folder, clock)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
