"""The networks that compute CoMIRs: the paper's Tiramisu and a small U-Net."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_cmrir.representations.comir.dense_backward import dense_block, dropout_noise
from napari_cmrir.representations.comir.dense_layers import LayerWeights, TensorPool
from napari_cmrir.representations.training_settings import TrainingSettings

__all__ = ["Tiramisu", "UNet", "build_network", "mix_channels", "without_norms"]


def mix_channels(x: Tensor, weight: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution in the precision of its weights to an input of lower precision.

    In bfloat16 a CoMIR would lose faint detail. Pixels are converted in parts: this takes little memory, and
    on a CPU less time.

    Parameters
    ----------
    x : (n, c, y, x) tensor
    weight : (k, c) tensor

    Returns
    -------
    (n, k, y, x) tensor
        In the weights' number format.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0]).bfloat16()[None, :, None, None]
    >>> bool(mix_channels(x, torch.tensor([[1.0, 0.001]])) > 1)  # 1.002, which is 1 in bfloat16
    True
    """
    mixed: Tensor = _Mix.apply(x, weight)  # type: ignore[no-untyped-call]
    return mixed


class _Mix(torch.autograd.Function):
    """`mix_channels` as one step of torch's automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows = _rows(x)
        mixed = weight.new_empty(len(rows), len(weight))
        for part in _parts(rows):
            torch.mm(rows[part].to(weight.dtype), weight.T, out=mixed[part])
        return _image(mixed, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_mixed: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows, gradient = _rows(x), _rows(of_mixed)
        of_rows, of_weight = torch.empty_like(rows), torch.zeros_like(weight)
        for part in _parts(rows):
            of_rows[part] = gradient[part] @ weight
            of_weight.addmm_(gradient[part].T, rows[part].to(weight.dtype))
        return _image(of_rows, x), of_weight


def _parts(rows: Tensor) -> list[slice]:
    """Split rows so that a float32 part fits the cache of a CPU (4 MiB) or the memory of a GPU (512 MiB)."""
    values = 2**20 if rows.device.type == "cpu" else 2**27  # not measured
    count = max(1, values // rows.shape[1])
    return [slice(at, at + count) for at in range(0, len(rows), count)]


def _rows(x: Tensor) -> Tensor:
    """Arrange images (n, c, y, x) as one row per pixel, (n * y * x, c)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """A U-Net (Ronneberger et al., MICCAI 2015, arXiv:1505.04597) of 3 x 3 convolutions.

    It uses batch normalisation, mean pooling on the way down and interpolation on the way up.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of its CoMIR.
    widths : tuple of int
        Feature maps at each resolution, finest first.
    stem : int
        Stride of the first convolution in pixels. The CoMIR is computed at that coarser resolution and
        interpolated back to the image's.

    Attributes
    ----------
    stride : int
        Height and width of the input must be multiples of it, in pixels.
    halo : int
        Distance in pixels beyond which the input does not change an output pixel, at whole strides.

    Examples
    --------
    >>> UNet(3, 1, (8, 16))(torch.zeros(2, 3, 32, 48)).shape
    torch.Size([2, 1, 32, 48])
    """

    def __init__(self, in_channels: int, out_channels: int, widths: tuple[int, ...], stem: int = 1) -> None:
        super().__init__()
        self.stem_stride = stem
        self.stride = stem * 2 ** (len(widths) - 1)
        # Each 3 x 3 convolution reaches one pixel of its level further: two on the way down, two on the way
        # up, and only two at the coarsest level. Two strides more cover the stem, pooling and interpolation.
        reach = sum(stem * 2**level * (4 if level < len(widths) - 1 else 2) for level in range(len(widths)))
        self.halo = -(-(reach + 2 * self.stride) // self.stride) * self.stride
        kernel = 3 if stem == 1 else 2 * stem
        self.stem = nn.Conv2d(in_channels, widths[0], kernel, stride=stem, padding=(kernel - stem + 1) // 2)
        self.down = nn.ModuleList(
            _double_convolution(before, after)
            for before, after in zip((widths[0], *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            _double_convolution(fine + coarse, fine)
            for fine, coarse in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the CoMIR, (batch, out_channels, y, x), of an image (batch, in_channels, y, x)."""
        x = self.stem(image)
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.avg_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(_beside(skip, x))
        comir = _in_full_precision(self.head, x)
        if self.stem_stride > 1:
            comir = F.interpolate(
                comir, scale_factor=float(self.stem_stride), mode="bilinear", align_corners=False
            )
        return comir


def _beside(skip: Tensor, coarse: Tensor) -> Tensor:
    """Join images (n, c, y, x) and coarser ones, each of whose pixels is repeated to 2 x 2."""
    if torch.is_grad_enabled():
        return torch.cat((skip, F.interpolate(coarse, scale_factor=2.0, mode="nearest")), 1)
    n, before, height, width = skip.shape  # without gradients in one pass over the memory, channels last
    joined = skip.new_empty(n, height, width, before + coarse.shape[1])
    joined[..., :before] = skip.permute(0, 2, 3, 1)
    squares = joined.view(n, height // 2, 2, width // 2, 2, -1)
    squares[..., before:] = coarse.permute(0, 2, 3, 1)[:, :, None, :, None]
    return joined.permute(0, 3, 1, 2)


_FOLDED: WeakKeyDictionary[UNet, tuple[list[Any], UNet]] = WeakKeyDictionary()


def without_norms(network: UNet) -> UNet:
    """Copy a U-Net for inference, each batch normalisation folded into the convolution before it.

    Parameters
    ----------
    network : UNet
        In evaluation mode.

    Returns
    -------
    UNet
        Gives the same CoMIRs, to rounding, in less time. It is kept until a weight changes or moves: to copy
        a network takes as long as the CoMIR of a small image.

    Examples
    --------
    >>> network, image = UNet(1, 1, (4, 8)).eval(), torch.rand(1, 1, 16, 16)
    >>> with torch.inference_mode():
    ...     torch.allclose(without_norms(network)(image), network(image), atol=1e-5)
    True
    """
    weights = [(one.device, one._version) for one in chain(network.parameters(), network.buffers())]
    known, folded = _FOLDED.get(network, (None, network))
    if known == weights:
        return folded
    folded = copy.deepcopy(network)
    for blocks in (folded.down, folded.up):
        for number, block in enumerate(blocks):
            first, norm, _, second, other_norm, _ = cast("Iterable[Any]", block)
            fused = fuse_conv_bn_eval(first, norm), fuse_conv_bn_eval(second, other_norm)
            blocks[number] = nn.Sequential(fused[0], nn.ReLU(True), fused[1], nn.ReLU(True))
    folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _FOLDED[network] = weights, folded
    return folded


def _double_convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class _Dropout(nn.Module):
    """Sets random channels to zero while training; the caller may pass the random generator."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not self.training:
            return x
        return x * dropout_noise(x, x.shape[1], self.share, generator)


class _DenseLayer(nn.Module):
    """A layer of a dense block: batch normalisation, rectifier, 3 x 3 convolution, dropout."""

    def __init__(self, channels: int, growth: int, dropout: float) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1)
        self.dropout = _Dropout(dropout)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        out: Tensor = self.dropout(self.conv(F.relu(self.batchnorm(x))), generator)
        return out


class _DenseBlock(nn.Module):
    """Dense layers, each of which sees the input and the outputs of all previous layers."""

    def __init__(
        self, channels: int, layers: int, growth: int, dropout: float, memory: TensorPool, *, keep_input: bool
    ) -> None:
        super().__init__()
        self.keep_input, self.memory = keep_input, memory
        self.layers = nn.ModuleList(
            _DenseLayer(channels + i * growth, growth, dropout) for i in range(layers)
        )

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        channels = x.shape[1]
        for layer in self.layers:
            x = torch.cat((x, layer(x, generator)), 1)
        return x if self.keep_input else x[:, channels:]

    def all_at_once(
        self, inputs: list[Tensor], generator: torch.Generator | None, onward: _TransitionDown | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Compute `forward` in training with less time and memory, by `dense_block`.

        The second result is the output of the transition ``onward`` before pooling, if one is given.
        """
        layers = [layer for layer in self.layers if isinstance(layer, _DenseLayer)]
        norms = [layer.batchnorm for layer in layers]
        x = inputs[0]
        answer = dense_block(
            inputs,
            [_weights(layer) for layer in layers],
            [dropout_noise(x, len(_bias(layer.conv)), layer.dropout.share, generator) for layer in layers],
            norms[0].eps,
            keep_input=self.keep_input,
            onward=_weights(onward) if onward else None,
            memory=self.memory,
        )
        with torch.no_grad():
            for norm in (*norms, *([onward.batchnorm] if onward else [])):
                of = slice(norm.num_features)
                _keep_statistics(norm, answer.means[of], answer.variances[of])
        return answer.out, answer.transition


def _weights(layer: _DenseLayer | _TransitionDown) -> LayerWeights:
    norm, convolution = layer.batchnorm, layer.conv
    return LayerWeights(norm.weight, norm.bias, convolution.weight, _bias(convolution))


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias


def _keep_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics by those of a batch."""
    kept_mean, kept_variance, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if kept_mean is None or kept_variance is None or count is None or norm.momentum is None:
        return
    kept_mean.lerp_(mean.to(kept_mean), norm.momentum)
    kept_variance.lerp_(variance.to(kept_variance), norm.momentum)
    count += 1


class _TransitionDown(nn.Module):
    """The step to half the resolution: 1 x 1 convolution and maximum pooling."""

    def __init__(self, before: int, after: int, dropout: float) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm2d(before)
        self.conv = nn.Conv2d(before, after, 1)
        self.dropout = _Dropout(dropout)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.pooled(self.conv(F.relu(self.batchnorm(x))), generator)

    def pooled(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Pool and drop out a convolved image; dropout of whole channels commutes with pooling."""
        out: Tensor = self.dropout(F.max_pool2d(x, 2), generator)
        return out


class _TransitionUp(nn.Module):
    """The step to twice the resolution: nearest-neighbour enlargement and 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsampling_layer = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat((skip, self.upsampled(x, skip)), 1)

    def upsampled(self, x: Tensor, skip: Tensor) -> Tensor:
        """Enlarge an image twice and crop it to the size of the skip connection."""
        x = self.upsampling_layer(x)
        top, left = (x.shape[-2] - skip.shape[-2]) // 2, (x.shape[-1] - skip.shape[-1]) // 2
        return x[..., top : top + skip.shape[-2], left : left + skip.shape[-1]]


class Tiramisu(nn.Module):
    """The fully convolutional DenseNet of the published CoMIRs.

    Jégou et al., "The one hundred layers tiramisu", arXiv:1611.09326, with the sizes of Pielawski,
    Wetzer et al., NeurIPS 2020: 32 first filters, six dense blocks down and six up, each of four layers of
    growth 12, compression 0.75. Parameter names are those of the released checkpoints.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of its CoMIR.

    Attributes
    ----------
    stride : int
        Height and width of the input must be multiples of it, in pixels.
    halo : int
        Distance in pixels beyond which the input hardly changes an output pixel.

    Examples
    --------
    >>> sum(p.numel() for p in Tiramisu(1, 1).parameters())
    1053244
    """

    stride = 64
    # The receptive field reaches 824 px, but a CoMIR changes by less than 0.02 grey levels of 255 if the
    # input is cut off at 256 px.
    halo = 256
    depth, layers, growth, compression, dropout = 6, 4, 12, 0.75, 0.2

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        new = self.layers * self.growth
        self.memory = TensorPool()
        self.conv_init = nn.Conv2d(in_channels, 32, 3, padding=1)
        self.layers_down, self.transitions_down = nn.ModuleList(), nn.ModuleList()
        channels, skips = 32, []
        for _ in range(self.depth):
            self.layers_down.append(self._block(channels, keep_input=True))
            skips.append(channels + new)
            channels = int(self.compression * skips[-1])
            self.transitions_down.append(_TransitionDown(skips[-1], channels, self.dropout))
        self.bottleneck = self._block(channels, keep_input=False)
        self.transitions_up = nn.ModuleList(_TransitionUp(new) for _ in skips)
        self.layers_up = nn.ModuleList(
            self._block(skip + new, keep_input=i == self.depth - 1) for i, skip in enumerate(skips[::-1])
        )
        self.final_conv = nn.Conv2d(skips[0] + 2 * new, out_channels, 1, bias=False)

    def _block(self, channels: int, *, keep_input: bool) -> _DenseBlock:
        size = (channels, self.layers, self.growth, self.dropout)
        return _DenseBlock(*size, self.memory, keep_input=keep_input)

    def forward(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the CoMIR, (batch, out_channels, y, x), of an image (batch, in_channels, y, x).

        While training, the generator draws the dropout; the default is torch's own generator.
        """
        if self.training and torch.is_grad_enabled() and image.device.type == "cpu":
            return self._all_at_once(image, generator)
        x = self.conv_init(image)
        skips = []
        for block, transition in zip(self.layers_down, self.transitions_down, strict=True):
            x = block(x, generator)
            skips.append(x)
            x = transition(x, generator)
        x = self.bottleneck(x, generator)
        for block, transition, skip in zip(self.layers_up, self.transitions_up, skips[::-1], strict=True):
            x = block(transition(x, skip), generator)
        return _in_full_precision(self.final_conv, x)

    def _all_at_once(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        """Compute `forward` in training on a CPU, faster and in less memory; see `dense_backward`."""
        x: Tensor = self.conv_init(image)
        down = cast(
            "Iterable[tuple[_DenseBlock, _TransitionDown]]",
            zip(self.layers_down, self.transitions_down, strict=True),
        )
        up = cast(
            "Iterable[tuple[_DenseBlock, _TransitionUp]]",
            zip(self.layers_up, self.transitions_up, strict=True),
        )
        skips = []
        for block, leading_down in down:
            skip, transition = block.all_at_once([x], generator, leading_down)
            assert transition is not None
            skips.append(skip)
            x = leading_down.pooled(transition, generator)
        x, _ = self.bottleneck.all_at_once([x], generator)
        for (block, leading_up), skip in zip(up, skips[::-1], strict=True):
            x, _ = block.all_at_once([skip, leading_up.upsampled(x, skip)], generator)
        return _in_full_precision(self.final_conv, x)


def _in_full_precision(head: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply the last, 1 x 1 convolution in float32: in bfloat16 a CoMIR would lose faint detail."""
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype == head.weight.dtype:
            comir: Tensor = head(x)
            return comir
        comir = mix_channels(x, head.weight[:, :, 0, 0])
        return comir if head.bias is None else comir + head.bias[:, None, None]


def build_network(settings: TrainingSettings, in_channels: int) -> UNet | Tiramisu:
    """Return the untrained network of one modality.

    Parameters
    ----------
    settings : TrainingSettings
        Network, its size, and the channels of its CoMIR.
    in_channels : int
        Channels of the modality's images.

    Returns
    -------
    UNet or Tiramisu

    Examples
    --------
    >>> build_network(TrainingSettings(stem=2, widths=(8, 16)), 3).stride
    4
    """
    if settings.network == "tiramisu":
        return Tiramisu(in_channels, settings.channels)
    return UNet(in_channels, settings.channels, settings.widths, settings.stem)
