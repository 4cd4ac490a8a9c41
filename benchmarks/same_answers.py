"""Whether two versions of the code give the same answers: hits, boxes, scores and confidences.

Each version indexes the images of both modalities and searches every image of one modality, whole and one
patch of it, among those of the other, all through its own command line. The answers of a version are kept
in its folder, so that an old version need not be asked again.

    python benchmarks/same_answers.py MODEL PAIRS --modalities SHG BF \
        --before old/src kept/before --after src kept/after [--variants default none bow paper]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

VARIANTS: dict[str, list[str]] = {
    "default": [],
    "none": ["--rerank", "none"],
    "bow": ["--rerank", "bow"],
}
PATCH = 96
"""Side of the patches in pixels: the size of which the results speak (docs/results.md)."""

BOX, SCORE = 1e-3, 1e-4  # the largest differences allowed, in pixels and of scores and confidences


def call(source: Path, *arguments: object) -> None:
    """Run a command of a version in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    program = "from napari_cmrir.cli.main import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))} failed with {source}:\n{done.stderr[-2000:]}")


def answers(source: Path, kept: Path, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Ask a version every question, or read what it answered before."""
    kept.mkdir(parents=True, exist_ok=True)
    found = {}
    for searched, asked in (options.modalities, options.modalities[::-1]):
        repository = kept / f"{searched}.cmrir"
        images = sorted(Path(options.pairs).glob(f"*_{asked}.*"))
        for variant in options.variants:
            for size in ("whole", "patch"):
                name = f"{asked}-in-{searched}-{size}-{variant}"
                file = kept / f"{name}.json"
                if not file.exists():
                    if not repository.exists():
                        call(source, "index", options.pairs, "--model", options.model, "--modality", searched,
                             "-o", repository)  # fmt: skip
                    region = ["--region", 80, 112, PATCH, PATCH] if size == "patch" else []
                    call(source, "query", repository, *images, "--modality", asked, "--json", file, *region,
                         *VARIANTS[variant])  # fmt: skip
                found[name] = json.loads(file.read_text())["queries"]
    return found


def compare(before: list[dict], after: list[dict]) -> tuple[int, int, dict[str, float]]:
    """Count queries and those with other hits; give the largest differences of those with the same."""
    others, most = 0, {"box": 0.0, "score": 0.0, "confidence": 0.0}
    for one, other in zip(before, after, strict=True):
        if [hit["image"] for hit in one["hits"]] != [hit["image"] for hit in other["hits"]]:
            others += 1
            continue
        for ours, theirs in zip(one["hits"], other["hits"], strict=True):
            for key in most:
                if ours[key] is not None and theirs[key] is not None:
                    difference = np.abs(np.subtract(ours[key], theirs[key])).max()
                    most[key] = max(most[key], float(difference))
    return len(before), others, most


def main() -> None:
    """Compare two versions and print a table; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--before", nargs=2, type=Path, required=True, metavar=("SOURCE", "KEPT"))
    parser.add_argument("--after", nargs=2, type=Path, required=True, metavar=("SOURCE", "KEPT"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["default"])
    options = parser.parse_args()
    before, after = (answers(*version, options) for version in (options.before, options.after))
    print("| search | queries | other hits | box, px | score | confidence |\n|---|---|---|---|---|---|")
    same = True
    for name, asked in before.items():
        count, others, most = compare(asked, after[name])
        print(
            f"| {name} | {count} | {others} | " + " | ".join(f"{value:.1e}" for value in most.values()) + " |"
        )
        same &= not others and most["box"] <= BOX and max(most["score"], most["confidence"]) <= SCORE
    print("The answers are the same." if same else "The answers differ.")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
