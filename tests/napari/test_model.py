"""The dock CoMIR model in a real viewer: pairs, training under way, models, representations."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QAbstractButton, QApplication, QDockWidget, QMessageBox

from napari_cmrir.cli.main import main
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder
from napari_cmrir.jobs import Progress, run
from napari_cmrir.napari.copy_commands import CopyButton
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.napari.model_dock import _METHODS, ModelWidget
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.representations.comir.networks import Tiramisu
from napari_cmrir.representations.model_file import read_header
from napari_cmrir.representations.training_settings import TrainingFigures, TrainingPreview


def test_training_on_a_folder_makes_a_model_that_the_others_propose(
    dock, pairs_folder, tmp_path, wait_for, notifications
):
    model, index = dock(ModelWidget), dock(IndexWidget)
    model.pairs.folder.set_paths(pairs_folder)
    wait_for(lambda: model.pairs.found.text() == "4 pairs found")
    model.steps.setValue(1)
    model.output.set_paths(tmp_path / "new")
    model.panel.start_button.click()
    wait_for(lambda: not model.panel.is_running)
    path = tmp_path / "new.safetensors"
    header = read_header(path)
    assert (header["modalities"], header["settings"]["steps"]) == (["SHG", "BF"], 1)
    wait_for(lambda: "SHG + BF" in model.use.card.text() and "4 pairs" in model.use.card.text())
    assert index.model.path == path
    wait_for(lambda: index.modality.count() == 2)
    assert notifications == []


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])
def test_a_translation_is_trained_shown_indexed_and_searched_with_in_the_docks(
    viewer, dock, pairs_folder, tmp_path, wait_for, notifications, method
):
    model, index, find = dock(ModelWidget), dock(IndexWidget), dock(FindWidget)
    model.pairs.folder.set_paths(pairs_folder)
    wait_for(lambda: model.pairs.found.text() == "4 pairs found")
    model.method.setCurrentText(method)
    preset = _METHODS[method]["fast"]
    assert (model.steps.value(), model.seed.value()) == (preset.steps, 0)
    model.more.button.click()
    target, mirrored = (model.own_forms[method].field(name) for name in ("target", "mirrored_corners"))
    assert [target.itemText(number) for number in range(target.count())] == ["BF", "SHG"]
    other = model.own_forms["cyclegan" if method == "pix2pix" else "pix2pix"]
    assert target.isVisibleTo(model)
    assert not other.field("target").isVisibleTo(model)
    target.setCurrentText("SHG")
    mirrored.click()
    model.steps.setValue(2)
    path = tmp_path / f"{method}.safetensors"
    model.output.set_paths(path)
    model.panel.start_button.click()
    wait_for(lambda: not model.panel.is_running, 120_000)
    header = read_header(path)
    assert (header["representation"], header["target"]) == (method, "SHG")
    assert (header["settings"]["steps"], header["settings"]["mirrored_corners"]) == (2, True)
    assert [step for step, _ in model.plot.losses] == [2]
    wait_for(lambda: len(viewer.layers) == 2)
    fakes = viewer.layers["SHG as BF so far"], viewer.layers["BF as SHG so far"]
    assert (fakes[0].rgb, fakes[1].data.ndim) == (True, 2)  # each with the channels of the other modality
    wait_for(lambda: "Compared in" in model.use.card.text() and method in model.use.card.text())
    model.remove.click()
    wait_for(lambda: len(viewer.layers) == 0)

    query = viewer.add_image(read_image(pairs_folder / "sample-001_SHG.tif").squeeze(), name="query")
    wait_for(lambda: model.use.modality.count() == 2)
    model.use.modality.setCurrentText("SHG")
    model.use.panel.start_button.click()
    wait_for(lambda: f"{method} of query" in viewer.layers)
    grey = run(represent(load_model(path), read_image(pairs_folder / "sample-001_SHG.tif"), "SHG"))
    np.testing.assert_array_equal(viewer.layers[f"{method} of query"].data, grey[0])

    index.images.set_paths(pairs_folder)
    wait_for(lambda: index.modality.count() == 2)
    index.modality.setCurrentText("BF")
    wait_for(lambda: index.found.text().startswith("4 images found"))
    index.output.set_paths(tmp_path / "fakes.cmrir")
    index.panel.start_button.click()
    wait_for(lambda: not index.panel.is_running)
    wait_for(lambda: find.about.text() == "4 BF images")
    wait_for(lambda: find.modality.currentText() == "SHG")
    find.image.choose(query)
    find.panel.start_button.click()
    wait_for(lambda: not find.panel.is_running)
    wait_for(lambda: not find.view.is_busy and find.view.found is not None)
    assert len(find.view.found.result.hits) > 0
    assert [text for kind, text in notifications if kind == "error"] == []


def test_a_stopped_translation_is_kept_and_goes_on(dock, pairs_folder, tmp_path, wait_for):
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    widget.method.setCurrentText("cyclegan")
    widget.steps.setValue(1000)
    output = tmp_path / "long.safetensors"
    widget.output.set_paths(output)
    widget.panel.start_button.click()
    wait_for(lambda: "of 1000 steps" in widget.panel.message.text())
    widget.panel.stop_button.click()
    wait_for(lambda: output.exists() and not widget.panel.is_running)
    done = read_header(output)["provenance"]["steps_done"]
    assert 0 < done < 1000
    wait_for(lambda: f"{done} of 1000, then stopped" in widget.use.card.text())
    wait_for(lambda: widget.resume.isChecked())
    widget.panel.start_button.click()
    wait_for(lambda: re.search(r"(\d+) of 1000 steps", widget.panel.message.text()))
    assert int(re.search(r"(\d+) of 1000 steps", widget.panel.message.text())[1]) > done
    widget.panel.stop()
    wait_for(lambda: not widget.panel.is_running)


def test_training_on_two_layers(viewer, dock, pairs_folder, tmp_path, wait_for):
    for name in ("BF", "SHG"):
        viewer.add_image(read_image(pairs_folder / f"sample-002_{name}.tif").squeeze(), name=name)
    widget = dock(ModelWidget)
    widget.pairs.source.setCurrentIndex(1)
    assert [combo.layer.name for combo in widget.pairs.layers] == ["SHG", "BF"]  # proposed by their names
    assert widget.pairs.found.text().startswith("1 pair: SHG and BF. A model of one pair overfits")
    widget.pairs.modalities[1].setText("HE")
    assert [combo.layer.name for combo in widget.pairs.layers] == ["SHG", "BF"]  # what is left
    widget.pairs.modalities[1].setText("BF")
    widget.steps.setValue(1)
    widget.output.set_paths(tmp_path / "layers.safetensors")
    widget.train()
    viewer.layers["SHG"].name = "renamed under way"
    viewer.layers.clear()
    wait_for(lambda: not widget.panel.is_running)
    intensities = read_header(tmp_path / "layers.safetensors")["intensities"]
    assert {name: len(values["low"]) for name, values in intensities.items()} == {"SHG": 1, "BF": 3}


def test_a_stopped_training_keeps_the_best_and_a_checkpoint_to_go_on_from(
    dock, pairs_folder, tmp_path, wait_for
):
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    widget.steps.setValue(1000)
    output = tmp_path / "long.safetensors"
    widget.output.set_paths(output)
    widget.train()
    wait_for(lambda: "steps · " in widget.panel.message.text() and "Training" in widget.panel.message.text())
    stopped = []
    widget.panel.stopped.connect(lambda: stopped.append(True))
    widget.panel.stop_button.click()
    wait_for(lambda: stopped)
    wait_for(lambda: not widget.panel.is_running)
    assert Path(f"{output}.checkpoint").exists()
    done, steps = read_header(output)["provenance"]["steps_done"], 1000
    assert 0 < done < steps
    assert widget.session.model == output
    wait_for(lambda: f"{done} of {steps}, then stopped" in widget.use.card.text())
    wait_for(lambda: not widget.resume.isHidden())
    assert widget.resume.isChecked()


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda widget, folder: None, "No folder of image pairs is chosen"),
        (lambda widget, folder: widget.pairs.folder.set_paths(folder / "none"), "does not exist"),
        (lambda widget, folder: widget.pairs.source.setCurrentIndex(1), "two different image layers"),
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
    assert not list(tmp_path.glob("m.safetensors*"))


def test_the_expected_file_names_are_said_while_choosing(dock, pairs_folder, wait_for):
    widget = dock(ModelWidget)
    widget.pairs.modalities[0].setText("MPM")
    widget.pairs.folder.set_paths(pairs_folder)
    wait_for(lambda: "<identifier>_MPM.<ext>" in widget.pairs.found.text())
    widget.pairs.modalities[0].setText("SHG")
    wait_for(lambda: widget.pairs.found.text() == "4 pairs found")


def test_a_loaded_model_shows_its_card_and_a_foreign_file_is_refused(
    dock, model_path, tmp_path, wait_for, notifications
):
    widget = dock(ModelWidget)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not a model")
    widget.use.load.set_paths(foreign)
    wait_for(lambda: notifications)
    assert [severity for severity, _ in notifications] == ["error"]
    assert "is not a model" in notifications[0][1]
    widget.use.load.set_paths(model_path)
    wait_for(lambda: model_path.name in widget.use.card.text())
    assert widget.session.model == model_path


def test_a_stopped_training_goes_on_to_its_end(dock, pairs_folder, tmp_path, wait_for):
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    widget.steps.setValue(3)
    widget.output.set_paths(tmp_path / "long.safetensors")
    widget.train()
    wait_for(lambda: "1 of 3 steps" in widget.panel.message.text())
    widget.panel.stop()
    wait_for(lambda: not widget.panel.is_running)
    assert widget.resume.isChecked()
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    assert read_header(tmp_path / "long.safetensors")["provenance"]["steps_done"] == 3
    assert widget.resume.isHidden()


def test_a_training_that_goes_on_is_plotted_from_its_first_step(dock, pairs_folder, tmp_path, wait_for):
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    widget.steps.setValue(1000)
    widget.output.set_paths(tmp_path / "long.safetensors")

    def done():
        said = re.match(r"(\d+) of 1000 steps", widget.panel.message.text())
        return int(said[1]) if said else 0

    widget.train()
    wait_for(lambda: done() > 20, timeout=300_000)
    widget.panel.stop()
    wait_for(lambda: not widget.panel.is_running)
    history = read_header(tmp_path / "long.safetensors")["history"]
    widget.plot.clear()  # as in a dock that is opened anew
    widget.train()
    wait_for(lambda: widget.plot.losses, timeout=300_000)
    before = [(entry["step"], entry["loss"]) for entry in history]
    assert before[0][0] == 10
    assert widget.plot.losses[: len(before)] == pytest.approx(before)
    widget.panel.stop()
    wait_for(lambda: not widget.panel.is_running)


def test_closing_the_dock_while_it_trains_asks(viewer, dock, qtbot, pairs_folder, tmp_path, wait_for):
    widget = dock(ModelWidget)
    viewer.window._qt_window.show()
    frame = widget
    while not isinstance(frame, QDockWidget):
        frame = frame.parent()
    close = frame.findChild(QAbstractButton, "QTitleBarCloseButton")
    widget.pairs.folder.set_paths(pairs_folder)
    widget.steps.setValue(1000)
    widget.output.set_paths(tmp_path / "long.safetensors")
    widget.train()
    wait_for(lambda: "steps" in widget.panel.message.text(), timeout=300_000)

    def answer(label):
        qtbot.mouseClick(close, Qt.MouseButton.LeftButton)
        wait_for(lambda: widget.findChild(QMessageBox))
        box = widget.findChild(QMessageBox)
        assert "being trained" in box.text()
        (button,) = (one for one in box.buttons() if one.text() == label)
        qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    answer("Keep open")
    wait_for(lambda: not widget.findChild(QMessageBox))
    assert widget.panel.is_running
    answer("Stop and close")
    wait_for(lambda: widget.parent() is None)
    assert not widget.panel.is_running
    assert (tmp_path / "long.safetensors.checkpoint").exists()
    wait_for(lambda: not widget.panel._relays)  # the worker has ended
    widget.deleteLater()
    QApplication.sendPostedEvents(widget, QEvent.Type.DeferredDelete)


def test_the_table_says_what_is_paired_with_what(dock, tmp_path, wait_for):
    write_sample_folder(tmp_path, range(2), 64)
    widget = dock(ModelWidget)
    table = widget.pairs.table

    def rows():
        return [
            tuple(table.item(row, column).text() for column in range(3)) for row in range(table.rowCount())
        ]

    assert table.isHidden()
    widget.pairs.folder.set_paths(tmp_path)
    pair = "sample-000", "sample-000_SHG.tif", "sample-000_BF.tif"
    wait_for(lambda: len(rows()) == 2)
    assert rows()[0] == pair
    (tmp_path / "sample-001_SHG.tif").unlink()
    widget.pairs.look()
    wait_for(lambda: rows() == [pair, ("no partner", "", "sample-001_BF.tif")])
    assert not table.isHidden()
    (tmp_path / "sample-000_BF.tif").unlink()
    widget.pairs.look()
    wait_for(lambda: rows() and rows()[0][0] == "no partner")
    assert rows() == [("no partner", "sample-000_SHG.tif", ""), ("no partner", "", "sample-001_BF.tif")]
    assert "holds no pair" in widget.pairs.found.text()

    apart = tmp_path / "apart"
    for modality in ("SHG", "BF"):
        (apart / modality).mkdir(parents=True)
    (tmp_path / "sample-000_SHG.tif").rename(apart / "SHG" / "core.tif")
    (tmp_path / "sample-001_BF.tif").rename(apart / "BF" / "core.tif")
    widget.pairs.folder.set_paths(apart / "SHG")
    widget.pairs.second.set_paths(apart / "BF")
    wait_for(lambda: rows() == [("core", "core.tif", "core.tif")])
    for modality in ("SHG", "BF"):
        (apart / modality / "core.tif").rename(apart / f"{modality}-core.tif")
    widget.pairs.second.line.clear()
    widget.pairs.folder.set_paths(apart)
    widget.pairs.pattern.setText("<MODALITY>-<identifier>")
    wait_for(lambda: rows() == [("core", "SHG-core.tif", "BF-core.tif")])
    texts = []
    (button,) = widget.panel.findChildren(CopyButton)
    button.copied.connect(texts.append)
    button.copy("command")
    wait_for(lambda: texts)
    assert "--pattern '<MODALITY>-<identifier>'" in texts[0]
    assert widget.minutes.text() == "about 10 min on two processor cores"  # 1,500 steps


def test_a_pair_can_be_looked_at_before_training(viewer, dock, pairs_folder, wait_for):
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    wait_for(lambda: widget.pairs.table.rowCount() == 4)
    for number in (2, 1):
        widget.pairs.table.selectRow(number)
        widget.pairs.show_pair.click()
        name = f"sample-00{number}"
        wait_for(lambda name=name: [layer.name for layer in viewer.layers] == [f"{name} SHG", f"{name} BF"])
    np.testing.assert_array_equal(viewer.layers[1].data, read_image(pairs_folder / "sample-001_BF.tif"))
    widget.remove.click()
    wait_for(lambda: len(viewer.layers) == 0)


def test_problems_of_pairs_are_said_in_words_and_lead_to_the_pair(
    viewer, dock, pairs_folder, tmp_path, wait_for
):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for path in pairs_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "sample-002_BF.tif").write_bytes(b"II*\0")
    (folder / "lonely_BF.tif").write_bytes((folder / "sample-001_BF.tif").read_bytes())
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(folder)
    wait_for(
        lambda: widget.pairs.found.text() == "4 pairs found; 1 without a partner left out: lonely_BF.tif"
    )
    widget.pairs.check.click()
    wait_for(lambda: not widget.panel.is_running)
    sentences = [widget.pairs.problems.item(row).text() for row in range(widget.pairs.problems.count())]
    (row,) = [row for row, sentence in enumerate(sentences) if "sample-002_BF.tif" in sentence]
    widget.pairs.problems.itemClicked.emit(widget.pairs.problems.item(row))
    assert widget.pairs.table.item(widget.pairs.table.currentRow(), 0).text() == "sample-002"


def test_partners_that_are_turned_or_shifted_are_told_by_how_much(dock, tmp_path, wait_for):
    folder = tmp_path / "pairs"
    folder.mkdir()
    places = {
        "good": Region((159.5, 159.5), 240, 240),
        "turned": Region((159.5, 159.5), 240, 240, 8),
        "moved": Region((159.5 + 25, 159.5 + 40), 240, 240),
    }
    for number, (name, place) in enumerate(places.items()):
        tissue = sample_pair(60 + number, 320)
        shg = cut(tissue.shg, Region((159.5, 159.5), 240, 240))[0]
        tifffile.imwrite(folder / f"{name}_SHG.tif", shg[..., 0])
        tifffile.imwrite(folder / f"{name}_BF.tif", cut(tissue.bf, place)[0], photometric="rgb")
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(folder)
    wait_for(lambda: widget.pairs.found.text() == "3 pairs found")
    widget.pairs.check.click()
    wait_for(lambda: not widget.panel.is_running, 200_000)
    problems = widget.pairs.problems
    sentences = sorted(problems.item(row).text() for row in range(problems.count()))
    few, moved, turned = sentences  # each pair once, and nothing about the good one
    assert few.startswith("3 pairs of")
    assert "moved_BF.tif is shifted against moved_SHG.tif by 25 px up and 40 px left" in moved
    assert re.search(r"turned_BF.tif is turned by [789] degrees clockwise against turned_SHG.tif", turned)


def test_training_under_way_is_plotted_and_previewed_in_two_layers(viewer, dock, wait_for):
    widget, rng = dock(ModelWidget), np.random.default_rng(0)
    for step, score in ((1, None), (2, 0.25), (3, 0.5)):
        comirs = {modality: rng.integers(0, 256, (1, 32, 32), np.uint8) for modality in ("SHG", "BF")}
        preview = TrainingPreview(TrainingFigures(3.0 / step, 600.0, "cpu", 2e9, comirs, retrieval=score))
        widget.panel.progressed.emit(Progress(step, 10, "steps", "Training", preview))
    assert widget.plot.losses == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert widget.plot.scores == [(2, 0.25), (3, 0.5)]
    assert widget.figures.text() == "on cpu · 2.0 GB at most"
    wait_for(lambda: len(viewer.layers) == 2 and np.array_equal(viewer.layers[1].data, comirs["BF"][0]))
    assert [layer.name for layer in viewer.layers] == ["CoMIR of SHG so far", "CoMIR of BF so far"]
    widget.plot.show()
    widget.plot.resize(200, 120)
    for theme, loss, retrieval in (("dark", "#e69f00", "#56b4e9"), ("light", "#8f5200", "#005a8f")):
        viewer.theme = theme
        drawn = widget.plot.grab().toImage()
        places = [(x, y) for x in range(drawn.width()) for y in range(drawn.height())]
        colours = {(x, y): drawn.pixelColor(x, y).name() for x, y in places}
        assert {loss, retrieval} <= set(colours.values())
        along = [x for (x, _), colour in colours.items() if colour == loss]
        assert max(along) > 0.7 * drawn.width()  # though training has only begun
    viewer.layers.remove(viewer.layers[0])
    widget.panel.progressed.emit(Progress(4, 10, "steps", "Training", preview))
    wait_for(lambda: len(viewer.layers) == 2)
    widget.remove.click()
    wait_for(lambda: len(viewer.layers) == 0)


def test_previews_and_pairs_have_the_pixels_of_what_is_open(viewer, dock, tmp_path, wait_for, notifications):
    for modality in ("SHG", "BF"):
        pixels = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
        tifffile.imwrite(
            tmp_path / f"a_{modality}.ome.tif", pixels, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        )
    viewer.add_image(pixels, name="mine", scale=(0.25, 0.25), units=("um", "um"))
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(tmp_path)
    wait_for(lambda: widget.pairs.table.rowCount() == 1)
    widget.pairs.show_pair.click()
    wait_for(lambda: len(viewer.layers) == 3)
    comirs = {modality: np.zeros((1, 32, 32), np.uint8) for modality in ("SHG", "BF")}
    preview = TrainingPreview(TrainingFigures(1.0, 600.0, "cpu", 0.0, comirs))
    widget.panel.progressed.emit(Progress(1, 10, "steps", "Training", preview))
    wait_for(lambda: len(viewer.layers) == 5)
    assert [layer.scale.tolist() for layer in viewer.layers[1:]] == 2 * [[0.5, 0.5]] + 2 * [[0.25, 0.25]]
    assert len({layer.units for layer in viewer.layers}) == 1
    assert notifications == []


def test_the_comir_of_a_layer_lies_on_it_and_is_the_apis(viewer, dock, pairs_folder, model_path, wait_for):
    pixels = read_image(pairs_folder / "sample-001_SHG.tif")
    stack = np.stack([pixels[..., 0][::-1], pixels[..., 0]])
    turn = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    image = viewer.add_image(stack, name="stack", scale=(3, 0.5, 0.5), translate=(1, 2, 3), rotate=turn)
    viewer.dims.set_point(0, image.data_to_world((1, 0, 0))[0])
    widget = dock(ModelWidget)
    widget.use.load.set_paths(model_path)
    wait_for(lambda: widget.use.modality.count() == 2)
    widget.use.modality.setCurrentText("SHG")
    widget.use.panel.start_button.click()
    wait_for(lambda: len(viewer.layers) == 2)
    comir = viewer.layers["CoMIR of stack"]
    np.testing.assert_array_equal(comir.data[0], run(represent(load_model(model_path), pixels, "SHG"))[0])
    np.testing.assert_allclose(comir.data_to_world((0, 7, 9)), image.data_to_world((1, 7, 9)))
    widget.remove.click()
    wait_for(lambda: list(viewer.layers) == [image])


def copied(button, language, wait_for):
    texts = []
    button.copied.connect(texts.append)
    button.copy(language)
    wait_for(lambda: texts)
    assert QApplication.clipboard().text() == texts[0]
    return texts[0]


def run_command(command):
    program, *arguments = shlex.split(command)
    assert program == "napari-cmrir"
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def test_the_copied_training_of_a_translation_gives_the_same_model(dock, pairs_folder, tmp_path, wait_for):
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    widget.method.setCurrentText("cyclegan")
    for name in ("mirrored_corners", "unpaired"):
        widget.own_forms["cyclegan"].field(name).click()
    widget.own_forms["cyclegan"].field("target").setCurrentText("SHG")
    widget.steps.setValue(1)
    output = tmp_path / "m.safetensors"
    widget.output.set_paths(output)
    (button,) = widget.panel.findChildren(CopyButton)
    texts = [copied(button, language, wait_for) for language in ("command", "python")]
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    expected = load_model(output)
    assert expected.settings.unpaired
    assert expected.target == "SHG"
    for text, do in zip(texts, (run_command, lambda text: exec(text, {})), strict=True):
        output.unlink()
        do(text)
        assert load_model(output).fingerprint == expected.fingerprint


@pytest.mark.parametrize("source", ["folder", "layers"])
def test_the_copied_training_gives_the_same_model(
    viewer, dock, pairs_folder, tmp_path, monkeypatch, wait_for, source
):
    monkeypatch.setattr("napari_cmrir.napari.model_dock.kept_folder", lambda: tmp_path / "kept")
    widget = dock(ModelWidget)
    widget.pairs.folder.set_paths(pairs_folder)
    if source == "layers":
        for name in ("BF", "SHG"):
            viewer.add_image(read_image(pairs_folder / f"sample-002_{name}.tif").squeeze(), name=name)
        widget.pairs.source.setCurrentIndex(1)
        for combo, name in zip(widget.pairs.layers, ("SHG", "BF"), strict=True):
            combo.choose(viewer.layers[name])
    widget.steps.setValue(1)
    widget.seed.setValue(5)
    output = tmp_path / "m.safetensors"
    widget.output.set_paths(output)
    (button,) = widget.panel.findChildren(CopyButton)
    texts = [copied(button, language, wait_for) for language in ("command", "python")]
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    expected = load_model(output).fingerprint
    for text, do in zip(texts, (run_command, lambda text: exec(text, {})), strict=True):
        output.unlink()
        do(text)
        assert load_model(output).fingerprint == expected


def test_the_copied_representation_is_the_same(
    viewer, dock, pairs_folder, model_path, tmp_path, monkeypatch, wait_for
):
    monkeypatch.chdir(tmp_path)
    path = pairs_folder / "sample-001_BF.tif"
    viewer.open(path, name="BF", plugin="napari", rgb=True)
    widget = dock(ModelWidget)
    widget.use.load.set_paths(model_path)
    wait_for(lambda: widget.use.modality.count() == 2)
    widget.use.modality.setCurrentText("BF")
    widget.use.panel.start_button.click()
    wait_for(lambda: len(viewer.layers) == 2)
    shown = viewer.layers["CoMIR of BF"].data
    (button,) = widget.use.panel.findChildren(CopyButton)
    scope = {}
    exec(copied(button, "python", wait_for), scope)
    np.testing.assert_array_equal(scope["comir"][0], shown)
    run_command(copied(button, "command", wait_for))
    (written,) = (tmp_path / "comirs").iterdir()
    np.testing.assert_array_equal(read_image(written)[..., 0], shown)


def as_stored(network):
    """The parameters and buffers of a network as bare modules, which is what a released file holds of it."""
    stored = torch.nn.Module()
    for name, tensor in network.state_dict().items():
        *parents, leaf = name.split(".")
        module = stored
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, torch.nn.Module())
            module = module.get_submodule(parent)
        module.register_buffer(leaf, tensor)
    return stored


def test_the_copied_import_gives_the_same_model(dock, tmp_path, wait_for):
    torch.manual_seed(3)
    stored = {"modelA": as_stored(Tiramisu(1, 1)), "modelB": as_stored(Tiramisu(3, 1))}
    torch.save(stored, tmp_path / "released.pt")
    output = tmp_path / "released.safetensors"
    widget = dock(ModelWidget)
    assert widget.use.copy_import.isHidden()
    widget.use.load.set_paths(tmp_path / "released.pt")
    wait_for(lambda: widget.session.model == output)
    expected = load_model(output).fingerprint
    assert not widget.use.copy_import.isHidden()
    texts = [copied(widget.use.copy_import, language, wait_for) for language in ("command", "python")]
    for text, do in zip(texts, (run_command, lambda text: exec(text, {})), strict=True):
        output.unlink()
        do(text)
        assert load_model(output).fingerprint == expected
    widget.use.load.set_paths(output)
    assert widget.use.copy_import.isHidden()


def test_a_file_that_is_no_checkpoint_is_refused_on_import(dock, tmp_path, wait_for, notifications):
    widget = dock(ModelWidget)
    (tmp_path / "released.pt").write_bytes(b"no zip")
    widget.use.load.set_paths(tmp_path / "released.pt")
    wait_for(lambda: notifications)
    assert "is not a released CoMIR checkpoint" in notifications[0][1]
    assert not (tmp_path / "released.safetensors").exists()
