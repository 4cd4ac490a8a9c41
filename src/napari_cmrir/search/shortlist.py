"""The shortlist: fields by the cosine of their bags of words with the query's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.search.outline import fill_outside
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository

__all__ = ["bank_rotations", "word_scores"]


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


def word_scores(
    repository: Repository,
    comir: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    rotations: Sequence[float] = (0.0,),
) -> NDArray[np.float32]:
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

    Returns
    -------
    (n,) array
        Cosine of the weighted bags, in [0, 1], one value a field.
    """
    from napari_cmrir.words.bags import count_words

    vocabulary = repository.vocabulary
    bags = [
        count_words(vocabulary.assign(descriptors), len(vocabulary))
        for descriptors in _described(repository, comir, mask, rotations)
    ]
    best: NDArray[np.float32] = repository.bag_index.scores_of(bags).max(0)
    return best


def _described(
    repository: Repository, comir: NDArray[np.uint8], mask: NDArray[np.bool_], rotations: Sequence[float]
) -> Iterator[NDArray[np.float32]]:
    """Descriptors of the query under each rotation; quarter turns of one another are computed once."""
    from napari_cmrir.words.descriptors import describe
    from napari_cmrir.words.surf import turn_descriptors

    settings = repository.descriptor_settings
    permuted = settings.name == "surf" and settings.orientation == "upright"
    known: dict[float, NDArray[np.float32]] = {}
    for degrees in rotations:
        quarters, rest = divmod(degrees, 90) if permuted else (0, degrees)
        rest = round(rest, 6)
        if rest not in known:
            turned, counts = _turned(comir, mask, rest)
            known[rest] = describe(turned, settings, None if counts.all() else counts).descriptors
        yield turn_descriptors(known[rest], int(quarters), settings.extended) if quarters % 4 else known[rest]


def _turned(
    comir: NDArray[np.uint8], mask: NDArray[np.bool_], degrees: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A CoMIR turned in the smallest frame that holds it, and where it counts there."""
    if degrees == 0:
        return comir, mask
    import torch

    from napari_cmrir.search.correlation import turn

    turned, counts = turn(torch.from_numpy(comir).float(), torch.from_numpy(mask).float(), degrees)
    inside = counts.numpy() > 0.5
    return fill_outside(turned.round().to(torch.uint8).numpy(), inside), inside
