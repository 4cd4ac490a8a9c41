"""How a shortlist may be ordered, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.geometry import rotation_difference
from napari_cmrir.jobs import Job, portion
from napari_cmrir.search.patchwords import patch_scores
from napari_cmrir.search.posed import Pose, RegisteredQuery, rotations, scales
from napari_cmrir.search.registration import register
from napari_cmrir.search.screening import screen
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.repository.store import Repository

__all__ = ["RERANKERS", "Question", "Reranker", "better"]

_SAME_PLACE, _SAME_ANGLE = 16.0, 6.0  # pixels and degrees between poses that are one


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
    def _forms(self) -> dict[tuple[bool, float], RegisteredQuery]:
        """The query as it is, and mirrored or in other sizes if the settings want it."""
        from napari_cmrir.comir.devices import choose_device

        device = choose_device(self.settings.device)
        ways = product((False, True) if self.settings.mirror else (False,), scales(self.settings))
        return {
            way: RegisteredQuery(self.comir, self.mask, device, mirrored=way[0], scale=way[1]) for way in ways
        }

    def screen(self) -> Job[NDArray[np.float32]]:
        """Score every field by screening it with every form of the query; the best counts."""
        best = np.full(len(self.repository), -np.inf, np.float32)
        for done, form in enumerate(self._forms.values()):
            job = screen(form, self.repository, rotations(self.settings))
            start, stop = (100 * part / len(self._forms) for part in (done, done + 1))
            best = np.maximum(best, (yield from portion(job, start, stop)))
        self.scores["screening"] = {int(field): float(best[field]) for field in np.flatnonzero(best > -1)}
        return best

    def register(self, fields: list[int]) -> Job[None]:
        """Register every form of the query with some fields; their best `poses` are known then."""
        for done, form in enumerate(self._forms.values()):
            job = register(form, self.repository, fields, self.settings)
            poses = yield from portion(
                job, 100 * done / len(self._forms), 100 * (done + 1) / len(self._forms)
            )
            for field, pose in poses.items():
                self.poses[field] = better(self.poses[field], pose) if field in self.poses else pose

    def box(self, field: int) -> NDArray[np.float64]:
        """Corners (4, 2) of the query in the pixels of a registered field."""
        pose = self.poses[field]
        return self._forms[pose.mirrored, pose.scale].corners(pose)


def better(one: Pose, other: Pose) -> Pose:
    """Choose the pose of higher score; the other is its runner-up if it is another place or angle.

    Examples
    --------
    >>> better(Pose(0.4, 0, (50, 50), 0.1, scale=1.06), Pose(0.5, 1, (52, 50), 0.2)).runner_up
    0.2
    >>> better(Pose(0.4, 0, (50, 50), 0.1, mirrored=True), Pose(0.5, 1, (52, 50), 0.2)).runner_up
    0.4
    """
    best, second = (one, other) if one.score >= other.score else (other, one)
    same = (
        best.mirrored == second.mirrored
        and math.dist(best.centre, second.centre) < _SAME_PLACE
        and rotation_difference(best.rotation_degrees, second.rotation_degrees) < _SAME_ANGLE
    )
    return replace(best, runner_up=max(best.runner_up, second.runner_up if same else second.score))


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
    """Order by how well the registered CoMIRs agree."""
    yield from question.register(fields)
    scores = {field: question.poses[field].score for field in fields}
    question.scores["registration"] = scores
    return scores


Reranker = Callable[[Question, list[int]], Job[dict[int, float]]]
"""``reranker(question, fields)`` is a job that returns the score of every field."""

RERANKERS: dict[str, Reranker] = {"none": by_words, "bow": by_patches, "registration": by_registration}
