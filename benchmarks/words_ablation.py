"""Compare variants of Stage II: descriptor, weights, orientation and vocabulary, without re-ranking.

    python benchmarks/words_ablation.py MODEL PAIRS --modalities SHG BF [--only TEXT] [--seeds 0 1]

Queries are of the other modality, turned and shifted. The figures of both directions are pooled; whole and
patch queries are listed separately. Every CoMIR is computed once for all variants, and every descriptor once
for the variants that share it. Hits are located without rotations, because boxes are not evaluated.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from napari_cmrir import jobs
from napari_cmrir.bag_of_words import vocabulary
from napari_cmrir.bag_of_words.descriptors import features as descriptors
from napari_cmrir.evaluation.metrics import wilson_interval
from napari_cmrir.evaluation.protocol import evaluate
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.search.settings import SearchSettings

PAPER, DEFAULT = RepositorySettings.paper(), RepositorySettings()


def variants() -> dict[str, RepositorySettings]:
    """Name the variants: the presets, and the default with one change."""

    def change(part: str, **fields: Any) -> RepositorySettings:
        return DEFAULT.model_copy(update={part: getattr(DEFAULT, part).model_copy(update=fields)})

    def surf(**fields: Any) -> RepositorySettings:
        return DEFAULT.model_copy(update={"descriptor": PAPER.descriptor.model_copy(update=fields)})

    return {
        "paper: SURF, 20,000 words, its weights": PAPER,
        "default: SIFT, root, widths 64 96 128": DEFAULT,
        "descriptor: SIFT, l2": change("descriptor", normalisation="l2"),
        "descriptor: SIFT, widths 32 64 96 128": change("descriptor", block_widths=(32, 64, 96, 128)),
        "descriptor: SIFT, dominant": change("descriptor", orientation="dominant"),
        "descriptor: SIFT at keypoints, dominant": change(
            "descriptor", name="sift-keypoints", orientation="dominant"
        ),
        "descriptor: SURF": surf(),
        "descriptor: SURF, widths 64 96 128": surf(block_widths=(64, 96, 128)),
        "descriptor: SURF, root": surf(normalisation="root"),
        "descriptor: SURF, dominant": surf(orientation="dominant"),
        "descriptor: SURF, extended": surf(extended=True),
        "words: 1,000": change("vocabulary", size=1000),
        "words: 20,000": change("vocabulary", size=20_000, samples=400_000),
        "weights: term count": change("bags", term="count"),
        "weights: term log": change("bags", term="log"),
        "weights: idf log": change("bags", idf="log"),
        "weights: idf occurrences": change("bags", idf="occurrences"),
        "weights: no idf": change("bags", idf="none"),
        "weights: the paper's": change("bags", **PAPER.bags.model_dump(exclude={"query_cover"})),
        "query: all its features": change("bags", query_cover=0.0),
        "query: blocks half on it": change("bags", query_cover=0.5),
        "query: 3 nearest words": change("bags", nearest_words=3),
        "query: 3 nearest words, soft": change("bags", nearest_words=3, softness=0.2),
    }


def remember_words() -> None:
    """Compute the descriptors of each CoMIR and the words of each set of descriptors once."""
    known: dict[Any, Any] = {}

    def remembered(describe: Any) -> Any:
        def answer(comir: Any, settings: Any, mask: Any = None) -> Any:
            key = (_digest(comir), None if mask is None else _digest(mask), settings)
            if key not in known:
                for old in [old for old in known if len(old) == 3 and old[2] != settings]:
                    del known[old]
                known[key] = describe(comir, settings, mask)
            return known[key]

        return answer

    for name, describe in descriptors.DESCRIPTORS.items():
        descriptors.DESCRIPTORS[name] = remembered(describe)
    train = vocabulary.train_vocabulary

    def trained(values: Any, settings: Any = None, **how: Any) -> Any:
        key = (_digest(values), settings)
        if key not in known:
            known[key] = yield from train(values, settings, **how)
        return known[key]

    vocabulary.train_vocabulary = trained


def _digest(array: Any) -> bytes:
    array = np.ascontiguousarray(array)
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).digest()


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
    remember_words()
    model = remembering(load_model(arguments.model))
    head = [f"{size} {k}" for size in ("whole", "patch") for k in ("first", "in 10")]
    print("| variant | " + " | ".join(head) + " | MRR | CPU s |")
    print("|---|" + "---|" * (len(head) + 2))
    for name, repository in variants().items():
        if any(text in name for text in arguments.only):
            print(row(name, repository, model, pairs, modalities, arguments), flush=True)


def row(name, repository, model, pairs, modalities, arguments) -> str:
    started = time.process_time()
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
            search=SearchSettings(rerank="none", max_rotation=0.0),
        )
        report = jobs.run(evaluate(model, pairs, modalities, settings))
        for result in report.results:
            ranks[result.condition.size].append(result.rank or 10**9)
    conditions = []
    for found in ranks.values():
        for k in (1, 10):
            hits = sum(rank <= k for rank in found)
            low, high = wilson_interval(hits, len(found))
            conditions.append(f"{hits / len(found):.1%} ({low:.0%} to {high:.0%})")
    both = [rank for found in ranks.values() for rank in found]
    conditions.append(f"{sum(1 / rank for rank in both) / len(both):.3f}")
    conditions.append(f"{time.process_time() - started:.0f}")
    return f"| {name} | " + " | ".join(conditions) + " |"


if __name__ == "__main__":
    main()
