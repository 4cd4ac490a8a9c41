"""A training as a job: pairs read and checked, steps, checkpoints, and a model at the end."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import ArrayPair, Pair, pair_identifier
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.model_file import Checkpoint, SteppedTrainer
from napari_cmrir.representations.training_settings import PairNotes, TrainingFigures, TrainingPreview

if TYPE_CHECKING:
    import os

    from napari_cmrir.representations.base import Representation
    from napari_cmrir.representations.comir.training.pair_checks import ReadPairs, Split

__all__ = ["MakeTrainer", "keep_latest", "run_training"]

MakeTrainer = Callable[
    [Sequence[ArrayPair], tuple[str, str], Any, torch.device, Sequence[ArrayPair]], SteppedTrainer
]
"""Makes a trainer from images, modalities, settings, device and the images kept for validation."""

_PREVIEW_SECONDS = 5.0  # between two previews; a preview takes the time of an inference; not measured
_CHECKPOINT_SECONDS = 10.0  # shortest time between two checkpoints: the work that a kill may lose
_SHARE = 0.02  # largest share of the time that goes into checkpoints, and into previews


def run_training(
    make: MakeTrainer,
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: Any,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    pixel_size: float | None = None,
) -> Job[Any]:
    """Train on aligned pairs, with checkpoints, and give the model.

    Parameters
    ----------
    make : callable
        Makes the trainer.
    pairs, modalities, settings, output, device, resume, pixel_size
        See `napari_cmrir.train`.

    Yields
    ------
    Progress
        In pairs while they are read, then in steps. `PairNotes` come after the last pair. A `TrainingPreview`
        comes every few seconds with figures, and at once with new sentences for the user.

    Returns
    -------
    Representation

    Raises
    ------
    InputError
        If the pairs cannot be used, the checkpoint belongs to another training, or the model file cannot be
        written.
    """
    from napari_cmrir.representations.devices import describe_device

    course, doubts = yield from _prepare(make, pairs, modalities, settings, output, device)
    trainer, checkpoint = course.trainer, course.checkpoint
    yield Progress(len(pairs), len(pairs), "pairs", "Read the pairs", PairNotes(tuple(doubts)))
    if checkpoint is not None and resume:
        checkpoint.restore()
    try:
        yield from _steps(trainer, checkpoint, describe_device(device, trainer.device))
        model = course.finish(output, pixel_size)
    except BaseException:
        if checkpoint is not None and trainer.step > 0:
            with contextlib.suppress(OSError):  # report the first error, not this one
                checkpoint.write()
        raise
    if checkpoint is not None:
        checkpoint.remove()
    return model


def keep_latest(
    make: MakeTrainer,
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: Any,
    *,
    output: str | os.PathLike[str],
    device: str = "auto",
    pixel_size: float | None = None,
) -> Job[Any]:
    """Write the model of an interrupted training, from its checkpoint, which remains.

    Parameters
    ----------
    make, pairs, modalities, settings, output, device, pixel_size
        The same values as for `run_training`.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    Representation

    Raises
    ------
    InputError
        If there is no checkpoint, or it belongs to another training.
    """
    path = Path(f"{output}.checkpoint")
    if not path.exists():
        raise InputError(f"{path} is not there: nothing has been learnt yet that could be kept; train first.")
    course, _ = yield from _prepare(make, pairs, modalities, settings, output, device)
    yield Progress(len(pairs), len(pairs), "pairs", "Keeping the best so far")
    if course.checkpoint is not None:
        course.checkpoint.restore()
    return course.finish(output, pixel_size)


@dataclass(frozen=True, eq=False)
class _Course:
    """A training that is ready to start or to resume."""

    trainer: SteppedTrainer
    checkpoint: Checkpoint | None
    names: Sequence[str]
    images: Sequence[ArrayPair]
    split: Split
    pixel_size: float | None
    ranges: dict[str, float | None]

    def finish(self, output: str | os.PathLike[str] | None, pixel_size: float | None) -> Representation:
        """Return the model with its provenance, and write it if ``output`` is given."""
        model = self.trainer.finish()
        model.pixel_size = self.pixel_size if pixel_size is None else pixel_size
        model.provenance.update(_provenance(self.names, self.images, self.split, self.trainer))
        model.provenance["value_ranges"] = self.ranges
        if output is not None:
            model.save(output)
        return model


def _prepare(
    make: MakeTrainer,
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: Any,
    output: str | os.PathLike[str] | None,
    device: str,
) -> Job[tuple[_Course, list[str]]]:
    """Read and check the pairs and build the trainer; give it with sentences on doubtful pairs."""
    from napari_cmrir.representations.comir.training.pair_checks import split_pairs
    from napari_cmrir.representations.devices import choose_device
    from napari_cmrir.representations.model_file import require_writable

    if len(modalities) != 2 or modalities[0] == modalities[1]:
        raise InputError(f"Training takes two different modalities, not {' and '.join(modalities)}.")
    if output is not None:
        require_writable(Path(output))
    chosen = choose_device(device)
    names, images, doubts, found = yield from _usable(pairs)
    split = split_pairs(images, settings)
    trainer = make(split.training, modalities, settings, chosen, split.validation)
    checkpoint = Checkpoint(Path(f"{output}.checkpoint"), trainer) if output is not None else None
    ranges = dict(zip(modalities, found.ranges, strict=True))
    course = _Course(trainer, checkpoint, names, images, split, found.pixel_size, ranges)
    trainer.name_images([name for number, name in enumerate(names) if number not in split.held_out])
    return course, [*doubts, split.manner, *trainer.notes]


def _usable(
    pairs: Sequence[Pair | ArrayPair],
) -> Job[tuple[list[str], list[ArrayPair], list[str], ReadPairs]]:
    """Read the pairs; give names and images of the usable pairs, a sentence for each problem, and all."""
    from napari_cmrir.representations.comir.training.pair_checks import read_pairs

    if not pairs:
        raise InputError("Training needs at least one pair of images; give a folder that holds pairs.")
    found = yield from read_pairs(pairs)
    images, problems = found.images, found.problems
    fatal = [problem.sentence for problem in problems if problem.severity == "fatal"]
    if fatal:
        more = f" ({len(fatal) - 1} more like this)" if len(fatal) > 1 else ""
        raise InputError(fatal[0] + more)
    useless = {problem.number for problem in problems if problem.severity == "useless"}
    if len(useless) == len(pairs):
        raise InputError(f"No pair can be trained on: {problems[0].sentence}")
    used = [number for number in range(len(pairs)) if number not in useless]
    names = [pair_identifier(pair, number) for number, pair in enumerate(pairs)]
    return (
        [names[number] for number in used],
        [images[number] for number in used],
        [problem.sentence for problem in problems],
        found,
    )


def _steps(trainer: SteppedTrainer, checkpoint: Checkpoint | None, device: str) -> Job[None]:
    """Train from the trainer's current step to the end."""
    start = time.monotonic()
    show_at = start + _PREVIEW_SECONDS
    save_at = start  # write a checkpoint after the first step: the training can be resumed from then on
    first_step, n_notes = trainer.step, len(trainer.notes)
    total = trainer.settings.steps
    if trainer.history.entries:
        past = TrainingPreview(past=tuple(trainer.history.entries))
        yield Progress(trainer.step, total, "steps", "Continuing", past)
    while trainer.step < total and not trainer.stopped:
        loss = trainer.advance()
        validated = trainer.is_validation_due
        if validated:
            trainer.validate()
        now = time.monotonic()
        figures: TrainingFigures | None = None
        if validated or now > show_at or trainer.step == total:
            left = (now - start) / (trainer.step - first_step) * (total - trainer.step)
            figures = trainer.figures(device, left)
            show_at = _next(now, _PREVIEW_SECONDS)
        notes = tuple(trainer.notes[n_notes:])
        n_notes += len(notes)
        preview = TrainingPreview(figures, notes) if figures is not None or notes else None
        if checkpoint is not None and (validated or now >= save_at):
            before = time.monotonic()
            checkpoint.write()
            save_at = _next(before, _CHECKPOINT_SECONDS)
        message = f"Training on {trainer.device.type}, {trainer.describe(loss)}"
        yield Progress(trainer.step, total, "steps", message, preview)


def _next(before: float, least: float) -> float:
    """Give the time of the next work like that since ``before``, which shall take a small share only."""
    after = time.monotonic()
    return after + max(least, (after - before) / _SHARE)


def _provenance(
    names: Sequence[str], images: Sequence[ArrayPair], split: Split, trainer: SteppedTrainer
) -> dict[str, Any]:
    """Collect the pairs, the device, the versions and the date that the model was made with."""
    import datetime
    import platform

    from napari_cmrir import __version__

    digest = hashlib.sha256()
    for pair in images:
        for image in pair:
            digest.update(str((image.shape, image.dtype)).encode())
            digest.update(np.ascontiguousarray(image).tobytes())
    return {
        "trained_on": [name for number, name in enumerate(names) if number not in split.held_out],
        "validated_on": [names[number] for number in split.held_out],
        "validation": split.manner,
        "images_sha256": digest.hexdigest(),
        "device": trainer.device.type,
        "precision": str(trainer.precision).removeprefix("torch."),
        "notes": list(trainer.notes),
        "steps_done": trainer.step,
        "napari-cmrir": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
