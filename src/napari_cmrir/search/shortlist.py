"""The shortlist: how it is chosen, and fields ranked by the cosine of their bags of words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job, Progress, run
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.descriptors.features import Features
    from napari_cmrir.bag_of_words.settings import DescriptorSettings
    from napari_cmrir.repository.repository import Repository

__all__ = [
    "compare_words",
    "describe_turned",
    "fill_outside",
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
    >>> shortlist_method(SearchSettings(), 134)
    'all'
    """
    if settings.rerank != "registration":
        return "words"
    return "all" if n_fields <= settings.register_all else settings.shortlist_by


def shortlist_length(settings: SearchSettings, n_fields: int) -> int:
    """Compute the length of the shortlist of a repository of ``n_fields``.

    Examples
    --------
    >>> [shortlist_length(SearchSettings(rerank=rerank), 10_000) for rerank in ("registration", "bow")]
    [300, 30]
    >>> shortlist_length(SearchSettings(), 134)
    134
    """
    lengths = {"all": n_fields, "screening": settings.n_screened, "words": settings.shortlist}
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

    Breznik et al. 2024, Stage II; of several rotations of the query the best counts, field by field.

    Parameters
    ----------
    repository : Repository
        Brings the settings of the descriptor and the vocabulary.
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
    from napari_cmrir.bag_of_words.descriptors.describe import describe
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
