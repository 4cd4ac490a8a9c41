"""Compare candidates for fine scores: criteria that are added to the correlation at the found poses.

    python benchmarks/fine_scores.py MODEL PAIRS --modalities SHG BF [--patch-size 96] [--queries 64]

Patch queries of the other modality, rotated and shifted, are registered with every field by correlation. Each
criterion is then computed at the best pose in each field, scaled to the spread of the correlation over the
fields, and added. "alone" is the criterion without the correlation. p is McNemar's exact test against the
correlation. Tune on validation folders only.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.evaluation.metrics import compare
from napari_cmrir.evaluation.protocol import EvaluationQuery, EvaluationRun
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import run
from napari_cmrir.registration.coarse_to_fine import register
from napari_cmrir.registration.prepared_query import Pose, PreparedQuery
from napari_cmrir.repository.repository import Repository
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.search.settings import SearchSettings

Array = NDArray[np.float32]
BINS = 12


def half(image: Array) -> Array:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def band(image: Array, deviation: float) -> Array:
    """High-pass an image at half resolution; the deviation is in pixels of full resolution."""
    return image - cv2.GaussianBlur(image, (0, 0), deviation / 2)


def ncc(one: Array, other: Array, mask: Array) -> float:
    a, b = (image[mask > 0] - image[mask > 0].mean() for image in (one, other))
    return float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-6))


def local_share(one: Array, other: Array, mask: Array, deviation: float = 3.0) -> float:
    """Share of the query whose neighbourhoods correlate by more than 0.4."""

    def mean(image: Array) -> Array:
        return cv2.GaussianBlur(image, (0, 0), deviation)

    variances = [mean(image * image) - mean(image) ** 2 + 9 for image in (one, other)]
    local = (mean(one * other) - mean(one) * mean(other)) / np.sqrt(variances[0] * variances[1])
    return float(((local > 0.4) * mask).sum() / max(mask.sum(), 1))


def information(one: Array, other: Array, mask: Array, *, normalised: bool = False) -> float:
    """Mutual information of two images, in bins of equal counts."""
    quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
    a, b = (np.searchsorted(np.quantile(i, quantiles), i[mask > 0]) for i in (one, other))
    joint = np.bincount(a * BINS + b, minlength=BINS**2).reshape(BINS, BINS) / max(len(a), 1)

    def entropy(p: NDArray[np.float64]) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    marginals = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return marginals / max(entropy(joint), 1e-6) if normalised else marginals - entropy(joint)


def gradients(one: Array, other: Array, mask: Array, *, weaker: bool = True) -> float:
    """Cosine of twice the angle between gradients, weighted by the weaker length or the lengths' mean."""
    (ay, ax), (by, bx) = (np.gradient(image) for image in (one, other))
    a, b = np.hypot(ay, ax), np.hypot(by, bx)
    twice = 2 * ((ay * by + ax * bx) / (a * b + 0.05)) ** 2 - 1
    weight, total = (np.minimum(a, b), np.maximum(a, b)) if weaker else (np.sqrt(a * b), np.sqrt(a * b))
    return float((twice * weight * mask).sum() / max((total * mask).sum(), 1e-6))


CRITERIA: dict[str, Callable[[Array, Array, Array, Array, Array], float]] = {
    "CoMIR, no band": lambda q, f, rq, rf, m: ncc(q, f, m),
    "CoMIR, band of 32 px": lambda q, f, rq, rf, m: ncc(band(q, 32), band(f, 32), m),
    "CoMIR, band of 8 px": lambda q, f, rq, rf, m: ncc(band(q, 8), band(f, 8), m),
    "CoMIR, band of 4 px": lambda q, f, rq, rf, m: ncc(band(q, 4), band(f, 4), m),
    "CoMIR, band of 2 px": lambda q, f, rq, rf, m: ncc(band(q, 2), band(f, 2), m),
    "CoMIR, quarter resolution": lambda q, f, rq, rf, m: ncc(
        half(band(q, 16)), half(band(f, 16)), (half(m) > 0.5).astype(np.float32)
    ),
    "CoMIR, neighbourhoods that agree": lambda q, f, rq, rf, m: local_share(band(q, 16), band(f, 16), m),
    "CoMIR, mutual information": lambda q, f, rq, rf, m: information(band(q, 16), band(f, 16), m),
    "CoMIR, directions of gradients": lambda q, f, rq, rf, m: gradients(q, f, m),
    "images, mutual information": lambda q, f, rq, rf, m: information(rq, rf, m),
    "images, normalised mutual information": lambda q, f, rq, rf, m: information(rq, rf, m, normalised=True),
    "images, directions of gradients": lambda q, f, rq, rf, m: gradients(rq, rf, m, weaker=False),
}


