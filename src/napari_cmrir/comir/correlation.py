"""Masked, zero-normalised cross-correlation of a turned query with many fields, by FFT."""

from __future__ import annotations

import math

import scipy.fft
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["FieldSpectra", "correlate", "peaks", "turn"]

_FLAT = 1e-3  # share of an image's variance under which an overlap counts as flat


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


class FieldSpectra:
    """Fields made ready for correlation with many turned versions of one query.

    Parameters
    ----------
    fields : (n, channel, y, x) float tensor
        Fields of equal size.
    frame : (int, int)
        Height and width of the largest query that will come.
    """

    def __init__(self, fields: Tensor, frame: tuple[int, int]) -> None:
        self.shape = fields.shape[-2:]
        self._size = [
            scipy.fft.next_fast_len(side + extra - 1, real=True)
            for side, extra in zip(self.shape, frame, strict=True)
        ]
        fields = fields - fields.mean((-2, -1), keepdim=True)
        squares = fields.square().sum(1)
        self._fields = self._transform(fields)
        self._squares = self._transform(squares)
        self._ones = self._transform(torch.ones_like(fields[0, 0]))
        self._variance = squares.mean((-2, -1))[:, None, None]

    def _transform(self, image: Tensor) -> Tensor:
        spectrum: Tensor = torch.fft.rfft2(image, s=self._size)
        return spectrum

    def correlate(
        self, query: Tensor, mask: Tensor, *, min_overlap: float = 0.5
    ) -> tuple[Tensor, tuple[int, int]]:
        """Correlate one query with every field at every shift; see `correlate`."""
        height, width = mask.shape
        rows, columns = self.shape[0] + height - 1, self.shape[1] + width - 1

        def at_shifts(product: Tensor) -> Tensor:
            full: Tensor = torch.fft.irfft2(product, s=self._size)
            return full.roll((height - 1, width - 1), (-2, -1))[..., :rows, :columns]

        weight = mask.sum().clamp_min(1)
        query = (query - (query * mask).sum((-2, -1), keepdim=True) / weight) * mask
        query_f, mask_f = self._transform(query).conj(), self._transform(mask).conj()
        squares_f = self._transform(query.square().sum(0)).conj()

        count = at_shifts(mask_f * self._ones).round().clamp_min(1)  # (sy, sx)
        query_sum = at_shifts(query_f * self._ones)  # (channel, sy, sx)
        query_square = at_shifts(squares_f * self._ones)
        field_sum = at_shifts(mask_f * self._fields)  # (n, channel, sy, sx)
        field_square = at_shifts(mask_f * self._squares)
        product = at_shifts((query_f * self._fields).sum(1))  # (n, sy, sx)

        covariance = product - (field_sum * query_sum).sum(1) / count
        query_variance = query_square - query_sum.square().sum(0) / count
        field_variance = field_square - field_sum.square().sum(1) / count
        query_floor = _FLAT * count * query.square().sum() / weight
        field_floor = _FLAT * count * self._variance
        query_variance = query_variance.maximum(query_floor).clamp_min(1e-9)
        field_variance = field_variance.maximum(field_floor).clamp_min(1e-9)
        scores = (covariance / (query_variance * field_variance).sqrt()).clamp(-1, 1) * (count / weight)
        scores = scores.masked_fill(count < min_overlap * weight, -torch.inf)
        return scores, (1 - height, 1 - width)


def correlate(
    query: Tensor, mask: Tensor, fields: Tensor, *, min_overlap: float = 0.5
) -> tuple[Tensor, tuple[int, int]]:
    """Zero-normalised correlation of a query with every field at every shift, times the overlap.

    The correlation of a small overlap is high by chance more often than that of a large one; weighted by the
    share of the query that lies on the field, the two compare. Means and variances are those of the overlap
    alone (Padfield, "Masked object registration in the Fourier domain", IEEE TIP 21, 2012,
    doi:10.1109/TIP.2011.2181402); channels are pooled after each has lost its own mean. Where either image
    is all but flat, the correlation goes to 0.

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
        In [-1, 1]; 1 is perfect correlation of all of the query; -inf where the overlap is too small.
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
    height, width = mask.shape
    return FieldSpectra(fields, (height, width)).correlate(query, mask, min_overlap=min_overlap)


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
