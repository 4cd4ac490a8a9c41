"""Compare many searches one after another, on all threads, with as many at once as there are cores.

    python benchmarks/throughput.py [--images 48] [--side 707] [--queries 32] [--rounds 3] [--workers 2]

Textures are indexed with the small network of `benchmarks/sizes.py`; queries are turned regions of them, of
256 and of 96 px. Each round asks all queries one after another, then with worker processes of one thread
each (`query --workers`); the start of the processes counts, and is printed by itself: the time of as many
queries as workers. Printed are the queries a minute and the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sizes import regions, small_model, texture

from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.search.query import search_many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--side", type=int, default=707)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    textures = [texture(number, (asked.side, asked.side)) for number in range(asked.images)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "textures.cmrir"
        sources = [Source(f"image-{number:03d}", pixels) for number, pixels in enumerate(textures)]
        run(build_repository(sources, small_model(), "BF", path)).close()
        with open_repository(path) as repository:
            print(
                f"{len(repository)} fields of {asked.side} px; {torch.get_num_threads()} threads,"
                f" load {os.getloadavg()[0]:.1f}"
            )
            for side in (256, 96):
                queries = [textures[i % asked.images] for i in range(asked.queries)]
                compare(repository, regions(queries, side), side, asked)


def compare(repository, queries, side, asked):
    """Time all queries in both ways, round by round."""
    ratios, alone, together = [], [], []
    run(search_many(repository, queries[:1], "BF"))  # not measured: files are mapped
    for _ in range(asked.rounds):
        start = time.perf_counter()
        one = run(search_many(repository, queries, "BF"))
        middle = time.perf_counter()
        two = run(search_many(repository, queries, "BF", workers=asked.workers))
        alone.append(middle - start)
        together.append(time.perf_counter() - middle)
        ratios.append(alone[-1] / together[-1])
        for first, second in zip(one, two, strict=True):
            np.testing.assert_equal(first.hits[0].image, second.hits[0].image)
            np.testing.assert_allclose(first.hits[0].score, second.hits[0].score, atol=1e-4)
    start = time.perf_counter()
    run(search_many(repository, queries[: asked.workers], "BF", workers=asked.workers))
    started = time.perf_counter() - start
    print(
        f"{side:4d} px: one after another {60 * len(queries) / statistics.median(alone):.0f} a minute,"
        f" {asked.workers} at once {60 * len(queries) / statistics.median(together):.0f};"
        f" {statistics.median(ratios):.2f} times; started and answered {asked.workers} in {started:.1f} s"
    )


if __name__ == "__main__":
    main()
