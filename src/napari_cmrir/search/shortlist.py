"""The shortlist: fields by the cosine of their bags of words with the query's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository

__all__ = ["word_scores"]


def word_scores(
    repository: Repository, comir: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Compare a query with every field by its visual words.

    Breznik et al. 2024, Stage II.

    Parameters
    ----------
    repository : Repository
        Its settings say how CoMIRs are described; its vocabulary names the descriptors.
    comir : (channel, y, x) uint8 array
        The query's CoMIR.
    mask : (y, x) bool array
        Where it counts.

    Returns
    -------
    (n,) array
        Cosine of the weighted bags, in [0, 1], one value a field.
    """
    from napari_cmrir.words.descriptors import describe
    from napari_cmrir.words.encode import encode_query

    features = describe(comir, repository.descriptor_settings, None if mask.all() else mask)
    bag = encode_query(features, mask, repository.vocabulary, repository.settings.bags)
    return repository.bag_index.scores(bag)
