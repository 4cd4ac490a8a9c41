"""The last, 1 x 1 convolution of a network, in more digits than what it sees has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["mix_channels"]


def mix_channels(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of channels, as a 1 x 1 convolution, in the precision of the weights.

    Rounded to bfloat16, a CoMIR would lose faint detail. Some pixels are converted after the others:
    that takes little memory, and on a processor less time.

    Parameters
    ----------
    x : (n, c, y, x) tensor
    weight : (k, c) tensor

    Returns
    -------
    (n, k, y, x) tensor
        Of the weights' type.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0]).bfloat16()[None, :, None, None]
    >>> bool(mix_channels(x, torch.tensor([[1.0, 0.001]])) > 1)  # 1.002, which is 1 in bfloat16
    True
    """
    mixed: Tensor = _Mix.apply(x, weight)  # type: ignore[no-untyped-call]
    return mixed


class _Mix(torch.autograd.Function):
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
    count = max(1, (2**20 if rows.device.type == "cpu" else 2**27) // rows.shape[1])
    return [slice(at, at + count) for at in range(0, len(rows), count)]


def _rows(x: Tensor) -> Tensor:
    """A row a pixel."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)
