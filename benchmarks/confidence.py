"""Judge the confidence on first hits of evaluations; fit it to others first, if any are given.

    python benchmarks/confidence.py [--fit EVALUATION ...] --test EVALUATION [EVALUATION ...] [--plot FILE]

Each EVALUATION is a folder that `napari-cmrir evaluate` wrote. All sizes of queries count, transformed and
across modalities; each query twice: with its own tissue in the repository, and without, where every hit is
wrong. Every evaluation weighs about the same in the fit. Prints the coefficients; and for each tested
evaluation, with the shipped and the fitted coefficients, the Brier score, the calibration error, the
share of right first hits that are reported as reliable, and the share of absent tissue that is told ("no
reliable match").
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from napari_cmrir.evaluation.metrics import brier, calibration_error, reliability, share
from napari_cmrir.evaluation.report.comparison import read_evaluation
from napari_cmrir.search.calibration import FEATURES, Calibration, fit_calibration


def hits_of(folder: Path) -> dict[str, Any]:
    """Features of first hits, whether each is right, whether its tissue is absent, and its size of query."""
    rows, right, absent, size = [], [], [], []
    for query in read_evaluation(folder)["queries"]:
        condition = query["condition"]
        if condition["query"] == condition["repository"] or condition["pose"] != "transformed":
            continue
        for features, is_absent in ((query["evidence"], False), (query["not_in_repository"], True)):
            if features is not None:
                rows.append(features)
                right.append(not is_absent and query["rank"] == 1)
                absent.append(is_absent)
                size.append(condition["size"])
    return {
        "features": np.array(rows, float),
        "right": np.array(right, bool),
        "absent": np.array(absent, bool),
        "size": np.array(size),
    }


def fitted(folders: list[Path]) -> Calibration:
    """Fit to several evaluations, each repeated so often that all weigh about the same."""
    parts = [hits_of(folder) for folder in folders]
    most = max(len(part["right"]) for part in parts)
    times = [round(most / len(part["right"])) for part in parts]
    features = np.concatenate(
        [np.tile(part["features"], (n, 1)) for part, n in zip(parts, times, strict=True)]
    )
    right = np.concatenate([np.tile(part["right"], n) for part, n in zip(parts, times, strict=True)])
    return fit_calibration(features, right)


def figures(calibration: Calibration, hits: dict[str, Any], size: str, reliable_from: float) -> str:
    """A row of the table."""
    chosen = hits["size"] == size
    sure = calibration.probability(hits["features"][chosen])
    right, absent = hits["right"][chosen], hits["absent"][chosen]
    told, found = sure[absent] < reliable_from, sure[right] >= reliable_from
    return (
        f"{brier(sure, right):.3f} | {calibration_error(sure, right):.3f}"
        f" | {share(int(found.sum()), len(found))} | {share(int(told.sum()), len(told))}"
    )


def plot(calibrations: dict[str, Calibration], tests: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw how often first hits of each confidence are right, one panel for each tested evaluation."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(tests), figsize=(3.2 * len(tests), 3.4), sharey=True, squeeze=False)
    for axis, (name, hits) in zip(axes[0], tests.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for label, calibration in calibrations.items():
            bins = reliability(calibration.probability(hits["features"]), hits["right"])
            axis.plot([b.mean for b in bins], [b.share.value for b in bins], "o-", label=label, markersize=4)
        axis.set(title=name, xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
    axes[0][0].set_ylabel("share right")
    if len(calibrations) > 1:
        axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fit", nargs="+", type=Path)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--reliable-from", type=float, default=0.5)
    parser.add_argument("--plot", type=Path, help="picture to write")
    asked = parser.parse_args()
    calibrations = {"shipped": Calibration()}
    if asked.fit:
        calibrations["fitted"] = fitted(asked.fit)
    for label, calibration in calibrations.items():
        print(label, {name: round(getattr(calibration, name), 2) for name in (*FEATURES, "intercept")})
    tests = {folder.name: hits_of(folder) for folder in asked.test}
    print("\n| Evaluation | query | confidence | Brier | error | right, reliable | absent, told |")
    print("|---|---|---|---|---|---|---|")
    for name, hits in tests.items():
        for size in sorted(set(hits["size"])):
            for label, calibration in calibrations.items():
                print(
                    f"| {name} | {size} | {label} | {figures(calibration, hits, size, asked.reliable_from)} |"
                )
    if asked.plot:
        plot(calibrations, tests, asked.plot)


if __name__ == "__main__":
    main()
