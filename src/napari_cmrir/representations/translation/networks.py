"""The networks of pix2pix and CycleGAN: two kinds of generator, and the discriminator of patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from napari_cmrir.representations.training_settings import (
    CycleGanSettings,
    Pix2PixSettings,
    TranslationSettings,
)

__all__ = [
    "PatchDiscriminator",
    "ResidualGenerator",
    "UNetGenerator",
    "build_discriminator",
    "build_generator",
    "initialise",
]

_SLOPE = 0.2  # of every leaky ReLU
_DROPOUT = 0.5
_EPSILON = 1e-5  # of the variance in a norm


class _Normalise(torch.autograd.Function):
    """`torch.nn.functional.instance_norm` of channels-last images, which torch computes slowly on processors.

    Sums over pixels are products with a row of ones: in bfloat16 they run on the matrix units.
    """

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        apart = pixels - _mean(pixels)
        square = _mean(apart * apart).to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(square + _EPSILON).to(x.dtype)
        unit = apart.mul_(scale)
        context.save_for_backward(unit, scale)
        return unit.view(n, height, width, channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        unit, scale = context.saved_tensors
        n, channels, height, width = gradients[0].shape
        given = gradients[0].permute(0, 2, 3, 1).reshape(n, height * width, channels)
        mean, slope = _mean(given), _mean(given * unit)
        answer = torch.addcmul(-mean * scale, given, scale).addcmul_(unit, -slope * scale)
        return answer.view(n, height, width, channels).permute(0, 3, 1, 2)


def _mean(pixels: Tensor) -> Tensor:
    """Average (n, pixel, channel) over the pixels: (n, 1, channel)."""
    count = pixels.shape[1]
    return torch.bmm(pixels.new_full((len(pixels), 1, count), 1 / count), pixels)


class InstanceNorm(nn.Module):
    """Bring every channel of every image to mean 0 and variance 1; it has no weights.

    Examples
    --------
    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.allclose(InstanceNorm()(x), F.instance_norm(x), atol=1e-5)
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, channel, y, x)."""
        if x.device.type != "cpu":
            return F.instance_norm(x)
        return _Normalise.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm by the statistics of the present batch, in training and inference (as published)."""
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _activated(x: Tensor, generator: torch.Generator | None, share: float = _DROPOUT) -> Tensor:
    """Apply dropout, drawn by the generator; none without one."""
    if generator is None:
        return x
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
    return x * kept / (1 - share)


class UNetGenerator(nn.Module):
    """The U-Net of pix2pix.

    Isola et al., CVPR 2017, arXiv:1611.07004, section 6.1.1; "U-Net 256" has eight halvings.

    Parameters
    ----------
    in_channels, out_channels : int
    downs : int
        Halvings, at least 5; sides of the input are multiples of ``2**downs``.
    filters : int
        Maps at the first halving; they double up to eight times that.

    Examples
    --------
    >>> [sum(p.numel() for p in UNetGenerator(i, o).parameters()) for i, o in ((3, 3), (1, 3), (3, 1))]
    [54413955, 54411907, 54409857]
    """

    def __init__(self, in_channels: int, out_channels: int, downs: int = 8, filters: int = 64) -> None:
        super().__init__()
        widths = [filters * min(2**i, 8) for i in range(downs)]
        self.dropped = downs - 5  # the widest enlargements after the innermost one have dropout
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.down_norm, self.up_norm = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            before = in_channels if i == 0 else widths[i - 1]
            self.down.append(nn.Conv2d(before, width, 4, 2, 1, bias=False))
            has_norm = 0 < i < downs - 1
            self.down_norm.append(_batch_norm(width) if has_norm else nn.Identity())
        for i in reversed(range(downs)):
            given = widths[i] * (1 if i == downs - 1 else 2)
            width = out_channels if i == 0 else widths[i - 1]
            self.up.append(nn.ConvTranspose2d(given, width, 4, 2, 1, bias=i == 0))
            self.up_norm.append(nn.Identity() if i == 0 else _batch_norm(width))

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Translate images (n, in_channels, y, x) of values -1 to 1; the generator draws dropout."""
        skips: list[Tensor] = []
        x = image
        for i, (layer, norm) in enumerate(zip(self.down, self.down_norm, strict=True)):
            if i:
                x = F.leaky_relu(x, _SLOPE)
                skips.append(x)  # its ReLU, on the way up, equals the ReLU of what came before
            x = norm(layer(x))
        for i, (layer, norm) in enumerate(zip(self.up, self.up_norm, strict=True)):
            if i:
                x = torch.cat([skips.pop(), x], 1)
            x = norm(layer(F.relu(x)))
            if 0 < i <= self.dropped:
                x = _activated(x, generator)
        return torch.tanh(x.float())


class _Residual(nn.Module):
    """Two convolutions of 3 x 3 in mirrored borders, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3) for _ in range(2))
        self.norm = InstanceNorm()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.first(_mirrored(x, 1))))
        return x + self.norm(self.second(_mirrored(y, 1)))  # type: ignore[no-any-return]


