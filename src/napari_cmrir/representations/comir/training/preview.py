"""The preview of a training. It imports no torch: the napari window reads it from another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Preview

__all__ = ["PairNotes", "TrainingFigures", "TrainingPreview"]


@dataclass(frozen=True)
class PairNotes(Preview):
    """Doubts about the pairs, before the first step. The dock shows them beside its list of pairs.

    Parameters
    ----------
    notes : tuple of str
        Sentences for the user.
    """

    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class TrainingFigures:
    """The latest figures of a training, and what its networks make of one pair.

    Parameters
    ----------
    loss : float
        Mean training loss since the last history entry.
    eta_seconds : float
        Expected time to the last step.
    device : str
        Where the networks are trained, in words.
    peak_memory_bytes : float
        Largest memory use so far.
    comirs : mapping of str to (channel, y, x) uint8 array
        CoMIR of one validation field, by modality.
    retrieval, best_retrieval : float or None
        Share of validation queries that the latest and the kept networks rank first, in [0, 1]; ``None``
        before the first validation.
    """

    loss: float
    eta_seconds: float
    device: str
    peak_memory_bytes: float
    comirs: Mapping[str, NDArray[np.uint8]]
    retrieval: float | None = None
    best_retrieval: float | None = None


@dataclass(frozen=True, eq=False)
class TrainingPreview(Preview):
    """What a training shows: figures every few seconds, and sentences for the user as they come.

    Parameters
    ----------
    figures : TrainingFigures or None
        ``None`` where the preview only carries notes.
    notes : tuple of str
        New sentences for the user.
    """

    figures: TrainingFigures | None = None
    notes: tuple[str, ...] = ()
