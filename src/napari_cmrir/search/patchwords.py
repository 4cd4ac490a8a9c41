"""The paper's Stage III: bags of words of query-sized patches of the shortlist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job, Progress
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository
    from napari_cmrir.words.features import Features

__all__ = ["covering_offsets", "patch_scores"]


def covering_offsets(length: int, patch: int) -> list[int]:
    """Offsets of the fewest equally spaced patches that cover a length.

    Breznik et al. 2024, experimental settings ("the minimal number of equidistantly placed patches").

    Parameters
    ----------
    length, patch : int
        Pixels.

    Examples
    --------
    >>> covering_offsets(834, 256)
    [0, 193, 385, 578]
    >>> covering_offsets(100, 256)
    [0]
    """
    count = max(1, math.ceil(length / patch))
    return [int(offset + 0.5) for offset in np.linspace(0, max(0, length - patch), count)]


def patch_scores(
    comir: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    repository: Repository,
    fields: Sequence[int],
    settings: SearchSettings,
) -> Job[dict[int, float]]:
    """Score fields by their patch that is most like the query.

    Breznik et al. 2024, Stage III: the fields are cut into query-sized patches, the patches get a bag of
    words each under one vocabulary, and a field counts as much as its best patch.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    mask : (y, x) bool array
        Where it counts.
    repository : Repository
    fields : sequence of int
        The shortlist.
    settings : SearchSettings
        `bow_vocabulary` says whether new words are learnt from the patches, or the repository's used.

    Yields
    ------
    Progress
        In fields.

    Returns
    -------
    dict
        Cosine in [0, 1] of each field.
    """
    from napari_cmrir.words.bags import BagIndex, count_words
    from napari_cmrir.words.descriptors import describe
    from napari_cmrir.words.sampling import keep_strongest, sample_field
    from napari_cmrir.words.vocabulary import train_vocabulary

    how = repository.settings
    height, width = mask.shape
    patches: list[Features] = []
    owners: list[int] = []
    for done, field in enumerate(fields):
        yield Progress(done, len(fields), "fields", "Describing the patches")
        image = repository.comir(field)
        for y in covering_offsets(image.shape[1], height):
            for x in covering_offsets(image.shape[2], width):
                patches.append(describe(image[:, y : y + height, x : x + width], how.descriptor))
                owners.append(field)
    vocabulary = repository.vocabulary
    if settings.bow_vocabulary == "new":
        samples = [sample_field(p, len(patches), how.vocabulary, i) for i, p in enumerate(patches)]
        vocabulary = yield from train_vocabulary(keep_strongest(samples, how.vocabulary), how.vocabulary)
    size = len(vocabulary)
    bags = []
    for done, features in enumerate(patches):
        if done % 16 == 0:
            yield Progress(done, len(patches), "patches", "Naming the words")
        bags.append(count_words(vocabulary.assign(features.descriptors), size))
    query = describe(comir, how.descriptor, None if mask.all() else mask)
    index = BagIndex.from_bags(bags, size, how.bags)
    cosines = index.scores(count_words(vocabulary.assign(query.descriptors), size))
    best = dict.fromkeys(fields, 0.0)
    for owner, cosine in zip(owners, cosines, strict=True):
        best[owner] = max(best[owner], float(cosine))
    return best
