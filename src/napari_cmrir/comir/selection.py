"""Which of the models that a training passes through is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from napari_cmrir.comir.retrieval import Represent, RetrievalScore, RetrievalTest

__all__ = ["Selection"]

States = dict[str, dict[str, Tensor]]


class Selection:
    """The networks that a training goes back to when it goes wrong, and ends with.

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
        How these retrieve.
    worse : int
        Tests since then that others did not pass better.
    """

    def __init__(self, networks: Mapping[str, torch.nn.Module], test: RetrievalTest | None) -> None:
        self.test = test
        self.step = self.worse = 0
        self.score: RetrievalScore | None = None
        self._states = _states(networks)

    def offer(
        self, step: int, networks: Mapping[str, torch.nn.Module], represent: Represent
    ) -> RetrievalScore | None:
        """Keep networks if they retrieve better than those kept, and return how they do.

        Parameters
        ----------
        step : int
            Steps done.
        networks : mapping of str to Module
        represent : callable
            See `RetrievalTest.score`.
        """
        score = None if self.test is None else self.test.score(represent)
        if score is None or score.is_better_than(self.score):
            self.step, self.score, self.worse, self._states = step, score, 0, _states(networks)
        else:
            self.worse += 1
        return score

    def restore(self, networks: Mapping[str, torch.nn.Module]) -> None:
        """Bring networks back to those kept."""
        for modality, network in networks.items():
            network.load_state_dict(self._states[modality])

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
        score = (self.score.retrieval, self.score.loss) if self.score else None
        return {"step": self.step, "worse": self.worse, "score": score, "networks": self._states}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.step, self.worse, self._states = state["step"], state["worse"], state["networks"]
        self.score = RetrievalScore(*state["score"]) if state["score"] else None


def _states(networks: Mapping[str, torch.nn.Module]) -> States:
    return {
        modality: {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        for modality, network in networks.items()
    }
