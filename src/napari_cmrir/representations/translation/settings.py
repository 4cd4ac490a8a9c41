"""Settings of pix2pix and CycleGAN. This module imports no torch, because the command line reads it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from napari_cmrir.settings import Settings

__all__ = [
    "CYCLEGAN_PRESETS",
    "PIX2PIX_PRESETS",
    "CycleGanSettings",
    "Pix2PixSettings",
    "TranslationSettings",
]


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
        description="Images are reduced by this factor before they are translated, and enlarged after"
        " (paper: 1).",
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
