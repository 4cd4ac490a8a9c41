"""The window's thread touches no disk in the docks: it neither reads nor writes, nor asks for a path."""

import os
import sys
import threading
from pathlib import Path

import pytest

from napari_cmrir.images.readers import read_image
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.napari.model_dock import ModelWidget

EVENTS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "sqlite3.connect")
WATCHES = []  # an audit hook can't be taken away again: it passes on to these


def _hear(event, arguments):
    if WATCHES and event in EVENTS and arguments:
        for watch in WATCHES:
            watch(event, arguments[0])


sys.addaudithook(_hear)


@pytest.fixture
def touched(monkeypatch, pairs_folder, tmp_path):
    """What this thread asks of the disk below the folders of the test."""
    folders = (str(pairs_folder.parent), str(tmp_path))
    thread, events = threading.get_ident(), []

    def note(event, path):
        if threading.get_ident() == thread and isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if any(folder in name for folder in folders):
                events.append((event, name))

    stat = os.stat

    def noted_stat(path, *arguments, **keywords):
        note("os.stat", path)
        return stat(path, *arguments, **keywords)

    monkeypatch.setattr(os, "stat", noted_stat)
    WATCHES.append(note)
    yield events
    WATCHES.remove(note)


def test_the_watch_sees_what_it_should(touched, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert not (tmp_path / "b.txt").exists()
    assert [event for event, _ in touched] == ["open", "os.stat"]


def test_training_touches_no_disk_in_the_window(dock, pairs_folder, model_path, tmp_path, wait_for, touched):
    widget = dock(ModelWidget)
    Path(f"{tmp_path / 'old.safetensors'}.checkpoint").write_bytes(b"")
    touched.clear()
    widget.pairs.folder.set_paths(pairs_folder)
    wait_for(lambda: widget.pairs.found.text() == "4 pairs found")
    widget.output.set_paths(tmp_path / "old.safetensors")
    wait_for(lambda: widget.resume.isChecked())
    widget.pairs.open_pair(1)
    wait_for(lambda: len(widget.viewer.layers) == 2)
    widget.steps.setValue(1000)
    widget.output.set_paths(tmp_path / "new.safetensors")
    wait_for(lambda: not widget.resume.isChecked())
    widget.train()
    wait_for(lambda: "steps · " in widget.panel.message.text())
    widget.panel.stop()
    wait_for(lambda: widget.session.model is not None and not widget.panel.is_running)
    widget.use.load.set_paths(model_path)
    wait_for(lambda: widget.session.model == model_path and model_path.name in widget.use.card.text())
    assert touched == []


def test_indexing_touches_no_disk_in_the_window(dock, pairs_folder, model_path, tmp_path, wait_for, touched):
    widget = dock(IndexWidget)
    widget.images.set_paths(pairs_folder)
    wait_for(lambda: widget.output.path == pairs_folder.with_name("pairs.cmrir"))
    widget.output.set_paths(tmp_path / "new")
    widget.model.set_paths(tmp_path / "none.safetensors")
    widget.index()  # refused, for there is no such model
    wait_for(lambda: not widget.panel.is_running and "none.safetensors" in widget.panel.message.text())
    widget.model.set_paths(model_path)
    wait_for(lambda: widget.modality.count() == 2)
    widget.modality.setCurrentText("BF")
    widget.index()
    wait_for(lambda: "4 images searchable" in widget.panel.message.text() and len(widget.table.images) == 4)
    widget.verify_repository()
    wait_for(lambda: "No file is damaged." in widget.panel.message.text())
    assert touched == []


def test_searching_touches_no_disk_in_the_window(
    dock, viewer, pairs_folder, repository_path, tmp_path, wait_for, touched
):
    viewer.add_image(read_image(pairs_folder / "sample-001_SHG.tif")[..., 0], name="query")
    widget = dock(FindWidget)
    touched.clear()
    widget.repository.set_paths(repository_path)
    widget.find()  # before the repository has been read: the modality is filled in away from the window
    wait_for(lambda: not widget.panel.is_running and widget.view.found is not None)
    assert widget.view.found.query.modality == "SHG"
    wait_for(lambda: not widget.view.is_busy and len(viewer.layers) == 3)
    widget.view.list.choose(2)
    wait_for(lambda: not widget.view.is_busy and viewer.layers[-1].metadata["napari-cmrir"].get("rank") == 2)
    widget.view.explain.click()
    wait_for(lambda: not widget.view.is_busy and len(viewer.layers) == 6)
    widget.view.export.export("crop", tmp_path / "a.ome.tif")
    wait_for(lambda: widget.panel.message.text() == f"Written: {tmp_path / 'a.ome.tif'}")
    again = dock(FindWidget)
    wait_for(lambda: again.repository.path == repository_path and again.modality.count() == 2)
    assert touched == []
