"""Measure memory and time of indexing one large image.

    python benchmarks/index_large_image.py [--side 20000]

Makes a bright-field slide, partly tissue and partly empty glass, as OME-TIFF (tiled, deflate, no pyramid) and
as OME-Zarr (chunked, one level) in a temporary folder, and indexes each in a separate process with the
default networks, untrained, and the default settings. Prints the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TILE = 512
LIMIT_GB = 2.5


def main() -> None:
    options = _parse()
    if options.index:
        _index(*options.index)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{options.side} x {options.side} px RGB, {options.tissue:.0%} of it tissue")
        for name in options.formats:
            image = folder / name
            started = time.perf_counter()
            WRITERS[name](image, options.side, options.tissue)
            print(f"{name}: written in {time.perf_counter() - started:.0f} s", flush=True)
            command = [sys.executable, __file__, "--index", str(image), str(folder / f"{name}.cmrir")]
            ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(ended.stdout.splitlines()[-1])
            verdict = "within" if found["peak_gb"] <= LIMIT_GB else "ABOVE"
            print(
                f"{name}: peak {found['peak_gb']:.2f} GB ({verdict} {LIMIT_GB} GB;"
                f" {found['before_gb']:.2f} GB before it began),"
                f" {found['seconds']:.0f} s, {found['fields']} fields",
                flush=True,
            )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20000)
    parser.add_argument("--tissue", type=float, default=0.2)
    parser.add_argument("--formats", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--index", nargs=2, metavar=("IMAGE", "REPOSITORY"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _index(image: str, repository: str) -> None:
    import torch

    from napari_cmrir import jobs
    from napari_cmrir.images.intensity import Intensity
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.representations.comir.inference import OutputScale
    from napari_cmrir.representations.comir.model import ComirModel
    from napari_cmrir.representations.comir.networks import build_network
    from napari_cmrir.representations.training_settings import TrainingSettings

    settings = TrainingSettings()
    torch.manual_seed(0)
    network = build_network(settings, 3).eval()
    with torch.inference_mode():
        output = network(torch.rand(1, 3, 256, 256))
    scale = OutputScale(tuple(output.mean((0, 2, 3)).tolist()), tuple(output.std((0, 2, 3)).tolist()))
    intensity = Intensity(low=(0.0,) * 3, high=(255.0,) * 3)
    both = ("BF", "SHG")
    model = ComirModel(
        both,
        settings,
        dict.fromkeys(both, intensity),
        {"BF": network, "SHG": copy.deepcopy(network)},
        dict.fromkeys(both, scale),
    )
    before, started = peak_gb(), time.perf_counter()
    job = build_repository([image], model, "BF", repository)
    built = jobs.run(job, lambda progress: _say(progress.message))
    seconds = time.perf_counter() - started
    answer = {"peak_gb": peak_gb(), "before_gb": before, "seconds": seconds, "fields": len(built)}
    print(json.dumps(answer))


def _say(message: str, said: dict[str, str] = {}) -> None:  # noqa: B006
    stage = message.split(" of ")[0].split(" (")[0].split(":")[0]
    if said.get("last") != stage:
        said["last"] = stage
        print(f"    {stage}: peak {peak_gb():.2f} GB", file=sys.stderr, flush=True)


def peak_gb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _texture() -> np.ndarray:
    """Make a patch of tissue that repeats without a seam, (2048, 2048, 3)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    noise = sum(
        sigma * gaussian_filter(rng.normal(size=(2048, 2048)).astype(np.float32), sigma, mode="wrap")
        for sigma in (1.5, 4, 12)
    )
    noise /= noise.std()
    colours = np.array([[200, 120, 170], [45, 35, 30]], np.float32)
    return np.clip(colours[0] + noise[..., None] * colours[1], 0, 235).astype(np.uint8)


def _tiles(side: int, share: float):
    """Yield the slide's tiles row by row: rotated tissue in a disc at its centre, glass around it."""
    texture, rng = _texture(), np.random.default_rng(1)
    radius = side * (share / np.pi) ** 0.5
    y, x = np.mgrid[:TILE, :TILE]
    n_tiles = -(-side // TILE)
    for top in range(0, n_tiles * TILE, TILE):
        for left in range(0, n_tiles * TILE, TILE):
            tile = rng.integers(238, 243, (TILE, TILE, 3), dtype=np.uint8)
            inside = (y + top - side / 2) ** 2 + (x + left - side / 2) ** 2 < radius**2
            if inside.any():
                ty, tx = ((at * 7919 // 512) % (2048 - TILE) for at in (top + left // 3, left + top // 5))
                tile[inside] = texture[ty : ty + TILE, tx : tx + TILE][inside]
            yield top, left, tile


def _write_tiff(path: Path, side: int, share: float) -> None:
    import tifffile

    tifffile.imwrite(
        path,
        (tile for _, _, tile in _tiles(side, share)),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="zlib",
        metadata={"axes": "YXS"},
        ome=True,
    )


def _write_zarr(path: Path, side: int, share: float) -> None:
    import zarr

    group = zarr.create_group(path, zarr_format=3)
    array = group.create_array("0", shape=(3, side, side), dtype=np.uint8, chunks=(3, TILE, TILE))
    for top, left, tile in _tiles(side, share):
        array[:, top : top + TILE, left : left + TILE] = np.moveaxis(tile[: side - top, : side - left], -1, 0)
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "yx")]
    transformations = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


WRITERS = {"slide.ome.tif": _write_tiff, "slide.ome.zarr": _write_zarr}

if __name__ == "__main__":
    main()
