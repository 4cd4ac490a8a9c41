"""What once ended the whole program is done in a process of its own, which must live to say so."""

import importlib.util
import os
import subprocess
import sys
import textwrap
import uuid

import psutil
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

def grid_of(viewer):
    return getattr(viewer, "canvas", viewer).grid  # napari 0.9 moved it

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
    grid_of(viewer).enabled = True
    until(lambda: not widget.view.is_busy)
    assert region in viewer.layers, "the user's region is gone"
    assert not [layer for layer in viewer.layers if layer.metadata.get("napari-cmrir", {}).get("is_result")]
    live()
    grid_of(viewer).enabled = False
    other = viewer.add_image(np.zeros((64, 64)))
    live()
    viewer.layers.remove(other)
    live()
print("ALIVE")
os._exit(0)
"""

REMOVE_AT_ONCE = """
from napari_cmrir.napari.dock import open_dock

open_dock(viewer, "find")
image = viewer.add_image(np.eye(64))
live(0.2)
corners = np.array([[1.0, 1], [1, 41], [41, 41], [41, 1]])
for number in range(3):
    layers = [viewer.add_shapes([corners]), viewer.add_shapes([corners + 2]), viewer.add_image(np.eye(64))]
    live(0.2)
    layers[0].add(corners + 4)
    layers[1].add(corners + 6)
    layers[2].data = np.eye(48)  # OpenGL commands are pending: nothing is painted before the removal
    for layer in reversed(layers):
        viewer.layers.remove(layer)
    live(0.2)
    viewer.add_shapes([corners])
    live(0.2)
viewer.layers.clear()
viewer.add_image(np.eye(64))
live(0.2)
print("ALIVE")
os._exit(0)
"""

MONKEY = """
import random, threading, traceback
from napari_cmrir.images.readers import read_image
from napari_cmrir.napari.dock import DOCKS, open_dock
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.region_query import chosen_shape

repository, picture, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance, raised, done = random.Random(seed), [], []

def note(*error):
    raised.append("".join(traceback.format_exception(*error)))

sys.excepthook = note
threading.excepthook = lambda given: note(given.exc_type, given.exc_value, given.exc_traceback)
pixels = read_image(picture)[..., 0]

def frames():
    return {frame.inner_widget(): frame for frame in viewer.window._wrapped_dock_widgets.values()}

def finder():
    for widget in frames():
        if isinstance(widget, FindWidget):
            return widget
    widget = open_dock(viewer, "find")
    widget.repository.set_paths(repository)
    return widget

def draw():
    widget = finder()
    widget.new_region.click()
    if widget.region.layer is not None:
        y, x, side = chance.randint(0, 60), chance.randint(0, 60), chance.randint(20, 70)
        corners = [[y, x], [y, x + side], [y + side, x + side], [y + side, x]]
        widget.region.layer.add(corners, shape_type=chance.choice(["rectangle", "ellipse", "polygon"]))

def draw_with_napari():
    viewer.add_shapes([[[9, 9], [9, 80], [80, 80], [80, 9]]], shape_type="rectangle")

def paint():
    painted = np.zeros(pixels.shape, int)
    for label in (1, 2):
        y, x = chance.randint(0, 60), chance.randint(0, 60)
        painted[y : y + 50, x : x + 40] = label
    viewer.add_labels(painted).selected_label = chance.choice([1, 2, 3])

def each():
    widget = finder()
    if not widget.each.isHidden():
        widget.each.toggle()

def choose_region():
    layers = [layer for layer in viewer.layers if isinstance(layer, napari.layers.Shapes) and layer.nshapes]
    if layers:
        layer = viewer.layers.selection.active = chance.choice(layers)
        layer.selected_data = {chance.randrange(layer.nshapes)}

def choose_answer():
    widget = finder().answers
    if widget.count():
        widget.setCurrentIndex(chance.randrange(widget.count()))

def places():
    finder().more.find_places()

def open_images():
    finder().more.find_open_images()

def choose():
    widget = finder().view.list
    if widget.count():
        widget.setCurrentRow(chance.randrange(widget.count()))

def press(name):
    def act():
        button = getattr(finder().view, name)
        if button.isEnabled() and not button.isHidden():
            button.click()
    act.__name__ = name
    return act

def look():
    finder().view.how.setCurrentIndex(chance.randrange(2))

def blend():
    finder().view.blend.setValue(chance.randrange(101))

