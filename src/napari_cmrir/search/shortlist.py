"""The shortlist of a query: all fields, the best by screening, or the best by bags of words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.jobs import Job, Progress, run
from napari_cmrir.registration.coarse_to_fine import size_classes
from napari_cmrir.registration.correlation import centred, field_means, high_pass, own_pixels, turn
from napari_cmrir.repository.field_indexes import THUMBNAIL_LEVEL
from napari_cmrir.representations.devices import training_precision
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.descriptors.features import Features
    from napari_cmrir.bag_of_words.settings import DescriptorSettings
    from napari_cmrir.registration.prepared_query import PreparedQuery
    from napari_cmrir.repository.repository import Repository

__all__ = [
    "Screening",
    "Template",
    "compare_words",
    "cut_template",
    "describe_turned",
    "fill_outside",
    "screen_scores",
    "shortlist_length",
    "shortlist_method",
    "word_rotations",
    "word_scores",
]


def fill_outside(comir: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Fill a CoMIR outside its outline with the nearest pixel inside.

    A descriptor at the outline reaches a little beyond it. The filled pixels add no structure, as at the
    border of an image.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
    mask : (y, x) bool array
        True inside the outline, at one pixel or more.

    Returns
    -------
    (channel, y, x) uint8 array
        Equal to ``comir`` inside the outline.

    Examples
    --------
    >>> row = np.array([[[7, 8, 99, 99]]], np.uint8)
    >>> fill_outside(row, np.array([[True, True, False, False]])).tolist()
    [[[7, 8, 8, 8]]]
    """
    if mask.all():
        return comir
    from scipy.ndimage import distance_transform_edt

    rows, columns = distance_transform_edt(~mask, return_distances=False, return_indices=True)
    filled: NDArray[np.uint8] = comir[:, rows, columns]
    return filled


def shortlist_method(settings: SearchSettings, n_fields: int) -> Literal["all", "screening", "words"]:
    """Choose the method that makes the shortlist of a repository of ``n_fields``.

    Examples
    --------
    >>> [shortlist_method(SearchSettings(rerank=rerank), 10_000) for rerank in ("registration", "bow")]
    ['screening', 'words']
    >>> shortlist_method(SearchSettings(), 134), shortlist_method(SearchSettings(effort="fast"), 134)
    ('all', 'screening')
    """
    if settings.rerank != "registration":
        return "words"
    all_at_once = n_fields <= settings.register_all and settings.effort != "fast"
    return "all" if all_at_once else settings.shortlist_by


def shortlist_length(settings: SearchSettings, n_fields: int) -> int:
    """Compute the length of the shortlist of a repository of ``n_fields``.

    Examples
    --------
    >>> [shortlist_length(SearchSettings(rerank=rerank), 10_000) for rerank in ("registration", "bow")]
    [300, 30]
    >>> shortlist_length(SearchSettings(), 134), shortlist_length(SearchSettings(effort="thorough"), 10_000)
    (134, 10000)
    """
    screened = n_fields if settings.effort == "thorough" else settings.n_screened
    lengths = {"all": n_fields, "screening": screened, "words": settings.shortlist}
    return min(n_fields, lengths[shortlist_method(settings, n_fields)])


def word_rotations(settings: SearchSettings) -> list[float]:
    """Rotations of the query for comparing words, in degrees.

    Examples
    --------
    >>> word_rotations(SearchSettings())
    [0.0, -15.0, 15.0, -30.0, 30.0]
    >>> len(word_rotations(SearchSettings(max_rotation=180)))
    24
    >>> word_rotations(SearchSettings(word_rotation_step=0))
    [0.0]
    """
    if settings.word_rotation_step == 0 or settings.max_rotation == 0:
        return [0.0]
    if settings.max_rotation >= 180:
        count = 4 * math.ceil(90 / settings.word_rotation_step)
        return [round(i * 360 / count, 6) for i in range(count)]
    each = math.ceil(settings.max_rotation / settings.word_rotation_step)
    step = settings.max_rotation / each
    return [0.0] + [turn for i in range(1, each + 1) for turn in (-i * step, i * step)]


