"""Print what the score of small queries is made of, and what other weights or corrections would find.

    python benchmarks/evidence.py MODEL PAIRS --modalities SHG BF [--patch-size 96] [--patches 2]

Patches of the other modality, rotated and shifted, are registered with every field. Printed are, for both
directions together:

- how often the pose in the right field is the right one (within 8 px and 6 degrees), which about bounds the
  first hits (a field can be first by another pose);
- each term of the score in the right field and in wrong fields: mean and spread;
- by spatial frequency, the power of the CoMIRs and how they agree (coherence) at the right poses, and the
  weight of a frequency in the likelihood ratio of two Gaussian signals, over its weight in the correlation:
  if it is flat, no filter improves the correlation;
- the first hits with the model's weights of the terms, with weights that a conditional logit fits to the
  other fifths of the images, with other weights, and with the mean score of each field over the queries of
  other images taken off (hubs), each with McNemar's exact test.

Fit and choose on training and validation pairs only.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from napari_cmrir.evaluation.metrics import compare, share
from napari_cmrir.evaluation.protocol import EvaluationQuery, EvaluationRun
from napari_cmrir.evaluation.queries import box_in_field
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import rotation_difference
from napari_cmrir.jobs import run
from napari_cmrir.registration.coarse_to_fine import register
from napari_cmrir.registration.correlation import high_pass
from napari_cmrir.registration.prepared_query import PreparedQuery
from napari_cmrir.registration.refinement import FineScores, Points, pose_scores, with_gradients
from napari_cmrir.repository.repository import Repository
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.search.settings import SearchSettings

TERMS = ("correlation", "fine band", "directions")
OTHERS = {"correlation alone": (1, 0, 0), "correlation and directions": (1, 0, 1.5), "all": (1, 1, 2)}
NEAR_PX, NEAR_DEGREES = 8, 6
BANDS = np.array([0, 0.03, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.36, 0.42, 0.5])
FOLDS = 5


@dataclass(frozen=True)
class Answer:
    """One query: the terms of the score in every field, (n, 3), and what lies under the right pose."""

    direction: str
    image: str
    right: int
    terms: NDArray[np.float64]
    found: bool
    signals: tuple[NDArray[np.float32], NDArray[np.float32]] | None


def answer(model: Any, query: EvaluationQuery, repository: Repository, settings: SearchSettings) -> Answer:
    """Register a query with every field."""
    image = query.image
    mask = np.ones(image.pixels.shape[:2], bool) if image.mask is None else image.mask
    comir = run(represent(model, image.pixels, query.condition.query))
    prepared = PreparedQuery(comir, mask, torch.device("cpu"), comparison=model.comparison)
    poses = run(register(prepared, repository, range(len(repository)), settings))
    level = prepared.level(prepared.fine)
    side = 2**prepared.fine
    fine, points = FineScores(*level, side), Points(*level, 10**9)
    right = next(n for n in range(len(repository)) if query.is_right(repository.image_name(n)))
    terms, signals, found = [], None, False
    for field in range(len(repository)):
        stored = torch.tensor(repository.comir(field, prepared.fine)).float()[None]
        values = high_pass(stored, None, model.comparison.high_pass_px / side)
        y, x = ((place + 0.5) / side - 0.5 for place in poses[field].centre)
        pose = torch.tensor([[poses[field].rotation_degrees, y, x]])
        score = pose_scores(*level, values, pose, settings.min_overlap)
        features = fine.of_fields(values, with_gradients(values))
        terms.append(fine.terms(score, pose, features)[0].nan_to_num(neginf=-1).tolist())
        if field == right and query.region is not None and query.field is not None:
            centre = box_in_field(query.region, query.field).mean(0)
            turned = rotation_difference(poses[field].rotation_degrees, query.region.rotation_degrees)
            found = np.hypot(*(centre - poses[field].centre)) < NEAR_PX and turned < NEAR_DEGREES
            seen, weight, _ = points.sample(values, pose)
            if found and mask.all() and weight.all():
                shape = level[0].shape
                signals = level[0].numpy(), seen[0].view(shape).numpy()
    return Answer(
        str(query.condition), query.name.split("/")[0], right, np.array(terms), bool(found), signals
    )


def print_terms(answers: list[Answer]) -> None:
    print("\n| Term | right field | wrong fields | best wrong field |\n|---|---|---|---|")
    rows = np.arange(len(answers))
    right = np.array([one.right for one in answers])
    terms = np.stack([one.terms for one in answers])
    for number, name in enumerate(TERMS):
        values = terms[..., number]
        own = values[rows, right]
        others = np.delete(values.ravel(), rows * values.shape[1] + right).reshape(len(answers), -1)
        cells = [f"{v.mean():.3f} ± {v.std():.3f}" for v in (own, others, others.max(1))]
        print(f"| {name} | {' | '.join(cells)} |")


def print_coherence(answers: list[Answer]) -> None:
    pairs = [one.signals for one in answers if one.signals is not None]
    smallest = min(min(signal.shape[1:]) for pair in pairs for signal in pair)
    window = np.sqrt(np.outer(*[np.hanning(smallest + 2)[1:-1]] * 2))
    frequencies = np.hypot(*np.meshgrid(*[np.fft.fftfreq(smallest)] * 2))
    band = np.digitize(frequencies, BANDS) - 1
    sums = np.zeros((3, len(BANDS)))
    for pair in pairs:
        one, other = (
            np.fft.fft2((signal[:, :smallest, :smallest] - signal.mean()) * window) for signal in pair
        )
        for row, power in zip(sums, (abs(one) ** 2, abs(other) ** 2, (one * other.conj()).real), strict=True):
            row += [power[:, band == number].sum() for number in range(len(BANDS))]
    coherence = (sums[2] / np.sqrt(sums[0] * sums[1])).clip(1e-3, 0.99)
    counts = np.array([(band == number).sum() for number in range(len(BANDS))])
    power = np.sqrt(sums[0] * sums[1]) / counts
    likelihood = coherence / (1 - coherence**2) / power
    used = np.arange(len(BANDS)) < len(BANDS) - 1
    likelihood /= np.average(likelihood[used], weights=(power * counts)[used])
    print(f"\nAt {len(pairs)} right poses, by cycles a pixel of full resolution:\n")
    print("| From | to | share of the power | coherence | weight in the likelihood ratio |")
    print("|---|---|---|---|---|")
    total = (power * counts)[used].sum()
    for number in np.flatnonzero(used):
        low, high = BANDS[number : number + 2] / 2
        values = power[number] * counts[number] / total, coherence[number], likelihood[number]
        print(f"| {low:.3f} | {high:.3f} | {' | '.join(f'{value:.2f}' for value in values)} |")


def fit(answers: list[Answer]) -> NDArray[np.float64]:
    """Fit the weights of the terms by a conditional logit: which field is the right one."""
    terms, right = np.stack([one.terms for one in answers]), np.array([one.right for one in answers])

    def cost(weights: NDArray[np.float64]) -> float:
        scores = terms @ weights
        return float((np.logaddexp.reduce(scores, 1) - scores[np.arange(len(right)), right]).mean())

    return np.asarray(minimize(cost, np.array([20.0, 5.0, 20.0]), method="Nelder-Mead").x)


def without_hubs(scores: NDArray[np.float64], answers: list[Answer]) -> NDArray[np.float64]:
    """Take off the mean score of each field over the queries of other images of the same direction."""
    images = np.array([one.image for one in answers])
    directions = np.array([one.direction for one in answers])
    right = np.array([one.right for one in answers])
    corrected = scores.copy()
    for row, one in enumerate(answers):
        bank = np.flatnonzero((images != one.image) & (directions == one.direction))
        values = scores[bank].copy()
        values[np.arange(len(bank)), right[bank]] = np.nan
        corrected[row] -= np.nanmean(values, 0)
    return corrected


def print_first_hits(answers: list[Answer], weights: tuple[float, ...]) -> None:
    terms = np.stack([one.terms for one in answers])
    right = np.array([one.right for one in answers])
    images = sorted({one.image for one in answers})
    fold = np.array([images.index(one.image) % FOLDS for one in answers])
    fitted = np.zeros(terms.shape[:2])
    for number in range(FOLDS):
        learned = fit([one for one, part in zip(answers, fold, strict=True) if part != number])
        fitted[fold == number] = terms[fold == number] @ (learned / learned[0])
    everything = fit(answers)
    print("\nWeights fitted to all, over that of the correlation:", (everything / everything[0]).round(2))
    ways = {f"the model's weights {weights}": terms @ np.array(weights)}
    ways["fitted, cross-validated by image"] = fitted
    ways |= {f"{name} {other}": terms @ np.array(other, float) for name, other in OTHERS.items()}
    ways["the model's weights, without hubs"] = without_hubs(terms @ np.array(weights), answers)
    print("\n| Score | first | by it only | by the model's weights only | p |\n|---|---|---|---|---|")
    reference: list[bool] = []
    for name, scores in ways.items():
        first = (scores.argmax(1) == right).tolist()
        reference = reference or first
        test = compare(first, reference)
        counts = f"{test.first_only} | {test.second_only} | {test.p:.4f}"
        print(f"| {name} | {share(sum(first), len(first))} | {counts} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a file, or starter")
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--patch-size", type=int, default=96)
    parser.add_argument("--patches", type=int, default=2, help="queries of each field")
    parser.add_argument("--max-rotation", type=float, default=30.0, help="that the search tries")
    parser.add_argument("--without", nargs="*", default=[], help="identifiers of pairs to leave out")
    asked = parser.parse_args()
    modalities = tuple(asked.modalities)
    protocol = EvaluationSettings(
        patch_size=asked.patch_size,
        patches=asked.patches,
        query="patch",
        kinds=("cross",),
        poses=("transformed",),
    )
    model = load_model(asked.model)
    evaluation_run = EvaluationRun(model, modalities, protocol, "cpu")
    for pair in find_pairs(asked.pairs, modalities):
        if pair.identifier not in asked.without:
            evaluation_run.add(pair)
    settings = SearchSettings(fine_rescore=False, refine=10_000, max_rotation=asked.max_rotation)
    answers = []
    with tempfile.TemporaryDirectory() as temporary:
        repositories = {name: run(evaluation_run.build(name, Path(temporary))) for name in modalities}
        for condition in evaluation_run.conditions():
            for query in evaluation_run.queries(condition):
                answers.append(answer(model, query, repositories[condition.repository], settings))
    found = sum(one.found for one in answers)
    print(f"{len(answers)} queries among {len(answers[0].terms)} fields")
    print(f"right pose in the right field: {share(found, len(answers))}")
    print_terms(answers)
    print_coherence(answers)
    print_first_hits(answers, tuple(model.comparison.score_weights))


if __name__ == "__main__":
    main()
