"""Settings of training, and what a training reports: CoMIR, pix2pix and CycleGAN."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from napari_cmrir.jobs import Preview
from napari_cmrir.settings import HIGH_PASS_PX, Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CYCLEGAN_PRESETS",
    "PIX2PIX_PRESETS",
    "PRESETS",
    "CycleGanSettings",
    "PairNotes",
    "Pix2PixSettings",
    "TrainingFigures",
    "TrainingPreview",
    "TrainingSettings",
    "TranslationSettings",
]


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
    past : tuple of mapping
        Entries of the history before this run, once, if a training is resumed: ``"step"``, ``"loss"`` and,
        after a validation, ``"retrieval"``.
    """

    figures: TrainingFigures | None = None
    notes: tuple[str, ...] = ()
    past: tuple[Mapping[str, float], ...] = ()


class TranslationSettings(Settings):
    """What pix2pix and CycleGAN have in common.

    The defaults are the preset ``paper``: the sizes, losses and schedule of the runs that Breznik et al. 2024
    refer to (Pielawski, Wetzer et al., NeurIPS 2020, competitors). Where two public recipes of these runs
    differ, patches and batches are those of the first one; its corners of mirrored borders are a setting.
    """

    epochs: ClassVar[int] = 200
    """Equal parts of a training: the learning rate is constant for half of them, then falls linearly."""

    steps: int = Field(64_000, ge=1, description="Optimisation steps.")
    batch_size: int = Field(16, ge=1, description="Patches of either modality per step.")
    patch_size: int = Field(256, ge=32, description="Side of a training patch, in pixels (paper: 256).")
    filters: int = Field(
        64, ge=1, le=512, description="Maps of the first layer of generators and discriminators (paper: 64)."
    )
    learning_rate: float = Field(2e-4, gt=0, description="Of Adam with betas 0.5 and 0.999 (paper: 2e-4).")
    reduction: Literal[1, 2, 4] = Field(
        1,
        description="Images are reduced by this factor before they are translated, and enlarged after; by"
        " less where a training image would not hold a patch (paper: 1).",
    )
    mirrored_corners: bool = Field(
        False,
        description="Turn patches in mirrored borders, as the cited runs did; else each is cut from a larger"
        " window, so that no mirrored pixel is learnt from.",
    )
    target: Literal["second", "first"] = Field(
        "second",
        description="The modality that a search compares in; images of the other one are translated into it."
        " Both directions are trained in either case.",
    )
    seed: int = Field(0, ge=0, description="Seed of weights, patches and dropout.")

    @property
    def validation_share(self) -> float:
        """Share of the pairs held out: none; the last model is kept, as published."""
        return 0.0

    @property
    def stride(self) -> int:
        """Sides of a network's input are multiples of it, in pixels."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _patches_fit(self) -> TranslationSettings:
        if self.patch_size % self.stride:
            raise ValueError(f"the side of a patch must be a multiple of {self.stride} pixels")
        return self

    def published(self) -> dict[str, Any]:
        """Give the settings that a published figure rests on; equal ones make figures comparable."""
        return self.model_dump(exclude={"seed", "target", "mirrored_corners"})


class Pix2PixSettings(TranslationSettings):
    """How pix2pix is trained: two generators, one for each direction, on aligned pairs.

    Isola et al., CVPR 2017, arXiv:1611.07004.

    Examples
    --------
    >>> Pix2PixSettings().steps == 200 * 5120 // 16
    True
    >>> Pix2PixSettings(downs=6, patch_size=96)
    Traceback (most recent call last):
        ...
    pydantic_core._pydantic_core.ValidationError: 1 validation error for Pix2PixSettings
      Value error, the side of a patch must be a multiple of 64 pixels ...
    """

    downs: int = Field(8, ge=5, le=10, description="Halvings of the generator's U-Net (paper: 8).")
    l1_weight: float = Field(100.0, ge=0, description="Weight of the mean absolute difference (paper: 100).")
    inference_dropout: bool = Field(
        False,
        description="Keep dropout on when images are translated, drawn by the seed. The published test"
        " scripts do so; the fakes then differ by the seed.",
    )

    @property
    def stride(self) -> int:
        """Sides of the U-Net's input are multiples of it, in pixels."""
        return 1 << self.downs


class CycleGanSettings(TranslationSettings):
    """How CycleGAN is trained: two generators at once, without comparing an image with its partner.

    Zhu et al., ICCV 2017, arXiv:1703.10593.

    Examples
    --------
    >>> CycleGanSettings().steps
    1024000
    """

    steps: int = Field(200 * 5120, ge=1, description="Optimisation steps.")
    batch_size: int = Field(1, ge=1, description="Patches of either modality per step.")
    blocks: int = Field(9, ge=1, le=32, description="Residual blocks of a generator (paper: 9).")
    cycle_weight: float = Field(
        10.0, ge=0, description="Weight of the mean absolute difference after both translations (paper: 10)."
    )
    identity_weight: float = Field(
        5.0,
        ge=0,
        description="Weight of the difference of an image from its translation into its own modality"
        " (paper: 5).",
    )
    pool_size: int = Field(
        50, ge=0, description="Earlier fakes of either modality that the discriminators see (paper: 50)."
    )
    unpaired: bool = Field(
        False,
        description="Draw the patches of a step at places of their own. The cited runs drew them at the same"
        " place, each mirrored by its own draw; the loss does not compare them in either case.",
    )

    @property
    def stride(self) -> int:
        """Sides of a generator's input are multiples of it, in pixels."""
        return 4


PIX2PIX_PRESETS = {
    "fast": Pix2PixSettings(steps=280, batch_size=8, patch_size=128, filters=32, downs=7, reduction=2),
    "paper": Pix2PixSettings(),
}

CYCLEGAN_PRESETS = {
    "fast": CycleGanSettings(steps=1000, patch_size=128, filters=16, blocks=6, reduction=2),
    "paper": CycleGanSettings(),
}
