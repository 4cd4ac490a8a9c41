"""k-means for tens of thousands of words: Lloyd's rounds with a two-level search for the nearest word."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.jobs import Job, Progress
from napari_cmrir.words.cells import cell_centres, make_cells, nearest_in_cells
from napari_cmrir.words.nearest import Found, means, nearest_exact, prepare
from napari_cmrir.words.settings import VocabularySettings
from napari_cmrir.words.threads import alone

__all__ = ["TWO_LEVELS_FROM", "Clusters", "kmeans"]

TWO_LEVELS_FROM = 2048
"""Words from which two levels are faster than the exact search."""
REPORT_EVERY = 0.2
"""Seconds between reports of progress."""
POINTS_AT_ONCE = 100_000
"""Points that are sorted into cells before the next report."""
REPAIRS = 5
"""Rounds more, at most, until no word is empty."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """What k-means found.

    Parameters
    ----------
    words : (k, d) float32 array
        Centres of the clusters.
    centres : (c, d) float32 array
        Centres of cells of words, for the two-level search; none (c = 0) where there are few words.
    inertia : float
        Mean squared distance of the points to their words.
    """

    words: NDArray[np.float32]
    centres: NDArray[np.float32]
    inertia: float


def kmeans(points: torch.Tensor, size: int, settings: VocabularySettings) -> Job[Clusters]:
    """Cluster points.

    Starts from random points. A word without points is set on the point that is farthest from its word; at
    the end no word is empty unless there are fewer distinct points than words.

    Parameters
    ----------
    points : (n, d) float32 tensor
        Computed on its device; in two levels on the CPU only.
    size : int
        Words, n at most.
    settings : VocabularySettings
        Its rounds, tolerance and seed.

    Returns
    -------
    Clusters
        The same for the same points, settings and device.
    """
    generator = np.random.default_rng([settings.seed, 1])
    words = points[torch.from_numpy(generator.choice(len(points), size, replace=False)).to(points.device)]
    two_levels = size >= TWO_LEVELS_FROM and points.device.type == "cpu"
    centres = cell_centres(words) if two_levels else words[:0]
    squares = alone(lambda: points.square().sum(1).cpu().numpy())()
    before, repairs, round_ = np.inf, 0, 0
    while True:
        names, distances = yield from _assign(points, squares, words, centres, round_, settings)
        inertia = float(distances.mean(dtype=np.float64))
        empty = np.flatnonzero(np.bincount(names, minlength=size) == 0)
        done = round_ >= settings.iterations or before - inertia <= settings.tolerance * inertia
        if done and (len(empty) == 0 or repairs == REPAIRS):
            break
        if done:
            repairs += 1
        else:
            round_ += 1
            words, _ = means(points, names, words)
            if two_levels:
                centres = cell_centres(words, centres, rounds=1)
        before = min(before, inertia)
        if len(empty):
            words = words.clone()
            taken = torch.from_numpy(_badly_served(names, distances, len(empty))).to(points.device)
            words[torch.from_numpy(empty[: len(taken)]).to(points.device)] = points[taken]
    return Clusters(words.cpu().numpy(), centres.cpu().numpy(), inertia)


def _assign(
    points: torch.Tensor,
    squares: NDArray[np.float32],
    words: torch.Tensor,
    centres: torch.Tensor,
    round_: int,
    settings: VocabularySettings,
) -> Job[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return each point's word and squared distance to it."""
    names = np.empty(len(points), dtype=np.int64)
    distances = np.empty(len(points), dtype=np.float32)
    yield _progress(round_, words, settings)
    finished, reported = 0, time.monotonic()
    for which, here, halves in _found(points, words, centres):
        names[which], distances[which] = here, np.maximum(2 * halves + squares[which], 0)
        finished += len(which)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            yield _progress(round_ + finished / len(points), words, settings)
    return names, distances


def _progress(rounds: float, words: torch.Tensor, settings: VocabularySettings) -> Progress:
    done = min(rounds, settings.iterations)
    return Progress(done, settings.iterations, "rounds", f"learning {len(words)} words")


def _found(points: torch.Tensor, words: torch.Tensor, centres: torch.Tensor) -> Iterator[Found]:
    if len(centres) == 0:
        yield from nearest_exact(points, prepare(words))
        return
    cells = make_cells(words, centres)
    for start in range(0, len(points), POINTS_AT_ONCE):
        for which, names, halves in nearest_in_cells(points[start : start + POINTS_AT_ONCE], cells):
            yield start + which, names, halves


def _badly_served(names: NDArray[np.int64], distances: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """Return the points farthest from their words, so many at most, leaving each word one point at least."""
    order = np.lexsort((-distances, names))
    sorted_names = names[order]
    last_of_word = np.append(sorted_names[1:] != sorted_names[:-1], True)
    candidates = order[~last_of_word]
    candidates = candidates[distances[candidates] > 0]
    worst = candidates[np.argsort(-distances[candidates], kind="stable")]
    return np.asarray(worst[:number])
