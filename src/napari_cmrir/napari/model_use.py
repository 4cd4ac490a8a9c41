"""The lower part of CoMIR model: load or import a model, show its properties, and the CoMIR of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import Job
from napari_cmrir.napari.coordinates import ImageSnapshot
from napari_cmrir.napari.copy_commands import (
    CopyButton,
    Language,
    file_of,
    import_text,
    kept_folder,
    represent_text,
)
from napari_cmrir.napari.dock import PluginLayers
from napari_cmrir.napari.form_fields import LayerCombo, PathEdit, offer_modalities
from napari_cmrir.napari.hit_placement import Placement
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.shared_state import shared_state_of
from napari_cmrir.napari.summaries import KnownModalities, as_table, model_rows, read_modalities

if TYPE_CHECKING:
    import napari.viewer

__all__ = ["ModelUse"]

_MODELS = "CoMIR models (*.safetensors *.pt)"


@dataclass(frozen=True, eq=False)
class _Represented:
    """The CoMIR of a layer, or its grey values where a translation compares it, and its placement."""

    kind: str
    name: str
    comir: NDArray[np.uint8]
    placement: Placement


class ModelUse(QWidget):
    """Load a model, show its properties, and show the CoMIR of an image layer.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    names : callable
        Gives the two modalities that a released checkpoint is imported with.
    """

    def __init__(self, viewer: napari.viewer.Viewer, names: Callable[[], tuple[str, str]]) -> None:
        super().__init__()
        self._viewer, self._names = viewer, names
        self._session = shared_state_of(viewer)
        self._shown = PluginLayers(viewer, self)
        self.load = PathEdit(
            ["file"],
            "Model file",
            "A trained model (.safetensors), or a released checkpoint (.pt), which is"
            " imported with the modalities named above; drop it here",
            _MODELS,
        )
        self.card = QLabel(
            "No model yet. Write starter above: it comes with the package, represents any two modalities and"
            " needs no training. Or load a model, or train one on aligned pairs; if your images are not"
            " aligned, choose Pairs: Two folders, not aligned."
        )
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.card.setWordWrap(True)
        self.card.setToolTip("The model in use: Index images and Find region propose it")
        self.image = LayerCombo(viewer, Image, "The image to represent")
        self.modality = QComboBox()
        self.modality.setToolTip("The modality of this image")
        self.image.setAccessibleName("Image to represent")
        self.modality.setAccessibleName("Modality of the image")
        self.modality.setEnabled(False)
        self.panel = JobPanel(
            "Show Co&MIR",
            "Ca&ncel",
            "Add the representation of this image as a layer",
            "Stop, and add nothing",
        )
        self.panel.add_button(CopyButton("the computation of this CoMIR", self._write))
        self.copy_import = CopyButton("this import", self._write_import)
        self.copy_import.hide()
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        form = QFormLayout()
        load = QHBoxLayout()
        load.addWidget(self.load, 1)
        load.addWidget(self.copy_import)
        form.addRow("Load", load)
        what = QHBoxLayout()
        what.addWidget(self.image, 1)
        what.addWidget(self.modality)
        below = QFormLayout()
        below.addRow("Image", what)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self.card)
        layout.addLayout(below)
        layout.addWidget(self.panel)

    def _connect(self) -> None:
        self.load.changed.connect(self._load)
        self.panel.start_requested.connect(self.show_comir)
        self._files, self._cards = DebouncedQuery(self), DebouncedQuery(self, 0)
        self._files.answered.connect(self._open)
        self._files.refused.connect(lambda reason: self.panel.refuse(InputError(reason)))
        self._cards.answered.connect(self._show_card)
        self._cards.refused.connect(lambda reason: self._show_card((reason, KnownModalities(()))))
        self._session.model_changed.connect(self._read_card)
        if self._session.model is not None:
            self._read_card(self._session.model)

    def show_comir(self) -> None:
        """Compute the CoMIR of the chosen image, and add it as a layer on the image."""
        try:
            model, snapshot, placement = self._model(), *self._chosen()
        except InputError as error:
            self.panel.refuse(error)
            return
        job = partial(_represent, model, snapshot, self.modality.currentText(), placement)
        self.panel.run("Representing an image", job, self._show)

    def remove_layers(self) -> None:
        """Remove the CoMIR layers that were added."""
        self._shown.remove_all()

    def _model(self) -> Path:
        if self._session.model is None:
            raise InputError("There is no model; train one, or load an existing one.")
        return self._session.model

    def _chosen(self) -> tuple[ImageSnapshot, Placement]:
        image = self.image.layer
        if image is None:
            raise InputError("No image is chosen; open the image to represent.")
        snapshot = ImageSnapshot.of(image, self._viewer.dims)
        return snapshot, Placement.of(image, snapshot.plane)

    def _write(self, language: Language) -> Callable[[], str]:
        model, (snapshot, _) = self._model(), self._chosen()
        modality = self.modality.currentText()
        return lambda: represent_text(
            language, model, file_of(snapshot, kept_folder()), modality, Path("comirs")
        )

    def _write_import(self, language: Language) -> Callable[[], str]:
        path = self.load.path
        if path is None:
            raise InputError("No checkpoint is chosen; choose the .pt file to import.")
        return partial(import_text, language, path, self._names(), _beside(path))

    def _show(self, represented: _Represented) -> None:
        placement, channels = represented.placement, len(represented.comir)
        frame = placement.region_frame(Region.whole(represented.comir.shape[1:]))
        for number, plane in enumerate(represented.comir, 1):
            which = f" {number}" if channels > 1 else ""
            name = f"{represented.kind}{which} of {represented.name}"
            pixels = placement.expanded(plane)
            metadata = {"napari-cmrir": {"is_result": True}}
            self._shown.remove(name)
            self._shown.put(name, pixels, partial(Image, pixels, name=name, metadata=metadata, **frame))

    def _load(self) -> None:
        path = self.load.path
        self.copy_import.setVisible(path is not None and path.suffix == ".pt")
        self._files.forget()
        if path is not None:
            self._files.ask(partial(_readable, path))

    def _open(self, path: Path | None) -> None:
        if path is None:  # the user is still typing
            return
        if path.suffix == ".pt":
            self.panel.run(
                "Importing a checkpoint",
                partial(in_worker_process, tasks.import_model, path, self._names(), _beside(path)),
                self._take,
            )
        else:
            self._session.model = path

    def _take(self, path: Path) -> None:
        self._session.model = path
        self.panel.tell(f"Imported: {path}")

    def _read_card(self, path: Path) -> None:
        self._cards.ask(partial(_card, path))

    def _show_card(self, card: tuple[str, KnownModalities]) -> None:
        text, known = card
        self.card.setText(text)
        offer_modalities(self.modality, known)
        self.modality.setEnabled(bool(known.names))


def _readable(path: Path) -> Path | None:
    """Return the path of a model, given by path or by name, if it is a file and not damaged."""
    from napari_cmrir.representations.model_file import find_model

    path = find_model(path)
    if not path.is_file():
        return None
    if path.suffix != ".pt":
        model_rows(path)  # raises if the file is no model
    return path


def _card(path: Path) -> tuple[str, KnownModalities]:
    return as_table(model_rows(path)), read_modalities(path)


def _represent(model: Path, image: ImageSnapshot, modality: str, placement: Placement) -> Job[_Represented]:
    from napari_cmrir.representations.model_file import read_header

    kind = read_header(model).get("representation", "comir")
    comir = yield from in_worker_process(tasks.represent, model, image.read(), modality)
    return _Represented("CoMIR" if kind.startswith("comir") else kind, image.name, comir, placement)


def _beside(path: Path) -> Path:
    return path.with_suffix(".safetensors")
