"""The nearest visual word of each descriptor: exact, or by inverted lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.threads import on_one_thread, parallel_map

__all__ = [
    "Found",
    "InvertedLists",
    "Piece",
    "list_centres",
    "make_inverted_lists",
    "means",
    "nearest_by_inverted_lists",
    "nearest_exact",
    "nearest_several",
    "prepare",
]


ROWS_AT_ONCE, WORDS_AT_ONCE = 256, 1024
"""Similarities at once on a CPU: 1 MB, to stay in its cache."""
ROWS_A_TASK = 2048
"""Descriptors that one thread takes on at once."""
VALUES_ON_DEVICE = 100_000_000
"""Similarities at once on a GPU."""

Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Which descriptors; their words; half their squared distances less half the descriptors' squared lengths."""
Piece = tuple[torch.Tensor, torch.Tensor, int]
"""Some words as columns, half their squared lengths, and the index of the first."""


@on_one_thread
def prepare(words: torch.Tensor) -> list[Piece]:
    """Cut (k, d) words into pieces to compare descriptors with."""
    at_once = WORDS_AT_ONCE if words.device.type == "cpu" else len(words)
    starts = range(0, len(words), at_once)
    return [
        (words[i : i + at_once].T.contiguous(), words[i : i + at_once].square().sum(1) / 2, i) for i in starts
    ]


def nearest_exact(descriptors: torch.Tensor, pieces: Sequence[Piece]) -> Iterator[Found]:
    """Yield the nearest word of each descriptor, block by block.

    Parameters
    ----------
    descriptors : (n, d) float32 tensor
        On the words' device.
    pieces : list
        The words, from `prepare`.

    Examples
    --------
    >>> words = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> which, names, _ = next(nearest_exact(torch.tensor([[0.9, 0.8]]), prepare(words)))
    >>> which.tolist(), names.tolist()
    ([0], [1])
    """
    if descriptors.device.type != "cpu":
        yield from _nearest_on_device(descriptors, *pieces[0][:2])
        return
    starts = range(0, len(descriptors), ROWS_A_TASK)
    tasks = [(descriptors[i : i + ROWS_A_TASK], i) for i in starts]
    yield from parallel_map(lambda task: _nearest_on_cpu(*task, pieces), tasks)


def _nearest_on_cpu(descriptors: torch.Tensor, start: int, pieces: Sequence[Piece]) -> Found:
    names = np.empty(len(descriptors), dtype=np.int64)
    best = np.empty(len(descriptors), dtype=np.float32)
    room = torch.empty(min(ROWS_AT_ONCE, len(descriptors)) * min(WORDS_AT_ONCE, len(pieces[0][1])))
    for first in range(0, len(descriptors), ROWS_AT_ONCE):
        block = slice(first, first + ROWS_AT_ONCE)
        names[block], best[block] = _least(descriptors[block], *pieces[0], room)
        for piece in pieces[1:]:
            here, values = _least(descriptors[block], *piece, room)
            closer = values < best[block]
            names[block][closer], best[block][closer] = here[closer], values[closer]
    return np.arange(start, start + len(names)), names, best