def switch():
    open_dock(viewer, chance.choice(list(DOCKS)))

def close():
    if frames():
        frame = chance.choice(list(frames().values()))
        frame.destroyOnClose()

def delete():
    if len(viewer.layers):
        viewer.layers.pop(chance.randrange(len(viewer.layers)))

def add():
    viewer.add_image(pixels, name="query")

def hide():
    if len(viewer.layers):
        layer = chance.choice(viewer.layers)
        layer.visible = not layer.visible

def grid():
    grid_of(viewer).enabled = not grid_of(viewer).enabled

def zoom():
    getattr(viewer, "scene", viewer).camera.zoom *= chance.choice([0.5, 2])

def whole():
    finder().view.added.toggle_whole()

def cancel():
    finder().panel.stop()

def find():
    finder().find()

def wait():
    live(chance.choice([0.3, 0.6]))

actions = [draw] * 4 + [find] * 8 + [wait] * 8 + [choose] * 4 + [add] * 3 + [
    draw_with_napari, press("explain"), press("explain"), press("keep"), press("keep"), press("remove"),
    press("remove"), press("blink"), look, blend, switch, switch, close, delete, delete, hide, grid, zoom,
    whole, cancel, paint, each, choose_region, choose_region, choose_answer, places, places, open_images,
]
add()
for number in range(count):
    action = chance.choice(actions)
    done.append(action.__name__)
    print(action.__name__, end=" ", flush=True)
    try:
        action()
    except Exception:
        note(*sys.exc_info())
    live(chance.choice([0.03, 0.06, 0.1]))  # no hand is faster, and napari has drawn
    if raised:
        break
if raised:
    print(raised[0], file=sys.stderr, flush=True)
    os._exit(3)
sys.excepthook = sys.__excepthook__
widget = finder()
widget.panel.stop()
until(lambda: not widget.panel.is_running and not widget.view.is_busy)
widget.view.clear()
until(lambda: not widget.view.is_busy)
left = [layer.name for layer in viewer.layers if layer.metadata.get("napari-cmrir", {}).get("is_result")]
for frame in frames().values():
    frame.destroyOnClose()
del widget
live()
gc.collect()
live(0.2)
viewer.close()
from qtpy.QtCore import QThreadPool
until(lambda: not QThreadPool.globalInstance().activeThreadCount())
live(0.2)
gc.collect()
assert not raised, raised[0]
print("ALIVE", "left:", left)
sys.stdout.flush()
os._exit(0)
"""

# Weekly: a seed of 200 actions takes one to nine minutes on two cores. CMRIR_MONKEYS=10 runs ten seeds.
MONKEYS = int(os.environ.get("CMRIR_MONKEYS", "0"))
ACTIONS = 200


def run_program(program, *arguments, binding=None, token="", timeout=280):
    environment = os.environ | {"LIBGL_ALWAYS_SOFTWARE": "1", "TOKEN": token}
    if binding is not None:
        environment["QT_API"] = binding
    source = PRELUDE + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", source, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
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


@pytest.mark.parametrize("binding", BINDINGS)
def test_layers_are_removed_at_once(binding):
    """The user's own removals, too: without a dock, napari 0.9 ends in glDrawArrays at the second one."""
    if importlib.util.find_spec(BINDINGS[binding]) is None:
        pytest.skip(f"{BINDINGS[binding]} is not installed")
    ended = run_program(REMOVE_AT_ONCE, binding=binding)
    assert (ended.returncode, "ALIVE" in ended.stdout) == (0, True), ended.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1600)
@pytest.mark.parametrize("seed", range(MONKEYS))
def test_napari_lives_through_random_actions(repository_path, pairs_folder, seed):
    token = uuid.uuid4().hex
    query = pairs_folder / "sample-000_SHG.tif"
    ended = run_program(MONKEY, repository_path, query, seed, ACTIONS, token=token, timeout=1500)
    assert (ended.returncode, "ALIVE left: []" in ended.stdout) == (0, True), (
        ended.stdout[-600:] + ended.stderr[-6000:]
    )
    with_token = [process for process in psutil.process_iter() if _environment(process).get("TOKEN") == token]
    _, alive = psutil.wait_procs(with_token, timeout=30)
    assert not alive  # its worker process ends with it


def _environment(process):
    try:
        return process.environ()
    except psutil.Error:  # ended, or another user's
        return {}
