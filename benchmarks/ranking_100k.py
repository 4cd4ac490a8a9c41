"""Rank 100,000 fields from mapped segments, and compare with the same product by scipy.sparse in memory.

Run it as ``python benchmarks/ranking_100k.py``. The histograms are generated at the density of 834 px fields:
3,500 of 4,000 words each (512 px fields of the published SHG/BF cores have 2,500 to 2,900). Prints the 95th
percentile of a ranking of all fields, the time of the first ranking (which also computes every field's
length), and the growth of memory. ``OMP_NUM_THREADS`` sets the number of threads.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array

from napari_cmrir.bag_of_words.bags import Bag, BagIndex
from napari_cmrir.bag_of_words.settings import BagSettings
from napari_cmrir.repository.field_indexes import bag_index
from napari_cmrir.repository.segments import map_tensors, write_tensors

FIELDS_A_SEGMENT = 2048


def own_memory() -> float:
    """Memory of this process without mapped files, in GB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1e6


def draw_bag(generator: np.random.Generator, chances: np.ndarray) -> Bag:
    words = np.flatnonzero(generator.random(len(chances), dtype=np.float32) < chances)
    counts = generator.geometric(0.15, len(words))
    return Bag(words.astype(np.uint32), counts.astype(np.uint16))


def write_segments(folder: Path, n_fields: int, chances: np.ndarray) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = []
    for first in range(0, n_fields, FIELDS_A_SEGMENT):
        numbers = range(first, min(first + FIELDS_A_SEGMENT, n_fields))
        bags = [draw_bag(generator, chances) for _ in numbers]
        paths.append(folder / f"{first:08d}.safetensors")
        written = BagIndex.from_bags(bags, len(chances), BagSettings())
        write_tensors(paths[-1], {"indptr": written.indptr, "words": written.words, "counts": written.counts})
    return paths


def p95(work, queries) -> tuple[float, list[np.ndarray]]:
    seconds, answers = [], []
    for query in queries:
        started = time.perf_counter()
        answers.append(work(query))
        seconds.append(time.perf_counter() - started)
    return float(np.percentile(seconds, 95)), answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=4000)
    parser.add_argument("--nonzeros", type=int, default=3500)
    parser.add_argument("--queries", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    spread = np.random.default_rng(1).gamma(4.0, 1.0, options.words)
    chances = (1 - np.exp(-spread * 4.0 * options.nonzeros / options.words)).astype(np.float32)
    chances *= min(1.0, options.nonzeros / chances.sum())
    folder = Path(tempfile.mkdtemp())
    try:
        paths = write_segments(folder, options.fields, chances)
        size = sum(path.stat().st_size for path in paths)
        before = own_memory()
        started = time.perf_counter()
        segments = [map_tensors(path) for path in paths]
        parts = [(segment, np.ones(len(segment["indptr"]) - 1, bool)) for segment in segments]
        index = bag_index(parts, options.words, BagSettings())
        opened = time.perf_counter() - started
        queries = [draw_bag(np.random.default_rng([2, n]), chances) for n in range(options.queries)]
        started = time.perf_counter()
        index.rank(queries[0])
        first = time.perf_counter() - started
        mapped, answers = p95(lambda query: index.scores(query), queries)
        ranked, _ = p95(lambda query: index.rank(query, 100), queries)
        grown = own_memory() - before
        print(
            f"{options.fields} fields of {size / 6 / options.fields:.0f} words, {size / 1e9:.1f} GB mapped,"
            f" {torch.get_num_threads()} threads"
        )
        print(f"opened in {opened:.2f} s, first ranking {first:.2f} s, memory grown by {grown:.2f} GB")
        print(f"ranking, p95 of {options.queries}: {ranked:.3f} s (its product {mapped:.3f} s)")

        before = own_memory()
        indptr = np.asarray(index.indptr)
        names = np.concatenate([segment["words"] for segment in segments]).astype(np.int32)
        terms = np.concatenate([np.sqrt(segment["counts"], dtype=np.float32) for segment in segments])
        matrix = csr_array((terms, names, indptr), (options.fields, options.words))
        del terms, names

        def product(query: Bag) -> np.ndarray:
            weights = np.zeros(options.words, np.float32)
            weighted = np.sqrt(query.counts, dtype=np.float32) * index.idf[query.words]
            weights[query.words] = weighted * index.idf[query.words]
            return matrix @ weights / (index.lengths * np.linalg.norm(weighted))

        peer, theirs = p95(product, queries)
        print(f"scipy.sparse in memory ({own_memory() - before:.1f} GB), the product: {peer:.3f} s")
        difference = max(np.abs(a - b).max() for a, b in zip(answers, theirs, strict=True))
        print(f"mapped takes {mapped / peer:.2f} times as long; scores differ by {difference:.1e} at most")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
