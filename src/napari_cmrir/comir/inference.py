"""From an image to its CoMIR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job, Progress

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel, OutputScale
    from napari_cmrir.comir.networks import Tiramisu, UNet

__all__ = ["represent"]

_TILE = 1024


def represent(
    model: ComirModel,
    pixels: NDArray[Any],
    modality: str,
    *,
    mask: NDArray[np.bool_] | None = None,
    device: str = "auto",
) -> Job[NDArray[np.uint8]]:
    """Turn an image into its CoMIR.

    Images of more than 1,024 pixels a side are computed in tiles; a tile sees as much around it as the
    network looks at, so that there is no seam.

    Parameters
    ----------
    model : ComirModel
        The trained model.
    pixels : (y, x) or (y, x, channel) array
        The image, of any size.
    modality : str
        Which of the model's two modalities it is.
    mask : (y, x) bool array, optional
        Where the image counts; the CoMIR is 0 elsewhere.
    device : {"auto", "cpu", "cuda", "mps"}
        Where to compute.

    Yields
    ------
    Progress
        In tiles.

    Returns
    -------
    (channel, y, x) uint8 array
        ``round(255 * sigmoid(CoMIR))``, as the published export.

    Raises
    ------
    InputError
        If the model does not have the modality, the image has another number of channels, or the machine
        has no such device.
    """
    from napari_cmrir.comir.devices import choose_device

    model.require_modality(modality)
    chosen = choose_device(device)
    network = model.networks[modality].to(chosen).eval()
    intensity = model.intensities[modality]
    stride, halo = network.stride, network.halo
    height, width = pixels.shape[:2]
    comir = np.empty((model.channels, height, width), np.uint8)
    tile = max(_TILE // stride, 1) * stride
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    for done, (y, x) in enumerate(corners):
        yield Progress(done, len(corners), "tiles", "Computing the CoMIR")
        top, left = max(0, y - halo), max(0, x - halo)
        seen = intensity.apply(pixels[top : y + tile + halo, left : x + tile + halo])
        answer = _forward(network, model.scales[modality], seen, stride)
        inner = answer[:, y - top : y - top + tile, x - left : x - left + tile]
        comir[:, y : y + tile, x : x + tile] = inner
    if mask is not None:
        comir[:, ~mask] = 0
    return comir


def _forward(
    network: UNet | Tiramisu, scale: OutputScale, image: NDArray[np.float32], stride: int
) -> NDArray[np.uint8]:
    """The CoMIR of one tile, reflected to whole strides at its lower and right border."""
    import torch

    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)), mode="reflect")
    device = next(network.parameters()).device
    batch = torch.from_numpy(padded)[None].to(device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        raw = network(batch)[0, :, :height, :width].float()
        mean = torch.tensor(scale.mean, device=device)[:, None, None]
        deviation = torch.tensor(scale.deviation, device=device)[:, None, None]
        comir: NDArray[np.uint8] = (
            ((raw - mean) / deviation).sigmoid().mul(255).round().to(torch.uint8).cpu().numpy()
        )
    return comir
