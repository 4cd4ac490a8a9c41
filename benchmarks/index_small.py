"""Compare the time that two versions of the code take to index small folders, part by part.

    python benchmarks/index_small.py --before old/src --after src

Each version indexes ten generated images of 512 px with its shipped model, in a fresh process; the versions
take turns. One more process for each version prints the parts of the time, under a profiler that slows it.
Then 24 images of 834 px are indexed with the default network (after one step of training: weights do not
change the speed), and the seconds in the bag of words are printed. ``OMP_NUM_THREADS`` sets the threads of
each process.
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
import threading
import time
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SMALL, LARGE = 512, 834  # px: the smallest common tile, and the images of the paper
PARTS = {
    r"images/": "reading",
    r"(comir|representations)/": "CoMIR",
    r"(words|bag_of_words)/": "words",
    r"repository/": "storing",
}
"""Part of the work by the room that the code is in, in the layouts before and after."""


class Clock:
    """Counts the seconds of each part, in the main thread and beside it.

    A function outside all parts counts to the part that called it. Importing a module counts to its importer.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._parts: dict[CodeType, str | None] = {}
        self._here = threading.local()

    def start(self) -> None:
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)

    def stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return"):
            return
        now, here = time.perf_counter(), self._here
        if not hasattr(here, "stack"):
            is_main = threading.current_thread() is threading.main_thread()
            here.stack, here.last, here.where = ["else"], now, "" if is_main else " in threads"
        self.seconds[here.stack[-1] + here.where] += now - here.last
        here.last = now
        if event == "call":
            here.stack.append(self.part(frame.f_code) or here.stack[-1])
        elif len(here.stack) > 1:  # otherwise the function was entered before the clock started
            here.stack.pop()

    def part(self, code: CodeType) -> str | None:
        if code not in self._parts:
            _, found, path = code.co_filename.replace(os.sep, "/").rpartition("napari_cmrir/")
            matches = [name for room, name in PARTS.items() if re.match(room, path)]
            wanted = found and code.co_name != "<module>" and not path.endswith("settings.py")
            self._parts[code] = matches[0] if wanted and matches else None
        return self._parts[code]


def index_here(images: Path, model: Path, modality: str, profiled: bool) -> None:
    """Index in this process, and print the seconds, and those of each part, as JSON."""
    from napari_cmrir import build_repository, load_model, run

    loaded = load_model(model)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        if profiled:
            clock.start()
        repository = run(build_repository([images], loaded, modality, Path(folder, "small.cmrir")))
        clock.stop()
        seconds = time.perf_counter() - started
        n_images = len(repository)
        repository.close()
    print(json.dumps({"seconds": seconds, "images": n_images, "parts": clock.seconds}))


def in_tree(source: Path, *arguments: object) -> str:
    """Run Python with one version of the code in a fresh process, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"It failed with {source}:\n{done.stderr[-2000:]}")
    return done.stdout


def index(source: Path, images: Path, model: Path, profiled: bool = False) -> dict[str, Any]:
    """Index a folder with one version of the code in a fresh process."""
    answer = in_tree(source, __file__, "--child", images, model, "BF", str(int(profiled)))
    return json.loads(answer.splitlines()[-1])


def write_images(source: Path, folder: Path, count: int, side: int) -> Path:
    """Write generated pairs once, for both versions, and return a folder with the brightfield images."""
    program = (
        "import sys; from pathlib import Path; folder, searched = map(Path, sys.argv[1:3])\n"
        "try: from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder\n"
        "except ModuleNotFoundError: from napari_cmrir.images.samples import write_sample_folder\n"
        "searched.mkdir()\n"
        "for pair in write_sample_folder(folder, range(int(sys.argv[3])), int(sys.argv[4])):\n"
        "    (searched / pair.paths[1].name).hardlink_to(pair.paths[1])\n"
    )
    searched = folder.with_name(f"{folder.name}-BF")
    in_tree(source, "-c", program, folder, searched, count, side)
    return searched


def default_model(source: Path, pairs: Path, output: Path) -> Path:
    """Make a model of the default network by the command line: one step is enough for timing."""
    program = "from napari_cmrir.cli.main import main; main()"
    in_tree(
        source, "-c", program, "train", pairs, "--modalities", "SHG", "BF", "-o", output, "--steps", 1
    )  # fmt: skip
    return output


def print_parts(name: str, timed: dict[str, Any]) -> None:
    """Print the parts of a profiled build's time."""
    parts = sorted(timed["parts"].items(), key=lambda part: -part[1])
    shown = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts if not part.startswith("else in"))
    words = sum(seconds for part, seconds in parts if part.startswith("words"))
    share = f"{words / timed['seconds']:.0%}" if words else "no time"
    print(
        f"{name}: {timed['images']} images in {timed['seconds']:.2f} s under the profiler: {shown};"
        f" {share} in words",
        flush=True,
    )


def main() -> None:
    """Index with both versions in turn, and print seconds, ratio and parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, metavar="SRC")
    parser.add_argument("--after", type=Path, required=True, metavar="SRC")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", type=int, default=10, help="images of 512 px")
    parser.add_argument("--large", type=int, default=24, help="images of 834 px; 0 leaves them out")
    options = parser.parse_args()
    trees = {"before": options.before, "after": options.after}
    threads = os.environ.get("OMP_NUM_THREADS") or "all"
    print(f"{os.cpu_count()} cores, {threads} threads, load {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = write_images(options.after, folder / "small", options.small, SMALL)
        models = {name: tree / "napari_cmrir" / "data" / "sample.safetensors" for name, tree in trees.items()}
        seconds: dict[str, list[float]] = {name: [] for name in trees}
        for turn in range(options.rounds):
            order = list(trees.items())
            for name, tree in order if turn % 2 else reversed(order):
                seconds[name].append(index(tree, images, models[name])["seconds"])
        print(
            f"\n{options.small} images of {SMALL} px\n\n"
            "| round | before, s | after, s | ratio |\n|---|---|---|---|"
        )
        rounds = list(zip(seconds["before"], seconds["after"], strict=True))
        for number, (before, after) in enumerate(rounds, 1):
            print(f"| {number} | {before:.2f} | {after:.2f} | {before / after:.2f} |")
        medians = [statistics.median(values) for values in seconds.values()]
        ratio = statistics.median(before / after for before, after in rounds)
        print(f"| median | {medians[0]:.2f} | {medians[1]:.2f} | {ratio:.2f} |\n", flush=True)
        for name, tree in trees.items():
            print_parts(name, index(tree, images, models[name], profiled=True))
        if options.large:
            images = write_images(options.after, folder / "large", options.large, LARGE)
            print(f"\n{options.large} images of {LARGE} px, default network", flush=True)
            for name, tree in trees.items():
                model = default_model(tree, folder / "small", folder / f"{name}.safetensors")
                print_parts(name, index(tree, images, model, profiled=True))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        index_here(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5] == "1")
    else:
        main()
