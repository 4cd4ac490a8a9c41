"""ResNet152 trained on ImageNet as a dense descriptor: a feature is the layout of one channel's activation.

Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, "Stage II alternatives", and the authors' public code:
the network of He et al. 2016, doi:10.1109/CVPR.2016.90, without average pool and classifier, pooled to 8 x 8.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_cmrir.bag_of_words.descriptors.features import Features, as_channels, stretch
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.representations.imagenet import MEAN, STANDARD_DEVIATION, imagenet_network

__all__ = ["CHANNELS", "SIDE", "feature_matrix", "feature_network", "network_input", "resnet152"]

CHANNELS = 2048
"""Features of an image: the channels of the last map."""
SIDE = 8
"""Side of the grid that each channel is pooled to; its 64 values are the descriptor."""


def resnet152(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by ResNet152.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        uint8; other types are stretched to their range. Three channels are red, green and blue; one is
        tripled; of another number, the mean is. Computed on the tensor's device.
    settings : DescriptorSettings
        Only the name is used: neither grid nor normalisation applies.
    mask : (y, x) bool array, optional
        Not used: every feature sees the whole image.

    Returns
    -------
    Features
        2,048 of 64 values, not brought to unit length; the points are the image's middle. A strength is the
        sum of the values.

    Raises
    ------
    InputError
        The CoMIR has an unusable shape or type, or torchvision or the weights are missing.
    """
    values = feature_matrix(feature_network(), network_input(comir))
    height, width = comir.shape[-2:]
    point = np.array([height // 2, width // 2, min(height, width)], np.float32)
    return Features(np.tile(point, (len(values), 1)), values, values.sum(1))


def network_input(comir: Any) -> torch.Tensor:
    """Prepare a CoMIR for a network of ImageNet.

    Returns
    -------
    torch.Tensor, (1, 3, y, x)
        Divided by 255, less the mean, over the standard deviation of ImageNet.

    Examples
    --------
    >>> [round(float(value), 2) for value in network_input(np.full((1, 2, 2), 255, np.uint8))[0, :, 0, 0]]
    [2.25, 2.43, 2.64]
    """
    channels, _ = as_channels(comir)
    is_8_bit = comir.dtype in (np.uint8, torch.uint8)
    scaled = channels / 255 if is_8_bit else stretch(channels)
    if len(scaled) != 3:
        scaled = scaled.mean(0, keepdim=True).expand(3, -1, -1)
    mean, deviation = (scaled.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
    return ((scaled - mean) / deviation)[None].float()


@lru_cache(maxsize=1)
def feature_network() -> nn.Module:
    """Load ResNet152 up to its last map, 58,143,808 parameters; once a process.

    Raises
    ------
    InputError
        torchvision or the weights are missing.
    """
    return without_classifier(imagenet_network("resnet152"))


def without_classifier(network: nn.Module) -> nn.Module:
    """Leave out the last two children of a ResNet, average pool and classifier.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    nn.Module
        (n, 3, y, x) to (n, 2048, y / 32, x / 32), sides rounded up, in evaluation mode.
    """
    return nn.Sequential(*list(network.children())[:-2]).eval()


@torch.inference_mode()
def feature_matrix(network: nn.Module, image: torch.Tensor) -> NDArray[np.float32]:
    """Compute the features of an image.

    Parameters
    ----------
    network : nn.Module
        To the last map; moved to the image's device.
    image : (1, 3, y, x) tensor

    Returns
    -------
    ndarray, (channel, 64)
        Each channel pooled to 8 x 8, row by row. The windows overlap where 8 does not divide the map's side.
    """
    maps = network.to(image.device)(image)
    pooled = nn.functional.adaptive_avg_pool2d(maps, SIDE)
    values: NDArray[np.float32] = pooled[0].flatten(1).cpu().numpy()
    return values
