"""A training step of the tiramisu's dense block on a processor, with half the passes over memory.

A layer of a dense block normalises all that the layers before it gave, scales it by weights of its own,
rectifies it, convolves it to a few new channels and adds these. Layer by layer, most of the time goes into
concatenating, and into normalising the same channels again and again. Their batch statistics are the same
for every layer, though: here each channel is normalised once, into one buffer, and each layer only scales it,
a few images at a time. What is scaled and rectified is forgotten and computed again in the backward pass:
that takes less time than to get memory for it from the system.

Backwards, a layer's gradient for its scale needs no sum over the pixels: a convolution is linear in what it
sees and in its weights, so that for every input channel

    sum over pixels of (input * its gradient) = sum over the kernel of (weights * their gradient).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["LayerWeights", "dense_block"]

_CHUNK = 2**22  # bytes that a layer sees at once
_SMALL_SCALE = 0.05  # below, the sum over the kernel is divided by too little
_LAST = torch.channels_last
_PLAIN = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, ...


class LayerWeights(NamedTuple):
    """Parameters of a layer.

    Parameters
    ----------
    scale, shift : (c,) tensor
        Of the batch normalisation of the c channels that it sees.
    kernel : (k, c, 3, 3) tensor
    bias : (k,) tensor
    """

    scale: Tensor
    shift: Tensor
    kernel: Tensor
    bias: Tensor


def dense_block(
    x: Tensor, layers: Sequence[LayerWeights], dropout: float, epsilon: float, *, keep_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a dense block, normalising by the statistics of the batch.

    Parameters
    ----------
    x : (n, c, y, x) tensor
        In the precision that is computed in.
    layers : sequence of LayerWeights
        Each sees x and what the layers before it gave.
    dropout : float
        Share of the new channels of each image set to zero.
    epsilon : float
        Added to the variances.
    keep_input : bool
        Return x, too, before what the layers gave.

    Returns
    -------
    (n, ..., y, x) tensor
    means, variances : (c + k * (layers - 1),) tensor
        Of all channels that are normalised, without gradient; the variances are the unbiased ones.

    Examples
    --------
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> weights = LayerWeights(torch.ones(3), torch.zeros(3), torch.rand(2, 3, 3, 3), torch.zeros(2))
    >>> out, means, variances = dense_block(torch.rand(4, 3, 8, 8), [weights], 0.2, 1e-5, keep_input=True)
    >>> out.shape, means.shape
    (torch.Size([4, 5, 8, 8]), torch.Size([3]))
    """
    flat = [tensor for layer in layers for tensor in layer]
    out, means, variances = _DenseBlock.apply(  # type: ignore[no-untyped-call]
        x, dropout, epsilon, keep_input, *flat
    )
    return out, means, variances


class _DenseBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropout: float, epsilon: float, keep_input: bool, *flat: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        layers = _layers(flat)
        seen = [layer.kernel.shape[1] for layer in layers]
        hat = torch.empty((len(x), seen[-1], *x.shape[2:]), dtype=x.dtype, memory_format=_LAST)
        scratch = _Scratch(hat)
        means, variances, noises = [], [], []
        raw, at = [x.contiguous(memory_format=_LAST)], 0
        for layer, channels in zip(layers, seen, strict=True):
            mean, variance = _statistics(raw[-1])
            _normalise(raw[-1], mean, variance, epsilon, hat[:, at:channels])
            means.append(mean)
            variances.append(variance)
            noise = x.new_ones(len(x), len(layer.bias), 1, 1)
            if dropout:
                noise = noise.bernoulli_(1 - dropout).div_(1 - dropout)
            noises.append(noise)
            raw.append(_see(hat[:, :channels], layer, noise, scratch))
            at = channels
        mean, variance = torch.cat(means), torch.cat(variances)
        inverse = (variance + epsilon).rsqrt()
        count = x[:, 0].numel()
        unbiased = variance * (count / max(1, count - 1))
        ctx.save_for_backward(hat, inverse, *noises, *flat)
        ctx.layers, ctx.keep_input = len(layers), keep_input
        ctx.mark_non_differentiable(mean, unbiased)
        return torch.cat(raw if keep_input else raw[1:], 1), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hat, inverse, *saved = ctx.saved_tensors
        noises, layers = saved[: ctx.layers], _layers(saved[ctx.layers :])
        first, count = len(layers[0].scale), hat[:, 0].numel()
        if ctx.keep_input:
            total = of_out.clone(memory_format=_LAST)  # gradient of all channels, before they are normalised
        else:
            total = F.pad(of_out, (0, 0, 0, 0, first, 0)).contiguous(memory_format=_LAST)
        mean = torch.zeros_like(inverse)  # over the pixels, of the gradient of the normalised channels
        slope = torch.zeros_like(inverse)  # the same of its product with them
        answers: list[Tensor] = []
        scratch = _Scratch(hat)
        gradient = total[:, hat.shape[1] :].contiguous(memory_format=_LAST)
        for i in reversed(range(ctx.layers)):
            layer = layers[i]
            channels = len(layer.scale)
            seen = hat[:, :channels]
            answer = _see_back(gradient, seen, layer, noises[i], total, inverse[:channels], scratch)
            answers[:0] = answer
            mean[:channels] += layer.scale * answer.shift / count
            slope[:channels] += layer.scale * answer.scale / count
            own = slice(channels - len(layer.bias) if i else 0, channels)
            gradient = _before_normalising(
                total[:, own], hat[:, own], (inverse * mean)[own], (inverse * slope)[own]
            )
        return (gradient, None, None, None, *answers)


