"""A confidence fitted to the queries of an evaluation."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.evaluation.fields import identifier_of
from napari_cmrir.evaluation.reliability import brier, calibration_error, chosen_cells, judged
from napari_cmrir.evaluation.results import EvaluationReport, QueryResult
from napari_cmrir.search.calibration import Calibration, fit_calibration
from napari_cmrir.search.confidence import FEATURES

__all__ = ["Fit", "calibrate_on"]

_FOLDS = 5


@dataclass(frozen=True)
class Fit:
    """A calibration and what it gains.

    Parameters
    ----------
    calibration : Calibration
    right, total : int
        So many first hits are right of so many.
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

    Every query counts twice: as it is, and as if no image of its own pair were searched, where every hit is
    wrong.

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
    results = [result for _, cell in chosen_cells(list(report.cells())) for result in cell]
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
        for features, found in ((result.evidence, result.rank == 1), (result.absent, False)):
            if features is not None:
                rows.append(features)
                right.append(found)
                folds.append(fold)
    return np.array(rows, float).reshape(-1, len(FEATURES)), np.array(right, bool), np.array(folds, np.int64)
