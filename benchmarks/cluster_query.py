"""Compare searches on one and on two dask workers with searches in this process.

    python benchmarks/cluster_query.py [--images 12] [--side 4096] [--queries 4] [--rounds 3]
        [--folder FOLDER]

Large textures are cut into fields of 256 px (12 images of 4,096 px: 4,332 fields). Queries are turned
regions with noise: patches of 96 px and whole fields. Every process computes on one thread; each round asks
every query in each way, one after the other, on a computer with two free cores. Printed are the median
seconds, the median of the ratios of two workers to one, what one worker adds to this process (transport and
merging), and whether all hits are equal bit for bit. The network is small: a query's CoMIR takes little time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from distributed import LocalCluster
from sizes import regions, small_model, texture

from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.hits import SearchResult
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

FIELD = 256  # px


def answer(result: SearchResult) -> list:
    """Everything that a search answers, to compare bit for bit."""
    return [(hit.image, hit.field, hit.score, hit.box.tolist(), hit.confidence) for hit in result.hits]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the repository is built and used again")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    path = (asked.folder or Path(tempfile.mkdtemp())) / "fields.cmrir"
    textures = [texture(number, (asked.side, asked.side)) for number in range(asked.images)]
    if not path.exists():
        sources = [Source(f"image-{number:03d}", pixels) for number, pixels in enumerate(textures)]
        settings = RepositorySettings(field_size=FIELD, field_overlap=0.125)
        run(build_repository(sources, small_model(), "BF", path, settings)).close()
    with ExitStack() as stack:
        repository = stack.enter_context(open_repository(path))
        clusters = {
            f"{n} worker{'s' if n > 1 else ''}": stack.enter_context(
                LocalCluster(
                    n_workers=n,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    silence_logs="CRITICAL",
                )
            ).scheduler_address
            for n in (1, 2)
        }
        ways = {"this process": "", **clusters}
        print(
            f"{len(repository)} fields of {FIELD} px; {os.cpu_count()} cores, one thread a process,"
            f" load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
        differ = 0
        for kind, side in {"patch of 96 px": 96, "whole field": FIELD}.items():
            queries = regions([pixels[:1024, :1024] for pixels in textures[: asked.queries]], side)
            seconds: dict[str, list[float]] = defaultdict(list)
            for again in range(asked.rounds + 1):  # the first is not measured: files are mapped
                for query in queries:
                    answers = []
                    for way, address in ways.items():
                        settings = SearchSettings(scheduler=address)
                        start = time.perf_counter()
                        result = run(search(repository, query, "BF", settings=settings))
                        if again:
                            seconds[way].append(time.perf_counter() - start)
                        answers.append(answer(result))
                    differ += any(other != answers[0] for other in answers)
            medians = {way: statistics.median(taken) for way, taken in seconds.items()}
            ratio = statistics.median(
                one / two for one, two in zip(seconds["1 worker"], seconds["2 workers"], strict=True)
            )
            added = statistics.median(
                one - alone for alone, one in zip(seconds["this process"], seconds["1 worker"], strict=True)
            )
            print(
                f"{kind:15s} "
                + "   ".join(f"{way} {taken:.2f} s" for way, taken in medians.items())
                + f"   two workers {ratio:.2f} times one; one adds {1000 * added:.0f} ms",
                flush=True,
            )
        n_asked = 2 * len(queries) * (asked.rounds + 1)
        print(f"{n_asked - differ} of {n_asked} queries answered equal bit for bit in all ways")
    np.testing.assert_equal(differ, 0)


if __name__ == "__main__":
    main()
