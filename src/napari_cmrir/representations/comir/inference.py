"""CoMIR inference in tiles, and the starter's kind of CoMIR, one network for any two modalities."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import LUMINANCE, STAIN, Intensity, choose_intensity, stain_white, to_grey
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.base import Rectangle, Representation, RepresentationKind, cut_tiles
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.settings import Comparison, ScoreWeights, dump_settings, load_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_cmrir.representations.comir.networks import Tiramisu, UNet

__all__ = [
    "ANY_MODALITY",
    "AnyModalityModel",
    "GreyIntensity",
    "OutputScale",
    "forward_in_batches",
    "infer",
    "own_intensity",
]

# Side of a tile in px; larger tiles need more memory, smaller ones repeat more halo
_TILE = 2048


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

    Images larger than 2,048 pixels a side are computed in tiles. Each tile includes the network's halo, so
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

    from napari_cmrir.representations.comir.networks import UNet, without_norms
    from napari_cmrir.representations.devices import (
        choose_device,
        is_out_of_memory,
        keep_freed_memory,
        release_memory,
    )

    keep_freed_memory()
    if rotations not in (1, 4):
        raise InputError(f"CoMIRs are averaged over 1 or 4 rotations, not {rotations}.")
    chosen = choose_device(device)
    network = network.to(chosen).eval()
    if isinstance(network, UNet):
        network = without_norms(network)
    else:
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
    import torch

    from napari_cmrir.representations.devices import run_parallel

    y, x, rows, columns = tile
    device = next(network.parameters()).device
    height, width = pixels.shape[:2]
    reach = network.halo + network.stride
    top, left = max(0, y - reach), max(0, x - reach)
    image = intensity.apply(np.asarray(pixels[top : y + rows + reach, left : x + columns + reach]))
    images = torch.from_numpy(image)[None]

    def turned(turns: Iterable[int]) -> list[Tensor]:
        answers = []
        for turn in turns:
            y0, y1 = _seen(y, rows, height, network, from_end=turn in (2, 3))
            x0, x1 = _seen(x, columns, width, network, from_end=turn in (1, 2))
            view = images[..., y0 - top : y1 - top, x0 - left : x1 - left]
            answer = torch.rot90(_forward(network, torch.rot90(view, turn, (2, 3)))[0].cpu(), -turn, (1, 2))
            answers.append(answer[:, y - y0 : y - y0 + rows, x - x0 : x - x0 + columns])
        return answers

    if rotations == 1:
        return _to_uint8(turned([0])[0], scale)
    upright, sideways = run_parallel(lambda: turned((0, 2)), lambda: turned((1, 3)), device)
    raw = torch.stack((upright[0], sideways[0], upright[1], sideways[1])).mean(0)
    return _to_uint8(raw, scale)


def _seen(first: int, count: int, whole: int, network: UNet | Tiramisu, *, from_end: bool) -> tuple[int, int]:
    """Give start and stop of the network's input for ``count`` rows, at whole strides from one end."""
    if from_end:
        start, stop = _seen(whole - first - count, count, whole, network, from_end=False)
        return whole - stop, whole - start
    start = max(0, first - network.halo) // network.stride * network.stride
    return start, min(whole, first + count + network.halo)


def _forward(network: UNet | Tiramisu, images: Tensor) -> Tensor:
    """Compute unscaled CoMIRs of images (n, channel, y, x), reflected to whole strides below and right."""
    import torch

    from napari_cmrir.representations.devices import training_precision

    height, width = images.shape[2:]
    below, right = -height % network.stride, -width % network.stride
    if below or right:
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (0, below), (0, right)), mode="reflect")
        images = torch.from_numpy(padded)
    device = next(network.parameters()).device
    return forward_in_batches(network, images, device, training_precision(device))[..., :height, :width]


def _to_uint8(raw: Tensor, scale: OutputScale) -> NDArray[np.uint8]:
    """Scale a network's output and map it by the sigmoid to 0 to 255."""
    import torch

    mean, deviation = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.deviation))
    scaled = (raw - mean) / deviation
    comir: NDArray[np.uint8] = scaled.sigmoid_().mul_(255).round_().to(torch.uint8).numpy()
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
        batch = images[done : done + count].to(device)
        if any(padding):
            batch = F.pad(batch, padding, mode="replicate")
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


_WINDOWS = 8  # along each axis of a large image, of `_WINDOW` px a side: 2**18 pixels are read
_WINDOW = 64


class GreyIntensity(Intensity):
    """An `Intensity` that first brings an image to one channel, `to_grey`."""

    white: tuple[float, ...] = Field(
        (), description="White of a stained section, see `stain_white`; empty for any other image"
    )

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Scale an image of any channels: (1, y, x)."""
        return super().apply(to_grey(np.asarray(pixels), self.white))


def own_intensity(pixels: Any, *, sees_stains: bool = True) -> GreyIntensity:
    """Choose an image's scaling by its own grey values, as `choose_intensity`.

    Parameters
    ----------
    pixels : (y, x) or (y, x, channel) array, or lazy image
        Of a large one, windows on a regular grid are read.
    sees_stains : bool
        Whether a stained section has grey values of its own, see `stain_white`.

    Examples
    --------
    >>> own_intensity(np.arange(101.0).reshape(1, -1, 1).repeat(9, 0)).high
    (100.0,)
    """
    seen = np.asarray(_some_of(pixels))
    white = stain_white(seen) if sees_stains else ()
    chosen = choose_intensity([to_grey(seen, white)])
    return GreyIntensity(**chosen.model_dump(), white=white)


def _some_of(pixels: Any) -> Any:
    height, width = pixels.shape[:2]
    if height * width <= 4 * (_WINDOWS * _WINDOW) ** 2:
        return pixels[:, :]
    tops, lefts = (_starts(side) for side in (height, width))
    rows = [
        np.concatenate([np.asarray(pixels[y : y + _WINDOW, x : x + _WINDOW]) for x in lefts], 1) for y in tops
    ]
    return np.concatenate(rows)


def _starts(side: int) -> list[int]:
    """Where windows along an axis start; they may overlap along a short one, none sticks out."""
    if side <= _WINDOW:
        return [0]
    starts: list[int] = np.linspace(0, side - _WINDOW, _WINDOWS).round().astype(int).tolist()
    return starts


class _OwnIntensity(GreyIntensity):
    """Scales every image that it is given by the image's own values."""

    sees_stains: bool = Field(description="See `own_intensity`")

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return own_intensity(pixels, sees_stains=self.sees_stains).apply(pixels)


