"""Recovery: detects a diverging training and returns it to the kept networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.representations.comir.training.validation import Selection

__all__ = ["Recovery"]

# Consecutive steps without a finite loss before training returns to the kept networks; a single one may be
# an unlucky batch. Not measured.
_MOST_BAD_STEPS = 5
_MOST_RETURNS = 5  # each halves the learning rate, to 1/32 in the end; not measured
_FLAT = 1e-3  # share of the CoMIRs' initial contrast at which they count as collapsed; not measured


class Recovery:
    """Detects loss or weights that are not numbers and flat CoMIRs, and restores the kept networks.

    Parameters
    ----------
    networks : mapping of str to Module
        Network of each modality.
    optimiser : Optimizer
        Optimiser of the networks' parameters; its state is cleared on a return.
    selection : Selection
        Holds the kept networks.

    Attributes
    ----------
    rate : float
        Factor of the learning rate, halved at each return.
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
        """Give the reason to return to the kept networks after a step with this loss; empty if none.

        Parameters
        ----------
        loss : float
            Loss of the step; not a number if the step was skipped.
        """
        self._bad_steps = 0 if math.isfinite(loss) else self._bad_steps + 1
        failed = self._bad_steps >= _MOST_BAD_STEPS or (self._bad_steps > 0 and not self._are_finite())
        return "the loss is not a number" if failed else ""

    def reason_in_networks(self, comirs: Sequence[Tensor]) -> str:
        """Give the reason to return to the kept networks, from weights and CoMIRs; empty if none.

        Parameters
        ----------
        comirs : sequence of (n, channel, y, x) tensor
            The latest CoMIRs of each modality.
        """
        if not self._are_finite():
            return "the weights are not numbers"
        contrast = min(float(comir.detach().std((-2, -1)).mean()) for comir in comirs)
        self._first_contrast = self._first_contrast or contrast
        return "the CoMIRs have become flat" if contrast <= _FLAT * self._first_contrast else ""

    def _are_finite(self) -> bool:
        """Tell whether all weights and running statistics are finite."""
        tensors = (tensor for network in self.networks.values() for tensor in network.state_dict().values())
        return all(bool(tensor.isfinite().all()) for tensor in tensors)

    def go_back(self, step: int, reason: str) -> str | None:
        """Restore the kept networks and halve the learning rate.

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
            After too many returns, if the kept networks are those before the first step.
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
        """Number of returns in words, such as "for the 6th time"."""
        return f"for the {self._returns}th time"

    def state(self) -> dict[str, Any]:
        """Give the state as plain values, for `load_state`."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("rate", "returned", "_bad_steps", "_returns", "_first_contrast")
