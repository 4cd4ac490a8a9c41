"""Features of a whole image: Tchebichef moments and rotation-invariant Haralick textures; ReliefF ranks them.

Sources: Mukundan, Ong and Lee 2001, doi:10.1109/83.941859 (the moments); Haralick, Shanmugam and Dinstein
1973, doi:10.1109/TSMC.1973.4309314 (the textures); Kononenko 1994, doi:10.1007/3-540-57868-4_57 (ReliefF).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "co_occurrence",
    "haralick",
    "relieff",
    "rotation_invariant",
    "tchebichef",
    "tchebichef_moments",
    "textures",
]

OFFSETS = ((0, 1), (-1, 1), (-1, 0), (-1, -1))
"""Row and column of the neighbour: 0, 45, 90 and 135 degrees at distance 1."""
LEVELS = 256
TINY = 1e-12
"""Added within logarithms, so that 0 ln 0 is 0."""


def tchebichef(order: int, length: int) -> NDArray[np.float64]:
    """Evaluate the orthonormal Tchebichef polynomials by their recurrence over the orders.

    Parameters
    ----------
    order : int
        Highest order, below ``length``; precise to about 60 for some hundred points.
    length : int
        Points 0, ..., length - 1.

    Returns
    -------
    ndarray, (order + 1, length)

    Examples
    --------
    >>> tchebichef(3, 40)[1:, 0].round(6).tolist()
    [-0.267098, 0.327991, -0.359992]
    """
    n, x = float(length), np.arange(length, dtype=np.float64)
    rows = np.empty((order + 1, length))
    rows[0] = 1 / np.sqrt(n)
    if order > 0:
        rows[1] = (2 * x + 1 - n) * np.sqrt(3 / (n * (n * n - 1)))
    for k in range(2, order + 1):
        step = np.sqrt((4 * k * k - 1) / (n * n - k * k)) / k
        back = (k - 1) / k * np.sqrt((2 * k + 1) / (2 * k - 3) * (n * n - (k - 1) ** 2) / (n * n - k * k))
        rows[k] = step * (2 * x + 1 - n) * rows[k - 1] - back * rows[k - 2]
    return rows


def tchebichef_moments(image: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Compute the moments of a grey image up to a total order; they change with a shift or a turn.

    Parameters
    ----------
    image : ndarray, (y, x)
        Cut to odd sides and stretched to [0, 1].
    order : int

    Returns
    -------
    ndarray, ((order + 1) (order + 2) / 2,)
        21 at order 5.

    Examples
    --------
    >>> tchebichef_moments(np.eye(9), 5).shape
    (21,)
    """
    odd = stretched(image[: (image.shape[0] - 1) // 2 * 2 + 1, : (image.shape[1] - 1) // 2 * 2 + 1])
    moments = tchebichef(order, odd.shape[0]) @ odd @ tchebichef(order, odd.shape[1]).T
    i, j = np.indices(moments.shape)
    kept: NDArray[np.float64] = moments[i + j <= order]
    return kept


def stretched(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretch an image to [0, 1]; a constant one becomes 0."""
    low, high = image.min(), image.max()
    answer: NDArray[np.float64] = (image - low) / (high - low if high > low else 1.0)
    return answer


def co_occurrence(levels: NDArray[np.uint8], offset: tuple[int, int]) -> NDArray[np.float64]:
    """Count how often two grey levels are neighbours, both ways.

    Parameters
    ----------
    levels : ndarray, (y, x)
    offset : (int, int)
        Row, 0 or below, and column of the neighbour.

    Returns
    -------
    ndarray, (256, 256)
        Symmetric; the sum is 1.

    Examples
    --------
    >>> co_occurrence(np.array([[0, 1]], np.uint8), (0, 1))[:2, :2].tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    height, width = levels.shape
    up, right = -offset[0], offset[1]
    own = levels[up:, max(0, -right) : width - max(0, right)].astype(np.intp)
    other = levels[: height - up, max(0, right) : width + min(0, right)]
    counts = np.bincount((own * LEVELS + other).ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    both = (counts + counts.T).astype(np.float64)
    normalised: NDArray[np.float64] = both / max(both.sum(), 1)
    return normalised


def haralick(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the first thirteen textures of a co-occurrence matrix, in Haralick's order.

    Grey levels are counted from 1; logarithms are natural; the sum variance is about the sum average.

    Parameters
    ----------
    p : ndarray, (256, 256)

    Returns
    -------
    ndarray, (13,)
        Angular second moment, contrast, correlation, variance, inverse difference moment, sum average, sum
        variance, sum entropy, entropy, difference variance, difference entropy, and the two information
        measures of correlation. 0 where a measure is not defined.
    """
    n = len(p)
    level = np.arange(1, n + 1, dtype=np.float64)
    px = p.sum(1)
    mean = level @ px
    variance = (level - mean) ** 2 @ px
    i, j = np.indices(p.shape)
    apart = np.bincount(np.abs(i - j).ravel(), p.ravel(), n)
    summed = np.bincount((i + j).ravel(), p.ravel(), 2 * n - 1)
    distance, total = np.arange(n, dtype=np.float64), np.arange(2, 2 * n + 1, dtype=np.float64)
    correlation = (level @ p @ level - mean**2) / variance if variance > TINY else 0.0
    product = np.outer(px, px)
    entropy, entropy_x = _entropy(p), _entropy(px)
    crossed = -(p * np.log(product + TINY)).sum()
    independent = _entropy(product)
    return np.array(
        [
            (p**2).sum(),
            distance**2 @ apart,
            correlation,
            variance,
            apart @ (1 / (1 + distance**2)),
            total @ summed,
            (total - total @ summed) ** 2 @ summed,
            _entropy(summed),
            entropy,
            distance**2 @ apart - (distance @ apart) ** 2,
            _entropy(apart),
            (entropy - crossed) / entropy_x if entropy_x > TINY else 0.0,
            np.sqrt(max(0.0, 1 - np.exp(-2 * (independent - entropy)))),
        ]
    )


def _entropy(shares: NDArray[Any]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def rotation_invariant(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make two numbers of a texture in four directions that a turn by 45 degrees leaves as they are.

    The second largest eigenvalue of the circulant matrix of the four values, and a quarter of the largest.

    Parameters
    ----------
    directions : ndarray, (4, n)
        Values at 0, 45, 90 and 135 degrees.

    Returns
    -------
    ndarray, (2, n)

    Examples
    --------
    >>> rotation_invariant(np.array([[3.0], [1.0], [4.0], [2.0]])).ravel().tolist()
    [4.0, 2.5]
    """
    v0, v1, v2, v3 = directions
    turning = np.hypot(v0 - v2, v1 - v3)
    eigenvalues = np.sort([v0 + v1 + v2 + v3, v0 - v1 + v2 - v3, turning, -turning], axis=0)
    return np.stack([eigenvalues[2], eigenvalues[3] / 4])


def textures(image: NDArray[np.float64], form: str = "invariant") -> NDArray[np.float64]:
    """Compute the rotation-invariant textures of a grey image, stretched to 256 levels.

    Parameters
    ----------
    image : ndarray, (y, x)
    form : {"invariant", "mean"}
        26 values by `rotation_invariant`, or the 13 means of the four directions.

    Returns
    -------
    ndarray, (26,) or (13,)
    """
    levels = np.rint(255 * stretched(image)).astype(np.uint8)
    directions = np.array([haralick(co_occurrence(levels, offset)) for offset in OFFSETS])
    answer: NDArray[np.float64] = (
        directions.mean(0) if form == "mean" else rotation_invariant(directions).ravel()
    )
    return answer


def relieff(features: NDArray[np.float64], labels: NDArray[np.intp], k: int = 10) -> NDArray[np.float64]:
    """Weigh features by how well they tell near instances of other classes apart.

    Parameters
    ----------
    features : ndarray, (n, f)
        Scaled to [0, 1] here, feature by feature.
    labels : int array, (n,)
        Classes; any number of them.
    k : int
        Nearest hits, and nearest misses of each other class; fewer where a class has fewer.

    Returns
    -------
    ndarray, (f,)
        Higher is better.

    Examples
    --------
    >>> relieff(np.array([[0, 0.3], [0, 0.9], [1, 0.4], [1, 0.8]]), np.array([0, 0, 1, 1])).round(2).tolist()
    [1.0, -0.33]
    """
    low, reach = features.min(0), np.ptp(features, axis=0)
    scaled = (features - low) / np.where(reach > 0, reach, 1)
    classes, counts = np.unique(labels, return_counts=True)
    shares = dict(zip(classes.tolist(), (counts / len(labels)).tolist(), strict=True))
    members = {label: np.flatnonzero(labels == label) for label in shares}
    weights = np.zeros(features.shape[1])
    for number, own in enumerate(labels.tolist()):
        apart = np.abs(scaled - scaled[number])
        distances = apart.sum(1)
        for label, rows in members.items():
            others = rows[rows != number]
            nearest = others[np.argsort(distances[others], kind="stable")[:k]]
            if len(nearest):
                share = -1.0 if label == own else shares[label] / (1 - shares[own])
                weights += share * apart[nearest].mean(0) / len(labels)
    return weights
