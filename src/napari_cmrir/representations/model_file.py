"""The files of a model: the finished one, with its header, and the checkpoint of a training."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path
from napari_cmrir.representations.devices import is_out_of_memory, release_memory
from napari_cmrir.representations.training_settings import TrainingFigures

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = [
    "FORMAT",
    "KEY",
    "SHIPPED",
    "Checkpoint",
    "History",
    "SteppedTrainer",
    "find_model",
    "read_header",
    "require_writable",
    "sample_model",
]

KEY = "napari-cmrir"
"""Key of the header in the file's metadata; the header is JSON."""

FORMAT = 1
"""Version of the header. A file of a newer version is refused."""


SHIPPED = ("starter", "sample")
"""Names of the models that come with the package: of any two modalities, and of generated SHG and BF."""


def find_model(name: str | os.PathLike[str]) -> Path:
    """Find a model file by its path, or by the name of a model that comes with the package.

    Parameters
    ----------
    name : path-like
        What exists under this path is meant; else it may be one of `SHIPPED`.

    Returns
    -------
    Path
        As given, if it is no such name.

    Examples
    --------
    >>> find_model("sample").name, find_model("elsewhere/model.safetensors").name
    ('sample.safetensors', 'model.safetensors')
    """
    from importlib.resources import files

    path = Path(name)
    if path.exists() or str(name) not in SHIPPED:
        return path
    return Path(str(files("napari_cmrir") / "data" / f"{path.name}.safetensors"))


def require_writable(path: Path) -> None:
    """Refuse a model path that cannot be written, before training spends time on it.

    Parameters
    ----------
    path : Path
        The model file. Missing folders are accepted, because writing creates them.

    Raises
    ------
    InputError
        If the path is a folder, or its folder is not writable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a model file such as {path / 'model.safetensors'}.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"{path} cannot be written into {folder}; choose another place for the model.")


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the header of a model file without its weights.

    Parameters
    ----------
    path : path-like
        Or a name, as of `find_model`.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file is missing, is not a model of napari-cmrir, or has a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = find_model(path)
    if not path.is_file():
        raise InputError(
            f"There is no model file {path}; give a .safetensors file that 'train' wrote, or the name"
            f" {' or '.join(SHIPPED)}."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a model ({error}); give a .safetensors file that 'train' wrote."
        ) from None
    try:
        header: dict[str, Any] = json.loads(metadata[KEY])
    except (KeyError, json.JSONDecodeError):
        raise InputError(
            f"{path} is a .safetensors file but not a model of napari-cmrir; give one that 'train' wrote."
        ) from None
    if header.get("format", 0) > FORMAT:
        raise InputError(
            f"{path} was written by a newer napari-cmrir (format {header['format']}); upgrade this one."
        )
    return header


def sample_model() -> Path:
    """Give the path of the shipped sample model, a small CoMIR model of generated SHG and BF images.

    Returns
    -------
    Path
        The model file, for `load_model`.

    Examples
    --------
    >>> read_header(sample_model())["modalities"]
    ['SHG', 'BF']
    """
    return find_model("sample")


class History:
    """Mean loss and seconds of every few steps, and the retrieval at validations.

    Attributes
    ----------
    entries : list of dict
        ``"step"``, ``"loss"`` and its parts (means since the last entry) and ``"seconds"``; after a
        validation also ``"retrieval"`` (0 to 1) and ``"validation_loss"``.

    Examples
    --------
    >>> history = History()
    >>> for loss in (3.0, 1.0):
    ...     history.add(loss)
    >>> history.take_down(2, retrieval=0.5)
    >>> history.entries[0]["loss"], history.loss, history.retrieval
    (2.0, 2.0, 0.5)
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []
        self._recent: dict[str, list[float]] = {}
        self._clock = time.monotonic()

    def add(self, loss: float, **parts: float) -> None:
        """Add the loss of a step, and its parts; what is not finite is ignored."""
        for name, value in {"loss": loss, **parts}.items():
            if math.isfinite(value):
                self._recent.setdefault(name, []).append(value)

    def take_down(self, step: int, **more: float) -> None:
        """Make an entry of the steps since the last one, and add more values to the latest entry."""
        if self._recent.get("loss"):
            now = time.monotonic()
            means = {name: float(np.mean(values)) for name, values in self._recent.items()}
            self.entries.append({"step": step, **means, "seconds": round(now - self._clock, 3)})
            self._recent, self._clock = {}, now
        if self.entries:
            self.entries[-1].update(more)

    @property
    def loss(self) -> float:
        """Loss of the latest entry; not a number before the first."""
        return self.entries[-1]["loss"] if self.entries else math.nan

    @property
    def retrieval(self) -> float | None:
        """Share of queries retrieved at the latest validation, 0 to 1; ``None`` before the first."""
        scores = [entry["retrieval"] for entry in self.entries if "retrieval" in entry]
        return scores[-1] if scores else None

    def state(self) -> dict[str, Any]:
        """Give the state as plain values, for `load_state`."""
        return {"entries": self.entries, "recent": self._recent}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        recent = state["recent"]
        self.entries, self._recent = (
            state["entries"],
            {"loss": recent} if isinstance(recent, list) else recent,
        )


