"""Learn 20,000 words from 400,000 SURF descriptors; compare with faiss and scikit-learn's MiniBatchKMeans.

    python benchmarks/words_kmeans_against_peers.py [--images FOLDER] [--rounds 5]

faiss runs the same number of rounds as this package. MiniBatchKMeans runs until it reaches the same inertia,
or has seen the data `--epochs` times. Inertia is measured by an exact search for all.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from words_setting import Seconds, describe_machine, training_descriptors

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.nearest_words import nearest_exact, prepare
from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import train_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of images to describe; generated if not given")
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.images.rglob("*") if p.is_file()) if arguments.images else []
    points = training_descriptors(20 * arguments.words, paths)
    sample = points[:: max(1, len(points) // 20_000)]
    describe_machine()
    print(f"{arguments.words:,} words from {len(points):,} descriptors")

    settings = VocabularySettings(
        size=arguments.words, samples=len(points), iterations=arguments.rounds, tolerance=0
    )
    with Clock() as ours:
        vocabulary = jobs.run(train_vocabulary(points, settings))
    goal = inertia(sample, vocabulary.words)
    print(f"ours             {ours.seconds}, inertia {goal:.5f}", flush=True)
    for name, peer in (("faiss", faiss_kmeans), ("MiniBatchKMeans", mini_batch)):
        try:
            seconds, words, note = peer(points, arguments, goal, sample)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {error}; install it to compare.")
            continue
        print(f"{name:16} {seconds}, inertia {inertia(sample, words):.5f}{note}")
        print(f"                 ours is {seconds.over(ours.seconds)}", flush=True)


class Clock:
    """Measure wall and CPU seconds of a block."""

    def __enter__(self) -> Clock:
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = Seconds(time.perf_counter() - self.wall, time.process_time() - self.cpu)


def inertia(points: np.ndarray, words: np.ndarray) -> float:
    """Mean squared distance of points to their exact nearest words."""
    halves = [h for _, _, h in nearest_exact(torch.from_numpy(points), prepare(torch.from_numpy(words)))]
    return float((2 * np.concatenate(halves) + (points**2).sum(axis=1)).mean(dtype=float))


def faiss_kmeans(points, arguments, goal, sample):
    import faiss

    kmeans = faiss.Kmeans(64, arguments.words, niter=arguments.rounds, seed=1, min_points_per_centroid=1)
    with Clock() as clock:
        kmeans.train(points)
    return clock.seconds, kmeans.centroids, f" after {arguments.rounds} rounds"


def mini_batch(points, arguments, goal, sample):
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(arguments.words, init="random", n_init=1, random_state=0, batch_size=20_000)
    order = np.random.default_rng(0).permutation(len(points))
    wall = cpu = 0.0
    for _ in range(arguments.epochs):
        for start in range(0, len(points), 20_000):
            batch = points[order[start : start + 20_000]]
            with Clock() as clock:
                kmeans.partial_fit(batch)
            wall, cpu = wall + clock.seconds.wall, cpu + clock.seconds.cpu
        reached = inertia(sample, kmeans.cluster_centers_.astype(np.float32))
        if reached <= goal:
            break
    note = "" if reached <= goal else f" (not reached in {arguments.epochs} passes over the data)"
    return Seconds(wall, cpu), kmeans.cluster_centers_.astype(np.float32), note


if __name__ == "__main__":
    main()
