"""Shared code of the benchmarks of Stage II: images, descriptors of a repository, and a stopwatch."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from napari_cmrir.bag_of_words.descriptors.surf import surf
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import keep_strongest, sample_field
from napari_cmrir.evaluation.protocol import EvaluationRun
from napari_cmrir.evaluation.records import EvaluationSettings


@dataclass(frozen=True)
class Seconds:
    """Least wall and CPU seconds of several runs."""

    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.3f} s ({self.cpu:.3f} s of CPU)"

    def over(self, other: Seconds) -> str:
        return (
            f"{self.wall / other.wall:.1f} times faster by the clock, {self.cpu / other.cpu:.1f} by CPU time"
        )


def stopwatch(
    runs: dict[str, Callable[[], Any]], repeats: int = 5
) -> tuple[dict[str, Any], dict[str, Seconds]]:
    """Run functions in turn, `repeats` times after a first run; return last results and least seconds.

    Taking turns lets a busy machine slow all of them alike. A peer that is not installed is left out.
    """
    results: dict[str, Any] = {}
    walls: dict[str, list[float]] = {}
    cpus: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            if repeat > 0 and name not in results:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                results[name] = run()
            except ModuleNotFoundError as error:
                print(f"{name} is left out: {error}; install it to compare.")
                continue
            if repeat > 0 or repeats == 0:
                walls.setdefault(name, []).append(time.perf_counter() - wall)
                cpus.setdefault(name, []).append(time.process_time() - cpu)
    return results, {name: Seconds(min(walls[name]), min(cpus[name])) for name in results}


def describe_machine() -> None:
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} before the run, torch {torch.__version__} on the CPU")


def read_comir(path: str | Path | None, size: int, seed: int = 0) -> np.ndarray:
    """Read a grey image resized to (size, size) uint8, or generate one with detail at all scales."""
    if path is not None:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    generator = np.random.default_rng(seed)
    total = np.zeros((size, size), np.float32)
    for condition in (6, 12, 24, 48, 96):
        noise = generator.normal(size=(size // condition + 3,) * 2).astype(np.float32)
        total += condition**0.5 * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    return (255 / (1 + np.exp(-total / total.std() * 2))).round().astype(np.uint8)


def bench_of(model, pairs, modalities, seed):
    """Open a run of fields, with rotated and shifted queries of the other modality."""
    settings = EvaluationSettings(kinds=("cross",), poses=("transformed",), seed=seed)
    evaluation_run = EvaluationRun(model, modalities, settings, "auto")
    for pair in pairs:
        evaluation_run.add(pair)
    return evaluation_run


def training_descriptors(number: int, images: list[Path]) -> np.ndarray:
    """Return a number of descriptors, (number, 64), of given images, or of 24 generated ones."""
    fields = [(path, 0) for path in images] or [(None, seed) for seed in range(1, 25)]
    settings = VocabularySettings(size=1, samples=number)
    samples = []
    for i, (path, seed) in enumerate(fields):
        features = surf(read_comir(path, 834, seed), DescriptorSettings.paper())
        samples.append(sample_field(features, len(fields), settings, i))
    return keep_strongest(samples, settings)
