"""A trained CoMIR model and its file: one .safetensors that explains itself."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.representations.comir.training.settings import TrainingSettings
from napari_cmrir.settings import dump_settings, load_settings

if TYPE_CHECKING:
    from torch import Tensor

    from napari_cmrir.representations.comir.networks import Tiramisu, UNet

__all__ = ["ComirModel", "OutputScale", "load_model", "require_writable"]

_KEY = "napari-cmrir"
_FORMAT = 1


@dataclass(frozen=True)
class OutputScale:
    """What is taken from a network's output, and what it is divided by, before the sigmoid.

    Parameters
    ----------
    mean, deviation : tuple of float
        One value a CoMIR channel. The published networks use 0 and 1.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass
class ComirModel:
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

    modalities: tuple[str, str]
    settings: TrainingSettings
    intensities: dict[str, Intensity]
    networks: dict[str, UNet | Tiramisu]
    scales: dict[str, OutputScale]
    history: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    pixel_size: float | None = None

    def require_modality(self, modality: str) -> None:
        """Make sure that the model knows a modality.

        Raises
        ------
        InputError
            If it does not; the message names those that it knows.
        """
        if modality not in self.modalities:
            first, second = self.modalities
            raise InputError(
                f"The model was trained on {first} and {second}, not on {modality}; give one of these two."
            )

    @property
    def channels(self) -> int:
        """Channels of a CoMIR."""
        return self.settings.channels

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of all that decides what the model answers."""
        digest = hashlib.sha256(json.dumps(self._answers(), sort_keys=True).encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _answers(self) -> dict[str, Any]:
        return {
            "modalities": self.modalities,
            "network": self.settings.model_dump(
                mode="json", include={"network", "widths", "stem", "channels", "rotations"}
            ),
            "intensities": {m: i.model_dump(mode="json") for m, i in self.intensities.items()},
            "scales": {m: [s.mean, s.deviation] for m, s in self.scales.items()},
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{modality}/{name}": tensor
            for modality, network in self.networks.items()
            for name, tensor in network.state_dict().items()
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The ``.safetensors`` file to write; one that exists is replaced.
        """
        from safetensors.torch import save

        header = {
            "format": _FORMAT,
            **self._answers(),
            "settings": dump_settings(self.settings),
            "history": self.history,
            "provenance": self.provenance,
            "score": self.score,
            "pixel_size": self.pixel_size,
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._tensors().items()}
        content = save(tensors, metadata={_KEY: json.dumps(header)})
        write_whole(Path(path), content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole, on the disk, or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Refuse a model file that could not be written, before anything is computed for it.

    Parameters
    ----------
    path : Path
        Where to; folders that are missing will be made.

    Raises
    ------
    InputError
        It is a folder, or lies where nothing can be written.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a model file such as {path / 'model.safetensors'}.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"{path} cannot be written into {folder}; choose another place for the model.")


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what a model file says of itself, without its weights.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file is missing or is no model of napari-cmrir, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no model file {path}; give a .safetensors file that 'train' wrote.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a CoMIR model ({error}); give a .safetensors file that 'train' wrote."
        ) from None
    try:
        header: dict[str, Any] = json.loads(metadata[_KEY])
    except (KeyError, json.JSONDecodeError):
        raise InputError(
            f"{path} is a .safetensors file but not a CoMIR model; give one that 'train' wrote."
        ) from None
    if header.get("format", 0) > _FORMAT:
        raise InputError(
            f"{path} was written by a newer napari-cmrir (format {header['format']}); upgrade this one."
        )
    return header


def load_model(path: str | os.PathLike[str]) -> ComirModel:
    """Read a model file.

    Parameters
    ----------
    path : path-like
        A ``.safetensors`` file written by `train` or `ComirModel.save`.

    Returns
    -------
    ComirModel
        On the CPU, in evaluation mode.

    Raises
    ------
    InputError
        If the file is missing, damaged, not ours or of a newer format.

    Examples
    --------
    >>> load_model("nothing.safetensors")
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: There is no model file nothing.safetensors; give a .safetensors ...
    """
    from safetensors.torch import load_file

    from napari_cmrir.representations.comir.networks import build_network

    header = read_header(path)
    try:
        first, second = header["modalities"]
        settings = load_settings(TrainingSettings, header["settings"], str(path))
        intensities = {
            m: load_settings(Intensity, header["intensities"][m], str(path)) for m in (first, second)
        }
        scales = {m: OutputScale(*map(tuple, header["scales"][m])) for m in (first, second)}
        tensors = load_file(path)
        networks: dict[str, UNet | Tiramisu] = {}
        for modality in (first, second):
            network = build_network(settings, intensities[modality].channels)
            prefix = f"{modality}/"
            network.load_state_dict(
                {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
            )
            networks[modality] = network.eval()
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} is damaged ({reason}); train or copy the model again.") from None
    return ComirModel(
        (first, second),
        settings,
        intensities,
        networks,
        scales,
        header["history"],
        header["provenance"],
        header.get("score", {}),
        header.get("pixel_size"),
    )
