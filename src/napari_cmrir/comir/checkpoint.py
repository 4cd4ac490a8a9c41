"""The file beside a model in training from which an interrupted training goes on."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import torch

from napari_cmrir.comir.model import write_whole
from napari_cmrir.comir.trainer import Trainer
from napari_cmrir.errors import InputError

__all__ = ["Checkpoint"]

_LAYOUT = b"2"  # of the state: another version's is not gone on from


class Checkpoint:
    """Writes and restores the state of a training; tensors and plain values only.

    Parameters
    ----------
    path : Path
        The file.
    trainer : Trainer
        Whose state it is.
    """

    def __init__(self, path: Path, trainer: Trainer) -> None:
        self.path, self.trainer = path, trainer
        digest = hashlib.sha256(_LAYOUT)
        digest.update(json.dumps(trainer.settings.model_dump(mode="json"), sort_keys=True).encode())
        digest.update(json.dumps(trainer.modalities).encode())
        for pair in trainer.sampler.pairs:
            for image in pair:
                digest.update(image.numpy().tobytes())
        for fields in trainer.selection.test.fields if trainer.selection.test is not None else ():
            digest.update(fields.numpy().tobytes())
        self._training = digest.hexdigest()

    def write(self) -> None:
        """Write the state as it is between two steps."""
        content = io.BytesIO()
        torch.save({"training": self._training, "state": self.trainer.state()}, content)
        write_whole(self.path, content.getvalue())

    def restore(self) -> None:
        """Bring the trainer to the stored state, if there is one.

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
        """Delete the file: the training is finished."""
        self.path.unlink(missing_ok=True)
