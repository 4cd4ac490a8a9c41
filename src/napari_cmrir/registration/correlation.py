"""Masked, zero-normalised correlation of a turned query with fields by FFT, and the high pass before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "RotatedTemplates",
    "centred",
    "correlate",
    "field_means",
    "high_pass",
    "own_pixels",
    "peaks",
    "turn",
]


_OPENCV_TYPES = (torch.float32, torch.float64)  # float types that OpenCV filters


def high_pass(images: Tensor, mask: Tensor | None, deviation: float) -> Tensor:
    """Subtract from every pixel the Gaussian mean of its neighbourhood.

    Slow variation agrees by chance between any two tissues. The remaining detail distinguishes them.

    Parameters
    ----------
    images : (n, channel, y, x) float tensor
    mask : (y, x) float tensor or None
        1 where the images count, 0 elsewhere. Only pixels that count enter the mean. ``None`` if all pixels
        count, which is faster.
    deviation : float
        Standard deviation of the Gaussian, in pixels; 0 applies the mask only.

    Returns
    -------
    (n, channel, y, x) tensor
        0 outside the mask.

    Examples
    --------
    >>> high_pass(torch.full((1, 1, 8, 8), 5.0), torch.ones(8, 8), 2.0).abs().max().item() < 1e-5
    True
    """
    if deviation <= 0:
        return images if mask is None else images * mask
    if mask is None:
        if images.device.type == "cpu" and not images.requires_grad and images.dtype in _OPENCV_TYPES:
            return _high_pass_opencv(images, deviation)
        mask = torch.ones_like(images[0, 0])
    down, across = (_smoothing(side, deviation, images) for side in images.shape[-2:])

    def smooth(x: Tensor) -> Tensor:  # (..., y, x)
        return down @ x @ across

    total = smooth(mask).clamp_min(1e-6)
    return (images - smooth(images * mask) / total) * mask


def _smoothing(side: int, deviation: float, like: Tensor) -> Tensor:
    """Write the convolution with a Gaussian, cut at three deviations, as a symmetric (side, side) matrix.

    A matrix product is many times faster in torch than a convolution with a kernel of about 100 px.
    """
    position = torch.arange(side, device=like.device, dtype=like.dtype)
    distance = (position[:, None] - position).abs()
    return torch.exp(-0.5 * (distance / deviation).square()) * (distance <= math.ceil(3 * deviation))


def _high_pass_opencv(images: Tensor, deviation: float) -> Tensor:
    """Subtract the Gaussian mean of whole images (n, channel, y, x) on the CPU by OpenCV."""
    import cv2

    side = 2 * math.ceil(3 * deviation) + 1

    def smooth(plane: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray(cv2.GaussianBlur(plane, (side, side), deviation, borderType=cv2.BORDER_CONSTANT))

    planes = images.numpy()
    total = smooth(np.ones_like(planes[0, 0]))
    result = np.empty_like(planes)
    for index in np.ndindex(*planes.shape[:2]):
        result[index] = planes[index] - smooth(planes[index]) / total
    return torch.from_numpy(result)


# Smallest variance of an overlap, as a share of the whole image's variance: the correlation divides by no
# less, so that rounding noise in a flat overlap does not correlate. Not measured.
_FLAT = 1e-3


def turn(query: Tensor, mask: Tensor, degrees: float) -> tuple[Tensor, Tensor]:
    """Turn a query counter-clockwise, as seen on the screen, about its centre.

    Parameters
    ----------
    query : (channel, y, x) float tensor
    mask : (y, x) float tensor
        1 where the query counts, 0 elsewhere.
    degrees : float

    Returns
    -------
    turned : (channel, y', x') float tensor
        The turned query in the smallest frame that holds it, both centres at one point; 0 outside.
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
    # Source (x, y) of each output pixel; -1 and 1 are the outer borders of the first and the last pixel.
    grid = torch.stack(((x * cos - y * sin) * (2 / width), (y * cos + x * sin) * (2 / height)), -1)
    stacked = torch.cat((query * mask, mask[None]))[None]
    sampled = F.grid_sample(stacked, grid[None], align_corners=False, padding_mode="zeros")[0]
    inside = (sampled[-1] > 0.5).to(query.dtype)
    return sampled[:-1] / sampled[-1].clamp_min(1e-6) * inside, inside


