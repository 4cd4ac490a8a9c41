"""Compare indexing with two dask workers with one worker, each on one thread.

Run it as ``python benchmarks/dask_workers.py`` on a computer with two free cores. Generated images are added
to a repository that has a vocabulary. The workers start before the time is measured.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from distributed import Client, LocalCluster
from index_throughput import make_model

from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.training_settings import TrainingSettings


def measure(workers: int, images: list[Path], model, start: Path, path: Path) -> float:
    """Return the seconds that adding the images to a copy of a repository takes."""
    shutil.copytree(start, path)
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(__import__, "napari_cmrir.bag_of_words.descriptors.features")
        started = time.perf_counter()
        address = cluster.scheduler_address
        run(build_repository(images, model, "BF", path, scheduler=address)).close()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", type=int, default=512)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        model = make_model(TrainingSettings(), 3)
        (folder / "images").mkdir()
        pixels = np.atleast_3d(sample_pair(0, options.side).bf)
        pixels = np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))
        for number in range(options.images + 1):
            name = folder / "images" / f"core{number:03d}.tif"
            tifffile.imwrite(name, np.roll(pixels, 7 * number, axis=0), photometric="rgb")
        images = sorted((folder / "images").iterdir())
        settings = RepositorySettings(vocabulary=VocabularySettings(iterations=2))
        start = folder / "start.cmrir"
        run(build_repository(images[:1], model, "BF", start, settings)).close()
        seconds = {n: measure(n, images, model, start, folder / f"{n}.cmrir") for n in (1, 2)}
    finally:
        shutil.rmtree(folder)
    print(f"load of the computer before: {os.getloadavg()[2]:.1f} on {os.cpu_count()} cores")
    for workers, taken in seconds.items():
        print(f"{workers} workers: {60 * options.images / taken:.1f} images a minute ({taken:.1f} s)")
    print(f"two beside one: {seconds[1] / seconds[2]:.2f} times the throughput")


if __name__ == "__main__":
    main()
