"""Compare a query of a 160 px polygon in a pyramid of 20,000 x 20,000 px with one in a small image.

Prints, for OME-TIFF and OME-Zarr, the seconds until the image is opened and the region read, and the
process's peak memory, each in a separate process. Exits with 1 if the large image takes 1 s or more to start,
or 400 MB more memory. Run it with ``python benchmarks/query_large_image.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import tifffile

SIDE, TILE, LEVELS = 20_000, 512, 5
TOP = LEFT = 10 * TILE
CORNERS = [(60, 80), (60, 230), (220, 240), (215, 85)]
MODEL = str(files("napari_cmrir") / "data/sample.safetensors")


def tiles(section: np.ndarray, level: int) -> Iterator[np.ndarray]:
    """The tiles of a level: glass, and the section in one of them."""
    shrunk = section[:: 2**level, :: 2**level]
    count = -(-(SIDE >> level) // TILE)
    at = divmod(TOP >> level, TILE), divmod(LEFT >> level, TILE)
    for row in range(count):
        for column in range(count):
            tile = np.full((TILE, TILE), 33, np.uint16)
            if (row, column) == (at[0][0], at[1][0]):
                y, x = at[0][1], at[1][1]
                part = tile[y : y + len(shrunk), x : x + len(shrunk)]
                part[:] = shrunk[: part.shape[0], : part.shape[1]]
            yield tile


def write_tiff(path: Path, section: np.ndarray) -> None:
    """A pyramidal OME-TIFF."""
    options = {"tile": (TILE, TILE), "compression": "deflate", "photometric": "minisblack", "dtype": "uint16"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:
        for level in range(LEVELS):
            extra = {"subifds": LEVELS - 1, "metadata": {"axes": "YX"}} if level == 0 else {"subfiletype": 1}
            file.write(tiles(section, level), shape=(SIDE >> level,) * 2, **options, **extra)


def write_zarr(path: Path, section: np.ndarray) -> None:
    """A pyramidal OME-Zarr, of which only the section's chunks are stored."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2)
    scales = []
    for level in range(LEVELS):
        array = group.create_array(
            str(level), shape=(SIDE >> level,) * 2, chunks=(TILE, TILE), dtype="uint16", fill_value=33
        )
        shrunk = section[:: 2**level, :: 2**level]
        y, x = TOP >> level, LEFT >> level
        array[y : y + len(shrunk), x : x + len(shrunk)] = shrunk
        scale = [{"type": "scale", "scale": [2.0**level] * 2}]
        scales.append({"path": str(level), "coordinateTransformations": scale})
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": scales}]


def peak_memory() -> float:
    """Peak resident memory of this program, MB; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def measure(repository: str, image: str, corners: list[tuple[float, float]]) -> dict[str, object]:
    """Query once, in this process."""
    from napari_cmrir.jobs import run
    from napari_cmrir.repository.repository import open_repository
    from napari_cmrir.search.query import search

    opened = open_repository(Path(repository))
    _ = opened.model  # loaded for any query, large or small
    start = time.perf_counter()
    result = run(search(opened, image, "SHG", polygon=corners))
    return {
        "start": result.timings["read"],
        "seconds": time.perf_counter() - start,
        "peak": peak_memory(),
        "hit": Path(result.hits[0].image).name,
        "score": result.hits[0].score,
    }


def main() -> int:
    """Write the images, and measure each in a separate process."""
    from napari_cmrir.images.synthetic.sample_pairs import sample_pair

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pair = sample_pair(95, 320)
        section = pair.shg.squeeze()
        tifffile.imwrite(folder / "small_SHG.tif", np.pad(section, 100, constant_values=33))
        tifffile.imwrite(folder / "core_BF.tif", pair.bf, photometric="rgb")
        write_tiff(folder / "large_SHG.ome.tif", section)
        write_zarr(folder / "large_SHG.ome.zarr", section)
        cli = Path(sys.executable).with_name("napari-cmrir")
        index = [cli, "index", folder / "core_BF.tif", "--model", MODEL, "--modality", "BF"]
        subprocess.run([*index, "-o", folder / "r.cmrir"], check=True, capture_output=True)
        figures = {}
        for name, first in (("small_SHG.tif", 100), ("large_SHG.ome.tif", TOP), ("large_SHG.ome.zarr", TOP)):
            corners = json.dumps([(y + first, x + first) for y, x in CORNERS])
            asked = [sys.executable, __file__, str(folder / "r.cmrir"), str(folder / name), corners]
            figures[name] = json.loads(subprocess.run(asked, check=True, stdout=subprocess.PIPE).stdout)
            print(name, figures[name], flush=True)
    small = figures.pop("small_SHG.tif")
    too_much = [
        name
        for name, large in figures.items()
        if large["start"] >= 1 or large["peak"] - small["peak"] >= 400 or large["hit"] != small["hit"]
    ]
    print("too slow or too large:", ", ".join(too_much) or "none")
    return 1 if too_much else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))))
    else:
        sys.exit(main())
