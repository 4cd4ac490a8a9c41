"""Compare short descriptions of fields (VLAD, thumbnails) with bags of words of similar size.

    python benchmarks/words_aggregate_against_bags.py MODEL PAIRS --modalities SHG BF [--seeds 0 1 2]

Queries are of the other modality, rotated and shifted, as `evaluate` draws them; both directions are pooled.
Bytes of a bag: 4 for each word that occurs in a field (its name and its count). A thumbnail is the CoMIR at
an eighth or a quarter of its resolution, and compared as `search.shortlist.screen` does, in all rotations.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from words_setting import bench_of

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.bags import BagIndex, count_words, covered, encode_query
from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.settings import BagSettings, DescriptorSettings, VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import keep_strongest, sample_field, train_vocabulary
from napari_cmrir.evaluation.metrics import compare, wilson_interval
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.registration.coarse_to_fine import PreparedQuery, rotations
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.search.shortlist import cut_template, screen_scores

ANGLES = rotations(SearchSettings())
DESCRIPTOR, BAGS = DescriptorSettings(), BagSettings()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the transforms")
    parser.add_argument("--bags", type=int, nargs="*", default=[250, 1000, 4000], help="words of the bags")
    parser.add_argument(
        "--aggregates", type=int, nargs="*", default=[16, 32, 64], help="words of the aggregates"
    )
    arguments = parser.parse_args()
    modalities = tuple(arguments.modalities)
    model, pairs = load_model(arguments.model), find_pairs([arguments.pairs], modalities)
    evaluation_runs = [bench_of(model, pairs, modalities, seed) for seed in arguments.seeds]
    searchers = {m: searchers_of(evaluation_runs[0], model, m, arguments) for m in modalities}
    ranks = defaultdict(lambda: defaultdict(list))
    for evaluation_run in evaluation_runs:
        names = [field.name for field in evaluation_run.fields]
        for condition in evaluation_run.conditions():
            for query in evaluation_run.queries(condition):
                image = query.image
                comir = jobs.run(represent(model, image.pixels, condition.query, mask=image.mask))
                mask = np.ones(comir.shape[1:], bool) if image.mask is None else image.mask
                features = describe(comir, DESCRIPTOR, image.mask)
                for name, (_, score) in searchers[condition.repository].items():
                    scores = score(features if "thumbnail" not in name else comir, mask)
                    rank = 1 + int((scores > scores[names.index(query.name)]).sum())
                    ranks[name][condition.size].append(rank)
    report(ranks, searchers[modalities[0]])


def searchers_of(evaluation_run, model, modality, arguments):
    """Return, by name, the bytes of a field and the function that scores all fields for a query."""
    images = evaluation_run.images[modality]
    comirs = [
        jobs.run(represent(model, f.crop(images[f.identifier]), modality)) for f in evaluation_run.fields
    ]
    fields = [describe(comir, DESCRIPTOR) for comir in comirs]
    settings = VocabularySettings()
    drawn = [sample_field(features, len(fields), settings, i) for i, features in enumerate(fields)]
    training = keep_strongest(drawn, settings)

    def vocabulary(size):
        return jobs.run(train_vocabulary(training, settings.model_copy(update={"size": size})))

    found = {}
    for size in arguments.bags:
        words = vocabulary(size)
        bags = [count_words(words.assign(f.descriptors), size) for f in fields]
        index = BagIndex.from_bags(bags, size, BAGS)
        found[f"bag of {size:,} words"] = (
            4 * len(index.words) / len(index),
            lambda f, m, words=words, index=index: index.scores(encode_query(f, m, words, BAGS)),
        )
    for size in arguments.aggregates:
        words = vocabulary(size)
        vectors = np.stack([aggregate(f.descriptors, words) for f in fields])
        found[f"aggregate of {size} words"] = (
            vectors.shape[1],
            lambda f, m, words=words, vectors=vectors: cosines(
                aggregate(f.descriptors[covered(f.points, m, BAGS.query_cover)], words), vectors
            ),
        )
    for level, name in ((3, "an eighth"), (2, "a quarter")):
        pooled = [
            torch.nn.functional.avg_pool2d(torch.from_numpy(comir)[None].float(), 2**level).round()
            for comir in comirs
        ]
        found[f"thumbnail at {name}"] = (
            np.mean([comir.numel() for comir in pooled]),
            lambda comir, m, level=level, pooled=pooled: screened(comir, m, level, pooled),
        )
    return found


def screened(comir, mask, level, fields):
    query = PreparedQuery(comir, mask, torch.device("cpu"))
    template = cut_template(*query.level(level), ANGLES, query.high_pass_px / 2**level)
    return np.array([screen_scores(template, field).item() for field in fields])


def aggregate(descriptors, vocabulary):
    """Sum the residues of descriptors to their words: (n, d) -> (k d,) int8, VLAD.

    Jegou et al., "Aggregating local image descriptors into compact codes", TPAMI 34, 1704 (2012), with the
    power law and unit length for each word (Arandjelovic and Zisserman, "All about VLAD", CVPR 2013).
    """
    names = vocabulary.assign(descriptors, exact=True)
    sums = np.zeros(vocabulary.words.shape)
    for word in np.unique(names[names >= 0]):
        sums[word] = (descriptors[names == word] - vocabulary.words[word]).sum(axis=0)
    roots = np.sign(sums) * np.sqrt(np.abs(sums))
    lengths = np.linalg.norm(roots, axis=1, keepdims=True)
    return np.round(127 * roots / np.maximum(lengths, 1e-9)).ravel().astype(np.int8)


def cosines(query, vectors):
    """Cosines of the query and each field, after the mean of the fields is subtracted from both."""
    mean = vectors.mean(axis=0)
    fields, asked = vectors - mean, query - mean
    return fields @ asked / (np.linalg.norm(fields, axis=1) * np.linalg.norm(asked) + 1e-9)


def report(ranks, searchers) -> None:
    last_bag = [name for name in ranks if "bag" in name][-1]
    columns = [f"{size} {k}" for size in ("whole", "patch") for k in ("first", "in 10", "in 30")]
    print(f"| signature | bytes a field | {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|---|---|")
    for name, by_size in ranks.items():
        conditions = []
        for size in ("full", "patch"):
            for k in (1, 10, 30):
                hits = np.array(by_size[size]) <= k
                low, high = wilson_interval(int(hits.sum()), len(hits))
                conditions.append(f"{hits.mean():.1%} ({low:.0%} to {high:.0%})")
        print(f"| {name} | {searchers[name][0]:,.0f} | " + " | ".join(conditions) + " |")
    for name in ranks:
        if "bag" not in name:
            for k in (1, 10, 30):
                both = [
                    [r <= k for size in ("full", "patch") for r in ranks[n][size]] for n in (name, last_bag)
                ]
                print(f"{name} against {last_bag}, first {k}: {compare(*both)}")


if __name__ == "__main__":
    main()
