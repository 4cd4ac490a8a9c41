"""The registry of descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.features import Features
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.registry import Registry

__all__ = ["DESCRIPTORS", "Descriptor", "Features", "describe"]

Descriptor = Callable[[Any, DescriptorSettings, NDArray[np.bool_] | None], Features]
"""``describe(comir, settings, mask) -> Features``."""

DESCRIPTORS: Registry[Descriptor] = Registry(
    "descriptor",
    "napari_cmrir.descriptors",
    {
        "surf": "napari_cmrir.bag_of_words.descriptors.surf:surf",
        "sift": "napari_cmrir.bag_of_words.descriptors.sift:sift",
        "sift-keypoints": "napari_cmrir.bag_of_words.descriptors.sift:sift_at_keypoints",
    },
)
"""Descriptors by name; other packages add theirs as entry points of ``napari_cmrir.descriptors``."""


def describe(comir: Any, settings: DescriptorSettings, mask: NDArray[np.bool_] | None = None) -> Features:
    """Describe a CoMIR by the descriptor that the settings name.

    Parameters
    ----------
    comir : (channel, y, x) array or tensor
        The CoMIR; a (y, x) array is one channel.
    settings : DescriptorSettings
        Which descriptor, and its settings.
    mask : (y, x) bool array, optional
        Features on ground that it excludes are left out.

    Raises
    ------
    InputError
        If there is no descriptor of that name, or the CoMIR or the mask cannot be used.

    Examples
    --------
    >>> len(describe(np.zeros((1, 256, 256), np.uint8), DescriptorSettings.paper()))
    4096
    """
    return DESCRIPTORS[settings.name](comir, settings, mask)
