"""Which of the models that a training passes through is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from napari_cmrir.comir.retrieval import Represent, RetrievalScore, RetrievalTest

__all__ = ["Selection"]

_CALM = 3  # tests whose mean decides: the luck of a single one does not

States = dict[str, dict[str, Tensor]]


class Selection:
    """The networks that a training goes back to when it goes wrong, and ends with.

    Kept are those at the end of the three tests that were the best on the mean: few queries and
    a high learning rate make a single test good or bad by chance.

    Parameters
    ----------
    networks : mapping of str to Module
        Each modality's, as they are before the first step.
    test : RetrievalTest or None
        How to choose; the latest networks are kept where there is none.

    Attributes
    ----------
    step : int
        Steps after which the kept networks were met.
    score : RetrievalScore or None
        How these retrieve, in the last of the three tests.
    worse : int
        Tests since then that did not make the mean better.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module], test: RetrievalTest | None) -> None:
        self.test = test
        self.step = self.worse = 0
        self.score: RetrievalScore | None = None
        self._mean: RetrievalScore | None = None
        self._recent: list[RetrievalScore] = []
        self._states = _states(networks)

    def offer(
        self, step: int, networks: Mapping[str, torch.nn.Module], represent: Represent
    ) -> RetrievalScore | None:
        """Keep networks if they make the mean of the latest tests better, and return how they do.

        Parameters
        ----------
        step : int
            Steps done.
        networks : mapping of str to Module
        represent : callable
            See `RetrievalTest.score`.
        """
        score = None if self.test is None else self.test.score(represent)
        mean = None
        if score is not None:
            self._recent = [*self._recent, score][-_CALM:]
            mean = _mean(self._recent)
        if mean is None or mean.is_better_than(self._mean):
            self.step, self.score, self._mean, self.worse = step, score, mean, 0
            self._states = _states(networks)
        else:
            self.worse += 1
        return score

    def restore(self, networks: Mapping[str, torch.nn.Module]) -> None:
        """Bring networks back to those kept."""
        for modality, network in networks.items():
            network.load_state_dict(self._states[modality])
        self._recent = []

    def card(self) -> dict[str, float]:
        """What a model says of how it was chosen; see `ComirModel.score`."""
        if self.test is None or self.score is None:
            return {}
        return {
            "retrieval": self.score.retrieval,
            "validation_loss": self.score.loss,
            "step": self.step,
            "fields": len(self.test),
            "queries": len(self.test.queries),
        }

    def state(self) -> dict[str, Any]:
        """Plain values and tensors from which `load_state` goes on."""
        scores = [self.score, self._mean, *self._recent]
        plain = [(score.retrieval, score.loss) if score else None for score in scores]
        return {"step": self.step, "worse": self.worse, "scores": plain, "networks": self._states}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.step, self.worse, self._states = state["step"], state["worse"], state["networks"]
        scores = [RetrievalScore(*plain) if plain else None for plain in state["scores"]]
        self.score, self._mean = scores[:2]
        self._recent = [score for score in scores[2:] if score is not None]


def _mean(scores: Sequence[RetrievalScore]) -> RetrievalScore:
    return RetrievalScore(fmean(s.retrieval for s in scores), fmean(s.loss for s in scores))


def _states(networks: Mapping[str, torch.nn.Module]) -> States:
    return {
        modality: {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        for modality, network in networks.items()
    }
