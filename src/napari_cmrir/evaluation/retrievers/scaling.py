"""How pixels become the numbers in [0, 1] that the competing systems take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.intensity import Intensity, choose_intensity

__all__ = ["PixelScaling", "Transform", "grey"]

Transform = Literal["linear", "log"]

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as in MATLAB's rgb2gray; 2DKD and IMTDF are MATLAB."""


class PixelScaling:
    """Scales the images of each modality by one mapping, for training, indexing and queries alike.

    8-bit pixels are divided by 255, as the published systems do. Pixels of other types, which those do not
    read, are scaled by the 0.1 and 99.9 percentiles of the modality's images.

    Parameters
    ----------
    transform : {"linear", "log"}
        log: a grey modality that is mostly dark, as SHG is, then takes log2(1 + x), which is the paper's
        log(1 + x) brought back to [0, 1] ("Dataset"). The paper applies it for CoMIR and the translated
        images, and does not say what it did for its competitors.

    Examples
    --------
    >>> scaling = PixelScaling()
    >>> scaling.choose([np.array([[[0], [51]]], np.uint8)], "SHG")
    >>> scaling.apply(np.array([[[0], [255]]], np.uint8), "SHG").tolist()
    [[[0.0, 1.0]]]
    """

    def __init__(self, transform: Transform = "linear") -> None:
        self.transform = transform
        self.ranges: dict[str, Intensity] = {}

    def choose(self, images: Iterable[NDArray[Any]], modality: str) -> None:
        """Choose the mapping of a modality, unless it has one.

        Parameters
        ----------
        images : iterable of ndarray, (y, x, channel)
        modality : str
        """
        images = list(images)
        if modality not in self.ranges and images:
            self.ranges[modality] = self._chosen(images)

    def apply(self, pixels: NDArray[Any], modality: str) -> NDArray[np.float32]:
        """Scale an image.

        Parameters
        ----------
        pixels : ndarray, (y, x, channel)
        modality : str
            One that has no mapping yet is scaled by the image itself.

        Returns
        -------
        ndarray, (channel, y, x)
            In [0, 1].

        Raises
        ------
        InputError
            The image has other channels than those that the mapping was chosen for.
        """
        intensity = self.ranges.get(modality) or self._chosen([pixels])
        scaled: NDArray[np.float32] = intensity.apply(pixels).clip(0, 1)
        return scaled

    def _chosen(self, images: Sequence[NDArray[Any]]) -> Intensity:
        chosen = choose_intensity(images)
        changes: dict[str, Any] = {} if self.transform == "log" else {"transform": "linear"}
        if all(image.dtype == np.uint8 for image in images):
            changes |= {"low": (0.0,) * chosen.channels, "high": (255.0,) * chosen.channels}
        return chosen.model_copy(update=changes)


def grey(planes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Make (y, x) of (channel, y, x): the luminance of three channels, the mean of any other number.

    Examples
    --------
    >>> grey(np.array([[[1.0]], [[0.0]], [[0.0]]])).tolist()
    [[0.299]]
    """
    weights = LUMINANCE if len(planes) == 3 else (1 / len(planes),) * len(planes)
    mixed: NDArray[np.float64] = np.tensordot(weights, planes.astype(np.float64), 1)
    return mixed
