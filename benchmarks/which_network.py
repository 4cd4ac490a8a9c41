"""Compare networks after equal CPU seconds of training, by `evaluate`.

    python benchmarks/which_network.py shg_bf/train shg_bf/val --modalities SHG BF [--cpu-seconds 240]
        [-o which_network.jsonl] [--only "unet 16/32/64" ...]

The settings are those of the preset ``fast`` but for the network, or for what else a row names. A few steps
are timed first; the training, and with it the schedule of its learning rate, is made as long as the budget
allows. There is no validation, and the last networks are used. `evaluate` then runs rotated and shifted
queries of the other pairs, whole and as a patch, in both directions. Seconds are CPU seconds of all threads,
which a busy machine changes little.

Every row is saved in the output file as soon as it is computed. Rows in the file are not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from words_setting import describe_machine

from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.evaluation.metrics import share_at_most
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import Pair, find_pairs
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.base import represent
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.training.train import train
from napari_cmrir.representations.comir.training.trainer import Trainer
from napari_cmrir.representations.training_settings import TrainingSettings

SIDE = 834  # px, the paper's images
NETWORKS: dict[str, dict[str, Any]] = {
    "unet 16/32/64/96": {},
    "tiramisu": {"network": "tiramisu"},
    "unet 16/32/64": {"widths": (16, 32, 64)},
    "unet 32/64/128": {"widths": (32, 64, 128)},
    "unet 16/32/64/96, 2 channels": {"channels": 2},
    "unet 16/32/64/96, 4 channels": {"channels": 4},
    "unet 8/16/32": {"widths": (8, 16, 32)},
    "unet 16/32/64/96, no stem": {"stem": 1},
    "unet 16/32/64/96, no local discs": {"local_weight": 0.0},
    "unet 16/32/64/96, variation 1": {"variation": 1.0},
    "unet 16/32/64/96, not averaged over rotations": {"rotations": 1},
}
COLUMNS = {
    "network": "network",
    "parameters": "parameters",
    "steps": "steps",
    "step_seconds": "CPU s a step",
    "train_seconds": "CPU s trained",
    "represent_seconds": f"CPU s for {SIDE} px",
    "whole_1": "Acc@1 whole",
    "whole_10": "Acc@10 whole",
    "patch_1": "Acc@1 patch",
    "patch_10": "Acc@10 patch",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path, help="folder of the pairs to train on")
    parser.add_argument("test", type=Path, help="folder of the pairs to evaluate on")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--cpu-seconds", type=float, default=240.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("-o", "--output", type=Path, default=Path("which_network.jsonl"))
    arguments = parser.parse_args()
    modalities = (arguments.modalities[0], arguments.modalities[1])
    describe_machine()
    what = {"modalities": list(modalities), "budget": arguments.cpu_seconds, "seed": arguments.seed}
    pairs, tests = (find_pairs([folder], modalities) for folder in (arguments.train, arguments.test))
    for name in arguments.only:
        if any(row["network"] == name for row in kept(arguments.output, what)):
            continue
        settings = TrainingSettings(seed=arguments.seed, validation_share=0.0, **NETWORKS[name])
        row = {**what, "network": name, **measure(pairs, tests, modalities, settings, arguments.cpu_seconds)}
        with arguments.output.open("a") as rows:
            rows.write(json.dumps(row) + "\n")
    print_table(kept(arguments.output, what))


def kept(path: Path, what: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file that belong to a data set and budget."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if what.items() <= row.items()]


def measure(
    pairs: list[Pair],
    tests: list[Pair],
    modalities: tuple[str, str],
    settings: TrainingSettings,
    budget: float,
) -> dict[str, float]:
    """Train a network within a budget of CPU seconds and evaluate it."""
    step_seconds = seconds_a_step(pairs, modalities, settings)
    settings = settings.model_copy(update={"steps": max(2, round(budget / step_seconds))})
    start = time.process_time()
    model = run(train(pairs, modalities, settings, device="cpu"))
    row: dict[str, float] = {
        "parameters": sum(p.numel() for p in model.networks[modalities[0]].parameters()),
        "steps": settings.steps,
        "step_seconds": step_seconds,
        "train_seconds": time.process_time() - start,
        "represent_seconds": seconds_to_represent(model, read_pair(tests[0])[0], modalities[0]),
    }
    for size, ranks in ranks_by_size(model, tests, modalities).items():
        for k in (1, 10):
            row[f"{size}_{k}"] = 100 * share_at_most(ranks, k).value
    return row


def seconds_a_step(pairs: list[Pair], modalities: tuple[str, str], settings: TrainingSettings) -> float:
    """CPU seconds of a training step, the median of some after the first."""
    trainer = Trainer([read_pair(pair) for pair in pairs], modalities, settings, torch.device("cpu"))
    trainer.train_step()
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < 15 and sum(taken) < 8):
        start = time.process_time()
        trainer.train_step()
        taken.append(time.process_time() - start)
    return float(np.median(taken))


def seconds_to_represent(model: ComirModel, image: np.ndarray, modality: str) -> float:
    """Least CPU seconds of three, of an image repeated to the paper's size."""
    pixels = np.pad(image, [(0, max(0, SIDE - side)) for side in image.shape[:2]] + [(0, 0)], "reflect")
    taken = []
    for _ in range(3):
        start = time.process_time()
        run(represent(model, pixels[:SIDE, :SIDE], modality, device="cpu"))
        taken.append(time.process_time() - start)
    return min(taken)


def ranks_by_size(
    model: ComirModel, tests: list[Pair], modalities: tuple[str, str]
) -> dict[str, list[int | None]]:
    """Ranks of the right fields; all fields are registered, so that the visual words have no effect."""
    settings = EvaluationSettings(
        kinds=("cross",),
        poses=("transformed",),
        patch_size=96,
        repository=RepositorySettings(vocabulary=VocabularySettings(size=64, samples=4000)),
    )
    report = run(evaluate(model, tests, modalities, settings, device="cpu"))
    if len(report.fields) > settings.search.register_all:
        raise SystemExit(f"{len(report.fields)} fields are more than are registered; give fewer pairs.")
    ranks: dict[str, list[int | None]] = {"whole": [], "patch": []}
    for result in report.results:
        ranks["whole" if result.cell.size == "full" else "patch"].append(result.rank)
    return ranks


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as a Markdown table, best first."""
    print("| " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * len(COLUMNS) + "|")
    for row in sorted(rows, key=lambda row: (-row["patch_1"] - row["whole_1"], row["step_seconds"])):
        print("| " + " | ".join(shown(row[column]) for column in COLUMNS) + " |")


def shown(value: str | float) -> str:
    """Format a figure with a suitable number of digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


if __name__ == "__main__":
    main()
