"""The nearest visual word of each descriptor: exact, or by inverted lists.

Distances are compared as half the squared distance minus half the descriptor's squared length, which is
``|word|^2 / 2 - descriptor . word``: one matrix product. `benchmarks/words_nearest_against_faiss.py` measures
both searches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.representations.devices import on_one_thread, parallel_map

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
"""Descriptors and words compared at once on a CPU: 1 MB of distances, which stays in its cache."""
ROWS_A_TASK = 2048
"""Descriptors per task of a thread: large enough to hide the cost of a task; not measured."""
VALUES_ON_DEVICE = 100_000_000
"""Distances computed at once on a GPU: 400 MB; not measured."""

Found = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Indexes of descriptors, their nearest words, and their distances as in the module's docstring."""
Piece = tuple[torch.Tensor, torch.Tensor, int]
"""Words as columns (d, k), half their squared lengths (k,), and the index of the first word."""


@on_one_thread
def prepare(words: torch.Tensor) -> list[Piece]:
    """Cut words (k, d) into pieces that fit the cache; one piece on a GPU.

    Parameters
    ----------
    words : (k, d) float32 tensor

    Returns
    -------
    list of Piece
    """
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

    Yields
    ------
    Found

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
            piece_names, values = _least(descriptors[block], *piece, room)
            closer = values < best[block]
            names[block][closer], best[block][closer] = piece_names[closer], values[closer]
    return np.arange(start, start + len(names)), names, best


def _least(
    block: torch.Tensor, transposed: torch.Tensor, halves: torch.Tensor, first: int, room: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest word of a piece for each descriptor, on a CPU, in the buffer ``room``.

    NumPy's argmin of a row is about ten times faster than torch's.
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
    """Find the nearest words of each descriptor exactly, (n, number), nearest first.

    Parameters
    ----------
    descriptors : (n, d) float32 tensor
    words : (k, d) float32 tensor
        On the descriptors' device.
    number : int
        Number of words per descriptor, at most k.

    Returns
    -------
    (n, number) int32 array

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
        for rank in range(number):  # for a few words, repeated argmin is far faster than sorting
            found[:, rank] = values.argmin(axis=1)
            values[np.arange(len(values)), found[:, rank]] = np.inf
        return found

    parts = list(parallel_map(search, range(0, len(descriptors), rows)))
    return np.concatenate(parts) if parts else np.empty((0, number), dtype=np.int32)


@on_one_thread
def means(
    points: torch.Tensor, names: NDArray[np.int64], before: torch.Tensor
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Compute the mean and the number of the points of each word.

    Parameters
    ----------
    points : (n, d) tensor
    names : (n,) int64 array
        Word of each point.
    before : (k, d) tensor
        Words; a word without points keeps its value.

    Returns
    -------
    means : (k, d) tensor
    counts : (k,) int64 array
    """
    index = torch.from_numpy(names).to(points.device)
    number = torch.bincount(index, minlength=len(before))
    sums = torch.zeros_like(before).index_add_(0, index, points)
    moved = torch.where(number[:, None] > 0, sums / number.clamp(min=1)[:, None], before)
    return moved, number.cpu().numpy()


CELLS_OF_ROOT = 1.2
"""Number of cells, in square roots of the number of words.

About the square root balances the two comparisons, with centres and with a list. The 1.2 is not measured.
"""
COPIES = 10.0
"""Inverted lists per word, on average. More lists are slower and miss fewer words.

With 10, 97 of 100 descriptors of an unseen image keep their exact nearest word (commit f55175a)."""


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """Cells of the descriptor space, and the list of words of each cell.

    Parameters
    ----------
    centres : (c, d) float32 tensor
        Centres of the cells.
    members : list of (m,) int64 arrays
        Words on each cell's list, increasing.
    pieces : list of lists
        The words of each list, from `prepare`.
    """

    centres: torch.Tensor
    members: list[NDArray[np.int64]]
    pieces: list[list[Piece]]


@on_one_thread
def list_centres(words: torch.Tensor, start: torch.Tensor | None = None, rounds: int = 8) -> torch.Tensor:
    """Cluster words into cells by k-means.

    Parameters
    ----------
    words : (k, d) float32 tensor
        The words, on the CPU.
    start : (c, d) float32 tensor, optional
        Centres to start from; words at even distances in the list if not given.
    rounds : int
        Rounds of k-means. The default 8 is not measured.

    Returns
    -------
    (c, d) float32 tensor
        Centres of the cells.
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
    """List for each cell the words in it and near its border.

    Parameters
    ----------
    words : (k, d) float32 tensor
        The words, on the CPU.
    centres : (c, d) float32 tensor
        From `list_centres`.

    Returns
    -------
    InvertedLists
    """
    margins = _margins(words, centres)
    limit = _limit(margins[:: max(1, len(words) // 4096)].numpy())  # about 4,096 words estimate it
    members = [np.flatnonzero(column <= limit) for column in margins.T.contiguous().numpy()]
    filled = [list_ if len(list_) else np.zeros(1, dtype=np.int64) for list_ in members]
    return InvertedLists(centres, filled, [prepare(words[torch.from_numpy(list_)]) for list_ in filled])


def _margins(words: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Compute the distance of each word from the border between its own cell and each other cell, (k, c)."""
    own = torch.from_numpy(_names(words, centres))[:, None]
    distances = torch.cdist(words, centres).square()
    between = torch.cdist(centres, centres)[own[:, 0]]
    margins = (distances - distances.gather(1, own)) / (2 * between.clamp(min=1e-12))
    return margins.scatter(1, own, 0.0)


def _limit(margins: NDArray[np.float32]) -> float:
    """Find the margin at which lists are `COPIES` times as long as cells, weighted by words per cell."""
    population = np.bincount(margins.argmin(axis=1), minlength=margins.shape[1])
    order = np.argsort(margins, axis=None, kind="stable")
    total = np.cumsum(population[order % margins.shape[1]])
    wanted = COPIES * len(margins) / margins.shape[1] * population.sum()
    return float(margins.ravel()[order[min(np.searchsorted(total, wanted), len(order) - 1)]])


def nearest_by_inverted_lists(descriptors: torch.Tensor, cells: InvertedLists) -> Iterator[Found]:
    """Yield the nearest word of each descriptor on the list of its cell, cell by cell.

    Parameters
    ----------
    descriptors : (n, d) float32 tensor
        On the CPU.
    cells : InvertedLists
        From `make_inverted_lists`.

    Yields
    ------
    Found

    Examples
    --------
    >>> words = torch.eye(4)
    >>> found = list(nearest_by_inverted_lists(words[[3, 0]], make_inverted_lists(words, words[::3])))
    >>> [(which.tolist(), names.tolist()) for which, names, _ in found]
    [([1], [0]), ([0], [3])]
    """
    small = np.int16 if len(cells.members) < 2**15 else np.int64  # NumPy sorts 16-bit integers by radix sort
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
