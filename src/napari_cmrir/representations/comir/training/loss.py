"""The contrastive loss over a batch of pairs, and the objective that a training minimises."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.registration.correlation import high_pass
from napari_cmrir.representations.comir.training.patches import circular_mask, local_circles, rotate
from napari_cmrir.representations.comir.training.settings import TrainingSettings

__all__ = ["Objective", "contrastive_loss", "similarities"]


def similarities(comirs: Tensor, others: Tensor, critic: Literal["mse", "cosine"]) -> Tensor:
    """Similarity of every CoMIR with every one of others, by one matrix product.

    Parameters
    ----------
    comirs, others : (n, ...) and (m, ...) tensors
        One CoMIR an entry.
    critic : {"mse", "cosine"}
        ``"mse"``: the negative mean squared difference, in (-inf, 0]; ``"cosine"``: the cosine after each
        CoMIR's mean is taken away, that is their zero-normalised correlation, in [-1, 1].

    Returns
    -------
    (n, m) tensor

    Examples
    --------
    >>> similarities(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]]), "mse")
    tensor([[-0., -5.]])
    """
    one, other = comirs.flatten(1), others.flatten(1)
    if critic == "cosine":
        one, other = (F.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (one, other))
        return one @ other.T
    distances = one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
    return -distances.clamp_min(0) / one.shape[1]


def contrastive_loss(
    first: Tensor,
    second: Tensor,
    *,
    critic: Literal["mse", "cosine"] = "mse",
    temperature: float = 0.5,
) -> Tensor:
    """InfoNCE over the 2N CoMIRs of N pairs: each has to pick its partner among all the others.

    Pielawski, Wetzer et al., CoMIR, NeurIPS 2020, equation 2, made symmetric as in their code.

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
        Mean cross entropy, in nats; ``log(2N - 1)`` when nothing is learnt.

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
    """The loss of a batch's CoMIRs.

    Parameters
    ----------
    settings : TrainingSettings
    device : torch.device
        Where the CoMIRs are.

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
        """Return the loss.

        Parameters
        ----------
        first, second : (n, channel, y, x) tensor
            CoMIRs of the same places.
        turned : (n,) tensor
            Degrees by which the second is turned against the first.

        Returns
        -------
        () tensor
        """
        settings = self.settings
        step = settings.comparison_step
        if step > 1:
            first, second = F.avg_pool2d(first, step), F.avg_pool2d(second, step)
        compared = [self._compared(first), self._compared(rotate(second, -turned))]
        critic, temperature = settings.critic, settings.temperature
        one, other = (comir[..., self._counts] for comir in compared)
        loss = contrastive_loss(one, other, critic=critic, temperature=temperature)
        if settings.local_weight:
            here, there = (local_circles(comir) for comir in compared)
            local = contrastive_loss(here, there, critic=critic, temperature=temperature)
            loss = loss + settings.local_weight * local
        if settings.activation_decay:
            counted = torch.cat((one, other))
            loss = loss + settings.activation_decay * (counted.abs().mean() + counted.square().mean())
        return loss

    def _compared(self, comir: Tensor) -> Tensor:
        """The high-passed CoMIR, (n, channel, y, x); unfiltered if the setting is 0."""
        if not self.settings.high_pass:
            return comir
        step = self.settings.comparison_step
        return high_pass(comir, self._counts.to(comir.dtype), self.settings.high_pass / step)
