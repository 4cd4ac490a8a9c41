"""What an image is turned into before it is described: the first axis of the replacement study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.registration.settings import HIGH_PASS_PX
from napari_cmrir.representations.comir.model import ComirModel, OutputScale

__all__ = ["REPRESENTATIONS", "Grey", "comir", "original"]

Images = Mapping[str, Sequence[NDArray[Any]]]


class Grey(nn.Module):
    """A network whose CoMIR is the grey image: the sigmoid of the export inverts its logit.

    Parameters
    ----------
    channels : int
        Channels of the image.

    Examples
    --------
    >>> (255 * Grey(3)(torch.full((1, 3, 2, 2), 0.2)).sigmoid()).round()[0, 0, 0].tolist()
    [51.0, 51.0]
    """

    stride, halo = 1, 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((channels, 1, 1), 1 / channels), requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        """Turn (n, channel, y, x), 0 to 1, into (n, 1, y, x)."""
        return (image * self.weights).sum(1, keepdim=True).logit(eps=1e-6)


def original(model: ComirModel, images: Images) -> ComirModel:
    """Represent every image by itself, as 8-bit grey: the paper's "Originals" (Table 1).

    Parameters
    ----------
    model : ComirModel
        Gives the names of the modalities.
    images : mapping of str to sequence of ndarray, (y, x, channel)
        Those of each modality; they set the range of grey values.

    Returns
    -------
    ComirModel
        A stand-in to be used where it is made; what it saves is no trained network that could be loaded.
    """
    intensities = {
        modality: choose_intensity(images[modality]).model_copy(update={"transform": "linear"})
        for modality in model.modalities
    }
    networks = {modality: Grey(intensity.channels) for modality, intensity in intensities.items()}
    return ComirModel(
        model.modalities,
        # Grey images vary slowly, too: they are filtered even beside a model that is trained without.
        model.settings.model_copy(update={"channels": 1, "high_pass": HIGH_PASS_PX}),
        intensities,
        cast(Any, networks),
        {modality: OutputScale((0.0,), (1.0,)) for modality in model.modalities},
        provenance={"representation": "original"},
    )


def comir(model: ComirModel, images: Images) -> ComirModel:
    """Represent every image by its CoMIR: the trained model, unchanged."""
    return model


REPRESENTATIONS: dict[str, Callable[[ComirModel, Images], ComirModel]] = {
    "original": original,
    "comir": comir,
}
"""How a study represents images, by name: each makes a model from the trained one and the images."""
