"""Train on few pairs, and print what each model finds beside the starter, which needs none.

    python benchmarks/few_pairs.py TRAINING_PAIRS TEST_PAIRS --modalities A B --counts 3 11 40 --work FOLDER

The pairs of each count are spread over the training folder in the order of their names. Queries of the test
folder are rotated and shifted, whole images and patches of 96 px, four of each field; both directions are
counted together. Each row is compared with the starter by McNemar's exact test. Models stay in the work
folder and are used again. Timings are processor seconds (OMP_NUM_THREADS=1 for those of one thread).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from napari_cmrir.evaluation.metrics import compare, share
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import Pair, find_pairs
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model, train


def spread(pairs: list[Pair], count: int) -> list[Pair]:
    """Choose pairs that are spread evenly over a list."""
    return [pairs[round(i * (len(pairs) - 1) / max(1, count - 1))] for i in range(count)]


def first_hits(model: Any, pairs: list[Pair], modalities: tuple[str, str]) -> dict[str, list[bool]]:
    """Whether each query is found first, by the size of the query."""
    settings = EvaluationSettings(kinds=("cross",), poses=("transformed",), patch_size=96, patches=4)
    with tempfile.TemporaryDirectory() as folder:
        results = run(evaluate(model, pairs, modalities, settings, output=folder)).results
    return {size: [r.rank == 1 for r in results if r.condition.size == size] for size in ("full", "patch")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--counts", nargs="+", type=int, default=[3, 11])
    parser.add_argument("--work", type=Path, required=True, help="folder of the models")
    asked = parser.parse_args()
    modalities: tuple[str, str] = tuple(asked.modalities)
    pairs, test = (find_pairs([folder], modalities) for folder in (asked.training, asked.test))
    asked.work.mkdir(parents=True, exist_ok=True)
    print("| Pairs | CPU seconds | Query | n | Acc@1 | only this, only the starter, p |")
    print("|---|---|---|---|---|---|")
    starter: dict[str, list[bool]] = {}
    for count in (0, *asked.counts):
        path, seconds = asked.work / f"{'-'.join(modalities)}-{count}.safetensors", "-"
        if not count:
            model = load_model("starter")
        elif path.exists():
            model = load_model(path)
        else:
            start = time.process_time()
            model = run(train(spread(pairs, count), modalities, output=path))
            seconds = f"{time.process_time() - start:.0f}"
        found = first_hits(model, test, modalities)
        starter = starter or found
        for size, right in found.items():
            test_both = compare(right, starter[size])
            against = f"{test_both.first_only}, {test_both.second_only}, {test_both.p:.4f}"
            figures = f"{len(right)} | {share(sum(right), len(right))} | {against}"
            print(f"| {count or 'starter'} | {seconds} | {size} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
