"""Bags of words: encoding of a query, counting, weighting and cosine ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.features import Features
from napari_cmrir.bag_of_words.descriptors.grid import inside_share
from napari_cmrir.bag_of_words.settings import BagSettings
from napari_cmrir.bag_of_words.vocabulary import Vocabulary
from napari_cmrir.representations.devices import parallel_map

__all__ = ["Bag", "BagIndex", "count_words", "covered", "encode_query"]


ENTRIES_AT_ONCE = 200_000
"""Entries of the index that a thread reads at once: they stay in its cache.

Pieces and threads together made ranking twice as fast (commit 32445a7).
"""


@dataclass(frozen=True)
class Bag:
    """The number of occurrences of each word in one field.

    Parameters
    ----------
    words : (m,) uint32 array
        Words that occur, in increasing order.
    counts : (m,) uint16 array, or float32 for a query's shared votes
        Occurrences of each word; 65,535 means at least 65,535.
    """

    words: NDArray[np.uint32]
    counts: NDArray[np.uint16] | NDArray[np.float32]


def count_words(
    names: NDArray[np.integer[Any]], vocabulary_size: int, votes: NDArray[np.float32] | None = None
) -> Bag:
    """Count words.

    Parameters
    ----------
    names : integer array of any shape
        Words of features, from `Vocabulary.assign`; negative means no word.
    vocabulary_size : int
        Number of words of the vocabulary.
    votes : array of the names' shape, optional
        Weight of each name; 1 if not given.

    Returns
    -------
    Bag

    Examples
    --------
    >>> bag = count_words(np.array([2, 0, 2, -1]), 3)
    >>> bag.words.tolist(), bag.counts.tolist()
    ([0, 2], [1, 2])
    """
    names = np.asarray(names).ravel()
    if votes is not None:
        sums = np.bincount(names[names >= 0], votes.ravel()[names >= 0], minlength=vocabulary_size)
        words = np.flatnonzero(sums)
        return Bag(words.astype(np.uint32), sums[words].astype(np.float32))
    counts = np.bincount(names[names >= 0], minlength=vocabulary_size)
    words = np.flatnonzero(counts)
    return Bag(words.astype(np.uint32), np.minimum(counts[words], 65535).astype(np.uint16))


@dataclass(frozen=True, eq=False)
class BagIndex:
    """The concatenated bags of N fields, and their ranking by cosine.

    The arrays are read in pieces and may be memory maps. No field is a Python object.

    Parameters
    ----------
    indptr : (N + 1,) integer array
        Field i has the entries `indptr[i]` to `indptr[i + 1]`.
    words, counts : (entries,) integer arrays
        Words and their occurrences.
    vocabulary_size : int
        Number of words of the vocabulary.
    settings : BagSettings
        Weights.

    Examples
    --------
    >>> bags = [count_words(np.array(names), 4) for names in ([0, 0, 1], [1, 2], [3])]
    >>> index = BagIndex.from_bags(bags, 4, BagSettings.paper())
    >>> [round(float(score), 3) for score in index.scores(bags[0])]
    [1.0, 0.063, 0.0]
    """

    indptr: NDArray[np.integer[Any]]
    words: NDArray[np.integer[Any]]
    counts: NDArray[np.integer[Any]]
    vocabulary_size: int
    settings: BagSettings

    @classmethod
    def from_bags(cls, bags: Sequence[Bag], vocabulary_size: int, settings: BagSettings) -> BagIndex:
        """Concatenate bags."""
        indptr = np.cumsum([0] + [len(bag.words) for bag in bags], dtype=np.int64)
        words = np.concatenate([bag.words for bag in bags] or [np.zeros(0, np.uint32)])
        counts = np.concatenate([bag.counts for bag in bags] or [np.zeros(0, np.uint16)])
        return cls(indptr, words, counts, vocabulary_size, settings)

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def document_frequency(self) -> NDArray[np.int64]:
        """Number of fields in which each word occurs, (vocabulary_size,)."""
        return self._total(lambda _: None).astype(np.int64)

    @cached_property
    def occurrences(self) -> NDArray[np.float64]:
        """Number of occurrences of each word in all fields, (vocabulary_size,)."""
        return self._total(lambda piece: np.asarray(self.counts[piece]))

    def _total(self, of: Callable[[slice], NDArray[Any] | None]) -> NDArray[np.float64]:
        """Sum over the entries of each word: 1 per entry, or the values that ``of`` gives for a piece."""

        def count(start: int) -> NDArray[np.float64]:
            piece = slice(start, start + ENTRIES_AT_ONCE)
            words = np.asarray(self.words[piece]).astype(np.int64)
            return np.bincount(words, of(piece), minlength=self.vocabulary_size).astype(np.float64)

        total = np.zeros(self.vocabulary_size)
        for counted in parallel_map(count, range(0, len(self.words), ENTRIES_AT_ONCE)):
            total += counted
        return total

    @cached_property
    def idf(self) -> NDArray[np.float32]:
        """Weight of each word, (vocabulary_size,); 0 for words that occur in no field."""
        frequency = self.document_frequency
        if self.settings.idf == "none":
            return (frequency > 0).astype(np.float32)
        frequent, everything = frequency.astype(np.float64), float(len(self))
        if self.settings.idf == "occurrences":
            frequent, everything = self.occurrences, float(self.occurrences.sum())
        ratio = np.divide(everything, frequent, out=np.ones(len(frequency)), where=frequency > 0)
        weight = np.log(ratio) if self.settings.idf == "log" else np.log1p(ratio)
        return np.where(frequency > 0, weight, 0).astype(np.float32)

    @cached_property
    def counting(self) -> NDArray[np.bool_]:
        """Whether each word counts in the dot product, (vocabulary_size,)."""
        low, high = self.settings.word_frequency
        share = self.document_frequency / max(1, len(self))
        inside = (share >= low) & (share <= high) & (self.document_frequency > 0)
        return inside if (inside & (self.idf > 0)).any() else np.ones_like(inside)

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Euclidean length of each field's weighted bag over the words of ``settings.length``, (N,)."""
        if self.settings.length == "none":
            return np.ones(len(self), dtype=np.float32)
        squares = self._sums((self._measured**2)[:, None], squared=True)[:, 0]
        return np.asarray(np.sqrt(squares), dtype=np.float32)

    @cached_property
    def _measured(self) -> NDArray[np.float32]:
        """Weight of each word in a bag's length, (vocabulary_size,)."""
        return self.idf * self.counting if self.settings.length == "counting" else self.idf

    def scores(self, query: Bag) -> NDArray[np.float32]:
        """Return the cosine of the query's bag and each field's, (N,) from 0 to 1."""
        scores: NDArray[np.float32] = self.scores_of([query])[0]
        return scores

    def scores_of(self, queries: Sequence[Bag]) -> NDArray[np.float32]:
        """Return the cosines of several queries in one pass, (queries, N)."""
        weights = np.zeros((self.vocabulary_size, len(queries)), dtype=np.float32)
        lengths = np.zeros(len(queries), dtype=np.float32)
        for column, bag in enumerate(queries):
            term = self._term(bag.counts)
            lengths[column] = np.linalg.norm(term * self._measured[bag.words])
            weights[bag.words, column] = term * self.idf[bag.words] ** 2 * self.counting[bag.words]
        if self.settings.length == "none":
            lengths[:] = 1
        products = self._sums(weights).T
        norms = lengths[:, None] * self.lengths
        return np.asarray(np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0))

    def votes(self, query: Bag, field: int) -> NDArray[np.float32]:
        """Return the contribution of each query word to the cosine with a field, (words of the query,).

        Examples
        --------
        >>> bags = [count_words(np.array(names), 4) for names in ([0, 0, 1], [1, 2], [3])]
        >>> index = BagIndex.from_bags(bags, 4, BagSettings.paper())
        >>> votes = index.votes(bags[0], 1)
        >>> [round(float(vote), 3) for vote in votes]
        [0.0, 0.063]
        """
        start, stop = int(self.indptr[field]), int(self.indptr[field + 1])
        in_field = np.zeros(self.vocabulary_size, dtype=np.float32)  # weight of each word in the field
        words = np.asarray(self.words[start:stop])
        in_field[words] = self._term(np.asarray(self.counts[start:stop])) * self.idf[words]
        term = self._term(query.counts)
        votes = term * self.idf[query.words] * in_field[query.words] * self.counting[query.words]
        length = 1.0 if self.settings.length == "none" else np.linalg.norm(term * self._measured[query.words])
        norm = float(length * self.lengths[field])
        return np.asarray(votes / norm if norm > 0 else np.zeros_like(votes))

    def rank(self, query: Bag, limit: int | None = None) -> NDArray[np.int64]:
        """Return the `limit` best fields by falling score; fields of equal score keep their order."""
        return np.argsort(-self.scores(query), kind="stable")[:limit]

    def _term(self, counts: NDArray[Any]) -> NDArray[np.float32]:
        match self.settings.term:
            case "sqrt":
                return np.asarray(np.sqrt(counts, dtype=np.float32))
            case "log":
                # Shared votes may be below 1 / e, where 1 + ln n is negative.
                return np.asarray(np.maximum(1 + np.log(counts, dtype=np.float32), 0))
            case "binary":
                return np.ones(len(counts), dtype=np.float32)
            case _:
                return counts.astype(np.float32)

    def _sums(self, weights: NDArray[np.float32], squared: bool = False) -> NDArray[np.float32]:
        """Sum the weighted terms, or squared terms, of each field: (N, columns of weights)."""
        from scipy.sparse import csr_array

        sums: NDArray[np.float32] = np.zeros((len(self), weights.shape[1]), dtype=np.float32)
        columns = weights[:, 0] if weights.shape[1] == 1 else weights

        def sum_piece(piece: tuple[int, int]) -> None:
            first, last = piece
            start, stop = int(self.indptr[first]), int(self.indptr[last])
            terms = self._term(np.asarray(self.counts[start:stop]))
            words = np.asarray(self.words[start:stop]).astype(np.int32)
            indptr = (np.asarray(self.indptr[first : last + 1]) - start).astype(np.int32)
            matrix = csr_array((terms**2 if squared else terms, words, indptr), (last - first, len(weights)))
            sums[first:last] = (matrix @ columns).reshape(last - first, -1)

        for _ in parallel_map(sum_piece, list(self._pieces())):
            pass
        return sums

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of fields with at most `ENTRIES_AT_ONCE` entries, or of one field."""
        first = 0
        while first < len(self):
            room = int(self.indptr[first]) + ENTRIES_AT_ONCE
            last = max(int(np.searchsorted(self.indptr, room, side="right")) - 1, first + 1)
            yield first, last
            first = last


LEAST_SHARE = 1 / 8
"""Smallest share of the features that count, so that a small query keeps words. Not measured."""


def encode_query(
    features: Features, mask: NDArray[np.bool_], vocabulary: Vocabulary, settings: BagSettings
) -> Bag:
    """Count the words of a query.

    Parameters
    ----------
    features : Features
        All features of the query's CoMIR.
    mask : (y, x) bool array
        True where the CoMIR counts.
    vocabulary : Vocabulary
        Vocabulary of the repository.
    settings : BagSettings
        `query_cover`, `nearest_words` and `softness` are used.

    Returns
    -------
    Bag
        With float votes if they are shared.

    Examples
    --------
    >>> vocabulary = Vocabulary(np.eye(2, dtype=np.float32))
    >>> features = Features(np.array([[4, 4, 8], [0, 0, 8]], np.float32), np.eye(2, dtype=np.float32),
    ...     np.ones(2, np.float32))
    >>> encode_query(features, np.ones((8, 8), bool), vocabulary, BagSettings()).words.tolist()
    [0]
    >>> shared = BagSettings(query_cover=0, nearest_words=2, softness=1)
    >>> encode_query(features, np.ones((8, 8), bool), vocabulary, shared).counts.tolist()
    [1.0, 1.0]
    """
    kept = covered(features.points, mask, settings.query_cover)
    descriptors = features.descriptors[kept]
    names = vocabulary.assign(descriptors, nearest=settings.nearest_words)
    votes = None
    if names.ndim == 2 and settings.softness > 0:
        votes = _shares(descriptors, vocabulary.words, names, settings.softness)
    return count_words(names, len(vocabulary), votes)


def covered(points: NDArray[np.float32], mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Select the points whose blocks lie on the mask.

    Parameters
    ----------
    points : (n, 3) float32 array
        Row, column and block width, px.
    mask : (y, x) bool array
        A block's area outside the array does not lie on the mask.
    share : float
        Smallest share of a block's area, in [0, 1]. At least an eighth of the points is selected, those with
        the largest shares.

    Returns
    -------
    (n,) bool array

    Examples
    --------
    >>> points = np.array([[4, 4, 4], [0, 4, 4], [0, 0, 4]], dtype=np.float32)
    >>> covered(points, np.ones((8, 8), bool), 0.5).tolist()
    [True, True, False]
    """
    if share == 0 or len(points) == 0:
        return np.ones(len(points), dtype=np.bool_)
    shares = inside_share(mask, points, of_all=True)
    return np.asarray(shares >= min(share, float(np.quantile(shares, 1 - LEAST_SHARE, method="higher"))))


def _shares(
    descriptors: NDArray[np.float32], words: NDArray[np.float32], names: NDArray[np.int32], softness: float
) -> NDArray[np.float32]:
    """Divide each feature's vote among its words by distance, (n, nearest); each row sums to 1."""
    squares = np.stack([((descriptors - words[column]) ** 2).sum(axis=1) for column in names.T], axis=1)
    votes = np.exp((squares[:, :1] - squares) / (2 * softness**2))
    return np.asarray(votes / votes.sum(axis=1, keepdims=True), dtype=np.float32)