class RotatedTemplates:
    """Versions of one query, such as rotations, prepared for correlation with fields of one size.

    The spectra and norms of each version are computed once. Only shifts at which enough of the query can lie
    on a field are computed. Fields of several similar sizes can share the spectra: they are padded with 0 to
    one shape, and `correlate` is told their sizes.

    Parameters
    ----------
    versions : sequence of ((channel, y, x) tensor, (y, x) tensor)
        Each version and its mask: 1 where the version counts, 0 elsewhere.
    shape : (int, int)
        Height and width of the fields, or of their padding.
    min_overlap : float
        Smallest share of the mask that must lie on the field, in (0, 1].
    centred : bool
        Subtract from the fields their mean in each overlap. False saves a third of the transforms, or more
        than half with several channels. It is correct for fields whose mean is about 0 in every
        neighbourhood, which `high_pass` gives.
    padded : bool
        Prepare for fields that are padded to the shape.

    Examples
    --------
    >>> templates = RotatedTemplates([(torch.rand(1, 8, 8), torch.ones(8, 8))], (20, 30))
    >>> next(templates.correlate(torch.rand(2, 1, 20, 30))).shape
    torch.Size([2, 21, 31])
    """

    def __init__(
        self,
        versions: Sequence[tuple[Tensor, Tensor]],
        shape: tuple[int, int],
        *,
        min_overlap: float = 0.5,
        centred: bool = True,
        padded: bool = False,
    ) -> None:
        self.shape, self.centred, self._min_overlap = shape, centred, min_overlap
        overhangs = [_overhangs(mask, min_overlap) for _, mask in versions]
        self._before = [max(hang[axis][0] for hang in overhangs) for axis in (0, 1)]
        after = [max(hang[axis][1] for hang in overhangs) for axis in (0, 1)]
        frame = [max(mask.shape[axis] for _, mask in versions) for axis in (0, 1)]
        self._size = [
            scipy.fft.next_fast_len(max(side + max(before, behind), largest), real=True)
            for side, before, behind, largest in zip(shape, self._before, after, frame, strict=True)
        ]
        ones = None if padded else self._transform(versions[0][1].new_ones(shape))
        self.versions = [
            self._ready(query, mask, hangs, ones)
            for (query, mask), hangs in zip(versions, overhangs, strict=True)
        ]

    def _transform(self, fields: Tensor) -> Tensor:
        """Transform fields, padded so that the first shift of all versions is at index 0."""
        moved = F.pad(fields, (self._before[1], 0, self._before[0], 0))
        spectra: Tensor = torch.fft.rfft2(moved, s=self._size)
        return spectra

    def _at_shifts(self, product: Tensor, window: tuple[slice, slice]) -> Tensor:
        """Transform a product of spectra back, and cut out the shifts of a version, (..., sy, sx)."""
        full: Tensor = torch.fft.irfft2(product, s=self._size)
        return full[..., window[0], window[1]]

    def _ready(
        self,
        query: Tensor,
        mask: Tensor,
        overhangs: tuple[tuple[int, int], tuple[int, int]],
        ones: Tensor | None,
    ) -> _Version:
        """Compute the spectra of one version of the query, and its overlaps or what they follow from."""
        rows, columns = (
            slice(before - first, before + max(side - length + last, -first) + 1)
            for before, (first, last), side, length in zip(
                self._before, overhangs, self.shape, mask.shape, strict=True
            )
        )
        window = (rows, columns)
        weight = mask.sum().clamp_min(1)
        query = (query - (query * mask).sum((-2, -1), keepdim=True) / weight) * mask
        squares, totals = query.square().sum(0), (weight, query.square().sum())
        query_f, mask_f = (torch.fft.rfft2(image, s=self._size).conj() for image in (query, mask))
        origin = (-overhangs[0][0], -overhangs[1][0])
        shape = (mask.shape[0], mask.shape[1])
        overlaps = sums = None
        if ones is None:
            summed = torch.cat((mask[None], squares[None], *([query] if self.centred else [])))
            sums = _RectangleSums(summed, origin, (rows.stop - rows.start, columns.stop - columns.start))
        else:
            squares_f = torch.fft.rfft2(squares, s=self._size).conj()
            count = self._at_shifts(mask_f * ones, window).round().clamp_min(1)
            query_sum = self._at_shifts(query_f * ones, window) if self.centred else None
            energy = self._at_shifts(squares_f * ones, window)
            if query_sum is not None:
                energy = energy - query_sum.square().sum(0) / count
            energy = energy.maximum(_FLAT * count * totals[1] / weight).clamp_min(1e-9)
            too_little = count < self._min_overlap * weight
            overlaps = _Overlaps(count, query_sum, energy.rsqrt(), count / weight, too_little)
        return _Version(query_f, mask_f, window, origin, shape, totals, overlaps, sums)

    def _overlaps(self, version: _Version, sizes: Sequence[tuple[int, int]]) -> _Overlaps:
        """Derive the norms of a version on padded fields from sums over its part on each."""
        assert version.sums is not None
        weight, squares = version.totals
        summed = version.sums.on_fields(sizes)
        count, energy = summed[:, 0].clamp_min_(1), summed[:, 1]
        query_sum = summed[:, 2:] if self.centred else None
        if query_sum is not None:
            energy = energy - query_sum.square().sum(1) / count
        energy = torch.maximum(energy, count * (_FLAT * squares / weight).clamp_min(1e-9))
        too_little = count < self._min_overlap * weight
        return _Overlaps(count, query_sum, energy.rsqrt_(), count / weight, too_little)

    def correlate(self, fields: Tensor, sizes: Sequence[tuple[int, int]] | None = None) -> Iterator[Tensor]:
        """Correlate each version with every field (n, channel, Y, X) at every shift.

        Parameters
        ----------
        fields : (n, channel, Y, X) tensor
        sizes : sequence of (int, int), optional
            Height and width of each field, if the templates are for padded fields; the fields are 0 beyond.

        Yields
        ------
        (n, sy, sx) tensor
            Scores of one version, as of `correlate`; `versions` holds each version's shape and origin. Shifts
            off a padded field score -inf.
        """
        if self.centred:
            fields = centred(fields, sizes)
        squares = fields.square().sum(1)
        floor = _FLAT * field_means(squares, sizes)[:, None, None]
        fields_f, squares_f = self._transform(fields), self._transform(squares)
        for version in self.versions:
            overlaps = version.overlaps or self._overlaps(version, sizes or [self.shape] * len(fields))
            product = self._at_shifts((version.spectrum * fields_f).sum(1), version.window)  # (n, sy, sx)
            variance = self._at_shifts(version.mask_spectrum * squares_f, version.window)
            if overlaps.query_sum is not None:
                field_sum = self._at_shifts(version.mask_spectrum[None, None] * fields_f, version.window)
                product = product - (field_sum * overlaps.query_sum).sum(1) / overlaps.count
                variance = variance - field_sum.square().sum(1) / overlaps.count
            scores = variance.maximum(floor * overlaps.count).clamp_min_(1e-9).rsqrt_().mul_(product)
            scores = scores.mul_(overlaps.inverse_length).clamp_(-1, 1).mul_(overlaps.overlap)
            yield scores.masked_fill_(overlaps.too_little, -torch.inf)


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Norms of a version's part on a field, at every shift (sy, sx), or for every field (n, sy, sx)."""

    count: Tensor
    query_sum: Tensor | None
    inverse_length: Tensor
    overlap: Tensor
    too_little: Tensor