def _mirrored(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (width,) * 4, mode="reflect")


class ResidualGenerator(nn.Module):
    """The generator of CycleGAN: two halvings, residual blocks, two enlargements.

    Zhu et al., ICCV 2017, arXiv:1703.10593, section 7.2; Johnson et al., ECCV 2016.

    Parameters
    ----------
    in_channels, out_channels : int
    blocks : int
    filters : int
        Maps of the first layer.

    Examples
    --------
    >>> sum(p.numel() for p in ResidualGenerator(3, 3).parameters())
    11378179
    """

    def __init__(self, in_channels: int, out_channels: int, blocks: int = 9, filters: int = 64) -> None:
        super().__init__()
        self.norm = InstanceNorm()
        self.first = nn.Conv2d(in_channels, filters, 7)
        self.down = nn.ModuleList(
            nn.Conv2d(filters * k, 2 * filters * k, 3, stride=2, padding=1) for k in (1, 2)
        )
        self.blocks = nn.ModuleList(_Residual(4 * filters) for _ in range(blocks))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * filters * k, filters * k, 3, 2, 1, output_padding=1) for k in (2, 1)
        )
        self.last = nn.Conv2d(filters, out_channels, 7)

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Translate images (n, in_channels, y, x) of values -1 to 1; it has no dropout to draw."""
        x = F.relu(self.norm(self.first(_mirrored(image, 3))))
        for layer in self.down:
            x = F.relu(self.norm(layer(x)))
        for block in self.blocks:
            x = block(x)
        for layer in self.up:
            x = F.relu(self.norm(layer(x)))
        return torch.tanh(self.last(_mirrored(x, 3)).float())


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of 70 x 70 px as real or fake ("PatchGAN").

    Parameters
    ----------
    in_channels : int
    is_batch_normed : bool
        Batch norm, as of pix2pix; else instance norm, as of CycleGAN.
    filters : int
        Maps of the first layer.

    Examples
    --------
    >>> PatchDiscriminator(3, is_batch_normed=False)(torch.zeros(1, 3, 256, 256)).shape
    torch.Size([1, 1, 30, 30])
    """

    def __init__(self, in_channels: int, *, is_batch_normed: bool, filters: int = 64) -> None:
        super().__init__()
        widths = (in_channels, filters, 2 * filters, 4 * filters, 8 * filters)
        bias = not is_batch_normed
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 4, 2 if i < 3 else 1, 1, bias=bias or i == 0)
            for i in range(4)
        )
        self.norms = nn.ModuleList(
            _batch_norm(width) if is_batch_normed else InstanceNorm() for width in widths[2:]
        )
        self.last = nn.Conv2d(widths[-1], 1, 4, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score images (n, in_channels, y, x): (n, 1, y', x'), unbounded."""
        x = F.leaky_relu(self.layers[0](image), _SLOPE)
        for layer, norm in zip(self.layers[1:], self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), _SLOPE)
        scores: Tensor = self.last(x)
        return scores.float()


def initialise(network: nn.Module) -> nn.Module:
    """Draw weights from N(0, 0.02), those of batch norms from N(1, 0.02); biases become 0 (as published)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, float(isinstance(module, nn.BatchNorm2d)), 0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def build_generator(
    settings: TranslationSettings, in_channels: int, out_channels: int
) -> UNetGenerator | ResidualGenerator:
    """Build the generator that the settings are of."""
    if isinstance(settings, Pix2PixSettings):
        return UNetGenerator(in_channels, out_channels, settings.downs, settings.filters)
    assert isinstance(settings, CycleGanSettings)
    return ResidualGenerator(in_channels, out_channels, settings.blocks, settings.filters)


def build_discriminator(settings: TranslationSettings, channels: int) -> PatchDiscriminator:
    """Build the discriminator that the settings are of."""
    is_paired = isinstance(settings, Pix2PixSettings)
    return PatchDiscriminator(channels, is_batch_normed=is_paired, filters=settings.filters)
