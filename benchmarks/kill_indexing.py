"""Kill indexing at random moments; the repository must open or report that it is unfinished, and resume.

Run it as ``python benchmarks/kill_indexing.py 200``. Child processes index generated images, add more, learn
a new vocabulary and compact. Each is killed (SIGKILL) after a random time. The script then opens and verifies
the repository, resumes until the work is done, and compares the rankings, byte for byte, with those of a
repository built without kills. With ``--workers 2``, dask workers index, and the process that they work for
is killed. POSIX only.

``--slide`` kills the indexing of one image that is computed in strips, and counts the strips that are
computed again: at most one for each kill.
"""

import argparse
import importlib
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.bags import count_words
from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.repository import comirs, indexing, pyramids
from napari_cmrir.repository.build import build_index, build_repository
from napari_cmrir.repository.maintenance import compact_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.training_settings import TrainingSettings

SETTINGS = RepositorySettings(
    descriptor=DescriptorSettings(block_widths=(16, 32)),
    vocabulary=VocabularySettings(size=50, samples=4000, iterations=6),
)


LOADED = (
    "cv2",
    "numcodecs",
    "pooch",
    "safetensors",
    "scipy",
    "skimage",
    "sklearn",
    "tifffile",
    "zarr",
    "napari_cmrir",
)
"""Packages that can be imported before a process is forked, as they start no threads."""

KILLS_A_STEP = 5


def make_model() -> ComirModel:
    settings = TrainingSettings(widths=(4, 8), stem=1)
    torch.manual_seed(0)
    networks = {modality: build_network(settings, 1).eval() for modality in ("BF", "SHG")}
    intensities = dict.fromkeys(networks, Intensity(low=(0.0,), high=(255.0,)))
    scales = dict.fromkeys(networks, OutputScale((-0.1572,), (0.0007,)))
    return ComirModel(("BF", "SHG"), settings, intensities, networks, scales)


@cache
def pixels_of(seed: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(150, 160)), 2)
    return np.clip(128 + 500 * noise, 0, 255).astype(np.uint8)


def write_images(folder: Path, seeds: range) -> None:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        tifffile.imwrite(folder / f"core{seed:02d}.tif", pixels_of(seed))


def index(images: Path, path: Path, workers: int | None = None) -> None:
    indexing.BATCH_FIELDS = indexing.BATCH_IMAGES = 4  # publish often, so that kills happen while publishing
    build = build_repository(
        [images], make_model(), "BF", path, SETTINGS, workers=workers, indexes=("words",)
    )
    jobs.run(build)


def rebuild(path: Path, workers: int | None = None) -> None:
    indexing.BATCH_FIELDS = 4
    jobs.run(build_index(path, rebuild=True, workers=workers))


def compact(path: Path) -> None:
    jobs.run(compact_repository(path))


def index_slide(images: Path, path: Path, log: Path) -> None:
    """Index an image in strips of 128 rows of blocks of 512 px; note each computed strip in a file."""
    pyramids.SHARD_SIDE = comirs.SHARD_SIDE = 512
    comirs.PIECE = 128
    represent = comirs._Strips._represent

    def noted(self, piece, part, strip):
        yield from represent(self, piece, part, strip)
        with log.open("a") as file:
            file.write(f"{piece}\n")

    comirs._Strips._represent = noted
    jobs.run(build_repository([images], make_model(), "BF", path, SETTINGS))


def files_of(path: Path) -> list[tuple[str, str]]:
    """Checksums of the CoMIRs, fields and thumbnails: all that a search reads."""
    assert not open_repository(path).verify()
    files = [file for part in ("comirs", "segments", "indexes") for file in sorted((path / part).rglob("*"))]
    return [(file.relative_to(path).as_posix(), checksum(file)) for file in files if file.is_file()]


def kill_slide(kills: int, seed: int) -> None:
    """Kill the indexing of a slide, and resume it, until it is done; several times."""
    generator = np.random.default_rng(seed)
    folder = Path(tempfile.mkdtemp())
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(1060, 1100)), 2)
    (folder / "images").mkdir()
    tifffile.imwrite(folder / "images" / "slide.tif", np.clip(128 + 500 * noise, 0, 255).astype(np.uint8))
    load_as_child(index_slide, folder / "images", folder / "first.cmrir", folder / "first.log")
    load_as_child(files_of, folder / "first.cmrir")
    started = time.perf_counter()
    in_child(index_slide, folder / "images", folder / "peace.cmrir", folder / "peace.log")
    seconds = time.perf_counter() - started
    strips = (folder / "peace.log").read_text().splitlines()
    (expected,) = in_child(files_of, folder / "peace.cmrir")
    killed, rounds, again, most = 0, 0, 0, 0
    while killed < kills:
        path, log = folder / f"killed{rounds}.cmrir", folder / f"killed{rounds}.log"
        log.touch()
        in_round = 0
        while killed < kills:
            after = generator.uniform(0, seconds / 3)
            if in_child(index_slide, folder / "images", path, log, killed_after=after) is not None:
                break
            killed, in_round = killed + 1, in_round + 1
            in_child(open_or_say_why, path)
        in_child(index_slide, folder / "images", path, log)
        computed = log.read_text().splitlines()
        assert set(computed) == set(strips)
        assert len(computed) <= len(strips) + in_round, "A kill lost more than a strip."
        again, most = again + len(computed) - len(strips), max(most, in_round)
        (files,) = in_child(files_of, path)
        assert files == expected, "Its files differ."
        rounds += 1
        shutil.rmtree(path)
    shutil.rmtree(folder)
    print(f"{killed} kills in {rounds} slides of {len(strips)} strips, at most {most} in one slide")
    print(f"{again} strips were computed twice, at most one a kill; all files are those of a slide in peace")


