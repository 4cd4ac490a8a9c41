"""The contrastive loss over the CoMIRs of a batch of pairs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_loss", "similarities"]


def similarities(comirs: Tensor, critic: Literal["mse", "cosine"]) -> Tensor:
    """Similarity of every CoMIR with every other, by one matrix product.

    Parameters
    ----------
    comirs : (n, ...) tensor
        One CoMIR an entry.
    critic : {"mse", "cosine"}
        ``"mse"``: the negative mean squared difference, in (-inf, 0]; ``"cosine"``: the cosine after each
        CoMIR's mean is taken away, that is their zero-normalised correlation, in [-1, 1].

    Returns
    -------
    (n, n) tensor

    Examples
    --------
    >>> similarities(torch.tensor([[0.0, 0.0], [1.0, 3.0]]), "mse")
    tensor([[-0., -5.],
            [-5., -0.]])
    """
    flat = comirs.flatten(1)
    if critic == "cosine":
        flat = F.normalize(flat - flat.mean(1, keepdim=True), dim=1)
        return flat @ flat.T
    squares = flat.square().sum(1)
    distances = (squares[:, None] + squares[None, :] - 2 * flat @ flat.T).clamp_min(0)
    return -distances / flat.shape[1]


def contrastive_loss(
    first: Tensor, second: Tensor, *, critic: Literal["mse", "cosine"] = "mse", temperature: float = 0.5
) -> Tensor:
    """InfoNCE over the 2N CoMIRs of N pairs: each has to pick its partner among the 2N - 1 others.

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
    logits = similarities(torch.cat((first, second)), critic) / temperature
    logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=logits.device), -torch.inf)
    partners = torch.arange(2 * n, device=logits.device).roll(n)
    return F.cross_entropy(logits, partners)