def posed(image: NDArray[Any], pose: Pose, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the field under a pose at half resolution, and a mask of the pixels inside the field."""
    region = Region(pose.centre, shape[0], shape[1], pose.rotation_degrees)
    pixels, inside = cut(np.atleast_3d(image).astype(np.float32), region)
    return half(pixels.mean(2)), (half(inside.astype(np.float32)) > 0.5).astype(np.float32)


def answers(
    evaluation_run: EvaluationRun, repositories: dict[str, Repository], n: int
) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.float64]]]:
    """Return the right field of each query, and the first vote, runner-up and criteria of every field."""
    conditions = [
        c
        for c in evaluation_run.conditions()
        if c.kind == "cross" and c.pose == "transformed" and c.size == "patch"
    ]
    asked = [(condition, query) for condition in conditions for query in evaluation_run.queries(condition)]
    order = np.random.default_rng(0).permutation(len(asked))[:n]
    settings = SearchSettings(fine_rescore=False, refine=10_000)
    for condition, query in (asked[i] for i in order):
        repository = repositories[condition.repository]
        yield _answer(evaluation_run, repository, query, settings)


def _answer(
    evaluation_run: EvaluationRun, repository: Repository, query: EvaluationQuery, settings: SearchSettings
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    pixels, names = query.image.pixels, [repository.image_name(i) for i in range(len(repository))]
    mask = query.image.mask if query.image.mask is not None else np.ones(pixels.shape[:2], bool)
    comir = run(represent(evaluation_run.model, pixels, query.condition.query))
    prepared = PreparedQuery(comir, mask, torch.device("cpu"))
    poses = run(register(prepared, repository, range(len(repository)), settings))
    fields = {field.name: field for field in evaluation_run.fields}
    ours = half(comir[0].astype(np.float32)), half(pixels.astype(np.float32).mean(2))
    counts = (half(mask.astype(np.float32)) > 0.5).astype(np.float32)
    votes, criteria = [], []
    for index, name in enumerate(names):
        image = fields[name].crop(evaluation_run.images[query.condition.repository][fields[name].identifier])
        field, inside = posed(repository.comir(index)[0], poses[index], mask.shape)
        raw, _ = posed(image, poses[index], mask.shape)
        common = counts * inside
        share = common.sum() / counts.sum()
        votes.append((poses[index].score, poses[index].runner_up))
        criteria.append([share * c(ours[0], field, ours[1], raw, common) for c in CRITERIA.values()])
    finite = np.nan_to_num(np.array(votes), neginf=-1)
    return names.index(query.name), finite, np.array(criteria)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--patch-size", type=int, default=96)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--repositories", type=Path, help="folder to build them in and to use them again")
    asked = parser.parse_args()
    modalities = tuple(asked.modalities)
    evaluation_run = EvaluationRun(
        load_model(asked.model), modalities, EvaluationSettings(patch_size=asked.patch_size), "cpu"
    )
    for pair in find_pairs(asked.pairs, modalities):
        evaluation_run.add(pair)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.repositories or Path(temporary)
        repositories = {modality: run(evaluation_run.build(modality, folder)) for modality in modalities}
        found = list(answers(evaluation_run, repositories, asked.queries))
    right, votes, criteria = (np.array(part) for part in zip(*found, strict=True))
    first = votes[..., 0]
    spread = first.std(1).mean()
    scaled = criteria / criteria.std(1).mean(0) * spread
    names = list(CRITERIA)
    added = {name: scaled[..., i] for i, name in enumerate(names)}
    added["distance to the next best pose"] = (first - votes[..., 1]) / 2
    both = [names.index(name) for name in ("CoMIR, band of 2 px", "CoMIR, directions of gradients")]
    added["band of 2 px + 2 x directions (the default)"] = criteria[..., both[0]] + 2 * criteria[..., both[1]]

    def ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.array([(row > row[i]).sum() for row, i in zip(scores, right, strict=True)])

    base = ranks(first) == 0
    print("| Criterion | alone Acc@1 | added: Acc@1 | Acc@10 | gained | lost | p |")
    print("|---|---|---|---|---|---|---|")
    ten = (ranks(first) < 10).mean()
    print(f"| first vote (n = {len(right)}) | {100 * base.mean():.1f} | | {100 * ten:.1f} | | | |")
    for name, values in added.items():
        summed = ranks(first + values)
        test = compare((summed == 0).tolist(), base.tolist())
        alone, ten = (ranks(values) == 0).mean(), (summed < 10).mean()
        print(
            f"| {name} | {100 * alone:.1f} | {100 * (summed == 0).mean():.1f} | {100 * ten:.1f} |"
            f" {test.first_only} | {test.second_only} | {test.p:.4f} |"
        )


if __name__ == "__main__":
    main()
