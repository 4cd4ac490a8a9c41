"""The three dock widgets in a real viewer, from pairs on disk to boxed hits, and their errors."""

import time
from pathlib import Path

import pytest

from napari_cmrir.comir.model import read_header
from napari_cmrir.images.readers import read_image
from napari_cmrir.repository.store import open_repository
from napari_cmrir.widgets.find import FindWidget
from napari_cmrir.widgets.index import IndexWidget
from napari_cmrir.widgets.model import ModelWidget


def test_training_on_a_folder_makes_a_model_that_the_others_propose(
    dock, pairs_folder, tmp_path, wait_for, notifications
):
    model, index = dock(ModelWidget), dock(IndexWidget)
    model.folder.set_paths(pairs_folder)
    wait_for(lambda: model.found.text() == "4 pairs found")
    model.steps.setValue(1)
    model.output.set_paths(tmp_path / "new")
    model.panel.start_button.click()
    wait_for(lambda: not model.panel.is_running)
    path = tmp_path / "new.safetensors"
    header = read_header(path)
    assert (header["modalities"], header["settings"]["steps"]) == (["SHG", "BF"], 1)
    assert "SHG + BF" in model.card.text()
    assert "4 pairs" in model.card.text()
    assert index.model.path == path
    wait_for(lambda: index.modality.count() == 2)
    assert notifications == []


def test_training_on_two_layers(viewer, dock, pairs_folder, tmp_path, wait_for):
    for name in ("BF", "SHG"):
        viewer.add_image(read_image(pairs_folder / f"sample-002_{name}.tif").squeeze(), name=name)
    widget = dock(ModelWidget)
    widget.source.setCurrentIndex(1)
    for combo, name in zip(widget.layers, ("SHG", "BF"), strict=True):
        combo.choose(viewer.layers[name])
    assert widget.found.text() == "1 pair: SHG and BF"
    widget.steps.setValue(1)
    widget.output.set_paths(tmp_path / "layers.safetensors")
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    intensities = read_header(tmp_path / "layers.safetensors")["intensities"]
    assert {name: len(values["low"]) for name, values in intensities.items()} == {"SHG": 1, "BF": 3}


def test_stopping_training_is_quick_and_leaves_a_checkpoint_to_go_on_from(
    dock, pairs_folder, tmp_path, wait_for
):
    widget = dock(ModelWidget)
    widget.folder.set_paths(pairs_folder)
    widget.steps.setValue(1000)
    output = tmp_path / "long.safetensors"
    widget.output.set_paths(output)
    widget.train()
    wait_for(lambda: "steps · Training" in widget.panel.message.text())
    started = time.monotonic()
    widget.panel.stop_button.click()
    wait_for(lambda: not widget.panel.is_running)
    assert time.monotonic() - started < 10  # one step of the fast preset on a busy core
    assert Path(f"{output}.checkpoint").exists()
    assert not output.exists()
    widget.output.changed.emit()
    assert not widget.resume.isHidden()
    assert widget.resume.isChecked()


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda widget, folder: None, "No folder of image pairs is chosen"),
        (lambda widget, folder: widget.folder.set_paths(folder / "none"), "does not exist"),
        (lambda widget, folder: widget.source.setCurrentIndex(1), "two different image layers"),
    ],
)
def test_a_training_that_cannot_start_is_one_notification(
    dock, tmp_path, wait_for, notifications, prepare, sentence
):
    widget = dock(ModelWidget)
    widget.output.set_paths(tmp_path / "m.safetensors")
    prepare(widget, tmp_path)
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    assert len(notifications) == 1
    assert notifications[0][0] == "error"
    assert sentence in notifications[0][1]
    assert list(tmp_path.iterdir()) == []


def test_the_expected_file_names_are_said_while_choosing(dock, pairs_folder, wait_for):
    widget = dock(ModelWidget)
    widget.modalities[0].setText("MPM")
    widget.folder.set_paths(pairs_folder)
    wait_for(lambda: "<identifier>_MPM.<ext>" in widget.found.text())
    widget.modalities[0].setText("SHG")
    wait_for(lambda: widget.found.text() == "4 pairs found")


def test_a_loaded_model_shows_its_card_and_a_foreign_file_is_refused(
    dock, model_path, tmp_path, notifications
):
    widget = dock(ModelWidget)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not a model")
    widget.load.set_paths(foreign)
    assert [severity for severity, _ in notifications] == ["error"]
    assert "is not a CoMIR model" in notifications[0][1]
    widget.load.set_paths(model_path)
    assert model_path.name in widget.card.text()
    assert widget.session.model == model_path


def test_indexing_makes_a_repository_that_find_region_proposes(
    dock, pairs_folder, model_path, tmp_path, wait_for
):
    damaged = tmp_path / "damaged_BF.tif"
    damaged.write_bytes(b"II*\0")
    index, find = dock(IndexWidget), dock(FindWidget)
    index.session.model = model_path
    index.images.set_paths(*(pairs_folder / f"sample-00{i}_BF.tif" for i in (0, 1)), damaged)
    wait_for(lambda: index.found.text() == "3 images found")
    wait_for(lambda: index.modality.currentText() == "BF")
    index.output.set_paths(tmp_path / "two")
    index.panel.start_button.click()
    wait_for(lambda: not index.panel.is_running)
    assert index.panel.message.text().startswith("2 images searchable, 1 could not be indexed")
    assert "damaged_BF.tif: " in index.failures.toPlainText()
    with open_repository(tmp_path / "two.cmrir") as repository:
        assert len(repository) == 2
    assert find.repository.path == tmp_path / "two.cmrir"
    wait_for(lambda: find.about.text() == "2 BF images")
    assert find.modality.currentText() == "SHG"


def test_an_indexing_that_cannot_start_is_one_notification(dock, pairs_folder, tmp_path, notifications):
    widget = dock(IndexWidget)
    widget.index()
    widget.images.set_paths(pairs_folder)
    widget.index()
    assert [message.split(";")[0] for _, message in notifications] == [
        "No images are chosen",
        "No model is chosen",
    ]


def test_every_field_says_what_it_is_for(dock):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit

    for widget_class in (ModelWidget, IndexWidget, FindWidget):
        widget = dock(widget_class)
        for kind in (QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox):
            for child in widget.findChildren(kind):
                if (
                    child.objectName() != "qt_spinbox_lineedit"
                    and type(child.parent()).__name__ != "QTableWidget"
                ):
                    assert child.toolTip() or child.objectName().startswith("qt_"), (widget_class, child)
