"""The plugin as napari starts it: widgets by name from the menu, samples, and a viewer that is closed."""

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.pairs import find_pairs
from napari_cmrir.images.readers import find_images
from napari_cmrir.jobs import Progress
from napari_cmrir.widgets import sample_data


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


def test_the_folder_opens_from_the_menu_and_says_where_it_lies(viewer, cache, notifications):
    viewer.open_sample("napari-cmrir", "tissue-folder")
    folder = viewer.layers["Tissues BF"].metadata["folder"]
    assert folder in notifications[0][1]
    assert len(find_images([folder], "BF")) == 12
    assert len(find_pairs([folder], ("SHG", "BF"))) == 12
    assert viewer.layers["Tissues BF"].data.shape == (12, 64, 64, 3)
    assert viewer.layers["Tissues SHG"].data.shape == (12, 64, 64)


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
    viewer = make_napari_viewer()
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
    viewer = make_napari_viewer()
    dock, widget = viewer.window.add_plugin_dock_widget("napari-cmrir", "Index images")
    goes_on, ended = [], []

    def job():
        try:
            while not goes_on:
                yield Progress(1, 2, "steps")
            raise InputError("too late")
        finally:
            ended.append(True)

    widget.panel.run("Indexing images", job, goes_on.append)
    wait_for(lambda: widget.panel.bar.maximum() > 0)
    viewer.window.remove_dock_widget(dock)
    goes_on.append(True)
    wait_for(lambda: ended, timeout=1000)
    assert notifications == []
