"""A query's bag of words: which of its features count, and which words they vote for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.words.bags import Bag, count_words
from napari_cmrir.words.features import Features
from napari_cmrir.words.grid import inside_share
from napari_cmrir.words.settings import BagSettings
from napari_cmrir.words.vocabulary import Vocabulary

__all__ = ["covered", "encode_query"]

LEAST_SHARE = 1 / 8
"""Share of the features that count at least, however small the query is."""


def encode_query(
    features: Features, mask: NDArray[np.bool_], vocabulary: Vocabulary, settings: BagSettings
) -> Bag:
    """Count the words of a query.

    Parameters
    ----------
    features : Features
        All features of the query's CoMIR.
    mask : (y, x) bool array
        Where the CoMIR counts.
    vocabulary : Vocabulary
        The repository's.
    settings : BagSettings
        Its `query_cover`, `nearest_words` and `softness`.

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
    """Return which points' blocks lie on the mask with at least a share, and with it the best of the others.

    Parameters
    ----------
    points : (n, 3) float32 array
        Row, column and block width, px.
    mask : (y, x) bool array
        Beyond it there is nothing.
    share : float
        Of the block's area. An eighth of the points is kept in any case, those with the largest shares.

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
    """Share out each feature's vote among its words by their distances, (n, nearest); each row sums to 1."""
    squares = np.stack([((descriptors - words[column]) ** 2).sum(axis=1) for column in names.T], axis=1)
    votes = np.exp((squares[:, :1] - squares) / (2 * softness**2))
    return np.asarray(votes / votes.sum(axis=1, keepdims=True), dtype=np.float32)
