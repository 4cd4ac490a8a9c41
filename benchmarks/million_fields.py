"""Measure a query as a repository grows: time, memory and bytes on disk.

    python benchmarks/million_fields.py [--fields 1000 10000 100000] [--queries 3] [--scheduler ADDRESS]

Fields of 256 px of textures are indexed; the repository is then filled up to each number with fields that
have other thumbnails (those of the first ones, shifted and mirrored) and share the CoMIRs of the first:
screening meets as many thumbnails as it would, and registration reads real CoMIRs. Queries are turned patches
of 96 px and whole fields, with noise, cut from the first images. For each number are printed: bytes of
thumbnails, seconds to open, the first query (which maps the thumbnails), the median of the others, memory of
this process without mapped files, and how many queries have their image among the 300 fields that screening
keeps.

A million fields take 4.1 GB on disk and minutes for a query of a patch: give ``--fields 1000000``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from sizes import regions, small_model, texture

from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.segments import map_fields, map_tensors, write_fields, write_tensors
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

FIELD, SIDE, IMAGES = 256, 2048, 4  # px, px; 324 fields


def build(path: Path) -> list[np.ndarray]:
    """Index the first images, and give them."""
    textures = [texture(number, (SIDE, SIDE)) for number in range(IMAGES)]
    sources = [Source(f"image-{number}", pixels) for number, pixels in enumerate(textures)]
    settings = RepositorySettings(field_size=FIELD, field_overlap=0.125)
    run(build_repository(sources, small_model(), "BF", path, settings)).close()
    return textures


def grow(path: Path, wanted: int, rng: np.random.Generator) -> None:
    """Fill the repository up with segments of other thumbnails."""
    with closing(Catalogue(path, writable=True)) as catalogue:
        (first, *more) = catalogue.segments()
        there = first.n_fields + sum(segment.n_fields for segment in more)
        table = map_fields(path / first.file)
        index = next(index for index in catalogue.index_files("thumbnails") if index.segment == first.id)
        pixels = np.asarray(map_tensors(path / index.file)["pixels"]).reshape(-1, FIELD // 4, FIELD // 4)
        rows = {number: catalogue.image(number) for number in np.unique(table["image"]).tolist()}
        with catalogue.transaction():
            for copy in range(-(-max(0, wanted - there) // len(table))):
                name = f"copy-{there}-{copy}"
                ids = {
                    number: catalogue.add_image(
                        f"{name}-{number}", comir=row.comir, height=SIDE, width=SIDE, state="pending"
                    )
                    for number, row in rows.items()
                }
                fields = table.copy()
                fields["image"] = [ids[number] for number in table["image"].tolist()]
                other = np.roll(pixels, tuple(rng.integers(8, 56, 2).tolist()), (1, 2))
                other = other[:, :: rng.choice((1, -1)), :: rng.choice((1, -1))]
                files = f"segments/{name}.safetensors", f"indexes/thumbnails/{name}.safetensors"
                write_fields(path / files[0], fields.view(np.int64).reshape(-1, 5))
                write_tensors(path / files[1], {"pixels": other.ravel()})
                entered = [("thumbnails", files[1], "")]
                catalogue.enter_segment(files[0], "", len(fields), ids.values(), entered)


def own_memory() -> float:
    """Memory of this process without mapped files, in GB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fields", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--scheduler", default="")
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fields.cmrir"
        textures = build(path)
        print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
        settings = SearchSettings(scheduler=asked.scheduler, register_all=0)
        for wanted in asked.fields:
            grow(path, wanted, rng)
            stored = sum(file.stat().st_size for file in (path / "indexes" / "thumbnails").iterdir())
            start = time.perf_counter()
            with open_repository(path) as repository:
                opened = time.perf_counter() - start
                told = [f"{len(repository):,} fields, {stored / 1e9:.2f} GB, opened in {opened:.2f} s"]
                for kind, side in {"patch of 96 px": 96, "whole field": FIELD}.items():
                    seconds, kept = [], 0
                    parts = [pixels[448:704, 448:704] for pixels in textures]  # field 2, 2 of each image
                    for number, query in enumerate(regions(parts[: asked.queries], side)):
                        start = time.perf_counter()
                        result = run(search(repository, query, "BF", settings=settings))
                        seconds.append(time.perf_counter() - start)
                        kept += any(
                            repository.image_name(field) == f"image-{number}"
                            for field in result.shortlist.tolist()
                        )
                    median = statistics.median(seconds[1:] or seconds)
                    times = f"first {seconds[0]:.2f} s, then {median:.2f} s"
                    told.append(f"{kind}: {times}, {kept} of {len(seconds)} kept")
                print("; ".join(told) + f"; {own_memory():.2f} GB", flush=True)


if __name__ == "__main__":
    main()
