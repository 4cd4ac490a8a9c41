"""A training that goes wrong is noticed, and led back to the networks that were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.representations.comir.training.validation import Selection

__all__ = ["Recovery"]

_MOST_BAD_STEPS = 5  # consecutive steps without a finite loss before training returns to kept networks
_MOST_RETURNS = 5  # each halves the learning rate: to 1/32 at the last
_FLAT = 1e-3  # share of the CoMIRs' first contrast under which they have collapsed


class Recovery:
    """Watches over the networks of a training.

    Parameters
    ----------
    networks : mapping of str to Module
        Each modality's.
    optimiser : Optimizer
        Of their parameters.
    selection : Selection
        Keeps the networks that are gone back to.

    Attributes
    ----------
    rate : float
        What the learning rate is multiplied with: halved at each return.
    returned : int
        Step of the latest return, 0 before the first.
    """

    def __init__(
        self,
        networks: Mapping[str, torch.nn.Module],
        optimiser: torch.optim.Optimizer,
        selection: Selection,
    ) -> None:
        self.networks, self.optimiser, self.selection = networks, optimiser, selection
        self.rate = 1.0
        self.returned = 0
        self._bad_steps = self._returns = 0
        self._first_contrast = 0.0

    def reason_in_loss(self, loss: float) -> str:
        """Why to go back after a step of that loss; empty where there is no reason.

        Parameters
        ----------
        loss : float
            Not a number where the step could not be done.
        """
        self._bad_steps = 0 if math.isfinite(loss) else self._bad_steps + 1
        gone = self._bad_steps >= _MOST_BAD_STEPS or (self._bad_steps > 0 and not self._are_finite())
        return "the loss is not a number" if gone else ""

    def reason_in_networks(self, comirs: Sequence[Tensor]) -> str:
        """Reason to return to the kept networks, from the current weights and CoMIRs; empty if none.

        Parameters
        ----------
        comirs : sequence of (n, channel, y, x) tensor
            The latest, of each modality.
        """
        if not self._are_finite():
            return "the weights are not numbers"
        contrast = min(float(comir.detach().std((-2, -1)).mean()) for comir in comirs)
        self._first_contrast = self._first_contrast or contrast
        return "the CoMIRs have become flat" if contrast <= _FLAT * self._first_contrast else ""

    def _are_finite(self) -> bool:
        """Whether all weights and running means are numbers."""
        tensors = (tensor for network in self.networks.values() for tensor in network.state_dict().values())
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def go_back(self, step: int, reason: str) -> str | None:
        """Return to the networks that were kept, to go on with half the learning rate.

        Parameters
        ----------
        step : int
            Steps done.
        reason : str
            What went wrong.

        Returns
        -------
        str or None
            Message for the user; ``None`` after too many returns.

        Raises
        ------
        InputError
            If it has, and nothing worth keeping has been learnt.
        """
        self._returns += 1
        self.returned, self._bad_steps = step, 0
        self.selection.restore(self.networks)
        self.optimiser.state.clear()
        self.rate /= 2
        kept = self.selection.step
        if self._returns <= _MOST_RETURNS:
            return f"Step {step}: {reason}; going back to step {kept} with half the learning rate."
        if kept == 0:
            raise InputError(
                f"Training does not converge: at step {step}, {reason} for the {self._returns}th time;"
                " lower the learning rate."
            )
        return None

    @property
    def times(self) -> str:
        """How often it was gone back, as in "for the 6th time"."""
        return f"for the {self._returns}th time"

    def state(self) -> dict[str, Any]:
        """Plain values from which `load_state` goes on."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("rate", "returned", "_bad_steps", "_returns", "_first_contrast")
