"""A field in a few thousand bytes: its descriptors' residues to a few words, summed (VLAD).

Jegou, Perronnin, Douze, Sanchez, Perez and Schmid, "Aggregating local image descriptors into compact
codes", TPAMI 34, 1704 (2012), with the power law and unit length for each word (Arandjelovic and Zisserman,
"All about VLAD", CVPR 2013). Fields are compared by the cosine of their differences to the mean of all
fields: what all have in common says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.words.threads import spread
from napari_cmrir.words.vocabulary import Vocabulary

__all__ = ["AggregateIndex", "aggregate"]

VALUES_AT_ONCE = 250_000
"""Values that a thread reads at once: few enough to stay in its cache."""


def aggregate(descriptors: NDArray[np.float32], vocabulary: Vocabulary) -> NDArray[np.int8]:
    """Sum the residues of descriptors to their words.

    Parameters
    ----------
    descriptors : (n, d) float32 array
        Of one field; all-zero rows are left out.
    vocabulary : Vocabulary
        k words, a few (16 to 256).

    Returns
    -------
    (k d,) int8 array
        For each word the signed square roots of the summed residues, to unit length, times 127.

    Raises
    ------
    InputError
        If the descriptors are of another length than the words.

    Examples
    --------
    >>> vocabulary = Vocabulary(np.array([[1, 0], [0, 1]], dtype=np.float32))
    >>> aggregate(np.array([[0.9, 0.1], [0.8, 0.1]], dtype=np.float32), vocabulary).tolist()
    [-98, 80, 0, 0]
    """
    names = vocabulary.assign(descriptors, exact=True)
    words = vocabulary.words.astype(np.float64)
    sums = np.zeros_like(words)
    for word in np.unique(names[names >= 0]):
        mine = descriptors[names == word]
        sums[word] = mine.sum(axis=0, dtype=np.float64) - len(mine) * vocabulary.words[word].astype(
            np.float64
        )
    roots = np.sign(sums) * np.sqrt(np.abs(sums))
    lengths = np.linalg.norm(roots, axis=1, keepdims=True)
    unit = np.divide(roots, lengths, out=np.zeros_like(roots), where=lengths > 1e-9)
    return np.asarray(np.round(127 * unit).ravel(), dtype=np.int8)


@dataclass(frozen=True, eq=False)
class AggregateIndex:
    """The aggregates of N fields and their ranking by cosine.

    Parameters
    ----------
    vectors : (N, D) int8 array
        From `aggregate`, one row a field; may be a memory map, read in pieces.

    Examples
    --------
    >>> vectors = np.array([[100, 20], [100, -20], [90, 0]], dtype=np.int8)
    >>> scores = AggregateIndex(vectors).scores(vectors[0])
    >>> [round(float(score), 2) for score in scores]
    [1.0, -0.95, -0.16]
    """

    vectors: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Mean of the fields' aggregates, (D,); zero for one field, which is compared as it is."""
        if len(self) < 2:
            return np.zeros(self.vectors.shape[1], dtype=np.float32)
        sums = spread(lambda piece: piece.sum(axis=0, dtype=np.int64), self._pieces())
        return np.asarray(sum(sums) / len(self), dtype=np.float32)

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Length of each field's difference to the mean, (N,)."""
        pieces = spread(lambda piece: np.linalg.norm(piece - self.mean, axis=1), self._pieces())
        return np.concatenate([np.zeros(0, np.float32), *pieces])

    def scores(self, query: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return the cosine of the query and each field, both less the mean, (N,) from -1 to 1."""
        scores: NDArray[np.float32] = self.scores_of(query[None])[0]
        return scores

    def scores_of(self, queries: NDArray[np.int8]) -> NDArray[np.float32]:
        """Return the cosines of several queries, (q, D), in one pass, (q, N).

        Raises
        ------
        InputError
            If the queries are of another length than the fields.
        """
        if queries.shape[1:] != self.vectors.shape[1:]:
            raise InputError(
                f"Aggregates of {queries.shape[1]} values cannot be compared with {self.vectors.shape[1]}; "
                "use the repository's own vocabulary."
            )
        differences = (queries - self.mean).T  # (D, q)
        turned = torch.from_numpy(differences)
        pieces = spread(
            lambda piece: (torch.from_numpy(piece.astype(np.float32)) @ turned).numpy(), self._pieces()
        )
        products = np.concatenate([np.zeros((0, len(queries)), np.float32), *pieces])
        products -= self.mean @ differences
        norms = self.lengths[:, None] * np.linalg.norm(differences, axis=0)
        return np.asarray(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 1e-6).T)

    def _pieces(self) -> list[NDArray[np.int8]]:
        step = max(1, VALUES_AT_ONCE // self.vectors.shape[1])
        return [self.vectors[i : i + step] for i in range(0, len(self), step)]
