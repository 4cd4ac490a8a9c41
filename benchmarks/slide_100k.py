"""Index a slide of 100,000 x 100,000 px, a quarter of it by default, and search it.

    python benchmarks/slide_100k.py [--whole] [--tissue 0.3] [--formats tiff zarr] [--work FOLDER]

The slide is bright field, of generated tissue in a disc and empty glass around it. The tissue is one large
section, bent everywhere in another way, so that no place looks like another. It is written as OME-TIFF with
JPEG tiles, and as OME-Zarr, each with a second level at a sixteenth, and indexed with the starter model and
default settings, each in a process of its own. Printed are the megapixels of tissue a minute and the peak of
the memory. Then regions of 512 px of the same tissue as a second-harmonic image shows it, turned by up to 30
degrees, are searched: seconds to open the repository, seconds a query once it is open, how many have the
right place first, and how many of these are reported as reliable.

``OMP_NUM_THREADS`` sets the number of threads. With ``--work``, the slide and the repositories stay there,
and a second run goes on with them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from index_large_image import peak_gb

WHOLE, TILE, SECTION = 100_000, 512, 2048  # px
COARSER = 16  # pixels of the slide per pixel of its second level
LATTICE, BEND = 192, 220.0  # px between the random values of the bending; px that it moves a place by
QUERY = 512  # px


class Tissue:
    """Generated tissue of any size, every place of it different, drawn where it is needed."""

    def __init__(self, side: int) -> None:
        from napari_cmrir.images.synthetic.sample_pairs import sample_pair

        pair = sample_pair(3, SECTION)
        self.modalities = {"BF": pair.bf, "SHG": pair.shg}
        count = side // LATTICE + 5
        self._lattice = np.random.default_rng(0).normal(size=(count, count, 2)).astype(np.float32)

    def draw(self, modality: str, y: float, x: float, turned: float = 0.0, side: int = TILE) -> np.ndarray:
        """Draw a square window at a centre, turned counter-clockwise by degrees: (side, side[, 3])."""
        offsets = np.arange(side, dtype=np.float32) - (side - 1) / 2
        cos, sin = np.cos(np.radians(turned)), np.sin(np.radians(turned))
        down, right = np.meshgrid(offsets, offsets, indexing="ij")
        rows, columns = y + cos * down + sin * right, x - sin * down + cos * right
        bend = cv2.remap(
            self._lattice,
            (columns / LATTICE + 2).astype(np.float32),
            (rows / LATTICE + 2).astype(np.float32),
            cv2.INTER_CUBIC,
        )
        places = [  # of the section, which is continued by its mirror images
            (SECTION - 1 - np.abs((at + BEND * bend[..., axis]) % (2 * SECTION - 2) - SECTION + 1)).astype(
                "f4"
            )
            for axis, at in enumerate((rows, columns))
        ]
        return cv2.remap(self.modalities[modality], places[1], places[0], cv2.INTER_LINEAR)


def tiles(side: int, share: float, coarse: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """The slide's tiles, row by row; the second level is entered in ``coarse``."""
    tissue, rng = Tissue(side), np.random.default_rng(1)
    glass = [rng.integers(238, 243, (TILE, TILE, 3), dtype=np.uint8) for _ in range(8)]
    radius = side * (share / np.pi) ** 0.5
    y, x = np.mgrid[:TILE, :TILE] - side / 2
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            inside = np.hypot(y + top, x + left) < radius
            tile = glass[(top + left) // TILE % 8]
            if inside.any():
                centre = (TILE - 1) / 2
                tile = np.where(inside[..., None], tissue.draw("BF", top + centre, left + centre), tile)
            part = coarse[top // COARSER :, left // COARSER :][: TILE // COARSER, : TILE // COARSER]
            part[:] = cv2.resize(tile, None, fx=1 / COARSER, fy=1 / COARSER, interpolation=cv2.INTER_AREA)[
                : part.shape[0], : part.shape[1]
            ]
            yield top, left, tile


def second_level(side: int) -> np.ndarray:
    return np.zeros((side // COARSER, side // COARSER, 3), np.uint8)


def write_tiff(path: Path, side: int, share: float) -> None:
    import tifffile

    coarse = second_level(side)
    options = {"photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 85}}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:
        file.write(
            (tile for _, _, tile in tiles(side, share, coarse)),
            shape=(side, side, 3),
            dtype=np.uint8,
            tile=(TILE, TILE),
            subifds=1,
            metadata={"axes": "YXS"},
            **options,
        )
        file.write(coarse, subfiletype=1, tile=(TILE, TILE), **options)


def write_zarr(path: Path, side: int, share: float) -> None:
    import zarr

    group = zarr.create_group(path, zarr_format=3)
    array = group.create_array("0", shape=(3, side, side), dtype=np.uint8, chunks=(3, TILE, TILE))
    coarse = second_level(side)
    for top, left, tile in tiles(side, share, coarse):
        array[:, top : top + TILE, left : left + TILE] = np.moveaxis(tile[: side - top, : side - left], -1, 0)
    group.create_array("1", data=np.moveaxis(coarse, -1, 0).copy(), chunks=(3, TILE, TILE))
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "yx")]
    datasets = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [1.0, step, step]}]}
        for path, step in (("0", 1.0), ("1", float(COARSER)))
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


