"""A trained CoMIR model: two networks, and what brings their output to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.intensity import Intensity
from napari_cmrir.jobs import Job
from napari_cmrir.representations.base import Rectangle, Representation
from napari_cmrir.representations.comir.inference import OutputScale, infer
from napari_cmrir.representations.comir.training.settings import TrainingSettings
from napari_cmrir.settings import dump_settings, load_settings

if TYPE_CHECKING:
    from torch import Tensor

    from napari_cmrir.representations.comir.networks import Tiramisu, UNet

__all__ = ["ComirModel"]


@dataclass
class ComirModel(Representation):
    """Two networks that turn two modalities into one common kind of image.

    Parameters
    ----------
    modalities : (str, str)
        Names of the two modalities.
    settings : TrainingSettings
        How it was trained.
    intensities : dict
        `Intensity` of each modality.
    networks : dict
        `torch.nn.Module` of each modality, in evaluation mode.
    scales : dict
        `OutputScale` of each modality.
    history : list of dict
        ``{"step": int, "loss": float, "seconds": float}``, in order; where it was validated, also
        ``"retrieval"`` (0 to 1) and ``"validation_loss"``.
    provenance : dict
        Where it comes from: versions, training images, date.
    score : dict
        How it retrieves among the validation fields: ``{"retrieval": 0 to 1, "validation_loss": float,
        "step": int, "fields": int, "queries": int}``; empty where nothing was validated.
    pixel_size : float or None
        Side of a pixel of the training images in micrometres, if it is known.
    """

    name: ClassVar[str] = "comir"

    modalities: tuple[str, str]
    settings: TrainingSettings
    intensities: dict[str, Intensity]
    networks: dict[str, UNet | Tiramisu]
    scales: dict[str, OutputScale]
    history: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    pixel_size: float | None = None

    @property
    def channels(self) -> int:
        """Channels of a CoMIR."""
        return self.settings.channels

    @property
    def high_pass_px(self) -> float:
        """Standard deviation, in pixels, of the high pass that training compared CoMIRs under; 0 for none.

        A search of the model's CoMIRs compares them under the same filter.
        """
        return self.settings.high_pass

    @property
    def rotations(self) -> int:
        """Turns that a CoMIR is the mean of, 1 or 4."""
        return self.settings.rotations

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
        """Turn an image into its CoMIR; see `Representation.represent`."""
        self.require_modality(modality)
        return infer(
            self.networks[modality],
            self.intensities[modality],
            self.scales[modality],
            pixels,
            mask=mask,
            device=device,
            rotations=self.rotations if rotations is None else rotations,
            part=part,
            out=out,
        )

    def decisive(self) -> dict[str, Any]:
        """Give the values that decide the CoMIRs, beside the weights."""
        return {
            "modalities": self.modalities,
            "network": self.settings.model_dump(
                mode="json", include={"network", "widths", "stem", "channels", "rotations"}
            ),
            "intensities": {m: i.model_dump(mode="json") for m, i in self.intensities.items()},
            "scales": {m: [s.mean, s.deviation] for m, s in self.scales.items()},
        }

    def described(self) -> dict[str, Any]:
        """Give the settings of the training."""
        return {"settings": dump_settings(self.settings)}

    def tensors(self) -> dict[str, Tensor]:
        """Give the weights, by ``<modality>/<name>``."""
        return {
            f"{modality}/{name}": tensor
            for modality, network in self.networks.items()
            for name, tensor in network.state_dict().items()
        }

    @classmethod
    def from_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> ComirModel:
        """Make the model of a file, on the CPU and in evaluation mode."""
        from napari_cmrir.representations.comir.networks import build_network

        first, second = header["modalities"]
        settings = load_settings(TrainingSettings, {"rotations": 1, **header["settings"]}, header["file"])
        intensities = {
            m: load_settings(Intensity, header["intensities"][m], header["file"]) for m in (first, second)
        }
        scales = {m: OutputScale(*map(tuple, header["scales"][m])) for m in (first, second)}
        networks: dict[str, UNet | Tiramisu] = {}
        for modality in (first, second):
            network = build_network(settings, intensities[modality].channels)
            prefix = f"{modality}/"
            network.load_state_dict(
                {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
            )
            networks[modality] = network.eval()
        return cls((first, second), settings, intensities, networks, scales)
