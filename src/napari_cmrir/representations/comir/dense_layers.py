"""The layers of a dense block on a processor, forward and backward, and the memory they reuse."""

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
    "long_rows",
    "normalise",
    "repeated",
    "see",
    "see_back",
    "statistics",
]


class TensorPool:
    """A pool of image memory: allocation from the system takes longer than filling the memory.

    The pool forgets memory that is not given back; its last tensor frees it.

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
        """Return a tensor of any content.

        Parameters
        ----------
        shape : (n, c, y, x)
        dtype : torch.dtype

        Returns
        -------
        (n, c, y, x) tensor
            On the processor, in the order channels last.
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
        """Return memory to the pool; these tensors must not be read afterwards.

        Parameters
        ----------
        *taken : tensor
            Tensors that `take` returned.
        """
        self._free += [tensor.untyped_storage() for tensor in taken]


_CHUNK = 2**22  # bytes that a layer sees at once
_SMALL_SCALE = 0.05  # below, the sum over the kernel is divided by too little
_LAST = torch.channels_last


class LayerWeights(NamedTuple):
    """Parameters of a layer.

    Parameters
    ----------
    scale, shift : (c,) tensor
        Of the batch normalisation of the c channels that it sees.
    kernel : (k, c, 3, 3) or (k, c, 1, 1) tensor
    bias : (k,) tensor
    """

    scale: Tensor
    shift: Tensor
    kernel: Tensor
    bias: Tensor


def images(memory: TensorPool, like: Tensor, channels: int) -> Tensor:
    """Take memory for images of the same number, size and type as others, with ``channels`` channels."""
    return memory.take((len(like), channels, *like.shape[2:]), like.dtype)


def long_rows(x: Tensor) -> Tensor:
    """A row for as many pixels as fit 8 times into one of the image: torch is faster on long rows."""
    n, channels, _, width = x.shape
    return x.permute(0, 2, 3, 1).view(n, -1, channels * (width // 8 if width % 8 == 0 else 1))


def repeated(values: Tensor, rows: Tensor) -> Tensor:
    """Values a channel, (c,) or (n, c), for each pixel of a row."""
    values = values.to(rows.dtype)
    return values.repeat(*[1] * (values.ndim - 1), rows.shape[-1] // values.shape[-1]).unsqueeze(-2)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    precise = torch.promote_types(x.dtype, torch.float32)
    update = private_op("batch_norm_update_stats")
    if update is None:
        variance, mean = torch.var_mean(x.to(precise), (0, 2, 3), correction=0)
    else:
        kept = torch.zeros(x.shape[1], dtype=precise)
        mean, variance = update(x, kept, kept.clone(), 0.0)
    return mean, variance


def normalise(x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, out: Tensor) -> None:
    """Take the mean of each channel away and divide by its standard deviation."""
    for part in chunks(x):
        out[part] = F.batch_norm(x[part], mean, variance, training=False, eps=epsilon)


class Scratch:
    """Memory for the intermediate results of a few images.

    Parameters
    ----------
    memory : TensorPool
    hat : (n, c, y, x) tensor
        As many channels as the widest layer's input.

    Attributes
    ----------
    parts : list of tensor
        Tensors to give back to the pool.
    """

    def __init__(self, memory: TensorPool, hat: Tensor) -> None:
        size = max(_CHUNK // hat.element_size(), hat[0].numel())
        self.parts = [memory.take((1, size, 1, 1), hat.dtype) for _ in range(2)]

    def first(self, like: Tensor) -> Tensor:
        """An image of any content, like another."""
        return _shaped(self.parts[0], like)

    def second(self, like: Tensor) -> Tensor:
        """Another one, which may be used beside the first."""
        return _shaped(self.parts[1], like)

    def active(self, seen: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Scale and rectify channels, each by a value of its own; where oneDNN can, in one go."""
        convolve = private_op("ops.mkldnn._convolution_pointwise")
        if convolve is not None and seen.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            whole = self.first(seen).copy_(seen)
            kernel, each = scale[:, None, None, None], len(scale)
            active: Tensor = convolve(whole, kernel, shift, [0, 0], [1, 1], [1, 1], each, "relu", [], "")
            return active
        scaled = torch.addcmul(shift[:, None, None], seen, scale[:, None, None], out=self.first(seen))
        return torch.clamp_min(scaled, 0, out=self.second(seen))  # in place, it takes torch twice as long

    def masked(self, gradient: Tensor, active: Tensor) -> Tensor:
        """The gradient where it is active."""
        out = self.first(gradient)
        mask = private_op("ops.aten.threshold_backward.grad_input")
        if mask is None:
            torch.mul(gradient, active > 0, out=out)
        else:
            mask(gradient, active, 0, grad_input=out)
        return out


@cache
def private_op(name: str) -> Callable[..., Any] | None:
    """Look up an operation of torch that its documentation does not promise.

    They are used for speed only: where one is missing, public operations give the same result.

    Parameters
    ----------
    name : str
        Dotted path below ``torch``.

    Returns
    -------
    callable or None
        None where this version of torch lacks it.

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


def see(seen: Tensor, layer: LayerWeights, noise: Tensor | None, scratch: Scratch, out: Tensor) -> Tensor:
    """Output of a layer for normalised channels."""
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


def see_back(
    gradient: Tensor, seen: Tensor, layer: LayerWeights, total: Tensor, inverse: Tensor, scratch: Scratch
) -> LayerWeights:
    """Gradients of a layer's weights; that of what it saw is added to the total."""
    shift, scale = layer.shift.to(seen.dtype), layer.scale.to(seen.dtype)
    kernel, onward = _kernel(layer, seen), _row(layer.scale * inverse, seen)
    answer = LayerWeights(*(torch.zeros_like(tensor) for tensor in layer))
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
    """Gradients of what a convolution saw, of its kernel and of its bias, in one pass where torch can."""
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
    """Stride, padding, dilation and further arguments of a convolution that keeps the size."""
    return [1, 1], [side // 2 for side in kernel.shape[2:]], [1, 1], False, [0, 0], 1


def chunks(x: Tensor) -> list[slice]:
    """Slices of a batch, small enough that intermediate results stay in the processor's cache."""
    count = max(1, _CHUNK // (x[0].numel() * x.element_size()))
    return [slice(at, at + count) for at in range(0, len(x), count)]


def _kernel(layer: LayerWeights, like: Tensor) -> Tensor:
    return layer.kernel.to(like.dtype).contiguous(memory_format=_LAST)


def _row(values: Tensor, like: Tensor) -> Tensor:
    """A value a channel, to be broadcast."""
    return values.to(like.dtype)[:, None, None]


def _sums(x: Tensor) -> Tensor:
    """Sum of each channel, as a matrix product: many times faster than a reduction in bfloat16."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    sums = rows.new_ones(1).expand(1, len(rows)) @ rows
    return sums[0].to(torch.promote_types(x.dtype, torch.float32))
