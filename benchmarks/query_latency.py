"""Measure the seconds of a query on fields of 834 x 834 px, the paper's re-ranking, and OpenCV's matching.

    python benchmarks/query_latency.py [--fields 134] [--queries 5] [--repository FOLDER] [--only NAME]
    python benchmarks/query_latency.py --fields 30 --queries 2 --only best   # in a minute or two

The fields are generated tissue and the default network has untrained weights unless a model is given: the
times depend on neither. The first run builds a repository in the folder (some minutes for 134 fields); later
runs use it again. The time of registering the best 30 does not depend on the number of fields. Every query
runs once without being measured, so that files are read. The seconds of the stages are printed as `query
--timings` prints them.

For comparison: Stage III of the paper (a new vocabulary over the patches of the best 30), and a loop of
cv2.matchTemplate over the same rotations of the query's CoMIR, the same fields and the same resolution as the
coarse step of the registration. The loop finds no sub-pixel poses and does not account for overlaps.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.registration.prepared_query import rotations
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import Repository, open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.hits import SearchResult
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

SIDE, PATCH, SHORTLIST, LEVEL = 834, 256, 30, 2


def untrained_model() -> ComirModel:
    """Return the untrained default network, with its output scaled to the range of a CoMIR."""
    torch.manual_seed(0)
    settings = TrainingSettings()
    pair = sample_pair(0, 256)
    images = {"SHG": pair.shg, "BF": pair.bf}
    intensities = {name: choose_intensity([pixels]) for name, pixels in images.items()}
    networks, scales = {}, {}
    for name, pixels in images.items():
        network = build_network(settings, intensities[name].channels).eval()
        with torch.inference_mode():
            raw = network(torch.from_numpy(intensities[name].apply(pixels))[None])[0].flatten(1)
        networks[name] = network
        scales[name] = OutputScale(tuple(raw.mean(1).tolist()), tuple((raw.std(1) / 2).tolist()))
    return ComirModel(("SHG", "BF"), settings, intensities, networks, scales)


def queries(n: int, side: int) -> Iterator[np.ndarray]:
    """Regions of SHG images, turned by up to 25 degrees."""
    rng = np.random.default_rng(0)
    for seed in range(n):
        pixels = sample_pair(seed, SIDE).shg
        middle = ((SIDE - 1) / 2, (SIDE - 1) / 2)
        yield cut(pixels, Region(middle, side, side, float(rng.uniform(-25, 25))))[0]


def seconds_of(
    repository: Repository, asked: list[np.ndarray], settings: SearchSettings
) -> tuple[list[float], list[SearchResult]]:
    results = [run(search(repository, asked[0], "SHG", settings=settings))]
    results = [run(search(repository, pixels, "SHG", settings=settings)) for pixels in asked]
    return [result.seconds for result in results], results


def match_templates(repository: Repository, result: SearchResult, settings: SearchSettings) -> float:
    """Measure the seconds of the loop over the re-ranked fields and the tried rotations."""
    import cv2

    start = time.perf_counter()
    size = (result.mask.shape[1] >> LEVEL, result.mask.shape[0] >> LEVEL)
    query = [cv2.resize(p, size, interpolation=cv2.INTER_AREA).astype(np.float32) for p in result.comir]
    middle = ((size[0] - 1) / 2, (size[1] - 1) / 2)
    margin = (size[1] // 2, size[1] // 2, size[0] // 2, size[0] // 2)
    for field in result.shortlist.tolist():
        for plane, channel in zip(repository.comir(field, LEVEL), query, strict=True):
            image = cv2.copyMakeBorder(plane.astype(np.float32), *margin, cv2.BORDER_CONSTANT)
            for degrees in rotations(settings):
                turn = cv2.getRotationMatrix2D(middle, degrees, 1.0)
                template = cv2.warpAffine(channel, turn, size)
                mask = cv2.warpAffine(np.ones_like(channel), turn, size, flags=cv2.INTER_NEAREST)
                cv2.minMaxLoc(cv2.matchTemplate(image, template, cv2.TM_CCOEFF_NORMED, mask=mask))
    return time.perf_counter() - start


def show(name: str, seconds: list[float], timings: list[dict[str, float]] | None = None) -> None:
    stages = ""
    if timings:
        stages = "  ".join(
            f"{stage} {statistics.median(each[stage] for each in timings):.2f}" for stage in timings[0]
        )
    print(f"{name:52s} {statistics.median(seconds):7.2f} s  (max {max(seconds):.2f})  {stages}", flush=True)


def measure(repository: Repository, n: int, only: str) -> None:
    best = SearchSettings(register_all=0, shortlist=SHORTLIST, n_screened=SHORTLIST)
    every = SearchSettings(register_all=len(repository))
    paper = SearchSettings(rerank="bow", shortlist=SHORTLIST, word_rotation_step=0)
    sizes: dict[str, Callable[[], list[Any]]] = {
        f"{PATCH} px patch": lambda: list(queries(n, PATCH)),
        "whole image": lambda: list(queries(n, SIDE)),
    }
    for name, make in sizes.items():
        asked = make()
        for title, settings in (
            (f"registration of the best {SHORTLIST}", best),
            (f"registration of all {len(repository)}", every),
            (f"the paper's re-ranking of the best {SHORTLIST}", paper),
        ):
            if only in f"{name}, {title}":
                chosen = asked if settings is not paper else asked[:2]
                seconds, results = seconds_of(repository, chosen, settings)
                show(f"{name}, {title}", seconds, [result.timings for result in results])
                if settings is not paper:
                    beside(repository, name, chosen[:2], settings)


def beside(repository: Repository, name: str, asked: list[np.ndarray], settings: SearchSettings) -> None:
    """Print the loop's seconds beside those of the registration and of its coarse step."""
    _, whole = seconds_of(repository, asked, settings)
    _, coarse = seconds_of(repository, asked, settings.model_copy(update={"refine": 0}))
    loops = [match_templates(repository, result, settings) for result in whole]
    show(f"{name}, cv2.matchTemplate on these fields", loops)
    for part, results in (("registration", whole), ("coarse step alone", coarse)):
        ours = statistics.median(result.timings["rerank"] for result in results)
        print(f"{'':52s} {statistics.median(loops) / ours:7.1f} times as long as our {part}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=134)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--repository", type=Path, help="folder to build it in and to use it again")
    parser.add_argument("--model", type=Path, help="a trained model of SHG and BF")
    parser.add_argument("--only", default="", help="part of the name of what is measured")
    asked = parser.parse_args()
    folder = asked.repository or Path(tempfile.mkdtemp()) / "latency.cmrir"
    if folder.exists():
        repository = open_repository(folder)
    else:
        model = load_model(asked.model) if asked.model else untrained_model()
        sources = [Source(f"field-{seed:03d}", sample_pair(seed, SIDE).bf) for seed in range(asked.fields)]
        repository = run(build_repository(sources, model, "BF", folder))
    print(
        f"{len(repository)} fields of {SIDE} x {SIDE}, {len(repository.vocabulary)} words;"
        f" {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} before"
    )
    measure(repository, asked.queries, asked.only)


if __name__ == "__main__":
    main()
