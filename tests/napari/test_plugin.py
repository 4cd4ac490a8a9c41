"""The plugin as napari starts it: widgets by name from the menu, samples, and a viewer that is closed."""

import threading
import time
from importlib import import_module
from importlib.resources import files

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.readers import find_images
from napari_cmrir.jobs import Progress
from napari_cmrir.napari import contributions as sample_data


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A user's cache of our own, and tissues that are quickly generated."""
    monkeypatch.setattr(sample_data, "_cache", lambda: tmp_path)
    monkeypatch.setattr(sample_data, "_SIZE", 64)
    return tmp_path


def test_napari_opens_the_three_widgets_by_name_and_they_share_a_session(viewer):
    docks = [
        viewer.window.add_plugin_dock_widget("napari-cmrir", name)
        for name in ("CoMIR model", "Index images", "Find region")
    ]
    model, index, find = (widget for _, widget in docks)
    assert [type(widget).__name__ for widget in (model, index, find)] == [
        "ModelWidget",
        "IndexWidget",
        "FindWidget",
    ]
    assert model.session is index.session is find.session


def test_the_pair_opens_from_the_menu(viewer, cache):
    viewer.open_sample("napari-cmrir", "tissue-pair")
    bf, shg = viewer.layers
    assert (bf.rgb, shg.rgb) == (True, False)
    assert bf.data.shape[:2] == shg.data.shape
    assert np.ptp(shg.data) > 100


def test_the_folder_opens_from_the_menu_and_says_where_it_lies(
    viewer, cache, notifications, wait_for, monkeypatch
):
    threads, write = [], sample_data._write_once

    def write_and_note(folder):
        threads.append(threading.current_thread())
        return write(folder)

    monkeypatch.setattr(sample_data, "_write_once", write_and_note)
    viewer.open_sample("napari-cmrir", "tissue-folder")
    wait_for(lambda: notifications)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    folder = viewer.layers["Tissues BF"].metadata["folder"]
    assert folder in notifications[0][1]
    assert len(find_images([folder], "BF")) == 12
    assert len(find_pairs([folder], ("SHG", "BF"))) == 12
    assert viewer.layers["Tissues BF"].data.shape == (12, 64, 64, 3)
    assert viewer.layers["Tissues SHG"].data.shape == (12, 64, 64)
    for name, axes in (("BF", (1, 2, 3)), ("SHG", (1, 2))):
        assert np.ptp(viewer.layers[f"Tissues {name}"].data, axis=axes).min() > 0


def test_the_folder_is_written_once_and_mended_where_a_file_is_missing(cache):
    written = sample_data._write_once(cache / "tissue")
    first = written[0].paths[1]
    before = first.stat().st_mtime_ns
    sample_data._write_once(cache / "tissue")
    assert first.stat().st_mtime_ns == before
    first.unlink()
    sample_data._write_once(cache / "tissue")
    assert first.exists()


def test_closing_the_viewer_stops_what_runs(make_napari_viewer, wait_for, notifications):
    viewer = make_napari_viewer(strict_qt="raise")
    _, widget = viewer.window.add_plugin_dock_widget("napari-cmrir", "Find region")
    ended, steps = [], []

    def job():
        try:
            while True:
                steps.append(1)
                yield Progress(1, 2, "steps")
        finally:
            ended.append(True)

    widget.panel.run("Finding the region", job, steps.append)
    wait_for(lambda: steps)
    del widget
    viewer.close()
    wait_for(lambda: ended, timeout=1000)
    assert notifications == []


def test_a_refusal_after_closing_is_not_told(make_napari_viewer, wait_for, notifications):
    viewer = make_napari_viewer(strict_qt="raise")
    dock, widget = viewer.window.add_plugin_dock_widget("napari-cmrir", "Index images")
    goes_on, ended, steps = [], [], []

    def job():
        try:
            while not goes_on:
                steps.append(1)
                yield Progress(1, 2, "steps")
            raise InputError("too late")
        finally:
            ended.append(True)

    widget.panel.run("Indexing images", job, goes_on.append)
    wait_for(lambda: steps)
    viewer.window.remove_dock_widget(dock)
    widget.deleteLater()  # as napari does where the window closes
    del dock, widget
    goes_on.append(True)
    wait_for(lambda: ended, timeout=1000)
    assert notifications == []


def test_every_command_of_the_manifest_is_there():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(files("napari_cmrir") / "napari.yaml")
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert callable(getattr(import_module(module), name)), command.id


def test_the_first_hit_of_the_ready_search_comes_within_a_minute(
    viewer, cache, monkeypatch, wait_for, notifications
):
    monkeypatch.setattr(sample_data, "_SIZE", 256)
    monkeypatch.setattr(sample_data, "_FOLDER_SEEDS", range(5))
    started = time.process_time()
    viewer.open_sample("napari-cmrir", "ready-search")
    _, find = viewer.window.add_plugin_dock_widget("napari-cmrir", "Find region")
    wait_for(lambda: find.modality.currentText() == "SHG")
    find.new_region.click()
    find.region.layer.add_rectangles([[[30, 30], [30, 130], [130, 130], [130, 30]]])
    find.find()
    wait_for(lambda: len(viewer.layers) == 4 and not find.view.is_busy)
    assert "sample-004_BF.tif" in viewer.layers[2].name
    assert find.view.verdict.isHidden()
    assert time.process_time() - started < 60


def test_a_repository_opens_as_layers_and_is_proposed(viewer, repository_path):
    layers = viewer.open(repository_path / "catalogue.sqlite", plugin=None)
    assert [layer.name for layer in layers] == [f"CoMIR of sample-00{i}_BF.tif" for i in range(4)]
    assert layers[0].data.shape == (128, 128)
    _, find = viewer.window.add_plugin_dock_widget("napari-cmrir", "Find region")
    assert find.repository.path == repository_path


def test_match_boxes_are_saved_as_hits_and_other_shapes_are_left_to_others(viewer, tmp_path):
    record = {
        "rank": 1,
        "image": "a.tif",
        "score": 0.5,
        "box": [[0, 0], [0, 9], [9, 9], [9, 0]],
        "rotation_degrees": 3.0,
        "confidence": 0.9,
    }
    layer = viewer.add_shapes(
        [record["box"]], shape_type="polygon", metadata={"napari-cmrir": {"is_result": True, **record}}
    )
    assert layer.save(str(tmp_path / "hits.csv"), plugin="napari-cmrir")
    heading, row = (tmp_path / "hits.csv").read_text().splitlines()
    assert heading.startswith("query,rank,image,score")
    assert row.startswith(",1,a.tif,0.5,0.9,3.0")


def test_the_palettes_commands_work_on_the_dock_that_is_open(viewer, repository_path, wait_for):
    from napari_cmrir.napari import contributions as palette

    viewer.add_image(np.zeros((60, 60)), name="query")
    palette.new_region()
    palette.new_region()
    assert [layer.name for layer in viewer.layers][1:] == ["Region of query", "Region of query [1]"]
    assert palette.load_sample_model().stat().st_size < 300_000
