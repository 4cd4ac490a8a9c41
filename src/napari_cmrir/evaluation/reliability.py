"""How often hits of a confidence are right, and a confidence fitted to an evaluation."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.evaluation.metrics import Share, share
from napari_cmrir.evaluation.queries import identifier_of
from napari_cmrir.evaluation.results import Condition, QueryResult
from napari_cmrir.search.calibration import FEATURES, Calibration, fit_calibration

if TYPE_CHECKING:
    from napari_cmrir.evaluation.summaries import EvaluationReport

__all__ = [
    "Bin",
    "ConfidenceReport",
    "Fit",
    "brier",
    "calibrate_on",
    "calibration_error",
    "chosen_conditions",
    "confidence_report",
    "judged",
    "reliability",
]


@dataclass(frozen=True)
class Bin:
    """First hits of about the same confidence.

    Parameters
    ----------
    mean : float
        Their mean confidence.
    share : Share
        How many of them are right.
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
        """Return the figures as JSON can hold them."""
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
    """Choose the queries that confidence is about: transformed and across modalities, if there are such."""
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


_FOLDS = 5


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