def compare_words(
    repository: Repository,
    comir: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    rotations: Sequence[float] = (0.0,),
) -> Job[NDArray[np.float32]]:
    """Compare a query with every field by their visual words.

    Breznik et al. 2024, Stage II; for each field, the best of several rotations of the query counts.

    Parameters
    ----------
    repository : Repository
        Holds the settings of the descriptor and the vocabulary.
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    mask : (y, x) bool array
        True where the query counts.
    rotations : sequence of float
        Counter-clockwise rotations of the query, in degrees.

    Yields
    ------
    Progress
        In rotations.

    Returns
    -------
    (n,) array
        Cosine of the weighted bags of each field, in [0, 1].
    """
    from napari_cmrir.bag_of_words.bags import encode_query

    vocabulary, bags = repository.vocabulary, []
    yield Progress(0, len(rotations), "rotations", "Counting visual words")
    for done, (features, counts) in enumerate(
        describe_turned(comir, mask, rotations, repository.descriptor_settings), 1
    ):
        bags.append(encode_query(features, counts, vocabulary, repository.settings.bags))
        yield Progress(done, len(rotations), "rotations", "Counting visual words")
    best: NDArray[np.float32] = repository.bag_index.scores_of(bags).max(0)
    return best


def word_scores(
    repository: Repository,
    comir: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    rotations: Sequence[float] = (0.0,),
) -> NDArray[np.float32]:
    """Run `compare_words` to its end."""
    return run(compare_words(repository, comir, mask, rotations))


def describe_turned(
    comir: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    rotations: Sequence[float],
    settings: DescriptorSettings,
) -> Iterator[tuple[Features, NDArray[np.bool_]]]:
    """Describe a query under each rotation, with the mask of the rotated query.

    Rotations that differ by quarter turns are computed once, and keep the points of the computed one.
    """
    from napari_cmrir.bag_of_words.descriptors.features import describe
    from napari_cmrir.bag_of_words.descriptors.surf import turn_descriptors

    permuted = settings.name == "surf" and settings.orientation == "upright"
    known: dict[float, tuple[Features, NDArray[np.bool_]]] = {}
    for degrees in rotations:
        quarters, rest = divmod(degrees, 90) if permuted else (0, degrees)
        rest = round(rest, 6)
        if rest not in known:
            turned, counts = _turned(comir, mask, rest)
            known[rest] = describe(turned, settings, None if counts.all() else counts), counts
        features, counts = known[rest]
        if quarters % 4:
            descriptors = turn_descriptors(features.descriptors, int(quarters), settings.extended)
            features = replace(features, descriptors=descriptors)
        yield features, counts