@dataclass(frozen=True, eq=False)
class _Version:
    """A version of the query: what its correlation with any field of the shape needs.

    `origin` is the position in a field of the query's first pixel at the first shift. `totals` are the number
    of pixels that count and the sum of their squares. Of `overlaps` (fields of one size) and `sums` (padded
    fields), one is set.
    """

    spectrum: Tensor
    mask_spectrum: Tensor
    window: tuple[slice, slice]
    origin: tuple[int, int]
    shape: tuple[int, int]
    totals: tuple[Tensor, Tensor]
    overlaps: _Overlaps | None
    sums: _RectangleSums | None


class _RectangleSums:
    """Sums of a version's images over its rectangle on a field, at every shift, for fields of any size.

    The rectangle's sum is the difference of four cumulative sums. Along x the cumulative sums are stored in
    reverse, so that the shifts of a field are slices of them.

    Parameters
    ----------
    images : (k, y, x) tensor
    origin : (int, int)
        Position in a field of the images' first pixel at the first shift.
    shifts : (int, int)
        Number of shifts along y and x.
    """

    def __init__(self, images: Tensor, origin: tuple[int, int], shifts: tuple[int, int]) -> None:
        self._first, self._shifts = (-origin[0], -origin[1]), shifts
        # Double precision: a sum of few pixels is a difference of large sums.
        cumulative = images.cpu().double().cumsum(-2).cumsum(-1).flip(-1)
        self._sums = F.pad(cumulative, (0, 1, 1, 0)).to(images)
        self._shift = torch.arange(shifts[0], device=images.device)
        above = (self._first[0] - self._shift).clamp(0, images.shape[-2])
        self._above = self._sums.index_select(1, above)

    def on_fields(self, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Sum over the part on each field: (n, k, sy, sx)."""
        k, height, width = (side - bool(axis) for axis, side in enumerate(self._sums.shape))
        result = self._sums.new_empty(len(sizes), k, *self._shifts)
        for part, (tall, wide) in zip(result, sizes, strict=True):
            below = (tall + self._first[0] - self._shift).clamp(0, height)
            by_row = self._sums.index_select(1, below).sub_(self._above)
            # From shift `whole` on, the right edge of the query lies beyond the field's.
            beyond = wide + self._first[1] - width
            whole, start = min(max(beyond, 0), self._shifts[1]), max(-beyond, 0)
            rest = by_row[..., start : start + self._shifts[1] - whole]
            part[..., :whole] = by_row[..., :1]
            part[..., whole : whole + rest.shape[-1]] = rest
            part[..., whole + rest.shape[-1] :] = 0
            # At the first shifts, the left edge of the query lies before the field's.
            hanging = by_row[..., width - self._first[1] :][..., : self._shifts[1]]
            part[..., : hanging.shape[-1]] -= hanging
        return result


def field_means(images: Tensor, sizes: Sequence[tuple[int, int]] | None) -> Tensor:
    """Mean of each image (n, ..., y, x) over its own size; the images are 0 beyond."""
    if sizes is None:
        return images.mean((-2, -1))
    area = torch.tensor([height * width for height, width in sizes]).to(images)
    return images.sum((-2, -1)) / area.view(-1, *(1,) * (images.ndim - 3))


def centred(fields: Tensor, sizes: Sequence[tuple[int, int]] | None) -> Tensor:
    """Subtract from each field (n, channel, y, x) its mean; padding stays 0."""
    means = field_means(fields, sizes)[..., None, None]
    if sizes is None:
        return fields - means
    return fields - means * own_pixels(sizes, fields)


def own_pixels(sizes: Sequence[tuple[int, int]], padded: Tensor) -> Tensor:
    """Mask the pixels of padded images (n, channel, y, x) that are not padding: (n, 1, y, x), 1 or 0.

    Examples
    --------
    >>> own_pixels([(1, 2)], torch.zeros(1, 1, 2, 3))[0, 0].tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    mask = padded.new_zeros(len(padded), 1, *padded.shape[-2:])
    for one, (height, width) in zip(mask, sizes, strict=True):
        one[:, :height, :width] = 1
    return mask


def _overhangs(mask: Tensor, min_overlap: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Count the (first, last) rows and columns that can lie off the field at the smallest overlap."""

    def leading(counts: Tensor) -> int:
        allowed = (1 - min_overlap) * counts.sum() + 1e-3
        return int((counts.cumsum(0) <= allowed).sum())

    by_row, by_column = mask.sum(1), mask.sum(0)
    return (
        (leading(by_row), leading(by_row.flip(0))),
        (leading(by_column), leading(by_column.flip(0))),
    )


def correlate(
    query: Tensor, mask: Tensor, fields: Tensor, *, min_overlap: float = 0.5
) -> tuple[Tensor, tuple[int, int]]:
    """Correlate a query with every field at every shift: zero-normalised correlation times the overlap.

    A small overlap correlates highly by chance more often than a large overlap. The factor (share of the
    query that lies on the field) makes the scores of both comparable. Means and variances are computed over
    the overlap (Padfield, "Masked object registration in the Fourier domain", IEEE TIP 21, 2012,
    doi:10.1109/TIP.2011.2181402). Each channel loses its own mean; then the channels are pooled. The
    correlation goes to 0 where either image is nearly flat.

    Parameters
    ----------
    query : (channel, y, x) float tensor
        Values outside the mask do not matter.
    mask : (y, x) float tensor
        1 where the query counts, 0 elsewhere.
    fields : (n, channel, Y, X) float tensor
    min_overlap : float
        Smallest share of the mask that must lie on the field, in (0, 1].

    Returns
    -------
    scores : (n, sy, sx) tensor
        In [-1, 1]; 1 is perfect correlation of the whole query; -inf where the overlap is too small.
    origin : (int, int)
        Position (y, x) in the field of the query's first pixel for ``scores[:, 0, 0]``. The next score is
        one pixel further.

    Examples
    --------
    >>> fields = torch.rand(2, 1, 20, 30, generator=torch.manual_seed(0))
    >>> scores, origin = correlate(fields[1, :, 5:13, 7:19], torch.ones(8, 12), fields)
    >>> best = scores[1].argmax().item()
    >>> (best // scores.shape[2] + origin[0], best % scores.shape[2] + origin[1])
    (5, 7)
    """
    templates = RotatedTemplates(
        [(query, mask)], (fields.shape[-2], fields.shape[-1]), min_overlap=min_overlap
    )
    return next(templates.correlate(fields)), templates.versions[0].origin


def peaks(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Find the highest score of every field and its index.

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
