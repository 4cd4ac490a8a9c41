"""The figures of an evaluation: shares, ranks, and the reliability of the confidence."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.queries import identifier_of
from napari_cmrir.evaluation.records import Condition, QueryResult
from napari_cmrir.search.calibration import FEATURES, Calibration, fit_calibration

if TYPE_CHECKING:
    from napari_cmrir.evaluation.summaries import EvaluationReport

__all__ = [
    "Bin",
    "Comparison",
    "ConfidenceReport",
    "Fit",
    "Share",
    "brier",
    "calibrate_on",
    "calibration_error",
    "chosen_conditions",
    "compare",
    "confidence_report",
    "judged",
    "mean_reciprocal_rank",
    "percentile",
    "reliability",
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
        """Return the share as values for JSON."""
        return {
            "count": self.count,
            "total": self.total,
            "share": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
        }


@dataclass(frozen=True)
class Comparison:
    """Comparison of two configurations on the same queries.

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
    """Compute a share with its 95 % interval.

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
        The share of all values.

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


@dataclass(frozen=True)
class Bin:
    """First hits of similar confidence.

    Parameters
    ----------
    mean : float
        Their mean confidence.
    share : Share
        Number of right ones.
    """

    mean: float
    share: Share


@dataclass(frozen=True)
class ConfidenceReport:
    """Quality of the confidence of the first hits of a condition.

    Parameters
    ----------
    brier : float
        Mean squared distance of the confidence to 1 if right and 0 if wrong. Every query counts twice: with
        its own tissue in the repository and without.
    calibration_error : float
        Mean distance of the confidence to the share that is right, over ten bins.
    reliable_when_right : Share
        Right first hits that are reported as reliable.
    reported_when_wrong, reported_when_not_in_repository : Share
        Wrong first hits that are reported as "no reliable match", with the tissue in the repository and
        without.
    """

    brier: float
    calibration_error: float
    reliable_when_right: Share
    reported_when_wrong: Share
    reported_when_not_in_repository: Share

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as values for JSON."""
        return {
            "brier": round(self.brier, 6),
            "calibration_error": round(self.calibration_error, 6),
            "reliable_when_right": self.reliable_when_right.as_dict(),
            "reported_when_wrong": self.reported_when_wrong.as_dict(),
            "reported_when_not_in_repository": self.reported_when_not_in_repository.as_dict(),
        }


def chosen_conditions(
    conditions: Sequence[tuple[Condition, Sequence[QueryResult]]],
) -> list[tuple[Condition, Sequence[QueryResult]]]:
    """Choose the queries for the confidence: transformed and across modalities, if there are any."""
    chosen = list(conditions)
    for wanted in (
        [pair for pair in chosen if pair[0].kind == "cross"],
        [pair for pair in chosen if pair[0].kind == "cross" and pair[0].pose == "transformed"],
    ):
        chosen = wanted or chosen
    return chosen


def judged(
    results: Sequence[QueryResult],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Collect first hits, with the query's own pair in the repository and without.

    Returns
    -------
    confidence : (n,) array
    right : (n,) bool array
    not_in_repository : (n,) bool array
        Whether the tissue is not searched.
    """
    rows = [
        (result.hits[0].confidence, result.rank == 1, False)
        for result in results
        if result.hits and result.evidence is not None
    ]
    rows += [
        (result.not_in_repository_confidence, False, True)
        for result in results
        if result.not_in_repository_confidence is not None
    ]
    table = np.array(rows, float).reshape(-1, 3)
    return table[:, 0], table[:, 1].astype(bool), table[:, 2].astype(bool)


def brier(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean squared error of probabilities (Brier, Mon. Weather Rev. 78, 1950).

    Examples
    --------
    >>> brier(np.array([1.0, 0.5]), np.array([True, False]))
    0.125
    """
    return float(np.square(confidence - right).mean())


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_], n_bins: int = 10) -> list[Bin]:
    """Put first hits into bins of equal width by their confidence; empty ones are left out.

    Examples
    --------
    >>> bins = reliability(np.array([0.2, 0.9, 0.92]), np.array([False, True, True]))
    >>> [(round(each.mean, 2), each.share.count, each.share.total) for each in bins]
    [(0.2, 0, 1), (0.91, 2, 2)]
    """
    edges = np.linspace(0, 1, n_bins + 1)
    bins = []
    for low, high in pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            bins.append(
                Bin(float(confidence[inside].mean()), share(int(right[inside].sum()), int(inside.sum())))
            )
    return bins


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_], n_bins: int = 10) -> float:
    """Mean distance of confidence and share right, weighted by the queries of each bin.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    >>> round(calibration_error(np.array([0.8, 0.8, 0.3]), np.array([True, True, False])), 3)
    0.233
    """
    bins = reliability(confidence, right, n_bins)
    return sum(each.share.total * abs(each.mean - each.share.value) for each in bins) / max(
        1, len(confidence)
    )


