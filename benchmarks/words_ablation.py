"""Stage II in variants: descriptor x weights x orientation x vocabulary, by `evaluate` without re-ranking.

    python benchmarks/words_ablation.py MODEL PAIRS --modalities SHG BF [--only TEXT] [--seeds 0 1]

Queries are of the other modality, turned and shifted. Every CoMIR is computed once for all variants. The
figures of both directions are pooled; whole and patch queries are told apart.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any, cast

import torch

from napari_cmrir import jobs
from napari_cmrir.comir.model import ComirModel, load_model
from napari_cmrir.evaluation.metrics import wilson_interval
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.settings import EvaluationSettings
from napari_cmrir.images.pairs import find_pairs
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.words.settings import BagSettings, DescriptorSettings, VocabularySettings

PAPER, DEFAULT = RepositorySettings.paper(), RepositorySettings()
SURF, BAGS, WORDS = DescriptorSettings(), BagSettings(), VocabularySettings()


def variants() -> dict[str, RepositorySettings]:
    """Name the variants: the presets, and the default with one thing changed."""

    def change(**parts: Any) -> RepositorySettings:
        return DEFAULT.model_copy(update=parts)

    def surf(**fields: Any) -> RepositorySettings:
        return change(descriptor=SURF.model_copy(update=fields))

    def bags(**fields: Any) -> RepositorySettings:
        return change(bags=BAGS.model_copy(update=fields))

    def words(**fields: Any) -> RepositorySettings:
        return change(vocabulary=WORDS.model_copy(update=fields))

    return {
        "paper": PAPER,
        "default": DEFAULT,
        "descriptor: SURF, dominant orientation": surf(orientation="dominant"),
        "descriptor: SURF, root": surf(normalisation="root"),
        "descriptor: SURF, extended": surf(extended=True),
        "descriptor: SURF, extended, root": surf(extended=True, normalisation="root"),
        "descriptor: SURF, widths 64 96 128": surf(block_widths=(64, 96, 128)),
        "descriptor: SURF, widths 32 64": surf(block_widths=(32, 64)),
        "descriptor: SURF, width 64": surf(block_widths=(64,)),
        "descriptor: SURF, step 4": surf(grid_step=4, first=2),
        "descriptor: SIFT": surf(name="sift"),
        "descriptor: SIFT, root": surf(name="sift", normalisation="root"),
        "descriptor: SIFT, root, dominant": surf(name="sift", normalisation="root", orientation="dominant"),
        "words: 250": words(size=250),
        "words: 1,000": words(size=1000),
        "words: 2,000": words(size=2000),
        "words: 8,000": words(size=8000),
        "words: 20,000": words(size=20_000, samples=400_000),
        "words: of all descriptors": words(strongest_share=1.0),
        "weights: term count": bags(term="count"),
        "weights: term log": bags(term="log"),
        "weights: term binary": bags(term="binary"),
        "weights: idf log": bags(idf="log"),
        "weights: no idf": bags(idf="none"),
        "weights: words of 1 % to 90 % of the fields": bags(word_frequency=(0.01, 0.9)),
        "weights: count, idf log": bags(term="count", idf="log"),
        "weights: 3 nearest words": bags(nearest_words=3),
    }


class Remembering(torch.nn.Module):
    """A network that computes each image once."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.stride, self.halo = network, network.stride, network.halo
        self.known: dict[bytes, torch.Tensor] = {}

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        key = hashlib.sha256(batch.cpu().contiguous().numpy().tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.network(batch).to(torch.float16)
        return self.known[key].float()


def remembering(model: ComirModel) -> ComirModel:
    networks = {modality: Remembering(network) for modality, network in model.networks.items()}
    return ComirModel(
        model.modalities,
        model.settings,
        model.intensities,
        cast(Any, networks),
        model.scales,
        provenance={"representation": "remembered"},
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--field-size", type=int, default=256)
    parser.add_argument("--only", nargs="*", default=[""], help="variants whose names contain one of these")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="of transforms and vocabulary")
    arguments = parser.parse_args()
    modalities = tuple(arguments.modalities)
    pairs = find_pairs([arguments.pairs], modalities)
    model = remembering(load_model(arguments.model))
    head = [f"{size} {k}" for size in ("whole", "patch") for k in ("first", "in 10")]
    print("| variant | " + " | ".join(head) + " | MRR | seconds |")
    print("|---|" + "---|" * (len(head) + 2))
    for name, repository in variants().items():
        if any(text in name for text in arguments.only):
            print(row(name, repository, model, pairs, modalities, arguments), flush=True)


def row(name, repository, model, pairs, modalities, arguments) -> str:
    started = time.perf_counter()
    ranks: dict[str, list[int]] = {"full": [], "patch": []}
    for seed in arguments.seeds:
        settings = EvaluationSettings(
            field_size=arguments.field_size,
            kinds=("cross",),
            poses=("transformed",),
            hits=1,
            seed=seed,
            repository=repository.model_copy(
                update={"vocabulary": repository.vocabulary.model_copy(update={"seed": seed})}
            ),
            search=SearchSettings(rerank="none"),
        )
        report = jobs.run(evaluate(model, pairs, modalities, settings))
        for result in report.results:
            ranks[result.cell.size].append(result.rank or 10**9)
    cells = []
    for found in ranks.values():
        for k in (1, 10):
            hits = sum(rank <= k for rank in found)
            low, high = wilson_interval(hits, len(found))
            cells.append(f"{hits / len(found):.1%} ({low:.0%} to {high:.0%})")
    both = [rank for found in ranks.values() for rank in found]
    cells.append(f"{sum(1 / rank for rank in both) / len(both):.3f}")
    cells.append(f"{time.perf_counter() - started:.0f}")
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
