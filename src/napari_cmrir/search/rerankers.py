"""How a shortlist may be ordered, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job
from napari_cmrir.search.patchwords import patch_scores
from napari_cmrir.search.registration import Pose, RegisteredQuery, register
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository

__all__ = ["RERANKERS", "Question", "Reranker"]


class Question:
    """A query under way: what is asked, and what is known of the answer so far.

    Parameters
    ----------
    repository : Repository
    comir : (channel, y, x) uint8 array
        The query's CoMIR, upright.
    mask : (y, x) bool array
        Where it counts.
    settings : SearchSettings

    Attributes
    ----------
    poses : dict
        `Pose` of every field that was registered.
    scores : dict
        By the name of a stage, the score of every field that it saw.
    """

    def __init__(
        self,
        repository: Repository,
        comir: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        settings: SearchSettings,
    ) -> None:
        self.repository, self.comir, self.mask, self.settings = repository, comir, mask, settings
        self.poses: dict[int, Pose] = {}
        self.scores: dict[str, dict[int, float]] = {}

    @cached_property
    def _registered(self) -> RegisteredQuery:
        from napari_cmrir.comir.devices import choose_device

        return RegisteredQuery(self.comir, self.mask, choose_device(self.settings.device))

    def register(self, fields: list[int]) -> Job[None]:
        """Register the query with some fields; their `poses` are known then."""
        poses = yield from register(self._registered, self.repository, fields, self.settings)
        self.poses.update(poses)

    def box(self, field: int) -> NDArray[np.float64]:
        """Corners (4, 2) of the query in the pixels of a registered field."""
        return self._registered.corners(self.poses[field])


def by_words(question: Question, fields: list[int]) -> Job[dict[int, float]]:
    """Keep the order of the bags of words."""
    yield from ()
    return {field: question.scores["words"][field] for field in fields}


def by_patches(question: Question, fields: list[int]) -> Job[dict[int, float]]:
    """Order by bags of words of query-sized patches: the paper's Stage III."""
    scores = yield from patch_scores(
        question.comir, question.mask, question.repository, fields, question.settings
    )
    question.scores["bow"] = scores
    return scores


def by_registration(question: Question, fields: list[int]) -> Job[dict[int, float]]:
    """Order by the correlation of the registered CoMIRs."""
    yield from question.register(fields)
    scores = {field: question.poses[field].score for field in fields}
    question.scores["registration"] = scores
    return scores


Reranker = Callable[[Question, list[int]], Job[dict[int, float]]]
"""``reranker(question, fields)`` is a job that returns the score of every field."""

RERANKERS: dict[str, Reranker] = {"none": by_words, "bow": by_patches, "registration": by_registration}
