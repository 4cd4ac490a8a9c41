"""From an image to its CoMIR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.jobs import Job, Progress

if TYPE_CHECKING:
    import torch

    from napari_cmrir.comir.model import ComirModel, OutputScale
    from napari_cmrir.comir.networks import Tiramisu, UNet

__all__ = ["as_bytes", "forward_in_batches", "represent"]

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


def forward_in_batches(
    network: UNet | Tiramisu, images: torch.Tensor, device: torch.device, precision: torch.dtype
) -> torch.Tensor:
    """CoMIRs of images of equal size, as many at once as the memory holds.

    Parameters
    ----------
    network : UNet or Tiramisu
        On the device, in evaluation mode.
    images : (n, channel, y, x) tensor
        Anywhere; replicated to whole strides at their lower and right border.
    device : torch.device
    precision : torch.dtype
        In which convolutions are computed.

    Returns
    -------
    (n, channel, y, x) float32 tensor
        Not scaled.

    Examples
    --------
    >>> import torch
    >>> from napari_cmrir.comir.networks import UNet
    >>> network = UNet(1, 2, (4, 8)).eval()
    >>> forward_in_batches(network, torch.zeros(3, 1, 25, 30), torch.device("cpu"), torch.float32).shape
    torch.Size([3, 2, 25, 30])
    """
    import torch
    from torch.nn import functional as F

    from napari_cmrir.comir.devices import is_out_of_memory, release_memory

    height, width = images.shape[-2:]
    padding = (0, -width % network.stride, 0, -height % network.stride)
    answers: list[torch.Tensor] = []
    count, done = len(images), 0
    while done < len(images):
        batch = F.pad(images[done : done + count].to(device), padding, mode="replicate")
        batch = batch.contiguous(memory_format=torch.channels_last)
        try:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, precision, enabled=precision is not torch.float32),
            ):
                answers.append(network(batch)[..., :height, :width].float())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or count == 1:
                raise
        else:
            done += len(batch)
            continue
        count = (count + 1) // 2
        release_memory(device)
    return torch.cat(answers).contiguous()


def as_bytes(comir: torch.Tensor) -> NDArray[np.uint8]:
    """Stretch a CoMIR over 8 bits by its own mean and deviation, to be looked at.

    Parameters
    ----------
    comir : (channel, y, x) tensor
    """
    mean, deviation = comir.mean((-2, -1), keepdim=True), comir.std((-2, -1), keepdim=True).clamp_min(1e-6)
    pressed: NDArray[np.uint8] = ((comir - mean) / deviation).sigmoid().mul(255).round().byte().cpu().numpy()
    return pressed
