"""Make the pictures of docs/images: a real napari, driven through the three widgets, on generated tissue.

From the top of the repository, on a virtual display where there is none (two minutes on two cores):

    python scripts/with_display.py python docs/make_screenshots.py

``find-region.png`` shows napari after a query: a small model was loaded in the widget "CoMIR model", twelve
brightfield images were indexed with "Index images", and "Find region" was asked for a region of an SHG image
that is a turned part of one of them. The script fails where the first hit is not that image.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import napari
from napari.layers import Image
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QApplication

from napari_cmrir.comir.settings import TrainingSettings
from napari_cmrir.comir.training import train
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.pairs import find_pairs
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.samples import write_sample_folder
from napari_cmrir.jobs import run

IMAGES = Path(__file__).resolve().parent / "images"
WINDOW = (1600, 900)
PAIR_SEEDS, SLIDE_SEEDS, ANSWER = range(100, 116), range(12), 4
SETTINGS = TrainingSettings(widths=(16, 32, 64), batch_size=16, patch_size=96, steps=300)
MICROMETRES = 0.5


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, help="keep the generated files and the model in this folder")
    work = parser.parse_args().work or Path(tempfile.mkdtemp())
    work.mkdir(exist_ok=True)
    os.chdir(work)  # so that the picture shows short paths
    write_sample_folder("pairs", PAIR_SEEDS, 256)
    slides = write_sample_folder("slides", SLIDE_SEEDS, 384)
    whole = read_image(slides[ANSWER].paths[0])
    part, _ = cut(whole, Region((192, 192), 256, 256, 15))
    for pair in slides:
        pair.paths[0].unlink()

    viewer = napari.Viewer(show=False)
    viewer.theme = "dark"
    docks = {name: open_dock(viewer, name) for name in ("CoMIR model", "Index images", "Find region")}
    arrange(viewer, docks)
    (_, model), (_, index), (_, find) = docks.values()
    load_model(model)
    make_index(index)
    query = viewer.add_image(
        part[..., 0], name="SHG query", colormap="green", gamma=0.6, scale=[MICROMETRES] * 2, units=["um"] * 2
    )
    query.name_overlay.visible = True
    query.name_overlay.font_size = 8
    search(viewer, find, query)
    best = find.table.item(0, 4).text()
    if best != slides[ANSWER].paths[1].name:
        raise SystemExit(f"The first hit is {best}, not {slides[ANSWER].paths[1].name}; train longer.")
    take_picture(viewer, IMAGES / "find-region.png")
    viewer.close()


def open_dock(viewer, name):
    """Open a widget as the menu does."""
    return viewer.window.add_plugin_dock_widget("napari-cmrir", name)


def arrange(viewer, docks) -> None:
    """Show all three docks at once, in two columns."""
    window = viewer.window._qt_window
    window.resize(*WINDOW)
    window.show()
    model, index, find = (dock for dock, _ in docks.values())
    window.splitDockWidget(model, find, Qt.Orientation.Horizontal)
    window.splitDockWidget(model, index, Qt.Orientation.Vertical)
    settle()
    window.resizeDocks([model, find], [290, 290], Qt.Orientation.Horizontal)
    viewer.canvas.grid.shape = (3, 2)


def load_model(widget) -> None:
    """Train a small model, unless the folder holds one from before, and load it."""
    path = Path("tissue.safetensors")
    if not path.exists():
        run(train(find_pairs("pairs", ("SHG", "BF")), ("SHG", "BF"), SETTINGS, output=path))
    widget.folder.set_paths(Path("pairs"))
    wait(lambda: "pairs found" in widget.found.text())
    widget.load.set_paths(path)


def make_index(widget) -> None:
    """Index the brightfield images."""
    widget.images.set_paths(Path("slides"))
    wait(lambda: widget.modality.currentText() == "BF" and "images found" in widget.found.text())
    widget.panel.start_button.click()
    wait(lambda: not widget.panel.is_running)


def search(viewer, widget, query: Image) -> None:
    """Draw a region and find it."""
    wait(lambda: widget.modality.currentText() == "SHG")
    widget.new_region.click()
    region = Region((120, 130), 130, 150)
    widget.region.layer.add_rectangles([region.corners()])
    widget.region.layer.mode = "pan_zoom"
    widget.panel.start_button.click()
    wait(lambda: not widget.panel.is_running)
    widget.table.setCurrentCell(0, 0)


def take_picture(viewer, path: Path) -> None:
    """Save the whole window."""
    viewer.window._qt_window.resize(*WINDOW)
    settle()
    path.parent.mkdir(exist_ok=True)
    viewer.window.screenshot(str(path), canvas_only=False, flash=False)
    print(path)


def wait(condition: Callable[[], object]) -> None:
    """Let the window live until something holds."""
    while not condition():
        settle(50)


def settle(milliseconds: int = 1500) -> None:
    """Let the window live for a while."""
    done: list[bool] = []
    QTimer.singleShot(milliseconds, lambda: done.append(True))
    while not done:
        QApplication.processEvents()


if __name__ == "__main__":
    main()
