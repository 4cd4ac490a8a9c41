"""The training job: train two networks together, write checkpoints, resume, and save the model."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_write
from napari_cmrir.images.discovery import ArrayPair, Pair, pair_identifier
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.base import RepresentationKind
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.training.settings import (
    PRESETS,
    PairNotes,
    TrainingFigures,
    TrainingPreview,
    TrainingSettings,
)
from napari_cmrir.representations.comir.training.trainer import Trainer

if TYPE_CHECKING:
    import os

    from napari_cmrir.representations.comir.training.pair_checks import ReadPairs, Split

__all__ = ["COMIR", "Checkpoint", "keep_best", "train"]


_LAYOUT = b"2"  # version of the stored state; a checkpoint of another version is refused


class Checkpoint:
    """Writes and restores the state of a training, as tensors and plain values only.

    Parameters
    ----------
    path : Path
        The checkpoint file.
    trainer : Trainer
        The training whose state is stored.
    """

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self.path, self.trainer = path, trainer
        digest = hashlib.sha256(_LAYOUT)
        digest.update(json.dumps(trainer.settings.model_dump(mode="json"), sort_keys=True).encode())
        digest.update(json.dumps(trainer.modalities).encode())
        for pair in trainer.sampler.pairs:
            for image in pair:
                digest.update(image.numpy().tobytes())
        for fields in trainer.selection.test.fields if trainer.selection.test is not None else ():
            digest.update(fields.numpy().tobytes())
        self._training = digest.hexdigest()

    def write(self) -> None:
        """Write the state; call it between two steps."""
        content = io.BytesIO()
        torch.save({"training": self._training, "state": self.trainer.state()}, content)
        atomic_write(self.path, content.getvalue())

    def restore(self) -> None:
        """Load the stored state into the trainer, if the file exists.

        Raises
        ------
        InputError
            If the file is damaged or belongs to a training of other pairs or settings.
        """
        if not self.path.exists():
            return
        try:
            stored = torch.load(self.path, map_location="cpu", weights_only=True)
            training, state = stored["training"], stored["state"]
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.path} cannot be read ({reason}); delete it to train from the start."
            ) from None
        if training != self._training:
            raise InputError(
                f"{self.path} belongs to a training of other pairs or settings;"
                " give those, or train without resuming."
            )
        self.trainer.load_state(state)

    def remove(self) -> None:
        """Delete the file after the training has finished."""
        self.path.unlink(missing_ok=True)


_PREVIEW_SECONDS = 5.0  # between two previews; a preview takes the time of an inference; not measured
_CHECKPOINT_SECONDS = 10.0  # shortest time between two checkpoints: the work that a kill may lose
_CHECKPOINT_SHARE = 0.02  # largest share of the time that goes into checkpoints


def train(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: TrainingSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    pixel_size: float | None = None,
) -> Job[ComirModel]:
    """Train a CoMIR model on aligned image pairs.

    Breznik et al. 2024 (doi:10.1038/s41598-024-68800-1), Stage I; Pielawski, Wetzer et al., CoMIR,
    NeurIPS 2020. The pairs are checked first (`check_pairs`), and some are held out for validation
    (`split_pairs`). The result is the model that retrieved best among the validation fields. If the loss is
    not a number or the CoMIRs lose their contrast, training returns to that model with half the learning
    rate. If memory runs out, the batch is halved.

    Parameters
    ----------
    pairs : sequence of Pair or of (first, second) arrays
        At least one. Arrays are ``(y, x)`` or ``(y, x, channel)``, of equal height and width.
    modalities : (str, str)
        Names of the first and the second modality of the pairs.
    settings : TrainingSettings, optional
        Default: the preset ``fast``.
    output : path-like, optional
        Model file to write at the end. During training, ``<output>.checkpoint`` holds the state from the
        first step on. It remains if the job is cancelled or its process killed; `keep_best` makes a model
        from it.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on.
    resume : bool
        Continue from the checkpoint of an interrupted training of the same pairs and settings, if it exists.
    pixel_size : float, optional
        Side of a pixel in micrometres; the model stores it.

    Yields
    ------
    Progress
        In pairs while they are read, then in steps. `PairNotes` come after the last pair. A `TrainingPreview`
        comes every few seconds with figures, and at once with new sentences for the user.

    Returns
    -------
    ComirModel

    Raises
    ------
    InputError
        If the pairs cannot be used, the checkpoint belongs to another training, or the model file cannot be
        written.
    """
    from napari_cmrir.representations.devices import describe_device

    course, doubts = yield from _prepare(pairs, modalities, settings, output, device)
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


def keep_best(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: TrainingSettings | None = None,
    *,
    output: str | os.PathLike[str],
    device: str = "auto",
    pixel_size: float | None = None,
) -> Job[ComirModel]:
    """Write the best model so far of an interrupted training, from its checkpoint.

    The checkpoint remains, so that the training can be resumed.

    Parameters
    ----------
    pairs, modalities, settings, output, device, pixel_size
        The same values as for `train`.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    ComirModel
        The model that retrieved best so far, or the latest model if none was validated.

    Raises
    ------
    InputError
        If there is no checkpoint, or it belongs to another training.
    """
    path = Path(f"{output}.checkpoint")
    if not path.exists():
        raise InputError(f"{path} is not there: nothing has been learnt yet that could be kept; train first.")
    course, _ = yield from _prepare(pairs, modalities, settings, output, device)
    yield Progress(len(pairs), len(pairs), "pairs", "Keeping the best so far")
    if course.checkpoint is not None:
        course.checkpoint.restore()
    return course.finish(output, pixel_size)


@dataclass(frozen=True, eq=False)
class _Course:
    """A training that is ready to start or to resume."""

    trainer: Trainer
    checkpoint: Checkpoint | None
    names: Sequence[str]
    images: Sequence[ArrayPair]
    split: Split
    pixel_size: float | None
    ranges: dict[str, float | None]

    def finish(self, output: str | os.PathLike[str] | None, pixel_size: float | None) -> ComirModel:
        """Return the model with its provenance, and write it if ``output`` is given."""
        model = self.trainer.finish()
        model.pixel_size = self.pixel_size if pixel_size is None else pixel_size
        model.provenance.update(_provenance(self.names, self.images, self.split, self.trainer))
        model.provenance["value_ranges"] = self.ranges
        if output is not None:
            model.save(output)
        return model


def _prepare(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: TrainingSettings | None,
    output: str | os.PathLike[str] | None,
    device: str,
) -> Job[tuple[_Course, list[str]]]:
    """Read and check the pairs and build the trainer; give it with sentences on doubtful pairs."""
    from napari_cmrir.representations.comir.training.pair_checks import split_pairs
    from napari_cmrir.representations.devices import choose_device
    from napari_cmrir.representations.model_file import require_writable

    settings = settings or TrainingSettings()
    if len(modalities) != 2 or modalities[0] == modalities[1]:
        raise InputError(f"Training takes two different modalities, not {' and '.join(modalities)}.")
    if output is not None:
        require_writable(Path(output))
    chosen = choose_device(device)
    names, images, doubts, found = yield from _usable(pairs)
    split = split_pairs(images, settings)
    trainer = Trainer(split.training, modalities, settings, chosen, split.validation)
    checkpoint = Checkpoint(Path(f"{output}.checkpoint"), trainer) if output is not None else None
    ranges = dict(zip(modalities, found.ranges, strict=True))
    course = _Course(trainer, checkpoint, names, images, split, found.pixel_size, ranges)
    return course, [*doubts, split.manner]


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


def _steps(trainer: Trainer, checkpoint: Checkpoint | None, device: str) -> Job[None]:
    """Train from the trainer's current step to the end."""
    start = shown = time.monotonic()
    save_at = (
        start  # write a checkpoint after the first step, so that the training can be resumed from then on
    )
    first_step, n_notes = trainer.step, len(trainer.notes)
    total = trainer.settings.steps
    while trainer.step < total and not trainer.stopped:
        loss = trainer.advance()
        validated = trainer.is_validation_due
        if validated:
            trainer.validate()
        now = time.monotonic()
        figures: TrainingFigures | None = None
        if validated or now - shown > _PREVIEW_SECONDS or trainer.step == total:
            left = (now - start) / (trainer.step - first_step) * (total - trainer.step)
            figures = trainer.figures(device, left)
            shown = time.monotonic()
        notes = tuple(trainer.notes[n_notes:])
        n_notes += len(notes)
        preview = TrainingPreview(figures, notes) if figures is not None or notes else None
        if checkpoint is not None and (validated or now >= save_at):
            before = time.monotonic()
            checkpoint.write()
            after = time.monotonic()
            save_at = after + max(_CHECKPOINT_SECONDS, (after - before) / _CHECKPOINT_SHARE)
        yield Progress(trainer.step, total, "steps", _message(trainer, loss), preview)


def _message(trainer: Trainer, loss: float) -> str:
    retrieval = trainer.history.retrieval
    retrieves = "" if retrieval is None else f", retrieves {retrieval:.0%}"
    return f"Training on {trainer.device.type}, loss {loss:.3f}{retrieves}"


def _provenance(
    names: Sequence[str], images: Sequence[ArrayPair], split: Split, trainer: Trainer
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


COMIR = RepresentationKind(ComirModel.from_file, train, PRESETS)
