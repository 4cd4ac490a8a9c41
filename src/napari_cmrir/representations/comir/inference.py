"""Inference: from an image to its CoMIR, tile by tile."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.base import Rectangle, cut_tiles

if TYPE_CHECKING:
    import torch

    from napari_cmrir.representations.comir.networks import Tiramisu, UNet

__all__ = ["OutputScale", "as_bytes", "forward_in_batches", "infer"]

# Side of a tile in px; larger tiles need more memory, smaller ones repeat more halo; not measured
_TILE = 1024


@dataclass(frozen=True)
class OutputScale:
    """Offset and divisor of a network's output before the sigmoid: ``(output - mean) / deviation``.

    Parameters
    ----------
    mean, deviation : tuple of float
        One value per CoMIR channel. The published networks use 0 and 1.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def infer(
    network: UNet | Tiramisu,
    intensity: Intensity,
    scale: OutputScale,
    pixels: NDArray[Any],
    *,
    mask: NDArray[np.bool_] | None = None,
    device: str = "auto",
    rotations: int = 1,
    part: Rectangle | None = None,
    out: Any = None,
) -> Job[NDArray[np.uint8]]:
    """Compute the CoMIR of an image by the network of its modality.

    Images larger than 1,024 pixels a side are computed in tiles. Each tile includes the network's halo, so
    tiles join without a seam. Tiles shrink when memory runs out. Convolutions use `training_precision`.

    Parameters
    ----------
    network : UNet or Tiramisu
    intensity : Intensity
        Scales the image's values to the network's input range.
    scale : OutputScale
    pixels, mask, device, rotations, part, out
        See `Representation.represent`.

    Yields
    ------
    Progress
        In tiles.

    Returns
    -------
    (channel, y, x) uint8 array
        ``round(255 * sigmoid(scaled output))``, as in the published export; `out` if it is given.

    Raises
    ------
    InputError
        If the image has another number of channels, the machine lacks the device, or its memory does not
        hold the smallest tile.
    """
    import torch

    from napari_cmrir.representations.devices import choose_device, is_out_of_memory, release_memory

    if rotations not in (1, 4):
        raise InputError(f"CoMIRs are averaged over 1 or 4 rotations, not {rotations}.")
    chosen = choose_device(device)
    network = network.to(chosen).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stride = network.stride
    first_y, first_x, height, width = (0, 0, *pixels.shape[:2]) if part is None else part
    comir = np.empty((len(scale.mean), height, width), np.uint8) if out is None else out
    tile = max(_TILE // stride, 1) * stride
    waiting = deque(cut_tiles((first_y, first_x, height, width), tile))
    done = 0
    while waiting:
        yield Progress(done, done + len(waiting), "tiles", "Computing the CoMIR")
        try:
            answer = _tile(network, intensity, scale, pixels, waiting[0], rotations)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            answer = None
        if answer is None:
            release_memory(chosen)
            if tile == stride:
                raise InputError(
                    f"The memory of {chosen.type} does not hold a tile of {tile} pixels a side with its"
                    " surroundings; compute on another device."
                )
            tile = max(tile // 2 // stride, 1) * stride
            waiting = deque(piece for whole in waiting for piece in cut_tiles(whole, tile))
            continue
        y, x, rows, columns = waiting.popleft()
        if mask is not None:
            answer[:, ~mask[y : y + rows, x : x + columns]] = 0
        y, x = y - first_y, x - first_x
        comir[:, y : y + rows, x : x + columns] = answer
        done += 1
    return comir


def _tile(
    network: UNet | Tiramisu,
    intensity: Intensity,
    scale: OutputScale,
    pixels: NDArray[Any],
    tile: Rectangle,
    rotations: int,
) -> NDArray[np.uint8]:
    """Compute the CoMIR of one tile, (channel, y, x), from the tile and its halo.

    The network's grid of strides starts at the first corner of the turned image. Each turn is therefore cut
    at whole strides from that corner, so that a tile equals the same part of the whole image.
    """
    y, x, rows, columns = tile
    height, width = pixels.shape[:2]
    reach = network.halo + network.stride
    top, left = max(0, y - reach), max(0, x - reach)
    image = intensity.apply(np.asarray(pixels[top : y + rows + reach, left : x + columns + reach]))
    raw = np.zeros((len(scale.mean), rows, columns), np.float32)
    for turn in range(0, 4, 4 // rotations):
        y0, y1 = _seen(y, rows, height, network, from_end=turn in (2, 3))
        x0, x1 = _seen(x, columns, width, network, from_end=turn in (1, 2))
        view = image[:, y0 - top : y1 - top, x0 - left : x1 - left]
        answer = np.rot90(_forward(network, np.rot90(view, turn, (1, 2))), -turn, (1, 2))
        raw += answer[:, y - y0 : y - y0 + rows, x - x0 : x - x0 + columns] / np.float32(rotations)
    return _to_uint8(raw, scale)


def _seen(first: int, count: int, whole: int, network: UNet | Tiramisu, *, from_end: bool) -> tuple[int, int]:
    """Give start and stop of the network's input for ``count`` rows, at whole strides from one end."""
    if from_end:
        start, stop = _seen(whole - first - count, count, whole, network, from_end=False)
        return whole - stop, whole - start
    start = max(0, first - network.halo) // network.stride * network.stride
    return start, min(whole, first + count + network.halo)


def _forward(network: UNet | Tiramisu, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the unscaled CoMIR of an image, reflected to whole strides below and to the right."""
    import torch

    from napari_cmrir.representations.devices import training_precision

    height, width = image.shape[1:]
    stride = network.stride
    padded = np.pad(image, ((0, 0), (0, -height % stride), (0, -width % stride)), mode="reflect")
    device = next(network.parameters()).device
    comir = forward_in_batches(network, torch.from_numpy(padded)[None], device, training_precision(device))
    answer: NDArray[np.float32] = comir[0, :, :height, :width].cpu().numpy()
    return answer


def _to_uint8(raw: NDArray[np.float32], scale: OutputScale) -> NDArray[np.uint8]:
    """Scale a network's output and map it by the sigmoid to 0 to 255."""
    import torch

    mean, deviation = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.deviation))
    scaled = (torch.from_numpy(np.ascontiguousarray(raw)) - mean) / deviation
    comir: NDArray[np.uint8] = scaled.sigmoid().mul(255).round().to(torch.uint8).numpy()
    return comir


def forward_in_batches(
    network: UNet | Tiramisu, images: torch.Tensor, device: torch.device, precision: torch.dtype
) -> torch.Tensor:
    """Compute the CoMIRs of images of equal size, in batches as large as the memory holds.

    Parameters
    ----------
    network : UNet or Tiramisu
        On the device, in evaluation mode.
    images : (n, channel, y, x) tensor
        On any device. The lower and right border are replicated to whole strides.
    device : torch.device
    precision : torch.dtype
        Number format of the convolutions.

    Returns
    -------
    (n, channel, y, x) float32 tensor
        The network's output, not scaled.

    Examples
    --------
    >>> import torch
    >>> from napari_cmrir.representations.comir.networks import UNet
    >>> network = UNet(1, 2, (4, 8)).eval()
    >>> forward_in_batches(network, torch.zeros(3, 1, 25, 30), torch.device("cpu"), torch.float32).shape
    torch.Size([3, 2, 25, 30])
    """
    import torch
    from torch.nn import functional as F

    from napari_cmrir.representations.devices import is_out_of_memory, release_memory

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
    """Scale a CoMIR to 8 bits by its own mean and standard deviation, for display.

    Parameters
    ----------
    comir : (channel, y, x) tensor

    Returns
    -------
    (channel, y, x) uint8 array
    """
    mean, deviation = comir.mean((-2, -1), keepdim=True), comir.std((-2, -1), keepdim=True).clamp_min(1e-6)
    shown: NDArray[np.uint8] = ((comir - mean) / deviation).sigmoid().mul(255).round().byte().cpu().numpy()
    return shown
