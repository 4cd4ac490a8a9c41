"""What a training is given and what it shows; no torch is imported, as the napari window reads both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from napari_cmrir.jobs import Preview
from napari_cmrir.registration.settings import HIGH_PASS_PX
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PRESETS", "PairNotes", "TrainingFigures", "TrainingPreview", "TrainingSettings"]


class TrainingSettings(Settings):
    """How two networks are trained together to give one common representation.

    The defaults are the preset ``fast``, made for a laptop; `PRESETS` holds the published one too.
    A default that names no source is this package's own; `benchmarks/which_network.py` compares networks.

    Examples
    --------
    >>> TrainingSettings().network
    'unet'
    >>> PRESETS["paper"].temperature
    0.5
    """

    network: Literal["unet", "tiramisu"] = Field(
        "unet",
        description="Network of each modality: unet (small, fast) or paper's tiramisu, arXiv:1611.09326.",
    )
    widths: tuple[int, ...] = Field(
        (16, 32, 64, 96),
        min_length=2,
        max_length=6,
        description="Feature maps of the unet at each resolution, finest first; not used by tiramisu.",
    )
    stem: Literal[1, 2, 4] = Field(
        2,
        description="Side in pixels that the unet's first layer takes as one; its CoMIR is enlarged back.",
    )
    channels: int = Field(1, ge=1, le=8, description="Channels of a CoMIR; the paper uses 1.")
    rotations: Literal[1, 4] = Field(
        4,
        description="Quarter turns of an image over which its CoMIR is averaged: 4 makes the CoMIR of a"
        " turned image the turned CoMIR, 1 represents the upright image only (paper).",
    )
    steps: int = Field(1500, ge=1, description="Optimisation steps; the paper takes 23 x 32.")
    batch_size: int = Field(
        24,
        ge=2,
        description="Pairs of patches a step, N; 2N - 2 are the negatives of each (paper: 46, N = 24).",
    )
    patch_size: int = Field(
        128, ge=32, multiple_of=16, description="Side of a training patch, in pixels (paper: 128)."
    )
    critic: Literal["mse", "cosine"] = Field(
        "cosine",
        description="Similarity of two CoMIRs: negative mean squared difference (paper) or zero-mean cosine.",
    )
    temperature: float = Field(
        0.05, gt=0, description="Divides the similarity before the cross entropy (paper: 0.5 with mse)."
    )
    local_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the same loss between the four discs that fit into a patch: their negatives"
        " are all other discs of the batch, neighbours in the same patch among them; 0: none (paper).",
    )
    activation_decay: float = Field(
        1e-4, ge=0, description="Weight of the L1 and of the L2 norm of the CoMIRs in the loss (paper: 1e-4)."
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw", description="AdamW with a one-cycle rate, or the paper's SGD with momentum 0.9."
    )
    learning_rate: float = Field(2e-3, gt=0, description="Highest learning rate (paper: 1e-2 with SGD).")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of the optimiser (paper: 1e-5).")
    comparison_step: Literal[1, 2, 4] = Field(
        2,
        description="CoMIRs are averaged over squares of this many pixels a side before they are compared.",
    )
    high_pass: float = Field(
        HIGH_PASS_PX,
        ge=0,
        le=256,
        description="CoMIRs are compared without the mean of a Gaussian neighbourhood of this standard"
        " deviation, in pixels; 0 compares them unfiltered (paper).",
    )
    free_rotation: float = Field(
        45.0,
        ge=0,
        le=45,
        description="The two inputs are turned against each other by up to this many degrees, on top of the"
        " quarter turns of the paper, and their CoMIRs turned back before the loss.",
    )
    variation: float = Field(
        2.0,
        ge=0,
        le=4,
        description="How much patches vary in size, gamma, contrast, brightness, colour and noise: 1 is"
        " modest, 2 makes up for few images, of stains and exposures that differ.",
    )
    validation_share: float = Field(
        0.15,
        ge=0,
        le=0.5,
        description="Share of the pairs kept from training to choose the model by; 0 keeps the last model.",
    )
    validation_every: int = Field(
        100, ge=1, description="Steps after which retrieval is tried on the validation fields."
    )
    patience: int = Field(
        0, ge=0, description="Validations without a better model after which training stops; 0 never stops."
    )
    seed: int = Field(0, ge=0, description="Seed of weights, patches and augmentation.")


PRESETS: dict[str, TrainingSettings] = {
    "fast": TrainingSettings(),
    "paper": TrainingSettings(
        network="tiramisu",
        rotations=1,
        steps=23 * 32,
        critic="mse",
        temperature=0.5,
        optimiser="sgd",
        learning_rate=1e-2,
        weight_decay=1e-5,
        local_weight=0.0,
        comparison_step=1,
        high_pass=0.0,
        free_rotation=0.0,
        variation=1.0,
    ),
}


@dataclass(frozen=True)
class PairNotes(Preview):
    """Doubts about the pairs, before the first step. The dock shows them beside its list of pairs.

    Parameters
    ----------
    notes : tuple of str
        Sentences for the user.
    """

    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TrainingFigures:
    """The latest figures of a training, and what its networks make of one pair.

    Parameters
    ----------
    loss : float
        Mean training loss since the last history entry.
    eta_seconds : float
        Expected time to the last step.
    device : str
        Where the networks are trained, in words.
    peak_memory_bytes : float
        Largest memory use so far.
    comirs : mapping of str to (channel, y, x) uint8 array
        CoMIR of one validation field, by modality.
    retrieval, best_retrieval : float or None
        Share of validation queries that the latest and the kept networks rank first, in [0, 1]; ``None``
        before the first validation.
    """

    loss: float
    eta_seconds: float
    device: str
    peak_memory_bytes: float
    comirs: Mapping[str, NDArray[np.uint8]]
    retrieval: float | None = None
    best_retrieval: float | None = None


@dataclass(frozen=True, eq=False)
class TrainingPreview(Preview):
    """What a training shows: figures every few seconds, and sentences for the user as they come.

    Parameters
    ----------
    figures : TrainingFigures or None
        ``None`` where the preview only carries notes.
    notes : tuple of str
        New sentences for the user.
    """

    figures: TrainingFigures | None = None
    notes: tuple[str, ...] = ()