def _turned(
    comir: NDArray[np.uint8], mask: NDArray[np.bool_], degrees: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A rotated CoMIR and mask in the smallest frame that holds them."""
    if degrees == 0:
        return comir, mask
    import torch

    from napari_cmrir.registration.correlation import turn

    turned, counts = turn(torch.from_numpy(comir).float(), torch.from_numpy(mask).float(), degrees)
    inside = counts.numpy() > 0.5
    return fill_outside(turned.round().to(torch.uint8).numpy(), inside), inside


_COARSER = THUMBNAIL_LEVEL + 1  # the level at which large queries are screened: an eighth
_SMALLEST_SIDE = 20  # px of a query at that level; a smaller query is screened at the thumbnails' level
_LONGEST_SIDE = 32  # px of the template at its level: bounds the size of the matrices
_HANGING = 0.25  # share of a template's side that may overhang a field's edge
_FLAT = 0.1  # share of a field's mean energy: the least energy of a place, so that flat places score low
_BANK = 1.0  # time of writing the template's strips and of a product's calls, in fields
_CACHED = 2**20  # values of strips that are multiplied at once
_BATCH_BYTES = 2**26  # memory of one batch of products; a larger batch takes memory, a smaller one time


@dataclass(frozen=True, eq=False)
class Template:
    """The central part of a query, or all of a small one, under every rotation.

    Parameters
    ----------
    turned : (angle, channel, y, x) float tensor
        Each of unit length, 0 where it does not count.
    area : (int, int)
        Height and width of the upright part, in pixels of its level.
    band : float
        Standard deviation of the `high_pass` of query and fields, in pixels; 0 for none.
    """

    turned: Tensor
    area: tuple[int, int]
    band: float


def cut_template(comir: Tensor, mask: Tensor, rotations: Sequence[float], band: float) -> Template:
    """Cut the template from the high-passed query and rotate it.

    Parameters
    ----------
    comir : (channel, y, x) float tensor
        The query's CoMIR, high-passed.
    mask : (y, x) float tensor
        1 where the query counts.
    rotations : sequence of float
        Degrees, counter-clockwise.
    band : float
        Standard deviation of the high-pass filter, in pixels.

    Examples
    --------
    >>> template = cut_template(torch.rand(1, 12, 40), torch.ones(12, 40), [-10, 0, 10], 2.0)
    >>> template.turned.shape, template.area
    (torch.Size([3, 1, 13, 36]), (12, 32))
    """
    height, width = (min(side, _LONGEST_SIDE) for side in mask.shape)
    centre = _centre_of(mask)
    y, x = (
        min(max(round(at - side / 2), 0), whole - side)
        for at, side, whole in zip(centre, (height, width), mask.shape, strict=True)
    )
    part = (slice(y, y + height), slice(x, x + width))
    comir, mask = comir[(slice(None), *part)], mask[part]
    frame = (height + height // 8, width + width // 8)
    turned = []
    for degrees in rotations:
        version, counts = (_framed(image, frame) for image in turn(comir, mask, degrees))
        mean = (version * counts).sum((-2, -1), keepdim=True) / counts.sum().clamp_min(1)
        version = (version - mean) * counts
        turned.append(version / version.norm().clamp_min(1e-6))
    return Template(torch.stack(turned), (height, width), band)


class Screening:
    """Scores fields by the best correlation of a query's `Template` with their thumbnails, batch by batch.

    Queries of 160 px a side and more are compared at an eighth of the resolution, smaller ones at a quarter.

    Parameters
    ----------
    query : PreparedQuery
    repository : Repository
    rotations : sequence of float
        Rotations to try, in degrees.

    Attributes
    ----------
    batches : list of list of int
        Fields that are scored together. They do not depend on where they are scored.
    """

    def __init__(self, query: PreparedQuery, repository: Repository, rotations: Sequence[float]) -> None:
        small = min(query.height, query.width) < _SMALLEST_SIDE * 2**_COARSER
        self._level = level = THUMBNAIL_LEVEL if small else _COARSER
        self._repository, self._device = repository, query.device
        self._template = cut_template(*query.level(level), rotations, query.high_pass_px / 2**level)
        sides = np.stack((repository.fields["height"], repository.fields["width"]), 1)
        self._sizes = sides.astype(np.int64) >> level
        self.batches = list(_batches(self._sizes, self._template))

    def score(self, fields: Sequence[int]) -> NDArray[np.float32]:
        """Score the fields of a batch, see `screen_scores`."""
        pixels = torch.from_numpy(self._repository.thumbnails(fields)).to(self._device).float()
        if self._level > THUMBNAIL_LEVEL:
            pixels = F.avg_pool2d(pixels, 2)
        sizes = self._sizes[fields]
        own = None if (sizes == sizes[0]).all() else [(int(height), int(width)) for height, width in sizes]
        scores: NDArray[np.float32] = screen_scores(self._template, pixels, sizes=own).cpu().numpy()
        return scores


def screen_scores(
    template: Template,
    fields: Tensor,
    *,
    precision: torch.dtype | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Correlate a template with fields at every shift and rotation, and keep the highest correlation.

    One matrix holds strips of the fields as rows; another holds the template under every rotation and at
    every shift along a strip as columns. Their product gives all correlations. On a processor that multiplies
    bfloat16 matrices it is many times faster than an FFT. The pixels under the template are normalised by
    their energy in the rectangle of the upright template, whatever the rotation. A template may overhang an
    edge by a quarter of its side; the overhang correlates with 0.

    Parameters
    ----------
    template : Template
    fields : (n, channel, y, x) float tensor
        CoMIRs at the template's level.
    precision : torch.dtype, optional
        Data type of the products; by default the fastest one of the device.
    sizes : sequence of (int, int), optional
        Height and width of each field, if they are padded below and to the right.

    Returns
    -------
    (n,) float tensor
        About in [-1, 1].

    Examples
    --------
    >>> fields = 255 * torch.rand(3, 1, 32, 32, generator=torch.manual_seed(0))
    >>> query = high_pass(fields, torch.ones(32, 32), 2.0)[1, :, 5:19, 10:24]
    >>> screen_scores(cut_template(query, torch.ones(14, 14), [0.0], 2.0), fields).argmax().item()
    1
    """
    precision = precision or training_precision(fields.device)
    own = torch.ones_like(fields[0, 0]) if sizes is None else own_pixels(sizes, fields)
    sides = [tuple(fields.shape[2:])] if sizes is None else list(sizes)
    images = high_pass(fields, own, template.band)
    if not template.band:  # otherwise the edge of the padding would be the strongest edge
        images = centred(images, sizes)
    margins = [_margins(template, one) for one in sides]
    down, across = (max(each) for each in zip(*margins, strict=True))
    padded = F.pad(images, (across, across, down, down))
    inverse_length = _inverse_lengths(padded, images, template, sizes)
    _, _, tall, wide = template.turned.shape
    if sizes is not None:  # 0 at the places that an unpadded field does not have
        frame = (down, across), (tall, wide)
        inverse_length = inverse_length * _places(sizes, margins, frame, inverse_length)
    rows, columns = inverse_length.shape[1:]
    shifts = min(columns, wide)
    strips = _strips(template, shifts).to(precision)
    padded = padded.to(precision)
    best = torch.full_like(inverse_length[:, 0, 0], -torch.inf)
    # A CPU is faster on strips that fit its cache; a GPU on as many as there are.
    at_once = max(1, _CACHED // (rows * len(strips))) if fields.device.type == "cpu" else len(fields)
    for begin in range(0, len(fields), at_once):
        part = slice(begin, begin + at_once)
        for first in range(0, columns, shifts):
            first = min(first, columns - shifts)
            strip = padded[part, ..., first : first + shifts + wide - 1].unfold(2, tall, 1)
            strip = strip.permute(0, 2, 1, 4, 3).reshape(-1, len(strips))  # of (field, row, channel, tall, x)
            products = (strip @ strips).view(-1, rows, strips.shape[1] // shifts, shifts).amax(2).float()
            scores = products * inverse_length[part, :, first : first + shifts]
            best[part] = best[part].maximum(scores.amax((1, 2)))
    return best


def _margins(template: Template, size: tuple[int, ...]) -> tuple[int, int]:
    """Pixels that are added before and after a field, along y and x.

    The template may overhang an edge; if the field is smaller than the query, by more.
    """
    frame = template.turned.shape[2:]
    down, across = (
        max(round(_HANGING * side), (framed - whole) // 2 + 2)
        for side, framed, whole in zip(template.area, frame, size, strict=True)
    )
    return down, across


def _places(
    sizes: Sequence[tuple[int, int]],
    margins: Sequence[tuple[int, int]],
    frame: tuple[tuple[int, int], tuple[int, int]],
    like: Tensor,
) -> Tensor:
    """Mask the places (n, rows, columns) of a template that each field has without its padding."""
    most, template = frame
    mask = torch.zeros_like(like)
    for one, size, margin in zip(mask, sizes, margins, strict=True):
        first = [whole - part for whole, part in zip(most, margin, strict=True)]
        count = [
            side + 2 * part - length + 1 for side, part, length in zip(size, margin, template, strict=True)
        ]
        one[first[0] : first[0] + count[0], first[1] : first[1] + count[1]] = 1
    return mask


def _strips(template: Template, shifts: int) -> Tensor:
    """The template under every rotation and shift, as columns: (channel tall x, angle shift)."""
    angles, channels, tall, wide = template.turned.shape
    strips = template.turned.new_zeros(channels, tall, shifts + wide - 1, angles, shifts)
    by_pixel = template.turned.permute(1, 2, 3, 0)
    for shift in range(shifts):
        strips[:, :, shift : shift + wide, :, shift] = by_pixel
    return strips.flatten(3).flatten(0, 2)


def _inverse_lengths(
    padded: Tensor, images: Tensor, template: Template, sizes: Sequence[tuple[int, int]] | None
) -> Tensor:
    """Inverse norm of the pixels in the template's rectangle, (n, rows, columns)."""
    (height, width), (tall, wide) = template.area, template.turned.shape[2:]
    energy = _box_sums(padded.square().sum(1), height, width)
    if not template.band:  # high-passed images have a mean of about 0 in every rectangle
        sums = _box_sums(padded.flatten(0, 1), height, width)
        energy = energy - sums.view(*padded.shape[:2], *sums.shape[1:]).square().sum(1) / (height * width)
    top, left = (tall - height) // 2, (wide - width) // 2
    energy = energy[:, top : top + padded.shape[2] - tall + 1, left : left + padded.shape[3] - wide + 1]
    floor = _FLAT * height * width * field_means(images.square().sum(1), sizes)
    return energy.maximum(floor[:, None, None]).clamp_min(1e-6).rsqrt()


def _box_sums(images: Tensor, height: int, width: int) -> Tensor:
    """Sum every rectangle of images (n, y, x) by products with bands of ones: faster than pooling."""
    rows, columns = (
        images.new_ones(side - length + 1, side).triu().tril(length - 1)
        for side, length in zip(images.shape[1:], (height, width), strict=True)
    )
    sums: Tensor = rows @ (images @ columns.T)
    return sums


def _batches(sizes: NDArray[np.int64], template: Template) -> Iterator[list[int]]:
    """Batches of fields of similar sizes; the size of a batch bounds the memory of its products."""
    _, channels, tall, wide = template.turned.shape
    known = np.flatnonzero(sizes.min(1) > 0)
    for (height, _), rows in size_classes(sizes[known], template.area, _BANK):
        members = known[rows].tolist()
        count = max(1, _BATCH_BYTES // (2 * 2 * channels * tall * wide * height))
        yield from (members[i : i + count] for i in range(0, len(members), count))


def _centre_of(mask: Tensor) -> tuple[float, float]:
    """Centre of mass (y, x) of a mask, in px from the edge of its first pixel."""
    weight = mask.sum().clamp_min(1e-6)
    y, x = (
        float((mask.sum(1 - axis) * (torch.arange(side, device=mask.device) + 0.5)).sum() / weight)
        for axis, side in enumerate(mask.shape)
    )
    return y, x


def _framed(image: Tensor, frame: tuple[int, int]) -> Tensor:
    """Cut or pad an image (..., y, x) about its centre."""
    padding: list[int] = []
    for side, wanted in zip(reversed(image.shape[-2:]), reversed(frame), strict=True):
        before = (wanted - side) // 2
        padding += [before, wanted - side - before]
    return F.pad(image, padding)
