"""The shortlist: how it is chosen, and fields by the cosine of their bags of words with the query's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job, Progress, run
from napari_cmrir.search.outline import fill_outside
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository
    from napari_cmrir.words.features import Features
    from napari_cmrir.words.settings import DescriptorSettings

__all__ = [
    "bank_rotations",
    "chosen_by",
    "compare_words",
    "describe_turned",
    "shortlist_length",
    "word_scores",
]


def chosen_by(settings: SearchSettings, n_fields: int) -> Literal["all", "screening", "words"]:
    """Tell how the fields that are re-ranked are chosen of so many.

    Examples
    --------
    >>> [chosen_by(SearchSettings(rerank=rerank), 10_000) for rerank in ("registration", "bow")]
    ['screening', 'words']
    >>> chosen_by(SearchSettings(), 134)
    'all'
    """
    if settings.rerank != "registration":
        return "words"
    return "all" if n_fields <= settings.register_all else settings.shortlist_by


def shortlist_length(settings: SearchSettings, n_fields: int) -> int:
    """Tell how many fields are re-ranked of so many.

    Examples
    --------
    >>> [shortlist_length(SearchSettings(rerank=rerank), 10_000) for rerank in ("registration", "bow")]
    [300, 30]
    >>> shortlist_length(SearchSettings(), 134)
    134
    """
    lengths = {"all": n_fields, "screening": settings.screened, "words": settings.shortlist}
    return min(n_fields, lengths[chosen_by(settings, n_fields)])


def bank_rotations(settings: SearchSettings) -> list[float]:
    """Rotations of the query whose words are compared, in degrees.

    Examples
    --------
    >>> bank_rotations(SearchSettings())
    [0.0, -15.0, 15.0, -30.0, 30.0]
    >>> len(bank_rotations(SearchSettings(max_rotation=180)))
    24
    >>> bank_rotations(SearchSettings(word_rotation_step=0))
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
    """Compare a query with every field by its visual words.

    Breznik et al. 2024, Stage II; of several rotations of the query the best counts, field by field.

    Parameters
    ----------
    repository : Repository
        Its settings say how CoMIRs are described; its vocabulary names the descriptors.
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    mask : (y, x) bool array
        Where it counts.
    rotations : sequence of float
        How far the query is turned counter-clockwise, in degrees.

    Yields
    ------
    Progress
        In rotations.

    Returns
    -------
    (n,) array
        Cosine of the weighted bags, in [0, 1], one value a field.
    """
    from napari_cmrir.words.encode import encode_query

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
    """Describe a query under each rotation, and say where it counts.

    Quarter turns of one another are computed once; their points stay those of the one that was computed.
    """
    from napari_cmrir.words.descriptors import describe
    from napari_cmrir.words.surf import turn_descriptors

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
    """A CoMIR turned in the smallest frame that holds it, and where it counts there."""
    if degrees == 0:
        return comir, mask
    import torch

    from napari_cmrir.comir.correlation import turn

    turned, counts = turn(torch.from_numpy(comir).float(), torch.from_numpy(mask).float(), degrees)
    inside = counts.numpy() > 0.5
    return fill_outside(turned.round().to(torch.uint8).numpy(), inside), inside
