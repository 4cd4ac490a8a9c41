"""Compare the time of a query in a folder of images of many sizes and in the same images brought to one size.

    OMP_NUM_THREADS=1 python benchmarks/sizes.py [--images 48] [--queries 4] [--rounds 3] [--folder FOLDER]
        [--hits FILE]

The images are textures with sides of 500 to 900 px, every image of another size; the one size is a square of
their mean area. The network is small and has untrained weights: the time of the registration and of the
screening does not depend on it, and the CoMIR of the query takes little. Queries are regions of the images,
turned, with noise. Each round asks every query in both folders, one after the other. The ratio is that of the
seconds of processor time, which another load of the machine changes little (with one thread: threads that
wait spin).

``--hits`` writes the hits, or compares them with those that another version of the code wrote there: the same
images in the same order, boxes within 0.001 px, scores within 0.0001, and equal bit for bit in one size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import Repository, open_repository
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

SMALLEST, LARGEST, PATCH = 500, 900, 256


def small_model() -> ComirModel:
    settings = TrainingSettings(widths=(4, 8), stem=1)
    torch.manual_seed(0)
    networks = {modality: build_network(settings, 1).eval() for modality in ("BF", "SHG")}
    intensities = dict.fromkeys(networks, Intensity(low=(0.0,), high=(255.0,)))
    scales = dict.fromkeys(networks, OutputScale((-0.1572,), (0.0007,)))
    return ComirModel(("BF", "SHG"), settings, intensities, networks, scales)


def sizes_of(n: int) -> list[tuple[int, int]]:
    """Sides of the images, each another."""
    rng = np.random.default_rng(0)
    sizes: dict[tuple[int, int], None] = {}
    while len(sizes) < n:
        height, width = rng.integers(SMALLEST, LARGEST + 1, 2).tolist()
        sizes[height, width] = None
    return list(sizes)


def texture(number: int, size: tuple[int, int], side: int | None = None) -> np.ndarray:
    """Blobs of two sizes; brought to a square if a side is given."""
    noise = np.random.default_rng(number).normal(size=size).astype(np.float32)
    blobs = sum(scale * cv2.GaussianBlur(noise, (0, 0), scale) for scale in (2, 6))
    pixels = np.clip(128 + 50 * blobs / blobs.std(), 0, 255).astype(np.uint8)
    return pixels if side is None else cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def build(folder: Path, sizes: list[tuple[int, int]], side: int | None) -> Repository:
    if not folder.exists():
        images = (texture(number, size, side) for number, size in enumerate(sizes))
        sources = [Source(f"image-{number:03d}", pixels) for number, pixels in enumerate(images)]
        run(build_repository(sources, small_model(), "BF", folder))
    return open_repository(folder)


def regions(images: list[np.ndarray], side: int | None) -> list[np.ndarray]:
    """Turned regions of images, with noise; whole images if no side is given."""
    rng = np.random.default_rng(1)
    chosen = []
    for pixels in images:
        height, width = (side, side) if side else pixels.shape
        middle = tuple((length - 1) / 2 + rng.uniform(-20, 20) for length in pixels.shape)
        part = cut(pixels[..., None], Region(middle, height, width, float(rng.uniform(-25, 25))))[0]
        chosen.append(np.clip(part + rng.normal(0, 8, part.shape), 0, 255).astype(np.uint8))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the two repositories are built and used again")
    parser.add_argument("--hits", type=Path, help="file of the hits of another version of the code")
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp())
    sizes = sizes_of(asked.images)
    side = round(float(np.mean([height * width for height, width in sizes])) ** 0.5)
    sides = {"many sizes": None, "one size": side}
    repositories = {name: build(folder / f"{name.split()[0]}.cmrir", sizes, to) for name, to in sides.items()}
    numbers = range(0, asked.images, max(1, asked.images // asked.queries))[: asked.queries]
    images = {name: [texture(each, sizes[each], to) for each in numbers] for name, to in sides.items()}
    print(
        f"{asked.images} images of {len(set(sizes))} sizes, or all of {side} x {side} px;"
        f" {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    every = SearchSettings(hits=1000)
    kinds = {
        "patch of 256 px, all registered": (PATCH, every),
        "whole image, all registered": (None, every),
        "patch of 256 px, screened": (PATCH, SearchSettings(register_all=0, n_screened=12, hits=12)),
        "whole image, screened": (None, SearchSettings(register_all=0, n_screened=12, hits=12)),
    }
    hits: dict[str, list] = {}
    for kind, (length, settings) in kinds.items():
        seconds: dict[str, list[float]] = defaultdict(list)
        queries = {name: regions(images[name], length) for name in repositories}
        for again in range(asked.rounds + 1):  # the first is not measured
            for number in range(asked.queries):
                for name, repository in repositories.items():
                    start = time.process_time()
                    result = run(search(repository, queries[name][number], "BF", settings=settings))
                    if again:
                        seconds[name].append(time.process_time() - start)
                    else:
                        hits[f"{kind}, {name}, {number}"] = [
                            [hit.image, hit.score, np.asarray(hit.box).tolist()] for hit in result.hits
                        ]
        if asked.rounds:
            many, one = (statistics.median(seconds[name]) for name in repositories)
            ratio = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
            print(
                f"{kind:34s} many sizes {many:5.2f} s   one size {one:5.2f} s   ratio {ratio:.2f}", flush=True
            )
    if asked.hits and asked.hits.exists():
        compare(json.loads(asked.hits.read_text()), hits)
    elif asked.hits:
        asked.hits.write_text(json.dumps(hits))


def compare(before: dict[str, list], after: dict[str, list]) -> None:
    """Print how far the hits of two versions differ."""
    for name in ("many sizes", "one size"):
        keys = [key for key in before if f", {name}," in key]
        same = sum([hit[0] for hit in before[key]] == [hit[0] for hit in after[key]] for key in keys)
        pairs = [(old, new) for key in keys for old in before[key] for new in after[key] if old[0] == new[0]]
        score = max(abs(old[1] - new[1]) for old, new in pairs)
        box = max(np.abs(np.subtract(old[2], new[2])).max() for old, new in pairs)
        exact = sum(old == new for old, new in pairs)
        print(
            f"hits, {name}: {same} of {len(keys)} queries in the same order; scores differ by at most"
            f" {score:.1e}, boxes by {box:.1e} px; {exact} of {len(pairs)} hits equal bit for bit"
        )


if __name__ == "__main__":
    main()
