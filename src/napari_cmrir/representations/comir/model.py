"""A CoMIR model: two networks, trained by this package or imported from a released checkpoint."""

from __future__ import annotations

import collections
import io
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity
from napari_cmrir.jobs import Job
from napari_cmrir.representations.base import Rectangle, Representation
from napari_cmrir.representations.comir.inference import OutputScale, infer
from napari_cmrir.representations.comir.networks import Tiramisu
from napari_cmrir.representations.training_settings import PRESETS, TrainingSettings
from napari_cmrir.settings import Comparison, dump_settings, load_settings

if TYPE_CHECKING:
    from napari_cmrir.representations.comir.networks import UNet

__all__ = ["ComirModel", "import_checkpoint"]


@dataclass
class ComirModel(Representation):
    """Two networks that turn images of two modalities into CoMIRs (Pielawski, Wetzer et al., NeurIPS 2020).

    Parameters
    ----------
    modalities : (str, str)
        Names of the two modalities.
    settings : TrainingSettings
        Settings of the training.
    intensities : dict
        `Intensity` of each modality.
    networks : dict
        `torch.nn.Module` of each modality, in evaluation mode.
    scales : dict
        `OutputScale` of each modality.
    history : list of dict
        ``{"step": int, "loss": float, "seconds": float}``, in order. Entries of a validated step also have
        ``"retrieval"`` (0 to 1) and ``"validation_loss"``.
    provenance : dict
        Versions, training images and date.
    score : dict
        Retrieval on the validation fields: ``{"retrieval": 0 to 1, "validation_loss": float, "step": int,
        "fields": int, "queries": int}``; empty if nothing was validated.
    pixel_size : float or None
        Side of a pixel of the training images in micrometres, if known.
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
    def comparison(self) -> Comparison:
        """How its CoMIRs are compared: under the high pass of the training loss."""
        return Comparison(self.settings.high_pass)

    @property
    def rotations(self) -> int:
        """Number of quarter turns that a CoMIR is averaged over, 1 or 4."""
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
        """Give the values that determine the CoMIRs, except the weights."""
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
        """Build the model from a file, on the CPU and in evaluation mode."""
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


# Largest unpacked size of a checkpoint: a crafted archive must not fill the memory. The published networks
# have about 1 million weights each, 4 MiB.
_MOST_BYTES = 2**30
_MOST_PICKLE_BYTES = 2**26  # largest pickle; it describes modules only, tensors are separate files
_MODULES = ("torch.nn.modules.", "models.tiramisu")  # instances of their classes become inert holders
_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


class _RefusalError(Exception):
    """The file needs an object that no checkpoint contains."""


class _Holder:
    """Replaces an object of any module class: keeps its attributes, does nothing."""

    def __init__(self, *_: Any) -> None:
        pass


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Tensor):
        raise _RefusalError("a tensor without a storage")
    return torch.as_strided(storage, size, stride, offset)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("__main__", "ModNet"): _Holder,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Reader(pickle.Unpickler):
    """Unpickles tensors and inert holders, and refuses every other global by name."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if f"{module}.".startswith(_MODULES) and name.isidentifier():
            return _Holder
        raise _RefusalError(f"the global {module}.{name}")

    def persistent_load(self, identifier: Any) -> Tensor:
        kind, dtype, key, _, count = identifier
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise _RefusalError(f"an object of kind {kind!r}")
        if key not in self._storages:
            data = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            self._storages[key] = torch.frombuffer(data, dtype=dtype, count=count)
        return self._storages[key]


def import_checkpoint(path: str | os.PathLike[str], modalities: tuple[str, str]) -> ComirModel:
    """Convert a released CoMIR checkpoint into a `ComirModel`.

    The published checkpoints (Pielawski, Wetzer et al., NeurIPS 2020) are pickles of whole modules,
    ``{"modelA": module, "modelB": module}``. No code in the file is run: only tensors and plain containers
    are read, modules become inert holders, and a file that names any other object is refused.

    Parameters
    ----------
    path : path-like
        The ``.pt`` file.
    modalities : (str, str)
        Names of the modalities of ``modelA`` and ``modelB``.

    Returns
    -------
    ComirModel
        It takes 8-bit images as published: values divided by 255; one channel (SHG) as ln(1 + x) of that.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large, needs code to be run, or holds another network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}; give a .pt file.")
    if len(modalities) != 2 or modalities[0] == modalities[1]:
        raise InputError("A checkpoint holds the networks of two modalities; name both.")
    try:
        stored = _read(path)
        weights = {m: _tensors(stored[key]) for m, key in zip(modalities, ("modelA", "modelB"), strict=True)}
        networks: dict[str, Tiramisu] = {}
        for modality, tensors in weights.items():
            first, last = tensors["conv_init.weight"], tensors["final_conv.weight"]
            network = Tiramisu(first.shape[1], last.shape[0])
            network.load_state_dict(tensors)
            networks[modality] = network.eval()
    except _RefusalError as refused:
        raise InputError(
            f"{path} is refused: it asks for {refused}, which no CoMIR checkpoint needs; nothing was run."
        ) from None
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a released CoMIR checkpoint, or is damaged ({reason}).") from None
    channels = {network.final_conv.out_channels for network in networks.values()}
    if len(channels) != 1:
        raise InputError(f"{path} is not a released CoMIR checkpoint: its networks do not fit each other.")
    outputs = channels.pop()
    scale = OutputScale((0.0,) * outputs, (1.0,) * outputs)
    return ComirModel(
        modalities,
        PRESETS["paper"].model_copy(update={"channels": outputs}),
        {m: _published_intensity(n.conv_init.in_channels) for m, n in networks.items()},
        {**networks},
        dict.fromkeys(modalities, scale),
        provenance={"imported_from": path.name},
    )


def _read(path: Path) -> dict[str, Any]:
    """Read the two modules of a checkpoint as inert holders; refuse archives that are too large."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > _MOST_BYTES:
            raise _RefusalError(f"more than {_MOST_BYTES >> 20} MiB")
        pickles = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise ValueError("it holds no data.pkl")
        if pickles[0].file_size > _MOST_PICKLE_BYTES:
            raise _RefusalError(f"a description of more than {_MOST_PICKLE_BYTES >> 20} MiB")
        stored = _Reader(archive, pickles[0].filename.removesuffix("data.pkl")).load()
    if not isinstance(stored, dict) or not {"modelA", "modelB"} <= stored.keys():
        raise ValueError("it does not hold modelA and modelB")
    return stored


def _tensors(module: Any, prefix: str = "") -> dict[str, Tensor]:
    """Collect the parameters and buffers of a held module, by the names of its state dict."""
    if not isinstance(module, _Holder):
        raise ValueError("a module is missing")
    held = vars(module)
    own = {**held.get("_parameters", {}), **held.get("_buffers", {})}
    found = {f"{prefix}{name}": value for name, value in own.items() if isinstance(value, Tensor)}
    for name, child in held.get("_modules", {}).items():
        if child is not None:
            found |= _tensors(child, f"{prefix}{name}.")
    return found


def _published_intensity(channels: int) -> Intensity:
    return Intensity(
        transform="ln" if channels == 1 else "linear", low=(0.0,) * channels, high=(255.0,) * channels
    )
