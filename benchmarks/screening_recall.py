"""Measure how often screening keeps the right field among many, at several resolutions and by words.

    python benchmarks/screening_recall.py MODEL PAIRS OTHERS --modalities SHG BF [--fields 2500] [--words]

Queries are of the other modality, rotated and shifted, as `evaluate` draws them. Beside the fields of PAIRS,
distractors are searched: half are cut from CoMIRs of the images in OTHERS at three sizes, half from generated
tissue, all rotated by quarter turns and mirrored. These are many fields of few images, computed in minutes.
(`evaluate --distractors` indexes every field separately.) With fewer fields than `--as-of`, recall at K of
`--as-of` fields is estimated by recall at K * fields / as-of.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F
from words_setting import bench_of

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.bags import BagIndex, count_words, encode_query
from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.settings import BagSettings, DescriptorSettings, VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import keep_strongest, sample_field, train_vocabulary
from napari_cmrir.evaluation.metrics import wilson_interval
from napari_cmrir.images.discovery import find_images, find_pairs
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.registration.coarse_to_fine import PreparedQuery, rotations
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.search.shortlist import cut_template, describe_turned, screen_scores, word_rotations

SIDE, STEP = 256, 100
ANGLES = {"6°": rotations(SearchSettings()), "10°": [-30.0, -20.0, -10.0, 0.0, 10.0, 20.0, 30.0]}
SCREENS = [(3, "6°"), (3, "10°"), (2, "6°"), (2, "10°")]  # level, rotations
RANKS = (30, 100, 300, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--modalities", nargs=2, required=True)
    parser.add_argument("--fields", type=int, default=2500)
    parser.add_argument("--as-of", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=1000, help="of each kind, drawn at random")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1], help="of the transforms")
    parser.add_argument("--sizes", nargs="*", default=["full", "patch"])
    parser.add_argument("--words", action="store_true", help="also by bag of words")
    options = parser.parse_args()
    modalities = tuple(options.modalities)
    model, pairs = load_model(options.model), find_pairs([options.pairs], modalities)
    found = defaultdict(list)
    for modality in modalities:
        evaluation_runs = [bench_of(model, pairs, modalities, seed) for seed in options.seeds]
        names = [field.name for field in evaluation_runs[0].fields]
        signatures = signatures_of(fields_of(model, evaluation_runs[0], modality, options), options)
        for condition, query in queries_of(evaluation_runs, modality, options):
            image = query.image
            comir = jobs.run(represent(model, image.pixels, condition.query, mask=image.mask))
            mask = np.ones(comir.shape[1:], bool) if image.mask is None else image.mask
            for name, (n_bytes, score) in signatures.items():
                start = time.process_time()
                scores = score(comir, mask)
                seconds = time.process_time() - start
                rank = 1 + int((scores > scores[names.index(query.name)]).sum())
                found[f"{condition}", name, n_bytes].append((rank, seconds))
    report(found, options)


def queries_of(evaluation_runs, modality, options):
    rng = np.random.default_rng(1)
    for size in options.sizes:
        asked = [
            (condition, query)
            for evaluation_run in evaluation_runs
            for condition in evaluation_run.conditions()
            if condition.repository == modality and condition.size == size
            for query in evaluation_run.queries(condition)
        ]
        for index in rng.permutation(len(asked))[: options.queries]:
            yield asked[index]


def fields_of(model, evaluation_run, modality, options):
    """CoMIRs of the right fields, then of the distractors: (channel, y, x) uint8."""
    images = evaluation_run.images[modality]
    fields = [
        jobs.run(represent(model, f.crop(images[f.identifier]), modality)) for f in evaluation_run.fields
    ]
    rng = np.random.default_rng(0)
    real = []
    for path in find_images([options.others], modality):
        pixels = np.atleast_3d(read_image(path))
        for zoom in (0.8, 1.0, 1.25):
            height, width = (round(side * zoom) for side in pixels.shape[:2])
            if min(height, width) >= SIDE:
                how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
                resized = np.atleast_3d(cv2.resize(pixels, (width, height), interpolation=how))
                real += cuts_of(jobs.run(represent(model, resized, modality)))
    real = [real[i] for i in rng.permutation(len(real))[: options.fields // 2]]
    generated, intensity = [], model.intensities[modality]
    for seed in range(1000, 1000 + math.ceil((options.fields - len(real)) / 72)):
        sample = sample_pair(seed, 2 * SIDE)
        pixels = sample.bf if len(intensity.low) == 3 else sample.shg / 4095 * intensity.high[0]
        generated += cuts_of(jobs.run(represent(model, pixels.astype(np.float32), modality)))
    return fields + real + generated[: options.fields - len(real)]


def cuts_of(comir):
    """Cut the fields of a CoMIR in eight orientations, on a grid."""
    cuts = []
    for quarters in range(4):
        for flip in (1, -1):
            posed = np.rot90(comir, quarters, (1, 2))[..., ::flip]
            rows, columns = (
                np.linspace(0, side - SIDE, 1 + (side - SIDE) // STEP).astype(int) for side in posed.shape[1:]
            )
            cuts += [posed[:, y : y + SIDE, x : x + SIDE] for y in rows for x in columns]
    return cuts


def signatures_of(fields, options):
    """Return, by name, the bytes of a field and the function that scores all fields for a query."""
    found = {}
    for level in sorted({level for level, _ in SCREENS}, reverse=True):
        by_shape = defaultdict(list)
        for number, comir in enumerate(fields):
            pooled = F.avg_pool2d(torch.from_numpy(np.ascontiguousarray(comir))[None].float(), 2**level)
            by_shape[pooled.shape].append((number, pooled.round()))
        stacks = [([n for n, _ in some], torch.cat([one for _, one in some])) for some in by_shape.values()]
        n_bytes = np.mean([stack[0].numel() for _, stack in stacks])
        for of_level, angles in SCREENS:
            if of_level == level:
                found[f"1/{2**level}, every {angles}"] = (
                    n_bytes,
                    lambda c, m, level=level, angles=angles, stacks=stacks: screened(
                        c, m, level, ANGLES[angles], stacks, len(fields)
                    ),
                )
    if options.words:
        found["bag of words"] = words_of(fields)
    return found


def screened(comir, mask, level, angles, stacks, n_fields):
    query = PreparedQuery(comir, mask, torch.device("cpu"))
    template = cut_template(*query.level(level), angles, query.high_pass_px / 2**level)
    scores = np.empty(n_fields)
    for numbers, stack in stacks:
        scores[numbers] = torch.cat([screen_scores(template, some) for some in stack.split(200)])
    return scores


def words_of(fields):
    settings, bags = VocabularySettings(), BagSettings()
    described = [describe(np.ascontiguousarray(comir), DescriptorSettings()) for comir in fields]
    drawn = [sample_field(features, 512, settings, i) for i, features in enumerate(described[:512])]
    words = jobs.run(train_vocabulary(keep_strongest(drawn, settings), settings))
    counted = [count_words(words.assign(features.descriptors), len(words)) for features in described]
    index = BagIndex.from_bags(counted, len(words), bags)

    def score(comir, mask):
        turned = describe_turned(comir, mask, word_rotations(SearchSettings()), DescriptorSettings())
        return index.scores_of([encode_query(f, counts, words, bags) for f, counts in turned]).max(0)

    return 4 * len(index.words) / len(index), score


def report(found, options) -> None:
    share = min(1.0, options.fields / options.as_of)
    print(f"| query | signature | bytes a field | ms a query | n | {' | '.join(f'in {k}' for k in RANKS)} |")
    print("|---" * (5 + len(RANKS)) + "|")
    for (condition, name, n_bytes), answers in sorted(found.items()):
        ranks, seconds = np.array(answers).T
        kept = [int((ranks <= max(1, k * share)).sum()) for k in RANKS]
        shares = [
            "{:.0%} ({:.0%} to {:.0%})".format(k / len(ranks), *wilson_interval(k, len(ranks))) for k in kept
        ]
        milliseconds = 1000 * np.median(seconds) / share
        print(
            f"| {condition} | {name} | {n_bytes:,.0f} | {milliseconds:.0f} | {len(ranks)} |"
            f" {' | '.join(shares)} |"
        )


if __name__ == "__main__":
    main()
