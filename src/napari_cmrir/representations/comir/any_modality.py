"""A CoMIR model of one network for every modality, such as the starter model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity, choose_intensity
from napari_cmrir.jobs import Job
from napari_cmrir.representations.base import Rectangle, Representation, RepresentationKind
from napari_cmrir.representations.comir.inference import OutputScale, infer
from napari_cmrir.representations.comir.training.settings import TrainingSettings
from napari_cmrir.settings import dump_settings, load_settings

if TYPE_CHECKING:
    from torch import Tensor

    from napari_cmrir.representations.comir.networks import Tiramisu, UNet

__all__ = ["ANY_MODALITY", "AnyModalityModel", "GreyIntensity", "own_intensity", "to_grey"]

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, of red, green and blue
_WINDOWS = 8  # along each axis of a large image, of `_WINDOW` px a side: 2**18 pixels are read
_WINDOW = 64


def to_grey(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Bring an image to one channel: the luminance of three channels, else the mean.

    Parameters
    ----------
    pixels : (y, x) or (y, x, channel) array

    Returns
    -------
    (y, x, 1) float32 array

    Examples
    --------
    >>> to_grey(np.array([[[100, 0, 0], [20, 20, 20]]], np.uint8))[0, :, 0].round(1).tolist()
    [29.899999618530273, 20.0]
    """
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.shape[2] == 1:
        return pixels.astype(np.float32)
    weights = np.array(_LUMINANCE if pixels.shape[2] == 3 else [1 / pixels.shape[2]] * pixels.shape[2])
    grey: NDArray[np.float32] = (pixels.astype(np.float32) @ weights.astype(np.float32))[..., np.newaxis]
    return grey


class GreyIntensity(Intensity):
    """An `Intensity` that first brings an image to one channel, `to_grey`."""

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Scale an image of any channels: (1, y, x)."""
        return super().apply(to_grey(np.asarray(pixels)))


def own_intensity(pixels: Any) -> GreyIntensity:
    """Choose an image's scaling by its own grey values, as `choose_intensity`.

    Parameters
    ----------
    pixels : (y, x) or (y, x, channel) array, or lazy image
        Of a large one, windows on a regular grid are read.

    Examples
    --------
    >>> own_intensity(np.arange(101.0).reshape(1, -1, 1).repeat(9, 0)).high
    (100.0,)
    """
    chosen = choose_intensity([to_grey(np.asarray(_some_of(pixels)))])
    return GreyIntensity(**chosen.model_dump())


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

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return own_intensity(pixels).apply(pixels)


class _OfEvery(dict[str, Intensity]):
    """An intensity for whatever modality is asked for."""

    def __missing__(self, modality: str) -> Intensity:
        return _OwnIntensity(low=(0.0,), high=(1.0,))

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

    def __post_init__(self) -> None:
        self.intensities = _OfEvery()
        self.network.load_state_dict(self.tensors())

    @property
    def channels(self) -> int:
        """Channels of a CoMIR."""
        return self.settings.channels

    @property
    def high_pass_px(self) -> float:
        """Standard deviation, in pixels, of the high pass that training compared CoMIRs under; 0 for none."""
        return self.settings.high_pass

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
        if channels > 1:
            kept = "luminance" if channels == 3 else "mean"
            logging.getLogger("napari_cmrir").info(
                "%s images: %s.", modality, f"of {channels} channels, the model sees the {kept}"
            )
        return infer(
            self.network,
            own_intensity(pixels),
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
        return {
            "modalities": list(self.modalities),
            "any_modality": True,
            "grey": {"three channels": list(_LUMINANCE), "other numbers": "mean"},
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
        return cls((first, second), settings, network.eval(), scale)


def _train(*_: Any, **__: Any) -> Job[AnyModalityModel]:
    raise InputError(
        "A model of any modality is not trained on pairs: use the one that ships, --model starter, or train"
        " a model of your two modalities with --representation comir."
    )


ANY_MODALITY = RepresentationKind(AnyModalityModel.from_file, _train)
