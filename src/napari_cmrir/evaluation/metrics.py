"""The figures of an evaluation, each computed from the results of its queries alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from napari_cmrir.errors import InputError

__all__ = [
    "Comparison",
    "Share",
    "compare",
    "mean_reciprocal_rank",
    "percentile",
    "share",
    "share_at_most",
    "wilson_interval",
]


@dataclass(frozen=True)
class Share:
    """A share with its 95 % Wilson interval.

    Parameters
    ----------
    count, total : int
        The share is count / total.
    low, high : float
        The interval, 0 to 1.
    """

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, 0 to 1; 0 if the total is 0."""
        return self.count / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def as_dict(self) -> dict[str, float]:
        """Return the share as JSON can hold it."""
        return {
            "count": self.count,
            "total": self.total,
            "share": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
        }


@dataclass(frozen=True)
class Comparison:
    """Two configurations on the same queries.

    Parameters
    ----------
    first_only, second_only : int
        Queries that only one of them answered.
    p : float
        Two-sided exact McNemar test: chance of a split at least as uneven if neither were better.
    """

    first_only: int
    second_only: int
    p: float


def wilson_interval(count: float, total: int, level: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927).

    Parameters
    ----------
    count, total : float
        The share is count / total.
    level : float
        Confidence, in (0, 1).

    Returns
    -------
    tuple of two float
        In [0, 1]; (0, 1) if the total is 0.

    Examples
    --------
    >>> [round(100 * end, 1) for end in wilson_interval(0.754 * 134, 134)]
    [67.5, 81.9]
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    p, z2 = count / total, z * z / total
    centre = (p + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * sqrt(p * (1 - p) / total + z2 / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def share(count: int, total: int) -> Share:
    """Give a share its 95 % interval.

    Examples
    --------
    >>> str(share(101, 134))
    '75.4 [67.4, 81.9]'
    """
    return Share(count, total, *wilson_interval(count, total))


def share_at_most(values: Sequence[float | None], limit: float) -> Share:
    """Count the values up to a limit; ``None`` (not found) is above any.

    Parameters
    ----------
    values : sequence of float or None
        One a query.
    limit : float
        Counted with it.

    Returns
    -------
    Share
        Of all values.

    Examples
    --------
    >>> share_at_most([1, 3, None, 11], 10).value
    0.5
    """
    return share(sum(value is not None and value <= limit for value in values), len(values))


def mean_reciprocal_rank(ranks: Sequence[int | None]) -> float:
    """Average 1 / rank; a query whose image was not found counts 0.

    Examples
    --------
    >>> mean_reciprocal_rank([1, 2, 4, None])
    0.4375
    """
    return sum(1 / rank for rank in ranks if rank is not None) / len(ranks) if ranks else 0.0


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Compute a percentile, interpolated linearly; ``None`` without values.

    Examples
    --------
    >>> percentile([1, 2, 3, 10], 50)
    2.5
    """
    return float(np.percentile(np.asarray(values, dtype=float), percent)) if len(values) else None


def compare(first: Sequence[bool], second: Sequence[bool]) -> Comparison:
    """Test whether two configurations differ on the same queries (exact McNemar).

    Parameters
    ----------
    first, second : sequence of bool
        Whether each query succeeded, in the same order.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If they are not equally many.

    Examples
    --------
    >>> compare([True] * 6 + [False], [False] * 6 + [True])
    Comparison(first_only=6, second_only=1, p=0.125)
    """
    from scipy.stats import binomtest

    if len(first) != len(second):
        raise InputError(
            f"Two configurations can only be compared on the same queries; these have {len(first)} and"
            f" {len(second)}."
        )
    first_only = sum(a and not b for a, b in zip(first, second, strict=True))
    second_only = sum(b and not a for a, b in zip(first, second, strict=True))
    differing = first_only + second_only
    p = float(binomtest(first_only, differing, 0.5).pvalue) if differing else 1.0
    return Comparison(first_only, second_only, round(p, 12))
