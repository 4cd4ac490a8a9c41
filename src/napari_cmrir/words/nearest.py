"""Nearest word, exact, by blocked matrix product."""

from __future__ import annotations

from collections.abc import Iterator

import torch

__all__ = ["nearest_blocks"]

BLOCK_VALUES = 8_000_000
"""Similarities held at once."""


def nearest_blocks(
    descriptors: torch.Tensor, words: torch.Tensor, nearest: int = 1
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Yield the nearest words of descriptors, block by block.

    Parameters
    ----------
    descriptors : (n, d) float32 tensor
        On the words' device.
    words : (k, d) float32 tensor
        The vocabulary.
    nearest : int
        Words a descriptor, nearest first.

    Yields
    ------
    slice, (b, nearest) int64 tensor, (b, nearest) float32 tensor
        Which descriptors, their words, and half their squared Euclidean distances less half the descriptor's
        squared length.

    Examples
    --------
    >>> words = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> next(nearest_blocks(torch.tensor([[0.9, 0.8]]), words))[1].tolist()
    [[1]]
    """
    half_squares = (words * words).sum(1) / 2
    rows = max(1, BLOCK_VALUES // len(words))
    transposed = words.T.contiguous()
    for start in range(0, len(descriptors), rows):
        block = slice(start, min(start + rows, len(descriptors)))
        distances = torch.addmm(half_squares, descriptors[block], transposed, alpha=-1)
        if nearest == 1:
            values, index = distances.min(dim=1, keepdim=True)
        else:
            values, index = distances.topk(nearest, dim=1, largest=False)
        yield block, index, values
