"""The layers of a dense block on a CPU, forward and backward, and the memory that they reuse.

`dense_backward` combines them. Each function works on images (n, c, y, x) in channels-last order and
processes a few images at a time, so that intermediate results stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

__all__ = [
    "LayerWeights",
    "Scratch",
    "TensorPool",
    "chunks",
    "images",
    "layer_backward",
    "layer_forward",
    "long_rows",
    "normalise",
    "repeated",
    "statistics",
]


class TensorPool:
    """A pool of image memory, because allocation from the system takes longer than filling the memory.

    Memory that is not given back is freed with its last tensor.

    Examples
    --------
    >>> memory = TensorPool()
    >>> image = memory.take((2, 3, 8, 8), torch.float32)
    >>> where = image.data_ptr()
    >>> memory.give_back(image)
    >>> memory.take((2, 3, 8, 8), torch.float32).data_ptr() == where
    True
    """

    def __init__(self) -> None:
        self._free: list[torch.UntypedStorage] = []

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor.

        Parameters
        ----------
        shape : (n, c, y, x)
        dtype : torch.dtype

        Returns
        -------
        (n, c, y, x) tensor
            On the CPU, in channels-last order.
        """
        n, channels, height, width = shape
        count = n * channels * height * width
        fitting = [memory for memory in self._free if memory.nbytes() >= count * dtype.itemsize]
        if not fitting:
            return torch.empty((n, channels, height, width), dtype=dtype, memory_format=torch.channels_last)
        memory = min(fitting, key=torch.UntypedStorage.nbytes)
        self._free = [other for other in self._free if other is not memory]
        flat = torch.empty(0, dtype=dtype).set_(memory, 0, (count,))  # type: ignore[call-overload]
        image: Tensor = flat.view(n, height, width, channels).permute(0, 3, 1, 2)
        return image

    def give_back(self, *taken: Tensor) -> None:
        """Return memory to the pool; the caller must not read these tensors afterwards.

        Parameters
        ----------
        *taken : tensor
            Tensors that `take` returned.
        """
        self._free += [tensor.untyped_storage() for tensor in taken]


_CHUNK = 2**22  # bytes of input that a layer processes at once, for the processor's cache; not measured
# Smallest scale by which `layer_backward` divides: below it, rounding errors of the quotient exceed the
# savings. Not measured.
_SMALL_SCALE = 0.05
_LAST = torch.channels_last


class LayerWeights(NamedTuple):
    """Parameters of a layer: batch normalisation, rectifier, convolution.

    Parameters
    ----------
    scale, shift : (c,) tensor
        Parameters of the batch normalisation of the layer's c input channels.
    kernel : (k, c, 3, 3) or (k, c, 1, 1) tensor
    bias : (k,) tensor
    """

    scale: Tensor
    shift: Tensor
    kernel: Tensor
    bias: Tensor


def images(memory: TensorPool, like: Tensor, channels: int) -> Tensor:
    """Take memory for images of the same number, size and type as ``like``, with ``channels`` channels."""
    return memory.take((len(like), channels, *like.shape[2:]), like.dtype)