FORMATS = {"tiff": ("slide.ome.tif", write_tiff), "zarr": ("slide.ome.zarr", write_zarr)}


def index(image: str, repository: str) -> None:
    """Index in this process, and print what it took."""
    from napari_cmrir.jobs import run
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.representations.base import load_model

    model, started, most = load_model("starter"), time.perf_counter(), 0.0

    def note(progress) -> None:
        nonlocal most
        told = re.search(r"of (\d+) megapixels", progress.message)
        most = max(most, float(told[1])) if told else most

    built = run(build_repository([image], model, "BF", repository), note)
    answer = {"seconds": time.perf_counter() - started, "megapixels": most, "fields": len(built)}
    print(json.dumps(answer | {"peak_gb": peak_gb()}))


def ask(repository: str, side: int, share: float, count: int) -> None:
    """Search in this process, and print what was found."""
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.jobs import run
    from napari_cmrir.repository.repository import open_repository
    from napari_cmrir.search.query import search

    tissue, rng = Tissue(side), np.random.default_rng(2)
    started = time.perf_counter()
    opened = open_repository(repository)
    answer = {"open": time.perf_counter() - started}
    _ = opened.model  # loaded for any query
    seconds, right, reliable = [], 0, 0
    for _ in range(count + 1):  # the first maps the thumbnails
        angle, distance = rng.uniform(0, 2 * np.pi), 0.9 * side * (share / np.pi) ** 0.5 * rng.random() ** 0.5
        place = side / 2 + distance * np.sin(angle), side / 2 + distance * np.cos(angle)
        image = tissue.draw("SHG", *place, turned=float(rng.uniform(-30, 30)), side=2 * QUERY)
        region = Region((QUERY - 0.5, QUERY - 0.5), QUERY, QUERY)
        started = time.perf_counter()
        result = run(search(opened, image, "SHG", region=region))
        seconds.append(time.perf_counter() - started)
        is_right = bool(np.linalg.norm(result.hits[0].box.mean(0) - place) < 0.05 * QUERY)
        right, reliable = right + is_right, reliable + (is_right and result.reliable)
    answer |= {"first": seconds[0], "seconds": statistics.median(seconds[1:])}
    print(json.dumps(answer | {"right": right, "reliable": reliable}))


def run_this(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, *map(str, arguments)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="all of it: 10 gigapixels")
    parser.add_argument("--side", type=int, help="px, for a shorter run")
    parser.add_argument("--tissue", type=float, default=0.3, help="share of the slide")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--index", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    given = parser.parse_args()
    side = given.side or (WHOLE if given.whole else WHOLE // 2)
    if given.index:
        index(*given.index)
    elif given.ask:
        ask(given.ask, side, given.tissue, given.queries)
    else:
        measure(given, side)


def measure(given: argparse.Namespace, side: int) -> None:
    """Write the slide in each format, index it and search it, each in a process of its own."""
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{side:,} x {side:,} px, {given.tissue:.0%} tissue; {load}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        for name in given.formats:
            file, write = FORMATS[name]
            image, repository = work / file, work / f"{name}.cmrir"
            if not image.exists():
                started = time.perf_counter()
                work.mkdir(parents=True, exist_ok=True)
                write(image.with_name(f"partial-{file}"), side, given.tissue)
                image.with_name(f"partial-{file}").rename(image)
                print(f"{file}: written in {time.perf_counter() - started:.0f} s", flush=True)
            found = run_this("--index", image, repository)
            speed = 60 * found["megapixels"] / found["seconds"]
            print(
                f"{file}: {found['megapixels']:,.0f} megapixels of tissue in {found['seconds']:.0f} s,"
                f" {speed:.0f} a minute; peak {found['peak_gb']:.2f} GB; {found['fields']:,} fields",
                flush=True,
            )
            options = ["--side", side, "--tissue", given.tissue, "--queries", given.queries]
            found = run_this("--ask", repository, *options)
            print(
                f"{file}: opened in {found['open']:.2f} s; query of {QUERY} px: first {found['first']:.1f} s,"
                f" then {found['seconds']:.1f} s; {found['right']} of {given.queries + 1} places right,"
                f" {found['reliable']} of these reliable",
                flush=True,
            )


if __name__ == "__main__":
    main()
