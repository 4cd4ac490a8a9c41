"""Masked, zero-normalised cross-correlation of a turned query with many fields, by FFT."""

from __future__ import annotations

import math

import scipy.fft
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

__all__ = ["correlate", "peaks", "turn"]


def turn(query: Tensor, mask: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Turn a query counter-clockwise, as seen on the screen, about its centre.

    Parameters
    ----------
    query : (channel, y, x) float tensor
    mask : (y, x) float tensor
        1 where the query counts, 0 elsewhere.
    degrees : float
        The angle.

    Returns
    -------
    turned : (channel, y', x') float tensor
        The query in the smallest frame that holds it, centre on centre; 0 outside.
    turned_mask : (y', x') float tensor
        1 where the turned query counts.

    Examples
    --------
    >>> query = torch.tensor([[[1.0, 2.0, 3.0]]])
    >>> turn(query, torch.ones(1, 3), 90)[0].round().int().tolist()
    [[[3], [2], [1]]]
    """
    height, width = mask.shape
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    rows = max(1, math.ceil(abs(height * cos) + abs(width * sin) - 1e-6))
    columns = max(1, math.ceil(abs(width * cos) + abs(height * sin) - 1e-6))
    y = torch.arange(rows, device=query.device, dtype=query.dtype)[:, None] - (rows - 1) / 2
    x = torch.arange(columns, device=query.device, dtype=query.dtype)[None, :] - (columns - 1) / 2
    grid = torch.stack(
        ((x * cos - y * sin) * (2 / width), (y * cos + x * sin) * (2 / height)), -1
    )  # where each output pixel comes from, in [-1, 1] over the cells' borders
    stacked = torch.cat((query * mask, mask[None]))[None]
    sampled = F.grid_sample(stacked, grid[None], align_corners=False, padding_mode="zeros")[0]
    inside = (sampled[-1] > 0.5).to(query.dtype)
    return sampled[:-1] / sampled[-1].clamp_min(1e-6) * inside, inside


def correlate(
    query: Tensor, mask: Tensor, fields: Tensor, *, min_overlap: float = 0.5
) -> tuple[Tensor, tuple[int, int]]:
    """Zero-normalised correlation of a query with every field at every shift.

    Means and variances are those of the overlap alone (Padfield, "Masked object registration in the
    Fourier domain", IEEE TIP 21, 2012, doi:10.1109/TIP.2011.2181402); channels are pooled after each has
    lost its own mean.

    Parameters
    ----------
    query : (channel, y, x) float tensor
        Values outside the mask do not matter.
    mask : (y, x) float tensor
        1 where the query counts, 0 elsewhere.
    fields : (n, channel, Y, X) float tensor
    min_overlap : float
        Smallest share of the mask that has to lie on the field, in (0, 1].

    Returns
    -------
    scores : (n, sy, sx) tensor
        In [-1, 1]; -inf where the overlap is too small.
    origin : (int, int)
        Position (y, x) in the field of the query's first pixel for ``scores[:, 0, 0]``; one pixel a step.

    Examples
    --------
    >>> fields = torch.rand(2, 1, 20, 30, generator=torch.manual_seed(0))
    >>> scores, origin = correlate(fields[1, :, 5:13, 7:19], torch.ones(8, 12), fields)
    >>> best = scores[1].argmax().item()
    >>> (best // scores.shape[2] + origin[0], best % scores.shape[2] + origin[1])
    (5, 7)
    """
    (height, width), (rows, columns) = mask.shape, fields.shape[-2:]
    size = [scipy.fft.next_fast_len(n, real=True) for n in (rows + height - 1, columns + width - 1)]

    mean = (query * mask).sum((-2, -1), keepdim=True) / mask.sum().clamp_min(1)
    query = (query - mean) * mask
    centres = fields.mean((-2, -1), keepdim=True)
    fields = fields - centres

    def transform(image: Tensor) -> Tensor:
        return torch.fft.rfft2(image, s=size)

    def at_shifts(product: Tensor) -> Tensor:
        full = torch.fft.irfft2(product, s=size)
        return full.roll((height - 1, width - 1), (-2, -1))[..., : rows + height - 1, : columns + width - 1]

    query_f, mask_f = transform(query).conj(), transform(mask).conj()
    squares_f = transform(query.square().sum(0)).conj()
    ones_f = transform(torch.ones_like(fields[0, 0]))
    fields_f = transform(fields)

    count = at_shifts(mask_f * ones_f).round().clamp_min(1)  # (sy, sx)
    query_sum = at_shifts(query_f * ones_f)  # (channel, sy, sx)
    query_square = at_shifts(squares_f * ones_f)
    field_sum = at_shifts(mask_f * fields_f)  # (n, channel, sy, sx)
    field_square = at_shifts(mask_f * transform(fields.square().sum(1)))
    product = at_shifts((query_f * fields_f).sum(1))  # (n, sy, sx)

    covariance = product - (field_sum * query_sum).sum(1) / count
    query_variance = query_square - query_sum.square().sum(0) / count
    field_variance = field_square - field_sum.square().sum(1) / count
    floor = 1e-3 * count * query.square().sum() / mask.sum().clamp_min(1)
    floor_field = 1e-3 * count * fields.square().sum(1).mean((-2, -1))[:, None, None]
    denominator = (query_variance.clamp_min(floor.clamp_min(1e-9)) * field_variance.clamp_min(1e-9).maximum(floor_field)).sqrt()
    scores = (covariance / denominator).clamp(-1, 1)
    enough = count >= min_overlap * mask.sum()
    return scores.masked_fill(~enough, -torch.inf), (1 - height, 1 - width)


def peaks(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Highest score of every field and its index.

    Parameters
    ----------
    scores : (n, sy, sx) tensor

    Returns
    -------
    best : (n,) tensor
    index : (n, 2) long tensor
        Row and column of the best score.

    Examples
    --------
    >>> peaks(torch.tensor([[[0.0, 1.0], [0.5, 0.2]]]))
    (tensor([1.]), tensor([[0, 1]]))
    """
    best, flat = scores.flatten(1).max(1)
    return best, torch.stack((flat // scores.shape[2], flat % scores.shape[2]), 1)
