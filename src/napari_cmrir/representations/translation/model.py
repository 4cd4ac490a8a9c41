"""A model of pix2pix or CycleGAN: images are translated into the other modality, and compared there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.base import Rectangle, Representation
from napari_cmrir.representations.devices import choose_device, is_out_of_memory, training_precision
from napari_cmrir.representations.training_settings import (
    CYCLEGAN_PRESETS,
    PIX2PIX_PRESETS,
    CycleGanSettings,
    Pix2PixSettings,
    TranslationSettings,
)
from napari_cmrir.representations.translation.networks import build_generator
from napari_cmrir.representations.translation.objectives import with_channels
from napari_cmrir.settings import dump_settings, load_settings

__all__ = [
    "NOT_COMPARABLE",
    "CycleGanModel",
    "Pix2PixModel",
    "TranslationModel",
    "folded",
    "translate_tensor",
]

NOT_COMPARABLE = "not the published method, its figures are not comparable with the paper"
"""What is said of every figure of a model whose settings are not the preset ``paper``."""

_TILE = 1024  # largest side of a tile in px of the network's input: the paper's images, 834 px, are one tile
_MARGIN = 64  # px around a tile that is not a whole image: the reach of a discriminator's patch; not measured


@dataclass
class TranslationModel(Representation):
    """Two generators, one for each direction, and the modality that images are compared in.

    An image of the other modality is translated; one of the target modality stays as it is. Both become
    grey, by the mean of their channels, as the representation "original" is.

    Parameters
    ----------
    modalities : (str, str)
    settings : TranslationSettings
        How it was trained.
    intensities : dict of str to Intensity
    networks : dict of str to Module
        The generator that translates from each modality into the other one.
    target : str
        The modality that images are compared in.
    history, provenance, score, pixel_size
        As of `Representation`.
    """

    kind: ClassVar[type[TranslationSettings]]
    presets: ClassVar[dict[str, Any]]

    modalities: tuple[str, str]
    settings: TranslationSettings
    intensities: dict[str, Intensity]
    networks: dict[str, torch.nn.Module]
    target: str
    history: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    pixel_size: float | None = None

    @property
    def channels(self) -> int:
        """Channels of a represented image: 1."""
        return 1

    @property
    def targets(self) -> tuple[str, ...]:
        """The modalities that images can be compared in: both."""
        return self.modalities

    @property
    def caveat(self) -> str:
        """What must be said wherever figures of this model are shown."""
        if self.settings.published() == self.presets["paper"].published():
            return ""
        is_fast = self.settings.published() == self.presets["fast"].published()
        return f"{'fast preset' if is_fast else 'own settings'}: {NOT_COMPARABLE}"

    def towards(self, target: str) -> Self:
        """Give the same model, comparing images in a modality.

        Raises
        ------
        InputError
            If it is none of the model's two.
        """
        self.require_modality(target)
        return replace(self, target=target)

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
        """Bring an image to grey in the target modality; see `Representation.represent`."""
        self.require_modality(modality)
        if rotations not in (None, 1):
            raise InputError(f"The representation '{self.name}' takes no mean over rotations.")
        wanted = part or (0, 0, *pixels.shape[:2])
        top, left, height, width = wanted
        answer = np.empty((1, height, width), np.uint8) if out is None else out
        # Tiles are cut from the whole image, whatever part is asked for: its statistics decide the result.
        tiles = [tile for tile in self._tiles(pixels.shape[:2]) if _overlap(tile, wanted) is not None]
        for done, tile in enumerate(tiles):
            yield Progress(done, len(tiles), "tiles", "Translating the image")
            found = self._tile(pixels, modality, tile, device, is_fake=modality != self.target)
            grey = (255 * found).mean(0, keepdims=True)
            inside = _overlap(tile, wanted)
            assert inside is not None
            y, x, rows, columns = inside
            # fakes are cut off to 8 bits, as published; originals are rounded
            whole = np.floor(grey) if modality != self.target else np.rint(grey)
            piece = whole[:, y - tile[0] :, x - tile[1] :][:, :rows, :columns].astype(np.uint8)
            if mask is not None:
                piece = piece * mask[y : y + rows, x : x + columns]
            answer[:, y - top : y - top + rows, x - left : x - left + columns] = piece
        return answer

    def translate(
        self, pixels: NDArray[Any], modality: str, *, device: str = "auto"
    ) -> Job[NDArray[np.uint8]]:
        """Translate an image into the other modality, in its colours.

        Parameters
        ----------
        pixels : (y, x) or (y, x, channel) array
        modality : str
            Of the image.
        device : {"auto", "cpu", "cuda", "mps"}

        Yields
        ------
        Progress
            In tiles.

        Returns
        -------
        (channel, y, x) uint8 array
            With the channels of the other modality.
        """
        other = self._other(modality)
        answer = np.empty((self.intensities[other].channels, *pixels.shape[:2]), np.uint8)
        tiles = self._tiles(pixels.shape[:2])
        for done, tile in enumerate(tiles):
            yield Progress(done, len(tiles), "tiles", "Translating the image")
            y, x, rows, columns = tile
            fake = self._tile(pixels, modality, tile, device, is_fake=True)
            answer[:, y : y + rows, x : x + columns] = np.floor(255 * fake)
        return answer

    def _other(self, modality: str) -> str:
        """Give the modality that images of one are translated into."""
        self.require_modality(modality)
        first, second = self.modalities
        return first if modality == second else second

    def _tiles(self, shape: Sequence[int]) -> list[Rectangle]:
        """Cut an image into tiles of about equal size; one tile up to 1,024 px a side of network input."""
        ends = []
        for side in shape:
            count = -(-side // (_TILE * self.settings.reduction))
            ends.append(np.linspace(0, side, count + 1).round().astype(int).tolist())
        return [
            (y, x, y1 - y, x1 - x)
            for y, y1 in zip(ends[0], ends[0][1:], strict=False)
            for x, x1 in zip(ends[1], ends[1][1:], strict=False)
        ]

    def _tile(
        self, pixels: NDArray[Any], modality: str, tile: Rectangle, device: str, *, is_fake: bool
    ) -> NDArray[np.float32]:
        """Give a tile of the image, or of its fake, of values 0 to 1."""
        y, x, rows, columns = tile
        margin = _MARGIN * self.settings.reduction if is_fake else 0
        top, left = max(0, y - margin), max(0, x - margin)
        source = np.asarray(pixels[top : y + rows + margin, left : x + columns + margin])
        scaled = self.intensities[modality].apply(source).clip(0, 1)
        if is_fake:
            other = self._other(modality)
            chosen = choose_device(device)
            images = torch.from_numpy(scaled)[None].to(chosen)
            try:
                fake = translate_tensor(
                    self.networks[modality].to(chosen), images, self.settings, self._dropout(chosen)
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise InputError(
                    f"The memory of {chosen.type} does not hold a tile of {rows} x {columns} pixels; compute"
                    " on another device, or give a smaller image."
                ) from None
            scaled = folded(fake, self.intensities[other].channels)[0].cpu().numpy()
        return scaled[:, y - top : y - top + rows, x - left : x - left + columns]

    def _dropout(self, device: torch.device) -> torch.Generator | None:
        is_on = isinstance(self.settings, Pix2PixSettings) and self.settings.inference_dropout
        return torch.Generator(device).manual_seed(self.settings.seed) if is_on else None

    def decisive(self) -> dict[str, Any]:
        """Give the values that determine a represented image, except the weights."""
        names = {"filters", "downs", "blocks", "reduction", "patch_size", "inference_dropout"}
        decisive = self.settings.model_dump(mode="json", include=names)
        if decisive.get("inference_dropout"):
            decisive["seed"] = self.settings.seed
        return {
            "modalities": list(self.modalities),
            "target": self.target,
            "network": decisive,
            "intensities": {m: i.model_dump(mode="json") for m, i in self.intensities.items()},
        }

    def described(self) -> dict[str, Any]:
        """Give the settings of the training, and the modality that images are compared in."""
        return {"compared in": self.target, "settings": dump_settings(self.settings)}

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights, by ``<modality>/<name>`` of the modality that is translated."""
        return {
            f"{modality}/{name}": tensor
            for modality, network in self.networks.items()
            for name, tensor in network.state_dict().items()
        }

    @classmethod
    def from_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        """Build the model from a file, on the CPU and in evaluation mode."""
        first, second = header["modalities"]
        settings = load_settings(cls.kind, header["settings"], header["file"])
        intensities = {
            m: load_settings(Intensity, header["intensities"][m], header["file"]) for m in (first, second)
        }
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise ValueError("some weights are not numbers")
        networks: dict[str, torch.nn.Module] = {}
        for modality, other in ((first, second), (second, first)):
            shown = max(intensities[name].channels for name in (first, second))
            given = shown if cls is CycleGanModel else intensities[other].channels
            network = build_generator(settings, shown, given)
            prefix = f"{modality}/"
            network.load_state_dict(
                {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
            )
            networks[modality] = network.eval()
        return cls((first, second), settings, intensities, networks, header["target"])


class Pix2PixModel(TranslationModel):
    """Images translated by pix2pix (Isola et al., CVPR 2017)."""

    name = "pix2pix"
    kind = Pix2PixSettings
    presets = PIX2PIX_PRESETS


class CycleGanModel(TranslationModel):
    """Images translated by CycleGAN (Zhu et al., ICCV 2017)."""

    name = "cyclegan"
    kind = CycleGanSettings
    presets = CYCLEGAN_PRESETS


def translate_tensor(
    network: torch.nn.Module,
    images: Tensor,
    settings: TranslationSettings,
    dropout: torch.Generator | None = None,
) -> Tensor:
    """Translate images by a generator.

    They are reduced, padded by reflection to the next multiple of a patch's side (always by some pixels, as
    published), and cut and enlarged afterwards.

    Parameters
    ----------
    network : Module
    images : (n, channel, y, x) tensor
        Values 0 to 1, on the network's device.
    settings : TranslationSettings
    dropout : torch.Generator, optional
        Draws dropout; none without it.

    Returns
    -------
    (n, channel, y, x) float32 tensor
        Values 0 to 1.
    """
    height, width = images.shape[-2:]
    device, factor = images.device, settings.reduction
    precision = training_precision(device)
    first = next(network.parameters())
    x = with_channels(images, first.shape[1]) * 2 - 1
    if factor > 1:
        x = F.avg_pool2d(F.pad(x, (0, -width % factor, 0, -height % factor), mode="replicate"), factor)
    padded, (y0, x0) = _padded(x, settings.patch_size)
    rows, columns = x.shape[-2:]
    with (
        torch.inference_mode(),
        torch.autocast(device.type, precision, enabled=precision is not torch.float32),
    ):
        fake = network(padded.contiguous(memory_format=torch.channels_last), dropout)
    fake = (fake[..., y0 : y0 + rows, x0 : x0 + columns].float() + 1) / 2
    if factor > 1:
        fake = F.interpolate(fake, scale_factor=factor, mode="bilinear", align_corners=False)
    answer: Tensor = fake[..., :height, :width]
    return answer


def _padded(images: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad by reflection to the next multiple, the image in the middle; give its first row and column."""
    more = [multiple - side % multiple for side in images.shape[-2:]]
    widths = [(extra // 2, extra - extra // 2) for extra in more]
    padded = np.pad(images.cpu().numpy(), ((0, 0), (0, 0), *widths), mode="reflect")
    return torch.from_numpy(padded).to(images.device), (widths[0][0], widths[1][0])


def folded(images: Tensor, channels: int) -> Tensor:
    """Average the channels that `with_channels` made of one; the inverse of it."""
    if images.shape[1] == channels:
        return images
    return torch.stack([images[:, k::channels].mean(1) for k in range(channels)], 1)


def _overlap(tile: Rectangle, wanted: Rectangle) -> Rectangle | None:
    """Give the rectangle that two have in common; none if they have none."""
    top, left = max(tile[0], wanted[0]), max(tile[1], wanted[1])
    bottom = min(tile[0] + tile[2], wanted[0] + wanted[2])
    right = min(tile[1] + tile[3], wanted[1] + wanted[3])
    return (top, left, bottom - top, right - left) if bottom > top and right > left else None
