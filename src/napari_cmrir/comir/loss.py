"""The contrastive loss over the CoMIRs of a batch of pairs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_loss", "similarities"]


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
