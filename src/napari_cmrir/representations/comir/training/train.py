"""The training job of a CoMIR model, and the model of a training that was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from napari_cmrir.images.discovery import ArrayPair, Pair
from napari_cmrir.jobs import Job
from napari_cmrir.representations.base import RepresentationKind
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.training.settings import PRESETS, TrainingSettings
from napari_cmrir.representations.comir.training.trainer import Trainer
from napari_cmrir.representations.training import keep_latest, run_training

if TYPE_CHECKING:
    import os

__all__ = ["COMIR", "keep_best", "train"]


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
        As `run_training`.

    Returns
    -------
    ComirModel

    Raises
    ------
    InputError
        As `run_training`.
    """
    model: ComirModel = yield from run_training(
        Trainer,
        pairs,
        modalities,
        settings or TrainingSettings(),
        output=output,
        device=device,
        resume=resume,
        pixel_size=pixel_size,
    )
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
    model: ComirModel = yield from keep_latest(
        Trainer,
        pairs,
        modalities,
        settings or TrainingSettings(),
        output=output,
        device=device,
        pixel_size=pixel_size,
    )
    return model


COMIR = RepresentationKind(ComirModel.from_file, train, PRESETS)