def long_rows(x: Tensor) -> Tensor:
    """View images as (n, rows, values) with an eighth of an image row in each: torch is faster on long rows.

    A row holds one pixel if the image's width is not a multiple of 8.
    """
    n, channels, _, width = x.shape
    return x.permute(0, 2, 3, 1).view(n, -1, channels * (width // 8 if width % 8 == 0 else 1))


def repeated(values: Tensor, rows: Tensor) -> Tensor:
    """Repeat one value per channel, (c,) or (n, c), for each pixel of a long row."""
    values = values.to(rows.dtype)
    return values.repeat(*[1] * (values.ndim - 1), rows.shape[-1] // values.shape[-1]).unsqueeze(-2)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and biased variance of each channel, (c,) each, at least in float32."""
    precise = torch.promote_types(x.dtype, torch.float32)
    update = private_op("batch_norm_update_stats")
    if update is None:
        variance, mean = torch.var_mean(x.to(precise), (0, 2, 3), correction=0)
    else:
        kept = torch.zeros(x.shape[1], dtype=precise)
        mean, variance = update(x, kept, kept.clone(), 0.0)
    return mean, variance


def normalise(x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, out: Tensor) -> None:
    """Subtract each channel's mean and divide by its standard deviation, into ``out``."""
    for part in chunks(x):
        out[part] = F.batch_norm(x[part], mean, variance, training=False, eps=epsilon)


@cache
def _has_fast_bfloat16() -> bool:
    """Whether oneDNN convolves in bfloat16 here: it needs AVX-512 or AVX-NE-CONVERT."""
    supported = private_op("ops.mkldnn._is_mkldnn_bf16_supported")
    return supported is not None and bool(supported())


class Scratch:
    """Memory for the intermediate results of a few images.

    Parameters
    ----------
    memory : TensorPool
    hat : (n, c, y, x) tensor
        Normalised channels: the widest layer's input.

    Attributes
    ----------
    parts : list of tensor
        Tensors to give back to the pool.
    """

    def __init__(self, memory: TensorPool, hat: Tensor) -> None:
        size = max(_CHUNK // hat.element_size(), hat[0].numel())
        self.parts = [memory.take((1, size, 1, 1), hat.dtype) for _ in range(2)]

    def first(self, like: Tensor) -> Tensor:
        """Give the first uninitialised buffer, in the shape of ``like``."""
        return _shaped(self.parts[0], like)

    def second(self, like: Tensor) -> Tensor:
        """Give the second uninitialised buffer, in the shape of ``like``."""
        return _shaped(self.parts[1], like)

    def active(self, seen: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Scale, shift and rectify each channel.

        In bfloat16 oneDNN does all three in one pass, as a 1 x 1 convolution with one channel per group, on
        processors that it supports.
        """
        convolve = private_op("ops.mkldnn._convolution_pointwise") if _has_fast_bfloat16() else None
        if convolve is not None and seen.dtype == torch.bfloat16:
            whole = self.first(seen).copy_(seen)
            kernel, each = scale[:, None, None, None], len(scale)
            active: Tensor = convolve(whole, kernel, shift, [0, 0], [1, 1], [1, 1], each, "relu", [], "")
            return active
        scaled = torch.addcmul(shift[:, None, None], seen, scale[:, None, None], out=self.first(seen))
        return torch.clamp_min(scaled, 0, out=self.second(seen))  # in place, torch takes twice as long

    def masked(self, gradient: Tensor, active: Tensor) -> Tensor:
        """Copy the gradient where the layer was active, 0 elsewhere."""
        out = self.first(gradient)
        mask = private_op("ops.aten.threshold_backward.grad_input")
        if mask is None:
            torch.mul(gradient, active > 0, out=out)
        else:
            mask(gradient, active, 0, grad_input=out)
        return out


@cache
def private_op(name: str) -> Callable[..., Any] | None:
    """Look up an undocumented operation of torch.

    Such operations are used for speed only. If one is missing, public operations give the same result.

    Parameters
    ----------
    name : str
        Dotted path below ``torch``.

    Returns
    -------
    callable or None
        None if this version of torch lacks it.

    Examples
    --------
    >>> private_op("ops.mkldnn.no_such_operation") is None
    True
    """
    try:
        found: Any = reduce(getattr, name.split("."), torch)
    except AttributeError:
        return None
    return cast("Callable[..., Any]", found)


def _shaped(memory: Tensor, like: Tensor) -> Tensor:
    n, channels, height, width = like.shape
    return memory.flatten()[: like.numel()].view(n, height, width, channels).permute(0, 3, 1, 2)


def layer_forward(
    seen: Tensor, layer: LayerWeights, noise: Tensor | None, scratch: Scratch, out: Tensor
) -> Tensor:
    """Compute a layer's output from its normalised input channels ``seen``, into ``out``.

    Parameters
    ----------
    seen : (n, c, y, x) tensor
        Normalised input channels.
    layer : LayerWeights
    noise : (n, k, 1, 1) tensor or None
        Dropout factors of the output; see `dropout_noise`.
    scratch : Scratch
    out : (n, k, y, x) tensor
        Overwritten by the output.

    Returns
    -------
    (n, k, y, x) tensor
        ``out``.
    """
    shift, scale = layer.shift.to(seen.dtype), layer.scale.to(seen.dtype)
    kernel, bias = _kernel(layer, seen), layer.bias.to(seen.dtype)
    for part in chunks(seen):
        active = scratch.active(seen[part], scale, shift)
        new = torch.convolution(active, kernel, bias, *_plain(kernel)).contiguous(memory_format=_LAST)
        if noise is None:
            out[part] = new
        else:
            rows = long_rows(new)
            torch.mul(rows, repeated(noise[part, :, 0, 0], rows), out=long_rows(out[part]))
    return out


def layer_backward(
    gradient: Tensor, seen: Tensor, layer: LayerWeights, total: Tensor, inverse: Tensor, scratch: Scratch
) -> LayerWeights:
    """Compute the gradients of a layer's weights, and add the gradient of its input to ``total``.

    Parameters
    ----------
    gradient : (n, k, y, x) tensor
        Gradient of the layer's output.
    seen : (n, c, y, x) tensor
        Normalised input channels.
    layer : LayerWeights
    total : (n, C, y, x) tensor
        Gradient of all channels before normalisation, up to the terms through mean and variance. The
        gradient of the layer's input is added to its first c channels.
    inverse : (c,) tensor
        Reciprocal standard deviations of the input channels.
    scratch : Scratch

    Returns
    -------
    LayerWeights
        Gradients of the layer's parameters.
    """
    shift, scale = layer.shift.to(seen.dtype), layer.scale.to(seen.dtype)
    kernel, onward = _kernel(layer, seen), _row(layer.scale * inverse, seen)
    answer = LayerWeights(*(torch.zeros_like(tensor) for tensor in layer))
    # The gradient of a channel's scale would need a pass over all pixels. But the convolution's input is
    # relu(scale * x + shift), so sum(kernel * kernel's gradient) is
    # scale * scale's gradient + shift * shift's gradient, and a division gives the scale's gradient.
    # Channels of a small scale take the pass instead.
    is_small = layer.scale.abs() < _SMALL_SCALE
    small = is_small.nonzero()[:, 0]
    for part in chunks(seen):
        active = scratch.active(seen[part], scale, shift)
        back, of_kernel, of_bias = _convolution_gradients(gradient[part], active, kernel)
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


def _convolution_gradients(gradient: Tensor, seen: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of a convolution's input, kernel and bias, in one pass if torch offers it."""
    backward = private_op("ops.aten.convolution_backward")
    if backward is not None:
        of_seen, of_kernel, of_bias = backward(
            gradient, seen, kernel, [len(kernel)], *_plain(kernel), [True, True, True]
        )
        return of_seen, of_kernel, of_bias
    padding = kernel.shape[2] // 2
    of_seen = grad.conv2d_input(seen.shape, kernel, gradient, padding=padding)  # type: ignore[no-untyped-call]
    of_kernel = grad.conv2d_weight(seen, kernel.shape, gradient, padding=padding)  # type: ignore[no-untyped-call]
    return of_seen, of_kernel, _sums(gradient)


def _plain(kernel: Tensor) -> tuple[Any, ...]:
    """Give stride, padding, dilation and further arguments of a convolution that keeps the image's size."""
    return [1, 1], [side // 2 for side in kernel.shape[2:]], [1, 1], False, [0, 0], 1


def chunks(x: Tensor) -> list[slice]:
    """Split a batch into slices of at most `_CHUNK` bytes, at least one image each."""
    count = max(1, _CHUNK // (x[0].numel() * x.element_size()))
    return [slice(at, at + count) for at in range(0, len(x), count)]


def _kernel(layer: LayerWeights, like: Tensor) -> Tensor:
    return layer.kernel.to(like.dtype).contiguous(memory_format=_LAST)


def _row(values: Tensor, like: Tensor) -> Tensor:
    """Shape one value per channel for broadcasting over (n, c, y, x)."""
    return values.to(like.dtype)[:, None, None]


def _sums(x: Tensor) -> Tensor:
    """Sum each channel by a matrix product, which is many times faster than a reduction in bfloat16."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    sums = rows.new_ones(1).expand(1, len(rows)) @ rows
    return sums[0].to(torch.promote_types(x.dtype, torch.float32))
