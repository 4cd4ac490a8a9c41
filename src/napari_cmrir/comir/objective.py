"""What a training minimises: the contrastive losses of the detail of whole patches, and of discs in them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.comir.detail import detail
from napari_cmrir.comir.loss import contrastive_loss
from napari_cmrir.comir.patches import disc, local_discs, rotate
from napari_cmrir.comir.settings import TrainingSettings

__all__ = ["Objective"]


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
        counts = disc(side) if settings.free_rotation else torch.ones(side, side, dtype=torch.bool)
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
            here, there = (local_discs(comir) for comir in compared)
            local = contrastive_loss(here, there, critic=critic, temperature=temperature)
            loss = loss + settings.local_weight * local
        if settings.activation_decay:
            counted = torch.cat((one, other))
            loss = loss + settings.activation_decay * (counted.abs().mean() + counted.square().mean())
        return loss

    def _compared(self, comir: Tensor) -> Tensor:
        """What of a CoMIR is compared, (n, channel, y, x)."""
        if not self.settings.detail:
            return comir
        step = self.settings.comparison_step
        return detail(comir, self._counts.to(comir.dtype), self.settings.detail / step)
