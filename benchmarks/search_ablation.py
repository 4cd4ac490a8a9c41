"""Turn off one part of the search at a time: `evaluate` with rotated and shifted queries, and paired tests.

    python benchmarks/search_ablation.py MODEL PAIRS --modalities SHG BF [--repositories FOLDER] [--only TEXT]

Queries are of the other modality. The figures of both directions are pooled, separately for whole and patch
queries; p is McNemar's exact test of the first hits against the default's, on the same queries. Repositories
are built once and shared. `--first 3` uses only the first three pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from napari_cmrir.evaluation.metrics import compare, share
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.evaluation.summaries import EvaluationReport
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model
from napari_cmrir.search.settings import SearchSettings

DEFAULT = "default"
VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "fine scores off": {"fine_rescore": False},
    "refinement and fine scores off": {"refine": 0},
    "rotations off": {"max_rotation": 0},
    "rotations twice as far apart": {"rotation_step": 12},
    "full circle": {"max_rotation": 180},
    "full circle and mirrored": {"max_rotation": 180, "mirror": True},
    "registration off (rerank none)": {"rerank": "none"},
    "registration and rotated templates off": {"rerank": "none", "word_rotation_step": 0},
    "the paper's Stage III (rerank bow)": {"rerank": "bow", "word_rotation_step": 0},
}

Ranks = dict[str, dict[tuple[str, str, int], int | None]]
"""By size, the rank of the right image of every query: its direction, its field, which of its patches."""


def ranks_of(report: EvaluationReport) -> Ranks:
    ranks: Ranks = {"full": {}, "patch": {}}
    for result in report.results:
        ranks[result.condition.size][str(result.condition), result.field, result.number] = result.rank
    return ranks


def rows_of(name: str, ours: Ranks, default: Ranks) -> list[str]:
    rows = []
    for size, found in ours.items():
        first, ten = ([rank is not None and rank <= k for rank in found.values()] for k in (1, 10))
        reference = [default[size][query] == 1 for query in found]
        test = compare(first, reference)
        figures = share(sum(first), len(first)), f"{100 * sum(ten) / len(ten):.1f}"
        counts = f"{test.first_only} | {test.second_only} | {test.p:.4f}"
        rows.append(f"| {name} | {size} | {len(first)} | {figures[0]} | {figures[1]} | {counts} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path, nargs="+")
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--patch-size", type=int, default=96)
    parser.add_argument("--repositories", type=Path, help="folder to build them in and to use them again")
    parser.add_argument("--first", type=int, help="number of pairs to use")
    parser.add_argument("--only", default="", help="part of the names of the variants")
    asked = parser.parse_args()
    model, modalities = load_model(asked.model), tuple(asked.modalities)
    pairs = find_pairs(asked.pairs, modalities)[: asked.first]
    print("| Variant | Query | n | Acc@1 | Acc@10 | found by it only | by the default only | p |")
    print("|---|---|---|---|---|---|---|---|")
    default: Ranks = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, changes in VARIANTS.items():
            if name != DEFAULT and asked.only not in name:
                continue
            settings = EvaluationSettings(
                kinds=("cross",),
                poses=("transformed",),
                patch_size=asked.patch_size,
                search=SearchSettings(**changes),
            )
            job = evaluate(model, pairs, modalities, settings, output=asked.repositories or temporary)
            ranks = ranks_of(run(job))
            default = default or ranks
            print("\n".join(rows_of(name, ranks, default)), flush=True)


if __name__ == "__main__":
    main()
