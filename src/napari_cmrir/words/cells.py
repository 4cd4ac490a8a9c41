"""The nearest word in two levels, several times faster than the exact search.

A descriptor is compared with the words on the list of its nearest cell only. Cells are clusters of words; a
cell's list holds its own words and those that lie near its border (the closure assignment of Chen et al.,
"SPANN", NeurIPS 2021), so that one list is enough. The result depends on the descriptor and the words alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.nearest import Found, Piece, means, nearest_exact, prepare
from napari_cmrir.words.threads import alone, spread

__all__ = ["Cells", "cell_centres", "make_cells", "nearest_in_cells"]

CELLS_OF_ROOT = 1.2
"""Cells, in square roots of the number of words."""
COPIES = 10.0
"""Lists that a word is on, on average: more is slower and misses fewer words."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Lists of words to compare a descriptor with.

    Parameters
    ----------
    centres : (c, d) float32 tensor
        Centres of the cells.
    members : list of (m,) int64 arrays
        Each cell's list, increasing.
    pieces : list of lists
        The words on the lists, prepared.
    """

    centres: torch.Tensor
    members: list[NDArray[np.int64]]
    pieces: list[list[Piece]]


@alone
def cell_centres(words: torch.Tensor, start: torch.Tensor | None = None, rounds: int = 8) -> torch.Tensor:
    """Return the centres of clusters of words, (c, d).

    Parameters
    ----------
    words : (k, d) float32 tensor
        The words, on the CPU.
    start : (c, d) float32 tensor, optional
        Centres to start from; evenly spaced words if not given.
    rounds : int
        Rounds of k-means.
    """
    if start is None:
        number = max(1, round(CELLS_OF_ROOT * len(words) ** 0.5))
        start = words[torch.linspace(0, len(words) - 1, min(number, len(words))).long()]
    centres = start
    for _ in range(rounds):
        centres = means(words, _names(words, centres), centres)[0]
    return centres


def _names(points: torch.Tensor, words: torch.Tensor) -> NDArray[np.int64]:
    found = [names for _, names, _ in nearest_exact(points, prepare(words))]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


@alone
def make_cells(words: torch.Tensor, centres: torch.Tensor) -> Cells:
    """List the words of each cell and its surroundings.

    Parameters
    ----------
    words : (k, d) float32 tensor
        The words, on the CPU.
    centres : (c, d) float32 tensor
        From `cell_centres`.
    """
    margins = _margins(words, centres)
    limit = _limit(margins[:: max(1, len(words) // 4096)].numpy())
    members = [np.flatnonzero(column <= limit) for column in margins.T.contiguous().numpy()]
    filled = [list_ if len(list_) else np.zeros(1, dtype=np.int64) for list_ in members]
    return Cells(centres, filled, [prepare(words[torch.from_numpy(list_)]) for list_ in filled])


def _margins(words: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Return how far each word lies from the border between its own cell and each other, (k, c)."""
    own = torch.from_numpy(_names(words, centres))[:, None]
    distances = torch.cdist(words, centres).square()
    between = torch.cdist(centres, centres)[own[:, 0]]
    margins = (distances - distances.gather(1, own)) / (2 * between.clamp(min=1e-12))
    return margins.scatter(1, own, 0.0)


def _limit(margins: NDArray[np.float32]) -> float:
    """Return the margin up to which lists are `COPIES` times as long as cells, where words are many."""
    population = np.bincount(margins.argmin(axis=1), minlength=margins.shape[1])
    order = np.argsort(margins, axis=None, kind="stable")
    total = np.cumsum(population[order % margins.shape[1]])
    wanted = COPIES * len(margins) / margins.shape[1] * population.sum()
    return float(margins.ravel()[order[min(np.searchsorted(total, wanted), len(order) - 1)]])


def nearest_in_cells(descriptors: torch.Tensor, cells: Cells) -> Iterator[Found]:
    """Yield the nearest word on the list of each descriptor's cell, cell by cell.

    Examples
    --------
    >>> words = torch.eye(4)
    >>> found = list(nearest_in_cells(words[[3, 0]], make_cells(words, words[::3])))
    >>> [(which.tolist(), names.tolist()) for which, names, _ in found]
    [([1], [0]), ([0], [3])]
    """
    small = np.int16 if len(cells.members) < 2**15 else np.int64
    home = _names(descriptors, cells.centres).astype(small)
    order = np.argsort(home, kind="stable")
    stops = np.cumsum(np.bincount(home, minlength=len(cells.members)))
    sorted_descriptors = alone(descriptors.index_select)(0, torch.from_numpy(order))
    starts = np.append(0, stops[:-1])
    tasks = [
        task for task in zip(starts, stops, cells.members, cells.pieces, strict=True) if task[0] < task[1]
    ]

    def search(task: tuple[int, int, NDArray[np.int64], list[Piece]]) -> list[Found]:
        start, stop, members, pieces = task
        found = nearest_exact(sorted_descriptors[start:stop], pieces)
        return [(order[start:stop][which], members[names], values) for which, names, values in found]

    for found in spread(search, tasks):
        yield from found