def rank_all(path: Path) -> list[tuple[str, bytes, list[str]]]:
    repository = open_repository(path)
    problems = repository.verify()
    assert not problems, problems
    names = [repository.image_name(field) for field in range(len(repository))]
    ranked = []
    for field, name in enumerate(names):
        features = describe(repository.comir(field), repository.descriptor_settings)
        bag = count_words(repository.vocabulary.assign(features.descriptors), len(repository.vocabulary))
        order = [names[other] for other in repository.bag_index.rank(bag)]
        ranked.append((name, repository.bag_index.scores(bag).tobytes(), order))
    return ranked


def open_or_say_why(path: Path) -> str:
    try:
        repository = open_repository(path)
    except InputError as error:
        if "unfinished" in str(error):
            return "unfinished"
        if (path / "catalogue.sqlite").exists():
            raise
        return "nothing yet"
    problems = repository.verify()
    assert not problems, problems
    return f"{len(repository)} searchable"


def load_as_child(function, *arguments) -> None:
    """Import the modules of a function, so that its child processes start faster."""

    def imported() -> list[str]:
        function(*arguments)
        return list(sys.modules)

    (names,) = in_child(imported)
    for name in names:
        if name not in sys.modules and name.startswith(LOADED):
            with suppress(ImportError):
                importlib.import_module(name)


def in_child(function, *arguments, killed_after: float | None = None):
    """Run a function in a child; ``None`` if it was killed first."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receiver)
            answer = pickle.dumps(function(*arguments))
            while answer:
                answer = answer[os.write(sender, answer) :]
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(sender)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(receiver, "rb") as answer_file:
        answer = answer_file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    if os.WEXITSTATUS(status):
        sys.exit("A child failed.")
    return (pickle.loads(answer),)


def steps(folder: Path, path: Path, workers: int | None):
    """Yield the steps on a repository, and prepare the images of each."""
    for n_images in (12, 16):
        shutil.rmtree(folder / "images", ignore_errors=True)
        write_images(folder / "images", range(n_images))
        yield index, (folder / "images", path, workers)
    yield rebuild, (path, workers)
    yield compact, (path,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--slide", action="store_true", help="kill the indexing of one slide instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.slide:
        kill_slide(options.kills, options.seed)
        return
    generator = np.random.default_rng(options.seed)
    folder = Path(tempfile.mkdtemp())
    expected, seconds = [], []
    for work, arguments in steps(folder, folder / "first.cmrir", None):
        load_as_child(work, *arguments)
    load_as_child(rank_all, folder / "first.cmrir")
    for work, arguments in steps(folder, folder / "peace.cmrir", options.workers):
        started = time.perf_counter()
        in_child(work, *arguments)
        seconds.append(time.perf_counter() - started)
        (ranked,) = in_child(rank_all, folder / "peace.cmrir")
        expected.append(ranked)
    assert len({str(ranked) for ranked in expected}) == 3, "Compacting alone keeps the ranking."
    kills, rounds = 0, 0
    states: Counter[tuple[str, str]] = Counter()
    while kills < options.kills:
        path = folder / f"killed{rounds}.cmrir"
        for step, (work, arguments) in enumerate(steps(folder, path, options.workers)):
            most = kills + KILLS_A_STEP  # or the shortest step would take nearly all kills
            while kills < min(most, options.kills):
                killed_after = generator.uniform(0, seconds[step])
                if in_child(work, *arguments, killed_after=killed_after) is not None:
                    break
                kills += 1
                (state,) = in_child(open_or_say_why, path)
                states[work.__name__, state] += 1
            in_child(work, *arguments)
            (ranked,) = in_child(rank_all, path)
            assert ranked == expected[step], f"After {work.__name__}, it ranks otherwise."
        rounds += 1
        shutil.rmtree(path)
    shutil.rmtree(folder)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (spent.ru_utime + spent.ru_stime) / 60
    print(f"{kills} kills in {rounds} repositories of 12, then 16 images; in peace their steps took")
    print(f"  {', '.join(f'{taken:.1f}' for taken in seconds)} s, and all together {spent:.1f} CPU minutes")
    for (work, state), number in sorted(states.items()):
        print(f"  killed in {work}, {state}: {number} times")
    print("Every one opened or said that it was unfinished, verified, and ranked as one made in peace.")


if __name__ == "__main__":
    main()
