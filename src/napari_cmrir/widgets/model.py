"""The dock widget "CoMIR model": train a model on image pairs, or load one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSpinBox,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.comir.settings import PRESETS, TrainingSettings
from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job
from napari_cmrir.widgets.card import as_table, model_rows
from napari_cmrir.widgets.choosers import LayerCombo, PathEdit
from napari_cmrir.widgets.dock import Dock
from napari_cmrir.widgets.inquiry import Inquiry
from napari_cmrir.widgets.job_panel import JobPanel
from napari_cmrir.widgets.snapshot import ImageSnapshot

if TYPE_CHECKING:
    import napari.viewer

    from napari_cmrir.images.pairs import Pair

__all__ = ["ModelWidget"]

_MODELS = "CoMIR models (*.safetensors)"


class ModelWidget(Dock):
    """Train a CoMIR model with progress and a stop button, or load one and see what it is.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer that it is added to.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self._make_source_fields(viewer)
        self._make_training_fields()
        self.panel = JobPanel(
            "Train",
            "Stop",
            "Train a model on these pairs",
            "Stop after the current step; a checkpoint stays beside the model file, to go on from",
        )
        self.load = PathEdit(["file"], "Model file", "A model that was trained before, to load", _MODELS)
        self.card = QLabel()
        self.card.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.card.setWordWrap(True)
        self.card.setToolTip("The model in use: Index images and Find region propose it")
        self._lay_out()
        self.panel.start_requested.connect(self.train)
        self.load.changed.connect(self._load)
        self.session.model_changed.connect(self._show_card)
        if self.session.model is not None:
            self._show_card(self.session.model)
        self._show_preset()
        self._look()

    def _make_source_fields(self, viewer: napari.viewer.Viewer) -> None:
        self.source = QComboBox()
        self.source.addItems(["A folder of image pairs", "Two layers of the viewer"])
        self.source.setToolTip("Where the aligned image pairs come from")
        self.folder = PathEdit(
            ["folder"],
            "Folder of image pairs",
            "Holds <identifier>_<MODALITY>.tif files of both modalities, aligned pixel by pixel",
        )
        self.layers = (
            LayerCombo(viewer, Image, "Image of the first modality"),
            LayerCombo(viewer, Image, "Image of the second modality, aligned pixel by pixel with the first"),
        )
        self.modalities = (QLineEdit("SHG"), QLineEdit("BF"))
        for edit, which in zip(self.modalities, ("first", "second"), strict=True):
            edit.setToolTip(f"Name of the {which} modality, as the file names end in it")
            edit.setAccessibleName(f"{which} modality")
            edit.textChanged.connect(self._look)
        self.found = QLabel()
        self.found.setWordWrap(True)
        self.found.setToolTip("What training will read")
        self._inquiry = Inquiry(self)
        self._inquiry.answered.connect(self._show_pairs)
        self._inquiry.refused.connect(self.found.setText)
        self.source.currentIndexChanged.connect(self._look)
        self.folder.changed.connect(self._look)
        for combo in self.layers:
            combo.layer_changed.connect(self._look)

    def _make_training_fields(self) -> None:
        self.preset = QComboBox()
        self.preset.addItems(list(PRESETS))
        self.preset.setToolTip("fast: a small network for a laptop; paper: as published, much slower")
        self.preset.currentTextChanged.connect(self._show_preset)
        self.steps = QSpinBox()
        self.steps.setRange(1, 1_000_000)
        self.steps.setToolTip(TrainingSettings.model_fields["steps"].description or "")
        self.output = PathEdit(["save"], "Save the model as", "The model file to write", _MODELS)
        self.output.changed.connect(self._show_checkpoint)
        self.resume = QCheckBox("Go on where training was stopped")
        self.resume.setToolTip("There is a checkpoint of these pairs and settings beside the model file")
        self.resume.hide()

    def _lay_out(self) -> None:
        two_layers = QWidget()
        row = QHBoxLayout(two_layers)
        row.setContentsMargins(0, 0, 0, 0)
        for combo in self.layers:
            row.addWidget(combo, 1)
        self._sources = QStackedWidget()
        self._sources.addWidget(self.folder)
        self._sources.addWidget(two_layers)
        self.source.currentIndexChanged.connect(self._sources.setCurrentIndex)
        names = QHBoxLayout()
        for edit in self.modalities:
            names.addWidget(edit)
        how = QHBoxLayout()
        how.addWidget(self.preset, 1)
        how.addWidget(QLabel("steps"))
        how.addWidget(self.steps, 1)
        form = QFormLayout()
        form.addRow("Pairs", self.source)
        form.addRow("", self._sources)
        form.addRow("Modalities", names)
        form.addRow("", self.found)
        form.addRow("Preset", how)
        form.addRow("Save as", self.output)
        form.addRow("", self.resume)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.panel)
        loading = QFormLayout()
        loading.addRow("Or load", self.load)
        layout.addLayout(loading)
        layout.addWidget(self.card)
        layout.addStretch(1)

    def train(self) -> None:
        """Start training on what the fields say."""
        try:
            pairs, settings, output = self._pairs(), self._settings(), self._output()
        except InputError as error:
            self.panel.refuse(error)
            return
        job = partial(_train, pairs, self._names(), settings, output, self.resume.isChecked())
        self.panel.run("Training a CoMIR model", job, self._take_model)

    def _names(self) -> tuple[str, str]:
        first, second = (edit.text().strip() for edit in self.modalities)
        return first, second

    def _pairs(self) -> Path | tuple[ImageSnapshot, ImageSnapshot]:
        if self.source.currentIndex() == 0:
            if self.folder.path is None:
                raise InputError("No folder of image pairs is chosen; choose one to train on.")
            return self.folder.path
        first, second = (combo.layer for combo in self.layers)
        if first is None or second is None or first is second:
            raise InputError("Training takes two different image layers; open both modalities of a tissue.")
        return ImageSnapshot.of(first, self.viewer.dims), ImageSnapshot.of(second, self.viewer.dims)

    def _settings(self) -> TrainingSettings:
        return PRESETS[self.preset.currentText()].model_copy(update={"steps": self.steps.value()})

    def _output(self) -> Path:
        path = self.output.path
        if path is None:
            raise InputError("No file is given to save the model as; choose one.")
        return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")

    def _take_model(self, path: Path) -> None:
        self.panel.tell(f"Trained: {path}")
        self._show_checkpoint()
        self.session.model = path

    def _load(self) -> None:
        path = self.load.path
        if path is None or not path.is_file():  # still being typed
            return
        try:
            model_rows(path)
        except InputError as error:
            self.panel.refuse(error)
        else:
            self.session.model = path

    def _show_card(self, path: Path) -> None:
        try:
            self.card.setText(as_table(model_rows(path)))
        except InputError as error:
            self.card.setText(str(error))

    def _show_preset(self) -> None:
        self.steps.setValue(PRESETS[self.preset.currentText()].steps)

    def _show_checkpoint(self) -> None:
        path = self.output.path
        is_there = path is not None and Path(f"{self._output()}.checkpoint").exists()
        self.resume.setVisible(is_there)
        self.resume.setChecked(is_there)

    def _look(self) -> None:
        """Look for the pairs, and say how many there are or why there are none."""
        self._inquiry.forget()
        self.found.setText("")
        if self.source.currentIndex() == 1:
            first, second = (combo.layer for combo in self.layers)
            if first is not None and second is not None and first is not second:
                self.found.setText(f"1 pair: {first.name} and {second.name}")
                self.output.propose(Path.home() / f"{'-'.join(self._names())}.safetensors")
        elif self.folder.path is not None:
            folder = self.folder.path
            self.output.propose(folder.with_name(f"{folder.name}.safetensors"))
            self._inquiry.ask(partial(_find, folder, self._names()))

    def _show_pairs(self, pairs: list[Pair]) -> None:
        self.found.setText(f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} found")


def _find(folder: Path, modalities: tuple[str, str]) -> list[Pair]:
    from napari_cmrir.images.pairs import find_pairs

    return find_pairs(folder, modalities)


def _train(
    source: Path | tuple[ImageSnapshot, ImageSnapshot],
    modalities: tuple[str, str],
    settings: TrainingSettings,
    output: Path,
    resume: bool,
) -> Job[Path]:
    """Train and return the model file."""
    from napari_cmrir.comir.training import train

    pairs: Any = (
        _find(source, modalities) if isinstance(source, Path) else [tuple(layer.read() for layer in source)]
    )
    yield from train(pairs, modalities, settings, output=output, resume=resume)
    return output