class SteppedTrainer(ABC):
    """The state of a training, advanced one step at a time; `run_training` drives it.

    Parameters
    ----------
    modalities : (str, str)
    settings : Settings
        With ``steps``, ``batch_size`` and ``seed``.
    device : torch.device

    Attributes
    ----------
    step : int
        Steps done.
    batch_size : int
        Pairs of patches per step; halved from the setting when memory runs out.
    history : History
        Losses and validations.
    precision : torch.dtype
        Number format of the convolutions.
    stopped : str
        Reason why training ended early; empty otherwise.
    notes : list of str
        Sentences for the user on what happened.
    """

    fewest_pairs = 1
    """Pairs of patches that a step needs."""
    precision: torch.dtype

    def __init__(self, modalities: tuple[str, str], settings: Any, device: torch.device) -> None:
        self.modalities, self.settings, self.device = modalities, settings, device
        self.step, self.batch_size = 0, settings.batch_size
        self.history = History()
        self.stopped = ""
        self.notes: list[str] = []

    @abstractmethod
    def train_step(self) -> float:
        """Do one optimisation step and return its loss."""

    @abstractmethod
    def draws(self) -> torch.Generator:
        """Give the generator of a step's draws, so that a step can be repeated."""

    @abstractmethod
    def content(self) -> Iterator[bytes]:
        """Yield the images that a checkpoint belongs to."""

    @abstractmethod
    def figures(self, device: str, eta_seconds: float) -> TrainingFigures:
        """Give the latest figures, and the represented images of one pair by the current networks.

        Parameters
        ----------
        device : str
            Device of the training, in words.
        eta_seconds : float
            Expected time to the last step.
        """

    @abstractmethod
    def finish(self) -> Representation:
        """Give the model."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Give all values that a resumed training needs to repeat the steps of an uninterrupted one."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""

    @abstractmethod
    def forget(self) -> None:
        """Give up what a failed step has left in memory."""

    @property
    def is_validation_due(self) -> bool:
        """Whether to call `validate` before the next step."""
        return False

    def validate(self) -> None:
        """Look how good the networks are, when it is due."""
        raise NotImplementedError

    def name_images(self, names: Sequence[str]) -> None:  # noqa: B027
        """Hear the identifiers of the images that are trained on, in their order."""

    def describe(self, loss: float) -> str:
        """Say in a few words how the step with this loss went."""
        return f"loss {loss:.3f}"

    def advance(self) -> float:
        """Do one step and return its loss; halve the batch if memory runs out.

        Raises
        ------
        InputError
            If the memory does not hold the fewest pairs, or training does not converge.
        """
        while True:
            draws = self.draws().get_state()
            try:
                return self.train_step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.draws().set_state(draws)
            self._halve_batch()

    def _halve_batch(self) -> None:
        """Halve the batch after memory ran out, and note it for the user."""
        self.forget()
        release_memory(self.device)
        if self.batch_size < 2 * self.fewest_pairs:
            raise InputError(
                f"The memory of {self.device.type} does not hold a training step of {self.batch_size} pairs"
                " of patches; give a smaller patch size or network, or another device."
            )
        self.notes.append(
            f"Step {self.step + 1}: the memory of {self.device.type} does not hold {self.batch_size} pairs of"
            f" patches; going on with {self.batch_size // 2} a step."
        )
        self.batch_size //= 2


_LAYOUT = b"2"  # version of the stored state; a checkpoint of another version is refused


class Checkpoint:
    """Writes and restores the state of a training, as tensors and plain values only.

    Parameters
    ----------
    path : Path
        The checkpoint file.
    trainer : SteppedTrainer
        The training whose state is stored.
    """

    def __init__(self, path: Path, trainer: SteppedTrainer) -> None:
        self.path, self.trainer = path, trainer
        digest = hashlib.sha256(_LAYOUT)
        digest.update(json.dumps(trainer.settings.model_dump(mode="json"), sort_keys=True).encode())
        digest.update(json.dumps(trainer.modalities).encode())
        for content in trainer.content():
            digest.update(content)
        self._training = digest.hexdigest()

    def write(self) -> None:
        """Write the state; call it between two steps."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as partial:
            torch.save({"training": self._training, "state": self.trainer.state()}, partial)

    def restore(self) -> None:
        """Load the stored state into the trainer, if the file exists.

        Raises
        ------
        InputError
            If the file is damaged or belongs to a training of other pairs or settings.
        """
        if not self.path.exists():
            return
        try:
            stored = torch.load(self.path, map_location="cpu", weights_only=True)
            training, state = stored["training"], stored["state"]
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{self.path} cannot be read ({reason}); delete it to train from the start."
            ) from None
        if training != self._training:
            raise InputError(
                f"{self.path} belongs to a training of other pairs or settings;"
                " give those, or train without resuming."
            )
        self.trainer.load_state(state)

    def remove(self) -> None:
        """Delete the file after the training has finished."""
        self.path.unlink(missing_ok=True)