def _before_normalising(gradient: Tensor, hat: Tensor, mean: Tensor, slope: Tensor) -> Tensor:
    """Take the part of a gradient away that normalising makes vain."""
    answer = torch.empty(gradient.shape, dtype=gradient.dtype, memory_format=_LAST)
    for part in _chunks(gradient):
        given, normal = (x[part].contiguous(memory_format=_LAST) for x in (gradient, hat))
        vain = torch.addcmul(_row(mean, hat), normal, _row(slope, hat))
        torch.sub(given, vain, out=answer[part])
    return answer


def _layers(flat: Sequence[Tensor]) -> list[LayerWeights]:
    return [LayerWeights(*flat[i : i + 4]) for i in range(0, len(flat), 4)]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    kept = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    mean, variance = torch.batch_norm_update_stats(x, kept, kept.clone(), 0.0)
    return mean, variance


def _normalise(x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, out: Tensor) -> None:
    for part in _chunks(x):
        out[part] = torch.native_batch_norm(x[part], None, None, mean, variance, False, 0.0, epsilon)[0]


class _Scratch:
    """Memory for what is computed of a few images: new memory takes longer to get than to fill."""

    def __init__(self, hat: Tensor) -> None:
        size = max(_CHUNK // hat.element_size(), hat[0].numel())
        self._scaled, self._active = (hat.new_empty(size) for _ in range(2))

    def active(self, seen: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Scale and rectify; not in place, which takes torch twice as long."""
        scaled, active = _shaped(self._scaled, seen), _shaped(self._active, seen)
        torch.addcmul(shift, seen, scale, out=scaled)
        return torch.clamp_min(scaled, 0, out=active)

    def masked(self, gradient: Tensor, active: Tensor) -> Tensor:
        """The gradient where it is active."""
        out = _shaped(self._scaled, gradient)
        torch.ops.aten.threshold_backward.grad_input(gradient, active, 0, grad_input=out)
        return out


def _shaped(memory: Tensor, like: Tensor) -> Tensor:
    n, channels, height, width = like.shape
    return memory[: like.numel()].view(n, height, width, channels).permute(0, 3, 1, 2)


def _see(seen: Tensor, layer: LayerWeights, noise: Tensor, scratch: _Scratch) -> Tensor:
    """What a layer makes of normalised channels."""
    shift, scale = _row(layer.shift, seen), _row(layer.scale, seen)
    kernel, bias = _kernel(layer, seen), layer.bias.to(seen.dtype)
    new = torch.empty((len(seen), len(bias), *seen.shape[2:]), dtype=seen.dtype, memory_format=_LAST)
    for part in _chunks(seen):
        active = scratch.active(seen[part], scale, shift)
        torch.mul(torch.convolution(active, kernel, bias, *_PLAIN), noise[part], out=new[part])
    return new


def _see_back(
    gradient: Tensor,
    seen: Tensor,
    layer: LayerWeights,
    noise: Tensor,
    total: Tensor,
    inverse: Tensor,
    scratch: _Scratch,
) -> LayerWeights:
    """Gradients of a layer's weights; that of what it saw is added to the total."""
    shift, scale = _row(layer.shift, seen), _row(layer.scale, seen)
    kernel, onward = _kernel(layer, seen), _row(layer.scale * inverse, seen)
    answer = LayerWeights(*(torch.zeros_like(tensor) for tensor in layer))
    is_small = layer.scale.abs() < _SMALL_SCALE
    small = is_small.nonzero()[:, 0]
    sizes = [len(layer.bias)]
    for part in _chunks(seen):
        active = scratch.active(seen[part], scale, shift)
        back, of_kernel, of_bias = torch.ops.aten.convolution_backward(
            gradient[part] * noise[part], active, kernel, sizes, *_PLAIN, [True, True, True]
        )
        back = scratch.masked(back, active)
        total[part, : seen.shape[1]].addcmul_(back, onward)
        answer.kernel.add_(of_kernel)
        answer.bias.add_(of_bias)
        answer.shift.add_(_sums(back))
        if len(small):
            products = back[:, small].to(layer.scale.dtype) * seen[part][:, small].to(layer.scale.dtype)
            answer.scale.index_add_(0, small, products.sum((0, 2, 3)))
    products = (layer.kernel * answer.kernel).sum((0, 2, 3)) - layer.shift * answer.shift
    answer.scale.add_((products / layer.scale).masked_fill(is_small, 0))
    return answer


def _chunks(x: Tensor) -> list[slice]:
    """So many images at a time that what is computed of them stays in the cache."""
    count = max(1, _CHUNK // (x[0].numel() * x.element_size()))
    return [slice(at, at + count) for at in range(0, len(x), count)]


def _kernel(layer: LayerWeights, like: Tensor) -> Tensor:
    return layer.kernel.to(like.dtype).contiguous(memory_format=_LAST)


def _row(values: Tensor, like: Tensor) -> Tensor:
    """A value a channel, to be broadcast."""
    return values.to(like.dtype)[:, None, None]


def _sums(x: Tensor) -> Tensor:
    """Sum of each channel, as a matrix product: many times faster than a reduction in bfloat16."""
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    sums = torch.bmm(rows.new_ones(1).expand(len(rows), 1, rows.shape[1]), rows)[:, 0]
    return sums.to(torch.promote_types(x.dtype, torch.float32)).sum(0)
