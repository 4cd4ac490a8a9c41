"""The training job of a CoMIR model, and the model of a training that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import ArrayPair, Pair
from napari_cmrir.images.intensity import to_grey
from napari_cmrir.jobs import Job
from napari_cmrir.representations.base import RepresentationKind
from napari_cmrir.representations.comir.inference import AnyModalityModel, GreyIntensity, own_intensity
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.training.trainer import Trainer
from napari_cmrir.representations.training import keep_latest, run_training
from napari_cmrir.representations.training_settings import PRESETS, TrainingSettings

if TYPE_CHECKING:
    import os

    from torch import Tensor

    from napari_cmrir.images.intensity import Intensity
    from napari_cmrir.representations.base import Representation

__all__ = ["COMIR", "Start", "keep_best", "train"]


@dataclass(frozen=True, eq=False)
class Start:
    """What a training goes on from.

    Parameters
    ----------
    model : ComirModel or AnyModalityModel
        Its weights are the first ones. Those of a network for every modality, which sees grey images, are
        taken by both networks; where a modality has several channels, the first layer sees their grey value.
    mistaken : mapping of str to sequence of str
        By identifier of a pair, those that it is taken for: they come into the same batches, as hard
        negatives.
    """

    model: Representation
    mistaken: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def intensities(self) -> Mapping[str, Intensity] | None:
        """How the model scales its modalities; one for every modality scales each image by itself."""
        return self.model.intensities if isinstance(self.model, ComirModel) else None

    def make(
        self,
        images: Sequence[ArrayPair],
        modalities: tuple[str, str],
        settings: TrainingSettings,
        device: torch.device,
        validation: Sequence[ArrayPair],
    ) -> Trainer:
        """Make a trainer that begins with the weights; its first note says what they retrieve."""
        trainer = Trainer(images, modalities, settings, device, validation, self.intensities)
        trainer.mistaken = self.mistaken
        trainer.went_on_from = {"kind": self.model.name, "fingerprint": self.model.fingerprint}
        for side, (modality, network) in enumerate(trainer.networks.items()):
            weights = dict(self._network(modality).state_dict())
            scaled = trainer.intensities[modality]
            if isinstance(self.model, AnyModalityModel) and scaled.channels > 1:
                seen = [own_intensity(pair[side], sees_stains=self.model.sees_stains) for pair in images]
                weights |= _spread(weights, scaled, seen)
            network.load_state_dict(weights)
        score = trainer.selection.offer(0, trainer.networks, trainer.represent)
        if score is not None:
            trainer.notes.append(f"Before, {score.retrieval:.0%} of the validation queries are retrieved.")
        return trainer

    def _network(self, modality: str) -> torch.nn.Module:
        if isinstance(self.model, AnyModalityModel):
            return self.model.network
        if isinstance(self.model, ComirModel):
            self.model.require_modality(modality)
            return self.model.networks[modality]
        raise InputError(f"A model of kind '{self.model.name}' has no networks to go on from.")


def _spread(
    weights: Mapping[str, Tensor], scaled: Intensity, seen: Sequence[GreyIntensity]
) -> dict[str, Tensor]:
    """Spread the first layer, which sees grey values, over the channels of a modality.

    ``scaled`` scales the channels; the grey values are those that the starter sees of a typical image.
    """
    layer = next(iter(weights)).removesuffix(".weight")
    stained = [one for one in seen if one.white]
    is_stained = 2 * len(stained) > len(seen)
    typical = stained if is_stained else seen
    white = tuple(np.median([one.white for one in stained], 0).tolist()) if is_stained else ()
    low, high = np.median([one.low + one.high for one in typical], 0).tolist()
    of_channel = to_grey(np.eye(scaled.channels)[np.newaxis], white)[0, :, 0]
    lows, highs = np.array(scaled.low), np.array(scaled.high)
    shares = torch.from_numpy(of_channel * (highs - lows) / (high - low))
    constant = (float(of_channel @ lows) - low) / (high - low)
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    return {
        f"{layer}.weight": weight * shares.to(weight)[None, :, None, None],
        f"{layer}.bias": bias + constant * weight.sum((1, 2, 3)),
    }


def train(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: TrainingSettings | None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    pixel_size: float | None = None,
    start: Start | None = None,
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
    start : Start, optional
        Go on from a model of the same network settings; by default from random weights.

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
        Trainer if start is None else start.make,
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


COMIR = RepresentationKind(ComirModel.from_file, train, PRESETS, keep_best)