def confidence_report(results: Sequence[QueryResult], reliable_from: float) -> ConfidenceReport | None:
    """Compute the quality of the confidence of first hits; ``None`` if nothing was registered."""
    confidence, right, not_in_repository = judged(results)
    if len(confidence) == 0:
        return None

    def reported(which: NDArray[np.bool_], reliable: bool) -> Share:
        chosen = confidence[which] >= reliable_from
        return share(int((chosen == reliable).sum()), len(chosen))

    return ConfidenceReport(
        brier(confidence, right),
        calibration_error(confidence, right),
        reported(right, True),
        reported(~right & ~not_in_repository, False),
        reported(not_in_repository, False),
    )


_FOLDS = 5  # of the cross-validation: each fit has four fifths of the pairs; more folds take longer


@dataclass(frozen=True)
class Fit:
    """A calibration and its gain.

    Parameters
    ----------
    calibration : Calibration
    right, total : int
        Number of right first hits, and of all first hits.
    before, after : tuple of two float
        Brier score and calibration error of the confidence that was in force, and of one fitted to the other
        pairs (five folds): what the new one is worth on pairs that it has not seen.
    """

    calibration: Calibration
    right: int
    total: int
    before: tuple[float, float]
    after: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"Confidence calibrated on {self.total} first hits, {self.right} of them right:"
            f" Brier score {self.before[0]:.3f} before, {self.after[0]:.3f} cross-validated;"
            f" calibration error {self.before[1]:.3f} before, {self.after[1]:.3f} cross-validated."
        )


def calibrate_on(report: EvaluationReport) -> Fit:
    """Fit the confidence to the transformed queries across modalities of an evaluation.

    Every query counts twice: with the images of its own pair in the repository, and without, where every hit
    is wrong.

    Parameters
    ----------
    report : EvaluationReport
        Of validation pairs: neither those of the training nor those of a test.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        If all first hits are right or all are wrong, or there are fewer than ten.
    """
    results = [
        result for _, condition in chosen_conditions(list(report.conditions())) for result in condition
    ]
    features, right, folds = _samples(results)
    source = f"{len(report.pairs)} pairs of {' and '.join(report.modalities)}, model {report.model[:12]}"
    calibration = fit_calibration(features, right, source)
    sure = np.empty(len(right))
    for fold in range(_FOLDS):
        inside = folds == fold
        if inside.any():
            others = right[~inside]
            fitted = fit_calibration(features[~inside], others) if _mixed(others) else calibration
            sure[inside] = fitted.probability(features[inside])
    confidence, was_right, _ = judged(results)
    return Fit(
        calibration,
        int(right.sum()),
        len(right),
        (brier(confidence, was_right), calibration_error(confidence, was_right)),
        (brier(sure, right), calibration_error(sure, right)),
    )


def _mixed(right: NDArray[np.bool_]) -> bool:
    return len(right) >= 10 and bool(right.any()) and not bool(right.all())


def _samples(
    results: list[QueryResult],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Features (n, 4) of first hits, whether each is right, and its pair's fold of the cross-validation."""
    rows, right, folds = [], [], []
    for result in results:
        fold = zlib.crc32((identifier_of(result.field) or result.field).encode()) % _FOLDS
        for features, found in ((result.evidence, result.rank == 1), (result.not_in_repository, False)):
            if features is not None:
                rows.append(features)
                right.append(found)
                folds.append(fold)
    return np.array(rows, float).reshape(-1, len(FEATURES)), np.array(right, bool), np.array(folds, np.int64)
