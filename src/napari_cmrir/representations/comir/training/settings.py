"""Settings and previews of a training. This module imports no torch, because the napari window reads both."""

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

    The defaults are the preset ``fast``, for a laptop. `PRESETS` also holds the published preset ``paper``.
    A default whose description names no source is this package's own. `benchmarks/which_network.py` compares
    networks, channels, rotations and local discs after equal CPU time; docs/training.md holds the table.
    Commit 7993d43 compared variation 1 with 2, and fc8f496 local discs with none, on validation fields.

    Examples
    --------
    >>> TrainingSettings().network
    'unet'
    >>> PRESETS["paper"].temperature
    0.5
    """

    network: Literal["unet", "tiramisu"] = Field(
        "unet",
        description="Network of each modality: unet (small, fast) or the paper's tiramisu, arXiv:1611.09326.",
    )
    widths: tuple[int, ...] = Field(
        (16, 32, 64, 96),
        min_length=2,
        max_length=6,
        description="Feature maps of the unet at each resolution, finest first; not used by tiramisu.",
    )
    stem: Literal[1, 2, 4] = Field(
        2,
        description="Stride in pixels of the unet's first layer; its CoMIR is enlarged back.",
    )
    channels: int = Field(1, ge=1, le=8, description="Channels of a CoMIR; the paper uses 1.")
    rotations: Literal[1, 4] = Field(
        4,
        description="Quarter turns of an image over which its CoMIR is averaged: with 4, the CoMIR of a"
        " turned image equals the turned CoMIR; 1 represents the upright image only (paper).",
    )
    # More than 1,500 steps overfit road scenes: at about 2,300, retrieval on vis_ir/val falls from 0.92 to
    # 0.80 (docs/training.md).
    steps: int = Field(1500, ge=1, description="Optimisation steps; the paper takes 23 x 32.")
    batch_size: int = Field(
        24,
        ge=2,
        description="Pairs of patches per step, N; each patch has 2N - 2 negatives (paper: 46, N = 24).",
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
        description="Weight of the same loss between the four discs that fit into a patch; their negatives"
        " are all other discs of the batch, including those of the same patch; 0: none (paper).",
    )
    activation_decay: float = Field(
        1e-4, ge=0, description="Weight of the L1 and of the L2 norm of the CoMIRs in the loss (paper: 1e-4)."
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw",
        description="AdamW with a one-cycle learning rate, or the paper's SGD with momentum 0.9.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Highest learning rate (paper: 1e-2 with SGD).")
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay of the optimiser (paper: 1e-5).")
    comparison_step: Literal[1, 2, 4] = Field(
        2,
        description="CoMIRs are averaged over squares of this side, in pixels, before they are compared.",
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
        description="Largest rotation, in degrees, of the two inputs against each other, in addition to the"
        " quarter turns of the paper; the CoMIRs are turned back before the loss.",
    )
    variation: float = Field(
        2.0,
        ge=0,
        le=4,
        description="Strength of the variation of patches in size, gamma, contrast, brightness, colour and"
        " noise: 1 is modest; 2 suits few images with different stains and exposures.",
    )
    validation_share: float = Field(
        0.15,
        ge=0,
        le=0.5,
        description="Share of the pairs held out to choose the best model; 0 keeps the last model.",
    )
    validation_every: int = Field(100, ge=1, description="Steps between two validations.")
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
    """Doubts about the pairs, shown before the first step.

    Parameters
    ----------
    notes : tuple of str
        Sentences for the user.
    """

    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TrainingFigures:
    """The latest figures of a training, and the CoMIRs of one pair.

    Parameters
    ----------
    loss : float
        Mean training loss since the last history entry.
    eta_seconds : float
        Expected time to the last step.
    device : str
        Device of the training, in words.
    peak_memory_bytes : float
        Largest memory use so far.
    comirs : mapping of str to (channel, y, x) uint8 array
        CoMIR of one validation field, by modality.
    retrieval, best_retrieval : float or None
        Share of validation queries whose own field ranks first, in [0, 1], for the latest and for the kept
        networks; ``None`` before the first validation.
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
    """A preview of a training: figures every few seconds, and new sentences for the user at once.

    Parameters
    ----------
    figures : TrainingFigures or None
        ``None`` if the preview carries notes only.
    notes : tuple of str
        New sentences for the user.
    """

    figures: TrainingFigures | None = None
    notes: tuple[str, ...] = ()
