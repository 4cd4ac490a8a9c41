"""Assign 43,264 SURF descriptors of one CoMIR to 20,000 words, and compare with faiss's exact search.

    python benchmarks/words_nearest_against_faiss.py [--images FOLDER]

Also prints how often the word equals that of the exact search, and how much farther other words are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from words_setting import describe_machine, read_comir, stopwatch, training_descriptors

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.descriptors.surf import surf
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import train_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of images; generated if not given")
    parser.add_argument("--words", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    paths = sorted(p for p in arguments.images.rglob("*") if p.is_file()) if arguments.images else []
    query, rest = (paths[0], paths[1:]) if paths else (None, [])
    training = training_descriptors(20 * arguments.words, rest)
    settings = VocabularySettings(size=arguments.words, samples=len(training), iterations=5)
    vocabulary = jobs.run(train_vocabulary(training, settings))
    descriptors = surf(read_comir(query, 834), DescriptorSettings.paper()).descriptors

    def faiss_flat() -> np.ndarray:
        import faiss

        index = faiss.IndexFlatL2(64)
        index.add(vocabulary.words)
        return index.search(descriptors, 1)[1][:, 0]

    describe_machine()
    runs = {
        "two levels": lambda: vocabulary.assign(descriptors),
        "exact": lambda: vocabulary.assign(descriptors, exact=True),
        "faiss IndexFlatL2": faiss_flat,
    }
    found, seconds = stopwatch(runs, arguments.repeats)
    print(f"{len(descriptors):,} descriptors among {len(vocabulary):,} words")
    for name in found:
        same = (found[name] == found["exact"]).mean()
        distance = np.linalg.norm(descriptors - vocabulary.words[found[name]], axis=1).mean()
        print(f"{name:18} {seconds[name]}; {same:.1%} as exact, mean distance {distance:.5f}")
    if "faiss IndexFlatL2" in found:
        for name in ("two levels", "exact"):
            print(f"{name}: {seconds['faiss IndexFlatL2'].over(seconds[name])} than faiss")


if __name__ == "__main__":
    main()
