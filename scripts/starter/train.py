"""Train the starter model, which needs no image of a user: one network for any two modalities.

From the top of the repository (hours; the same command goes on after an interruption):

    python scripts/starter/train.py [--steps N] [--threads 1|2] [--output FILE] [--work FOLDER]

Its pairs are random scenes in two random looks (`random_scenes`, `random_looks`): invented
structures, generated tissue, and photographs that scikit-image ships (public domain, CC0, or of no known
copyright).
Pairs are drawn while it trains, each once. It keeps its state in a checkpoint in FOLDER and writes
src/napari_cmrir/data/starter.safetensors. `--write` makes that file of the last checkpoint without training.
"""

from __future__ import annotations

import argparse
import datetime
import io
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from endless import EndlessTrainer
from napari_cmrir import __version__
from napari_cmrir.files import atomic_write
from napari_cmrir.representations.comir.inference import AnyModalityModel
from napari_cmrir.representations.training_settings import TrainingSettings
from random_looks import draw_pair

OUTPUT = Path(__file__).resolve().parents[2] / "src" / "napari_cmrir" / "data" / "starter.safetensors"
SETTINGS = TrainingSettings(channels=1, patch_size=96, steps=7000, validation_share=0.0)
SCENE_SIDE = 288  # px: patches of 160 px fit in whichever way they are turned
SECONDS_BETWEEN_CHECKPOINTS = 120

PICTURES = (  # of skimage/data; the docstrings of skimage.data say where each comes from
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)

CARD = {
    "is": "A CoMIR network for images of any two modalities that show the same structures. It needs no"
    " training: index with it, and search. Every image is brought to one channel (the luminance of three"
    " channels, red less green and blue of a stained section, the mean of others) and scaled by its own"
    " values.",
    "is not": "It has seen no pair of real images. A model trained on aligned pairs of two modalities finds"
    " more, above all of small regions. It finds what both modalities show: where one shows nothing of what"
    " the other shows, it cannot help. It is not made for diagnosis.",
    "trained_on": "Random scenes in two random looks, generated tissue, and 13 photographs that scikit-image"
    " ships (public domain, CC0, or no known copyright restrictions); no pair of real images.",
}


@cache
def pictures() -> list[NDArray[np.uint8]]:
    """Read the photographs that come with scikit-image, without importing it."""
    cv2.setNumThreads(1)
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("Install scikit-image: the training uses the photographs that it ships.")
    folder = Path(spec.origin).parent / "data"
    return [
        cv2.cvtColor(cv2.imread(str(folder / name), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB) for name in PICTURES
    ]


def draw(seed: int, number: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a pair; in another process."""
    return draw_pair([seed, number], SCENE_SIDE, pictures())


def main() -> None:
    """Train to the end, or go on with what an earlier run left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=SETTINGS.steps, help="may differ from run to run")
    parser.add_argument("--threads", type=int, default=2, choices=(1, 2))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--work", type=Path, default=Path.cwd(), help="folder of the checkpoint")
    parser.add_argument(
        "--write", action="store_true", help="write the model of the last checkpoint and leave"
    )
    given = parser.parse_args()
    settings = SETTINGS.model_copy(update={"steps": given.steps})
    checkpoint = given.work / f"{given.output.stem}.checkpoint"
    torch.set_num_threads(1)  # `EndlessTrainer` computes on threads of its own
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None
        trainer = EndlessTrainer(
            partial(draw, settings.seed),
            settings,
            torch.device("cpu"),
            threads=given.threads,
            executor=executor,
            state=state,
        )
        if not given.write:
            train(trainer, checkpoint)
        model = finish(trainer)
        model.save(given.output)
    print(f"{given.output}: {given.output.stat().st_size / 1e6:.2f} MB, step {trainer.step}")


def train(trainer: EndlessTrainer, checkpoint: Path) -> None:
    """Train, printing a line every hundred steps."""
    started, first = time.monotonic(), trainer.step
    saved = started
    while trainer.step < trainer.settings.steps:
        trainer.advance()
        now = time.monotonic()
        if trainer.step % 100 == 0:
            each = (now - started) / (trainer.step - first)
            left = datetime.timedelta(seconds=round(each * (trainer.settings.steps - trainer.step)))
            print(
                f"step {trainer.step}, loss {trainer.history.loss:.3f}, {each:.2f} s a step, {left} left",
                flush=True,
            )
        if now - saved > SECONDS_BETWEEN_CHECKPOINTS or trainer.step == trainer.settings.steps:
            content = io.BytesIO()
            torch.save(trainer.state(), content)
            atomic_write(checkpoint, content.getvalue())
            saved = time.monotonic()


def finish(trainer: EndlessTrainer) -> AnyModalityModel:
    """Make the model, with its card."""
    seconds = sum(entry["seconds"] for entry in trainer.history.entries)
    card: dict[str, Any] = {
        **CARD,
        "steps_done": trainer.step,
        "pairs_drawn": trainer.drawn,
        "hours": round(seconds / 3600, 2),
        "napari-cmrir": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return AnyModalityModel(
        ("SHG", "BF"),
        trainer.settings,
        trainer.network.eval(),
        trainer.measure_scale(),
        history=trainer.history.entries,
        provenance=card,
    )


if __name__ == "__main__":
    main()
