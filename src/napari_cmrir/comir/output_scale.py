"""How a finished network's output is scaled to fill 8 bits."""

from __future__ import annotations

import torch

from napari_cmrir.comir.inference import forward_in_batches
from napari_cmrir.comir.model import OutputScale
from napari_cmrir.comir.networks import Tiramisu, UNet
from napari_cmrir.comir.settings import TrainingSettings

__all__ = ["DEVIATIONS", "LEAST_SCALE", "measure_scale"]

DEVIATIONS = 2.0
"""Standard deviations to a unit of the scaled output: room for images of more contrast."""

LEAST_SCALE = 2e-6
"""Of a flat output."""


def measure_scale(
    network: UNet | Tiramisu, patches: torch.Tensor, settings: TrainingSettings, device: torch.device
) -> OutputScale:
    """Mean and `DEVIATIONS` standard deviations of each channel.

    The published export, for the mse critic, takes the plain output.

    Parameters
    ----------
    network : UNet or Tiramisu
        On the device.
    patches : (n, channel, y, x) tensor
        Of the network's modality.
    settings : TrainingSettings
    device : torch.device
    """
    channels = settings.channels
    if settings.critic == "mse":
        return OutputScale((0.0,) * channels, (1.0,) * channels)
    network.eval()
    turns = range(0, 4, 4 // settings.rotations)
    comirs = torch.stack([_turned_back(network, patches, turn, device) for turn in turns]).mean(0)
    comirs = comirs.transpose(0, 1).flatten(1)
    scale = (DEVIATIONS * comirs.std(1)).clamp_min(LEAST_SCALE)
    return OutputScale(tuple(comirs.mean(1).tolist()), tuple(scale.tolist()))


def _turned_back(
    network: UNet | Tiramisu, patches: torch.Tensor, turn: int, device: torch.device
) -> torch.Tensor:
    """CoMIRs of patches turned by quarters, turned back."""
    turned = torch.rot90(patches, turn, (2, 3))
    return torch.rot90(forward_in_batches(network, turned, device, torch.float32), -turn, (2, 3))
