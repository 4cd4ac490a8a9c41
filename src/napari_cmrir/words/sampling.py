"""Which descriptors a vocabulary is learned from: as many of every field, and the strongest of all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.words.features import Features
from napari_cmrir.words.settings import VocabularySettings

__all__ = ["keep_strongest", "sample_field"]


def sample_field(features: Features, fields: int, settings: VocabularySettings, seed: int = 0) -> Features:
    """Draw one field's share of the training features, in random order and without its empty ones.

    Parameters
    ----------
    features : Features
        All features of the field.
    fields : int
        Number of fields that are drawn from.
    settings : VocabularySettings
        Its `samples` in all, after the weakest are left out.
    seed : int
        Changes from field to field, e.g. the field's number; drawn with the settings' seed.

    Examples
    --------
    >>> unit = np.ones((100, 4), np.float32) / 2
    >>> field = Features(np.zeros((100, 3), np.float32), unit, np.ones(100, np.float32))
    >>> len(sample_field(field, 10, VocabularySettings(samples=80, strongest_share=0.8)))
    10
    """
    something = np.flatnonzero(features.descriptors.any(axis=1))
    number = min(settings.samples_a_field(fields), len(something))
    chosen = np.random.default_rng([settings.seed, seed]).choice(something, number, replace=False)
    return Features(features.points[chosen], features.descriptors[chosen], features.strengths[chosen])


def keep_strongest(samples: Sequence[Features], settings: VocabularySettings) -> NDArray[np.float32]:
    """Pool samples of fields and keep the strongest share of them, (n, d), in their order.

    Examples
    --------
    >>> weak, strong = (Features(np.zeros((2, 3), np.float32), np.full((2, 4), v, np.float32),
    ...     np.full(2, v, np.float32)) for v in (1, 2))
    >>> keep_strongest([strong, weak, strong], VocabularySettings(strongest_share=0.5))[:, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    descriptors = np.concatenate([sample.descriptors for sample in samples])
    strengths = np.concatenate([sample.strengths for sample in samples])
    number = int(np.ceil(len(descriptors) * settings.strongest_share))
    order = np.argsort(-strengths, kind="stable")[: min(number, settings.samples)]
    return descriptors[np.sort(order)]
