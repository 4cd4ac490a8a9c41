"""Nearest words, exactly, by blocked matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.words.threads import alone, spread

__all__ = ["Found", "Piece", "means", "nearest_exact", "nearest_several", "prepare"]

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


@alone
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
    yield from spread(lambda task: _nearest_on_cpu(*task, pieces), tasks)


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

    parts = list(spread(search, range(0, len(descriptors), rows)))
    return np.concatenate(parts) if parts else np.empty((0, number), dtype=np.int32)


@alone
def means(
    points: torch.Tensor, names: NDArray[np.int64], before: torch.Tensor
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Return the mean of the points of each name, (k, d), and their number; unchanged where there is none."""
    index = torch.from_numpy(names).to(points.device)
    number = torch.bincount(index, minlength=len(before))
    sums = torch.zeros_like(before).index_add_(0, index, points)
    moved = torch.where(number[:, None] > 0, sums / number.clamp(min=1)[:, None], before)
    return moved, number.cpu().numpy()
