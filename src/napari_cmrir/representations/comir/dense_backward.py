"""A training step of the tiramisu's dense block on a CPU, with half the passes over memory.

A layer of a dense block normalises the outputs of all previous layers, scales and rectifies them, convolves
them to a few new channels and appends these. Computed layer by layer, most time goes into concatenation and
into normalising the same channels repeatedly. The batch statistics of a channel are the same for every layer,
so this module normalises each channel once, into one buffer ("hat", as x-hat in the batch normalisation
paper, arXiv:1502.03167). Each layer then only scales the buffer, a few images at a time. The backward pass
computes the scaled and rectified channels again, which takes less time than allocating memory for them.
A `TensorPool` passes the other buffers from one step to the next. `benchmarks/training_step.py` measures it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from napari_cmrir.representations.comir.dense_layers import (
    LayerWeights,
    Scratch,
    TensorPool,
    chunks,
    images,
    layer_backward,
    layer_forward,
    long_rows,
    normalise,
    repeated,
    statistics,
)

__all__ = ["Answer", "dense_block", "dropout_noise"]

_LAST = torch.channels_last


class Answer(NamedTuple):
    """The output of a dense block.

    Parameters
    ----------
    out : (n, c, y, x) tensor
        The layers' outputs, preceded by the input if ``keep_input``.
    transition : (n, k, y, x) tensor or None
        Output of the layer ``onward``, if there is one.
    means, variances : (c,) tensor
        Batch statistics of all normalised channels, without gradient. The variances are unbiased.
    """

    out: Tensor
    transition: Tensor | None
    means: Tensor
    variances: Tensor


def dense_block(
    inputs: Sequence[Tensor],
    layers: Sequence[LayerWeights],
    noises: Sequence[Tensor],
    epsilon: float,
    *,
    keep_input: bool,
    onward: LayerWeights | None = None,
    memory: TensorPool | None = None,
) -> Answer:
    """Compute a dense block that normalises by the statistics of the batch.

    Parameters
    ----------
    inputs : sequence of (n, c, y, x) tensor
        Concatenated along the channels; their number format is that of the computation.
    layers : sequence of LayerWeights
        The input of each layer is the block's input and the outputs of all previous layers.
    noises : sequence of (n, k, 1, 1) tensor
        Factor of each layer's output; see `dropout_noise`.
    epsilon : float
        Added to the variances.
    keep_input : bool
        Put the input before the layers' outputs in the result.
    onward : LayerWeights, optional
        The transition that follows the block: a layer with a 1 x 1 kernel on all channels.
    memory : TensorPool, optional
        Pool of the buffers that the backward pass needs.

    Returns
    -------
    Answer

    Examples
    --------
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> weights = LayerWeights(torch.ones(3), torch.zeros(3), torch.rand(2, 3, 3, 3), torch.zeros(2))
    >>> image = torch.rand(4, 3, 8, 8)
    >>> noise = dropout_noise(image, 2, 0.2, None)
    >>> answer = dense_block([image], [weights], [noise], 1e-5, keep_input=True)
    >>> answer.out.shape, answer.means.shape
    (torch.Size([4, 5, 8, 8]), torch.Size([3]))
    """
    flat = [tensor for layer in (*layers, *([onward] if onward else [])) for tensor in layer]
    plan = _Plan(len(inputs), tuple(noises), epsilon, keep_input, onward is not None, memory or TensorPool())
    out, means, variances, *transition = _DenseBlock.apply(plan, *inputs, *flat)  # type: ignore[no-untyped-call]
    return Answer(out, transition[0] if transition else None, means, variances)


def dropout_noise(x: Tensor, channels: int, share: float, generator: torch.Generator | None) -> Tensor:
    """Draw the factor of each channel of each image: 0, or ``1 / (1 - share)``, which keeps the mean.

    Parameters
    ----------
    x : (n, c, y, x) tensor
        Images whose number, type and device the factors take.
    channels : int
    share : float
        Share of channels set to zero, in [0, 1).
    generator : torch.Generator, optional
        Source of the draws; the default is torch's own.

    Returns
    -------
    (n, channels, 1, 1) tensor

    Examples
    --------
    >>> noise = dropout_noise(torch.zeros(2, 3, 4, 4), 5, 0.2, torch.Generator().manual_seed(0))
    >>> noise.shape, noise.unique()
    (torch.Size([2, 5, 1, 1]), tensor([0.0000, 1.2500]))
    """
    noise = x.new_ones(len(x), channels, 1, 1)
    return noise.bernoulli_(1 - share, generator=generator).div_(1 - share) if share else noise


class _Plan(NamedTuple):
    """The arguments of a block that are not tensors with gradients."""

    inputs: int
    noises: tuple[Tensor, ...]
    epsilon: float
    keep_input: bool
    leads_on: bool
    memory: TensorPool


class _DenseBlock(torch.autograd.Function):
    """`dense_block` as one step of torch's automatic differentiation.

    `forward` returns the output, mean and unbiased variance of the channels, and the output of the layer
    ``onward``, if there is one. `backward` returns the gradients of the inputs and of all weights.
    """

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *tensors: Tensor) -> tuple[Tensor, ...]:
        memory, layers = plan.memory, _layers(tensors[plan.inputs :])
        raw = [x.contiguous(memory_format=_LAST) for x in tensors[: plan.inputs]]
        hat = images(memory, raw[0], len(layers[-1].scale))
        scratch = Scratch(memory, hat)
        means, variances, at = [], [], 0
        transition: list[Tensor] = []
        fresh = list(raw)
        for i, layer in enumerate(layers):
            for x in fresh:
                mean, variance = statistics(x)
                normalise(x, mean, variance, plan.epsilon, hat[:, at : at + x.shape[1]])
                means.append(mean)
                variances.append(variance)
                at += x.shape[1]
            if i < len(plan.noises):
                new = images(memory, hat, len(layer.bias))
                raw.append(layer_forward(hat[:, :at], layer, plan.noises[i], scratch, new))
                fresh = raw[-1:]
            else:
                transition.append(
                    layer_forward(hat, layer, None, scratch, images(TensorPool(), hat, len(layer.bias)))
                )
        mean, variance = torch.cat(means), torch.cat(variances)
        inverse = (variance + plan.epsilon).rsqrt()
        count = hat[:, 0].numel()
        unbiased = variance * (count / max(1, count - 1))
        ctx.save_for_backward(inverse, *tensors[plan.inputs :])
        ctx.hat, ctx.plan, ctx.sizes = hat, plan, [x.shape[1] for x in raw]
        ctx.mark_non_differentiable(mean, unbiased)
        out = torch.cat(raw if plan.keep_input else raw[plan.inputs :], 1)
        memory.give_back(*raw[plan.inputs :], *scratch.parts)
        return (out, mean, unbiased, *transition)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_out: Tensor, _: Tensor, __: Tensor, *of_led: Tensor
    ) -> tuple[Tensor | None, ...]:
        inverse, *flat = ctx.saved_tensors
        plan, hat, layers = ctx.plan, ctx.hat, _layers(flat)
        back = _Back(plan.memory, hat, inverse, sum(ctx.sizes))
        back.start(of_out)
        ends = list(itertools.accumulate(ctx.sizes))
        pieces = [slice(end - size, end) for end, size in zip(ends, ctx.sizes, strict=True)]
        answers: list[Tensor] = []
        if plan.leads_on:
            answers[:0] = back.through(layers[-1], of_led[0].contiguous(memory_format=_LAST))
        for i in reversed(range(len(plan.noises))):
            layer, piece = layers[i], pieces[plan.inputs + i]
            gradient = back.of_raw(piece, plan.memory, plan.noises[i])
            answers[:0] = back.through(layer, gradient)
            plan.memory.give_back(gradient)
        of_inputs = [back.of_raw(piece, TensorPool()) for piece in pieces[: plan.inputs]]
        plan.memory.give_back(hat, back.total, *back.scratch.parts)
        del ctx.hat
        return (None, *of_inputs, *answers)


class _Back:
    """The backward pass of a block: collects the gradient of all its channels, last layer first."""

    def __init__(self, memory: TensorPool, hat: Tensor, inverse: Tensor, channels: int) -> None:
        self.hat, self.inverse = hat, inverse
        # Gradient by the raw channels, before the terms through the batch's mean and variance are subtracted.
        self.total = images(memory, hat, channels)
        self.scratch = Scratch(memory, hat)
        self.mean = torch.zeros_like(inverse)  # mean gradient of each normalised channel over the pixels
        self.slope = torch.zeros_like(inverse)  # mean of that gradient times the normalised channel

    def start(self, of_out: Tensor) -> None:
        """Start from the gradient of the block's output, which holds the last channels."""
        left_out = self.total.shape[1] - of_out.shape[1]
        self.total[:, :left_out] = 0
        self.total[:, left_out:] = of_out

    def through(self, layer: LayerWeights, gradient: Tensor) -> LayerWeights:
        """Compute the gradients of a layer's weights from the gradient of its output.

        The gradient of the layer's input is added to `total`.
        """
        channels = len(layer.scale)
        seen, inverse = self.hat[:, :channels], self.inverse[:channels]
        answer = layer_backward(gradient, seen, layer, self.total, inverse, self.scratch)
        count = seen[:, 0].numel()
        self.mean[:channels] += layer.scale * answer.shift / count
        self.slope[:channels] += layer.scale * answer.scale / count
        return answer

    def of_raw(self, piece: slice, memory: TensorPool, noise: Tensor | None = None) -> Tensor:
        """Compute the gradient of channels as they were before noise and normalisation.

        The gradient of a normalisation is ``inverse * (g - mean(g) - hat * mean(g * hat))``.
        """
        gradient = images(memory, self.hat, piece.stop - piece.start).copy_(self.total[:, piece])
        is_normalised = piece.stop <= self.hat.shape[1]
        mean, slope = ((self.inverse * x)[piece] for x in (self.mean, self.slope))
        for part in chunks(gradient):
            rows = long_rows(gradient[part])
            if is_normalised:
                normal = long_rows(self.scratch.first(gradient[part]).copy_(self.hat[part, piece]))
                by_statistics = long_rows(self.scratch.second(gradient[part]))
                torch.addcmul(repeated(mean, normal), normal, repeated(slope, normal), out=by_statistics)
                rows.sub_(by_statistics)
            if noise is not None:
                rows.mul_(repeated(noise[part, :, 0, 0], rows))
        return gradient


def _layers(flat: Sequence[Tensor]) -> list[LayerWeights]:
    return [LayerWeights(*flat[i : i + 4]) for i in range(0, len(flat), 4)]
