"""What once ended the whole program is done in a process of its own, which must live to say so."""

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest

BINDINGS = {"pyside6": "PySide6", "pyqt6": "PyQt6"}

PRELUDE = """
import gc, os, sys, time
import numpy as np
import napari
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication

def live(seconds=0.05):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)

def until(condition, seconds=100):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        live(0.02)

viewer = napari.Viewer()
live()
"""

CLOSE_DOCKS = """
from napari_cmrir.jobs import Progress

begun, closed = [], []
def work():
    begun.append(1)
    try:
        while True:
            time.sleep(0.005)
            yield Progress(1, 2, "steps")
    finally:
        closed.append(1)

for with_job in (False, True) * 5:
    for name in ("1. CoMIR model", "2. Index images", "3. Find region"):
        dock, widget = viewer.window.add_plugin_dock_widget("napari-cmrir", name)
        live(0.03)
        if with_job:
            count = len(begun)
            widget.panel.run("Working", work, print)
            until(lambda: len(begun) > count)
        dock.destroyOnClose()  # as its button does
        del dock, widget
        live(0.03)
        gc.collect()
        live(0.03)
until(lambda: len(closed) == 15)
print("ALIVE")
os._exit(0)  # napari's own tidying at the end is not what is tested
"""

REMOVE_RESULTS = """
from napari_cmrir.images.readers import read_image
from napari_cmrir.napari.find_dock import FindWidget

image = viewer.add_image(read_image(sys.argv[2])[..., 0], name="query")
widget = FindWidget(viewer)
viewer.window.add_dock_widget(widget, name="3. Find region")
widget.repository.set_paths(sys.argv[1])
until(lambda: widget.modality.count() == 2)
for number in range(3):
    widget.new_region.click()
    live()
    region = widget.region.layer
    region.add([[10, 10], [10, 90], [90, 90], [90, 10]], shape_type="rectangle")
    widget.find()
    until(lambda: not widget.panel.is_running and len(widget.view.added._results()) == 2)
    until(lambda: not widget.view.is_busy)
    if number % 2:
        widget.view.keep.click()
        widget.view.list.choose(2)
        until(lambda: len(widget.view.added._results()) == 4 and not widget.view.is_busy)
    widget.view.remove.click()
    viewer.canvas.grid.enabled = True
    until(lambda: not widget.view.is_busy)
    assert region in viewer.layers, "the user's region is gone"
    assert not [layer for layer in viewer.layers if layer.metadata.get("napari-cmrir", {}).get("is_result")]
    live()
    viewer.canvas.grid.enabled = False
    other = viewer.add_image(np.zeros((64, 64)))
    live()
    viewer.layers.remove(other)
    live()
print("ALIVE")
os._exit(0)
"""


def run_program(program, *arguments, binding=None):
    environment = os.environ | {"LIBGL_ALWAYS_SOFTWARE": "1"}
    if binding is not None:
        environment["QT_API"] = binding
    source = PRELUDE + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", source, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("binding", BINDINGS)
def test_docks_close_and_are_collected(binding):
    if importlib.util.find_spec(BINDINGS[binding]) is None:
        pytest.skip(f"{BINDINGS[binding]} is not installed")
    ended = run_program(CLOSE_DOCKS, binding=binding)
    assert (ended.returncode, "ALIVE" in ended.stdout) == (0, True), ended.stderr[-3000:]


def test_the_canvas_changes_after_results_are_removed(repository_path, pairs_folder):
    ended = run_program(REMOVE_RESULTS, repository_path, pairs_folder / "sample-000_SHG.tif")
    assert (ended.returncode, "ALIVE" in ended.stdout) == (0, True), ended.stderr[-3000:]