class _OfEvery(dict[str, Intensity]):
    """An intensity for whatever modality is asked for."""

    def __init__(self, sees_stains: bool) -> None:
        super().__init__()
        self._sees_stains = sees_stains

    def __missing__(self, modality: str) -> Intensity:
        return _OwnIntensity(low=(0.0,), high=(1.0,), sees_stains=self._sees_stains)

    def __iter__(self) -> Iterator[str]:
        return iter(())


@dataclass
class AnyModalityModel(Representation):
    """One network that turns images of any modality into one common kind of image.

    An image is brought to one channel (`to_grey`) and scaled by its own values (`own_intensity`), so that
    neither its colours nor its range need to be known.

    Parameters
    ----------
    modalities : (str, str)
        Names to propose to a user; every other name is accepted as well.
    settings : TrainingSettings
        How it was trained.
    network : UNet or Tiramisu
        Of one input channel, in evaluation mode. Its weights count as rounded to half precision.
    scale : OutputScale
    history, provenance, score, pixel_size
        As of `Representation`.
    sees_stains : bool
        See `own_intensity`. Older files, and repositories that hold them, do not.
    """

    name: ClassVar[str] = "comir-any"
    takes_any_modality: ClassVar[bool] = True

    modalities: tuple[str, str]
    settings: TrainingSettings
    network: UNet | Tiramisu
    scale: OutputScale
    history: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    pixel_size: float | None = None
    sees_stains: bool = True

    def __post_init__(self) -> None:
        self.intensities = _OfEvery(self.sees_stains)
        self.network.load_state_dict(self.tensors())

    @property
    def channels(self) -> int:
        """Channels of a CoMIR."""
        return self.settings.channels

    @property
    def comparison(self) -> Comparison:
        """How its CoMIRs are compared: under the high pass of the training loss, with its own weights."""
        return Comparison(self.settings.high_pass, ScoreWeights.fitted("starter_fine_scores"))

    def represent(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        mask: NDArray[np.bool_] | None = None,
        device: str = "auto",
        rotations: int | None = None,
        part: Rectangle | None = None,
        out: Any = None,
    ) -> Job[NDArray[np.uint8]]:
        """Turn an image of any modality into its CoMIR; see `Representation.represent`."""
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        intensity = own_intensity(pixels, sees_stains=self.sees_stains)
        if channels > 1:
            kept = "the luminance" if channels == 3 else "the mean"
            if intensity.white:
                kept = "red less green and blue, as of a stained section"
            logging.getLogger("napari_cmrir").info(
                "%s images: %s.", modality, f"of {channels} channels, the model sees {kept}"
            )
        return infer(
            self.network,
            intensity,
            self.scale,
            pixels,
            mask=mask,
            device=device,
            rotations=self.settings.rotations if rotations is None else rotations,
            part=part,
            out=out,
        )

    def decisive(self) -> dict[str, Any]:
        """Give the values that decide the CoMIRs, beside the weights."""
        grey = {"three channels": list(LUMINANCE), "other numbers": "mean"}
        return {
            "modalities": list(self.modalities),
            "any_modality": True,
            "grey": grey | ({"stained": list(STAIN)} if self.sees_stains else {}),
            "network": self.settings.model_dump(
                mode="json", include={"network", "widths", "stem", "channels", "rotations"}
            ),
            "scale": [self.scale.mean, self.scale.deviation],
        }

    def described(self) -> dict[str, Any]:
        """Give the settings of the training."""
        return {"settings": dump_settings(self.settings)}

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights, those of convolutions in half precision."""
        return {
            name: tensor.half() if tensor.ndim == 4 else tensor
            for name, tensor in self.network.state_dict().items()
        }

    @classmethod
    def from_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> AnyModalityModel:
        """Make the model of a file, on the CPU and in evaluation mode."""
        from napari_cmrir.representations.comir.networks import build_network

        first, second = header["modalities"]
        settings = load_settings(TrainingSettings, header["settings"], header["file"])
        network = build_network(settings, 1)
        network.load_state_dict(tensors)
        scale = OutputScale(*map(tuple, header["scale"]))
        sees_stains = "stained" in header["grey"]
        return cls((first, second), settings, network.eval(), scale, sees_stains=sees_stains)


def _train(*_: Any, **__: Any) -> Job[AnyModalityModel]:
    raise InputError(
        "A model of any modality is not trained on pairs: use the one that ships, --model starter, or train"
        " a model of your two modalities with --representation comir."
    )


ANY_MODALITY = RepresentationKind(AnyModalityModel.from_file, _train)