def _least(
    block: torch.Tensor, transposed: torch.Tensor, halves: torch.Tensor, first: int, room: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest of a piece of the words, and the half distances, on a CPU.

    NumPy finds the least of a row some ten times faster than torch does.
    """
    shape = (len(block), transposed.shape[1])
    out = room[: shape[0] * shape[1]].view(shape)
    values = torch.addmm(halves, block, transposed, alpha=-1, out=out).numpy()
    names = values.argmin(axis=1)
    return names + first, values[np.arange(len(names)), names]


def _nearest_on_device(
    descriptors: torch.Tensor, transposed: torch.Tensor, halves: torch.Tensor
) -> Iterator[Found]:
    rows = max(1, VALUES_ON_DEVICE // len(halves))
    for start in range(0, len(descriptors), rows):
        values = torch.addmm(halves, descriptors[start : start + rows], transposed, alpha=-1)
        least, names = values.min(dim=1)
        yield start + np.arange(len(names)), names.cpu().numpy(), least.cpu().numpy()


def nearest_several(descriptors: torch.Tensor, words: torch.Tensor, number: int) -> NDArray[np.int32]:
    """Return the nearest words of each descriptor, nearest first, (n, number), exactly.

    Examples
    --------
    >>> nearest_several(torch.tensor([[0.9, 0.2, 0.1]]), torch.eye(3), 2).tolist()
    [[0, 1]]
    """
    halves, transposed = words.square().sum(1) / 2, words.T.contiguous()
    rows = max(1, ROWS_AT_ONCE * WORDS_AT_ONCE // len(words))

    def search(start: int) -> NDArray[np.int32]:
        values = torch.addmm(halves, descriptors[start : start + rows], transposed, alpha=-1).cpu().numpy()
        found = np.empty((len(values), number), dtype=np.int32)
        for rank in range(number):  # far quicker than sorting for a few
            found[:, rank] = values.argmin(axis=1)
            values[np.arange(len(values)), found[:, rank]] = np.inf
        return found

    parts = list(parallel_map(search, range(0, len(descriptors), rows)))
    return np.concatenate(parts) if parts else np.empty((0, number), dtype=np.int32)


@on_one_thread
def means(
    points: torch.Tensor, names: NDArray[np.int64], before: torch.Tensor
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the mean of the points of each name, (k, d), and their number; unchanged where there is none."""
    index = torch.from_numpy(names).to(points.device)
    number = torch.bincount(index, minlength=len(before))
    sums = torch.zeros_like(before).index_add_(0, index, points)
    moved = torch.where(number[:, None] > 0, sums / number.clamp(min=1)[:, None], before)
    return moved, number.cpu().numpy()


CELLS_OF_ROOT = 1.2
"""Cells, in square roots of the number of words."""
COPIES = 10.0
"""Inverted lists per word, on average. More lists are slower and miss fewer words.

With 10, 97 of 100 descriptors of an unseen image keep their exact nearest word."""


@dataclass(frozen=True, eq=False)
class InvertedLists:
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


@on_one_thread
def list_centres(words: torch.Tensor, start: torch.Tensor | None = None, rounds: int = 8) -> torch.Tensor:
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


@on_one_thread
def make_inverted_lists(words: torch.Tensor, centres: torch.Tensor) -> InvertedLists:
    """List the words of each cell and its surroundings.

    Parameters
    ----------
    words : (k, d) float32 tensor
        The words, on the CPU.
    centres : (c, d) float32 tensor
        From `list_centres`.
    """
    margins = _margins(words, centres)
    limit = _limit(margins[:: max(1, len(words) // 4096)].numpy())
    members = [np.flatnonzero(column <= limit) for column in margins.T.contiguous().numpy()]
    filled = [list_ if len(list_) else np.zeros(1, dtype=np.int64) for list_ in members]
    return InvertedLists(centres, filled, [prepare(words[torch.from_numpy(list_)]) for list_ in filled])


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


def nearest_by_inverted_lists(descriptors: torch.Tensor, cells: InvertedLists) -> Iterator[Found]:
    """Yield the nearest word on the list of each descriptor's cell, cell by cell.

    Examples
    --------
    >>> words = torch.eye(4)
    >>> found = list(nearest_by_inverted_lists(words[[3, 0]], make_inverted_lists(words, words[::3])))
    >>> [(which.tolist(), names.tolist()) for which, names, _ in found]
    [([1], [0]), ([0], [3])]
    """
    small = np.int16 if len(cells.members) < 2**15 else np.int64
    home = _names(descriptors, cells.centres).astype(small)
    order = np.argsort(home, kind="stable")
    stops = np.cumsum(np.bincount(home, minlength=len(cells.members)))
    sorted_descriptors = on_one_thread(descriptors.index_select)(0, torch.from_numpy(order))
    starts = np.append(0, stops[:-1])
    tasks = [
        task for task in zip(starts, stops, cells.members, cells.pieces, strict=True) if task[0] < task[1]
    ]

    def search(task: tuple[int, int, NDArray[np.int64], list[Piece]]) -> list[Found]:
        start, stop, members, pieces = task
        found = nearest_exact(sorted_descriptors[start:stop], pieces)
        return [(order[start:stop][which], members[names], values) for which, names, values in found]

    for found in parallel_map(search, tasks):
        yield from found
