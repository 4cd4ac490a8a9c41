"""Training two networks together: the job that ends with a CoMIR model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.comir.settings import TrainingSettings
from napari_cmrir.errors import InputError
from napari_cmrir.images.pairs import Pair, read_pair
from napari_cmrir.jobs import Job, Progress

if TYPE_CHECKING:
    import os

    from napari_cmrir.comir.model import ComirModel
    from napari_cmrir.comir.trainer import Trainer

__all__ = ["train"]

_PREVIEW_SECONDS = 5.0
_CHECKPOINT_SECONDS = 30.0
_HISTORY_STEPS = 10

ArrayPair = tuple[NDArray[Any], NDArray[Any]]


def train(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: TrainingSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    keep_stopped: bool = False,
) -> Job[ComirModel]:
    """Train a CoMIR model on aligned image pairs.

    Breznik et al. 2024, Stage I; Pielawski, Wetzer et al., CoMIR, NeurIPS 2020.

    Parameters
    ----------
    pairs : sequence of Pair or of (first, second) arrays
        At least one. Arrays are ``(y, x)`` or ``(y, x, channel)``, of equal height and width.
    modalities : (str, str)
        Their names, in the order of the pairs.
    settings : TrainingSettings, optional
        By default the preset ``fast``.
    output : path-like, optional
        The model file to write at the end. While training, ``<output>.checkpoint`` beside it keeps the
        state; it stays there when the job is cancelled.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to compute.
    resume : bool
        Go on from the checkpoint of an interrupted training of the same pairs and settings, if there is one.
    keep_stopped : bool
        Write the model file as it is so far where the job is cancelled, beside the checkpoint.

    Yields
    ------
    Progress
        In steps; now and then with the preview ``{"loss": float, modality: (y, x) uint8 CoMIR, ...}``.

    Returns
    -------
    ComirModel

    Raises
    ------
    InputError
        If the pairs cannot be used, or the checkpoint belongs to another training.
    """
    from napari_cmrir.comir.checkpoint import Checkpoint
    from napari_cmrir.comir.devices import choose_device
    from napari_cmrir.comir.trainer import Trainer

    settings = settings or TrainingSettings()
    if len(modalities) != 2 or modalities[0] == modalities[1]:
        raise InputError(f"Training takes two different modalities, not {' and '.join(modalities)}.")
    chosen = choose_device(device)
    images: list[ArrayPair] = []
    for pair in pairs:
        yield Progress(len(images), len(pairs), "pairs", "Reading the pairs")
        images.append(read_pair(pair) if isinstance(pair, Pair) else _checked(pair))
    if not images:
        raise InputError("Training needs at least one pair of images; give a folder that holds pairs.")
    trainer = Trainer(images, modalities, settings, chosen)
    checkpoint = Checkpoint(Path(f"{output}.checkpoint"), trainer) if output is not None else None
    if checkpoint is not None and resume:
        checkpoint.restore()
    saved = shown = time.monotonic()
    try:
        while trainer.step < settings.steps:
            loss = trainer.train_step()
            now = time.monotonic()
            preview = None
            if now - shown > _PREVIEW_SECONDS or trainer.step == settings.steps:
                shown, preview = now, trainer.preview()
            message = f"Training on {chosen.type}, loss {loss:.3f}"
            if checkpoint is not None and now - saved > _CHECKPOINT_SECONDS:
                checkpoint.write()
                saved = now
            yield Progress(trainer.step, settings.steps, "steps", message, preview)
        model = _finished(trainer, pairs, images)
        if output is not None:
            model.save(output)
    except BaseException as error:
        if checkpoint is not None and trainer.step > 0:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                checkpoint.write()
                if keep_stopped and output is not None and isinstance(error, GeneratorExit):
                    _finished(trainer, pairs, images).save(output)
        raise
    if checkpoint is not None:
        checkpoint.remove()
    return model


def _finished(trainer: Trainer, pairs: Sequence[Pair | ArrayPair], images: Sequence[ArrayPair]) -> ComirModel:
    model = trainer.finish()
    model.provenance.update(_provenance(pairs, images) | {"steps_done": trainer.step})
    return model


def _checked(pair: ArrayPair) -> ArrayPair:
    first, second = (np.atleast_3d(image) for image in pair)
    if first.shape[:2] != second.shape[:2]:
        raise InputError(
            f"The two images are not of equal size ({first.shape[0]} x {first.shape[1]} and"
            f" {second.shape[0]} x {second.shape[1]} pixels); training needs pairs aligned pixel by pixel."
        )
    return first, second


def _provenance(pairs: Sequence[Pair | ArrayPair], images: Sequence[ArrayPair]) -> dict[str, Any]:
    """What the model was made from and with."""
    import datetime
    import hashlib
    import platform

    import torch

    from napari_cmrir import __version__

    digest = hashlib.sha256()
    for pair in images:
        for image in pair:
            digest.update(str((image.shape, image.dtype)).encode())
            digest.update(np.ascontiguousarray(image).tobytes())
    return {
        "trained_on": [pair.identifier for pair in pairs if isinstance(pair, Pair)] or f"{len(pairs)} pairs",
        "images_sha256": digest.hexdigest(),
        "napari-cmrir": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
