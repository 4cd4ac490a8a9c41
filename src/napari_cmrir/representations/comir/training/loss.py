"""The contrastive loss of a batch, the objective that training minimises, and recovery where it diverges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.errors import InputError
from napari_cmrir.registration.correlation import high_pass
from napari_cmrir.representations.comir.training.patches import circular_mask, local_circles, rotate
from napari_cmrir.representations.comir.training.validation import Selection
from napari_cmrir.representations.training_settings import TrainingSettings

__all__ = ["Objective", "Recovery", "contrastive_loss", "similarities"]


def similarities(comirs: Tensor, others: Tensor, critic: Literal["mse", "cosine"]) -> Tensor:
    """Compute the similarity of every CoMIR with every other CoMIR, by one matrix product.

    Parameters
    ----------
    comirs, others : (n, ...) and (m, ...) tensors
        One CoMIR per entry.
    critic : {"mse", "cosine"}
        ``"mse"``: negative mean squared difference, in (-inf, 0]. ``"cosine"``: zero-normalised correlation
        (cosine after each CoMIR's mean is subtracted), in [-1, 1].

    Returns
    -------
    (n, m) tensor

    Examples
    --------
    >>> similarities(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]]), "mse")
    tensor([[-0., -5.]])
    """
    a, b = comirs.flatten(1), others.flatten(1)
    if critic == "cosine":
        a, b = (F.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (a, b))
        return a @ b.T
    distances = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return -distances.clamp_min(0) / a.shape[1]


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    *,
    critic: Literal["mse", "cosine"] = "mse",
    temperature: float = 0.5,
) -> Tensor:
    """Compute InfoNCE over the 2N CoMIRs of N pairs: each CoMIR must pick its partner among all others.

    Pielawski, Wetzer et al., CoMIR, NeurIPS 2020, equation 2, symmetric as in the authors' code.

    Parameters
    ----------
    first, second : (N, ...) tensor
        CoMIRs of the two modalities; entries of equal index are partners.
    critic : {"mse", "cosine"}
        See `similarities`.
    temperature : float
        Divides the similarities; above 0.

    Returns
    -------
    scalar tensor
        Mean cross entropy, in nats; ``log(2N - 1)`` for networks that have learnt nothing.

    Examples
    --------
    >>> alike = torch.zeros(4, 1, 8, 8)
    >>> round(contrastive_loss(alike, alike).item(), 4)  # log(7)
    1.9459
    """
    n = first.shape[0]
    comirs = torch.cat((first, second))
    logits = similarities(comirs, comirs, critic) / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=logits.device)
    partners = torch.arange(2 * n, device=logits.device).roll(n)
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), partners)


class Objective:
    """The loss of a batch of CoMIRs: contrastive loss of patches and of local discs, and activation decay.

    Local contrastive losses follow Chaitanya et al., NeurIPS 2020, arXiv:2006.10511.

    Parameters
    ----------
    settings : TrainingSettings
    device : torch.device
        Device of the CoMIRs.

    Examples
    --------
    >>> objective = Objective(TrainingSettings(patch_size=32), torch.device("cpu"))
    >>> comirs = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> bool(objective(comirs, comirs, torch.zeros(4)) < objective(comirs, comirs.flip(0), torch.zeros(4)))
    True
    """

    def __init__(self, settings: TrainingSettings, device: torch.device) -> None:
        self.settings = settings
        side = settings.patch_size // settings.comparison_step
        counts = circular_mask(side) if settings.free_rotation else torch.ones(side, side, dtype=torch.bool)
        self._counts = counts.to(device)

    def __call__(self, first: Tensor, second: Tensor, turned: Tensor) -> Tensor:
        """Compute the loss.

        Parameters
        ----------
        first, second : (n, channel, y, x) tensor
            CoMIRs of the two modalities at the same places.
        turned : (n,) tensor
            Rotation of the second CoMIR against the first, in degrees.

        Returns
        -------
        () tensor
        """
        settings = self.settings
        step = settings.comparison_step
        if step > 1:
            first, second = F.avg_pool2d(first, step), F.avg_pool2d(second, step)
        filtered = [self._filtered(first), self._filtered(rotate(second, -turned))]
        critic, temperature = settings.critic, settings.temperature
        patches, partners = (comir[..., self._counts] for comir in filtered)
        loss = contrastive_loss(patches, partners, critic=critic, temperature=temperature)
        if settings.local_weight:
            discs, disc_partners = (local_circles(comir) for comir in filtered)
            local = contrastive_loss(discs, disc_partners, critic=critic, temperature=temperature)
            loss = loss + settings.local_weight * local
        if settings.activation_decay:
            values = torch.cat((patches, partners))
            loss = loss + settings.activation_decay * (values.abs().mean() + values.square().mean())
        return loss

    def _filtered(self, comir: Tensor) -> Tensor:
        """High-pass a CoMIR (n, channel, y, x); leave it unfiltered if the setting is 0."""
        if not self.settings.high_pass:
            return comir
        step = self.settings.comparison_step
        return high_pass(comir, self._counts.to(comir.dtype), self.settings.high_pass / step)


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
