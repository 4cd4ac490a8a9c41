"""Run through the whole plugin in a real napari, and save a picture of every step.

From the top of the repository, on a virtual display where there is none (some five minutes on two cores):

    python scripts/with_display.py python docs/tour.py

The pictures go to napari-cmrir-tour in the folder for temporary files; ``python docs/make_pictures.py tour
moving`` takes those that the pages show.

The window is 1366 x 768 px, or as ``--size`` says. All images are generated. A small model is trained and
stopped for the pictures, after ``--train-seconds`` or with the first preview; the search uses the model that
ships with the package. Every step is checked. ``--only find`` runs one part of the tour. The tour prints the
longest time that the window's event loop stood still, the part of it in which the window's thread was
computing, how long stopping took, and the growth of memory over many searches; and first the user's actions
and the seconds from the sample, and from files of one's own, to the first hit, and to a second one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from shutil import copytree

import napari
from qtpy import API_NAME
from qtpy.QtCore import QSettings, Qt, QThreadPool
from qtpy.QtWidgets import QApplication
from tifffile import imwrite
from tour_tools import Hand, Ticker, check, is_shown, press, resident_megabytes, settle, wait

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import find_images, read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.hit_files import EXPORTS
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.repository.build import build_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.model_file import sample_model

IMAGES = Path(tempfile.gettempdir()) / "napari-cmrir-tour"
WINDOW = (1366, 768)
PAIR_SEEDS, SLIDE_SEEDS, ANSWER = range(100, 108), range(12), 4
REGION = Region((128, 132), 120, 140, 10)
MICROMETRES = 0.5
PARTS = ("actions", "sample", "model", "index", "find")


def main() -> None:
    """Go through the plugin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    parser.add_argument("--size", type=int, nargs=2, default=WINDOW, help="of the window in px")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go")
    parser.add_argument("--searches", type=int, default=20, help="for the memory")
    parser.add_argument("--train-seconds", type=float, default=0.0, help="how long to train at least")
    parser.add_argument("--only", choices=PARTS, help="a part of the tour")
    given = parser.parse_args()
    pictures = given.images.resolve()
    work = Path(tempfile.mkdtemp())
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(work))
    os.chdir(work)  # so that the pictures show short paths
    write_sample_folder("pairs", PAIR_SEEDS, 256)
    slides = write_sample_folder("slides", SLIDE_SEEDS, 384)
    query, _ = cut(read_image(slides[ANSWER].paths[0]), Region((192, 192), 256, 256, 15))
    for pair in slides:
        pair.paths[0].unlink()

    if given.only in (None, "actions"):
        count_actions(partial(open_window, given), query[..., 0], work / "actions")
    if given.only == "actions":
        return
    viewer = open_window(given)
    docks = {}
    for name in ("1. CoMIR model", "2. Index images", "3. Find region"):
        docks[name] = viewer.window.add_plugin_dock_widget("napari-cmrir", name, tabify=bool(docks))
    settle()
    tour = Tour(viewer, docks, pictures, given.theme)
    for part in (given.only,) if given.only else PARTS[1:]:
        if part == "sample":
            tour.sample()
        elif part == "model":
            tour.model(given.train_seconds)
        elif part == "index":
            tour.index()
        else:
            tour.find(query[..., 0], slides[ANSWER].paths[1].name)
            tour.memory(given.searches)
            tour.no_match()
            tour.clear()
    close(viewer)
    print(f"{API_NAME}, {given.theme}: pictures in {given.images}")


def open_window(given: argparse.Namespace) -> napari.Viewer:
    """Open napari as the arguments say."""
    viewer = napari.Viewer(show=False)
    viewer.theme = given.theme
    viewer.window._qt_window.resize(*given.size)
    viewer.window._qt_window.show()
    settle()
    return viewer


def count_actions(open_viewer, query, folder: Path) -> None:
    """Count what a user does from the sample, and from files, to the first hit, and to the second."""
    viewer = open_viewer()
    folder.mkdir()
    os.environ["XDG_CACHE_HOME"] = str(folder)  # nothing is left of an earlier sample; napari has its icons
    hand = Hand(viewer)
    hand.choose("File", "Open Sample", "CoMIR Image Retrieval", "Ready to search")
    find = find_dock(viewer)
    wait(lambda: find.repository.path is not None and find.modality.currentText() == "SHG")
    hand.click(find.panel.start_button)
    wait(lambda: shows_hit(viewer, find, 1))
    hand.report("from the sample to the first hit", 3)
    hand.begin()
    hand.click(find.new_region)
    settle(500)
    hand.draw((60, 60), (170, 190))
    wait(lambda: find.panel.is_running or len(find.view.found.query.outline.points))
    wait(lambda: shows_hit(viewer, find, 1) and len(viewer.layers) == 5)
    hand.report("the second search", 2)
    close(viewer)

    imwrite(folder / "own_SHG.tif", query)
    copytree("slides", folder / "images")
    viewer = open_viewer()
    hand = Hand(viewer)
    hand.drop(folder / "own_SHG.tif")
    wait(lambda: len(viewer.layers) == 1)
    hand.choose("Plugins", "CoMIR Image Retrieval", "2. Index images")
    index = next(one for one in viewer.window.dock_widgets.values() if isinstance(one, IndexWidget))
    hand.drop(folder / "images", index.images.line)
    hand.drop(sample_model(), index.model.line)
    wait(lambda: index.modality.currentText() == "BF" and "12 images found" in index.found.text())
    wait(lambda: index.output.path is not None)
    hand.click(index.panel.start_button)
    wait(lambda: index.panel.message.text().startswith("12 images searchable"))
    hand.click(index.search)
    find = find_dock(viewer)
    wait(lambda: find.region.layer is not None and find.modality.currentText() == "SHG")
    settle(500)
    hand.draw((70, 60), (190, 200))
    hand.click(find.panel.start_button)
    wait(lambda: shows_hit(viewer, find, 1))
    hand.report("from files and a model of one's own to the first hit", 8)
    close(viewer)


def find_dock(viewer) -> FindWidget:
    """Wait for the dock Find region."""
    docks = viewer.window.dock_widgets
    wait(lambda: any(isinstance(one, FindWidget) for one in docks.values()))
    return next(one for one in docks.values() if isinstance(one, FindWidget))


def shows_hit(viewer, find, rank: int) -> bool:
    """Whether the two layers of a hit are there."""
    ranks = [layer.metadata.get("napari-cmrir", {}).get("rank") for layer in viewer.layers]
    return ranks.count(rank) == 2 and not find.view.is_busy and not find.panel.is_running


def close(viewer) -> None:
    """Close a window, and wait for its workers."""
    viewer.close()
    wait(lambda: not QThreadPool.globalInstance().activeThreadCount())


class Tour:
    """The steps, in the order in which a user takes them."""

    def __init__(self, viewer, docks, images: Path, theme: str) -> None:
        self.viewer, self.docks, self.images, self.theme = viewer, docks, images, theme
        self.ticker = Ticker()

    def sample(self) -> None:
        """Open the sample data."""
        self._raise("1. CoMIR model")
        self.viewer.open_sample("napari-cmrir", "tissue-pair")
        self.picture("sample-data")
        self.viewer.layers.clear()

    def model(self, seconds: float) -> None:
        """Check the pairs, train, stop, load the model that ships with the package."""
        widget = self._raise("1. CoMIR model")
        widget.pairs.folder.set_paths(Path("pairs"))
        wait(lambda: "pairs found" in widget.pairs.found.text())
        widget.pairs.open_pair(1)
        wait(lambda: len(self.viewer.layers) == 2)
        self.picture("model-pairs")
        widget.remove.click()
        widget.steps.setValue(100_000 if seconds else 400)
        widget.output.set_paths(Path("trained.safetensors"))
        self.ticker.start()
        widget.train()
        start = time.monotonic()
        wait(lambda: len(widget.plot.losses) >= 4 and len(self.viewer.layers) == 2)
        wait(lambda: time.monotonic() - start >= seconds)
        gap = self.ticker.stop()
        self.viewer.reset_view()
        self.picture("model-training")
        self.report("training", gap, self._cancel(widget.panel))
        check(Path("trained.safetensors").is_file(), "the best so far is not kept")
        self.picture("model-trained")
        widget.remove.click()
        widget.use.load.set_paths(sample_model())
        wait(lambda: widget.session.model == sample_model())

    def index(self) -> None:
        """Index the brightfield images, paused once."""
        widget = self._raise("2. Index images")
        widget.session.model = sample_model()
        widget.images.set_paths(Path("slides"))
        wait(lambda: widget.modality.count() == 2 and "images found" in widget.found.text())
        widget.modality.setCurrentText("BF")
        wait(lambda: "12 images found" in widget.found.text())
        self.ticker.start()
        widget.index()
        wait(lambda: "images" in widget.panel.message.text())
        cancelled = self._cancel(widget.panel)
        widget.index()
        wait(lambda: not widget.panel.is_running)
        self.report("indexing", self.ticker.stop(), cancelled)
        wait(lambda: len(widget.table.images) == 12)
        first = widget.table.model().index(0, 0)
        wait(lambda: first.data(Qt.ItemDataRole.DecorationRole).toImage().pixelColor(9, 9).alpha())
        self.picture("index")

    def find(self, pixels, expected: str) -> None:
        """Draw a region, find it, walk the hits, register, explain, export."""
        widget = self._raise("3. Find region")
        if widget.session.repository is None:
            widget.session.repository = index_quietly()
        self.picture("find-empty")
        self.viewer.add_image(
            pixels, name="SHG query", colormap="green", gamma=0.6, scale=[MICROMETRES] * 2, units=["um"] * 2
        )
        wait(lambda: widget.modality.currentText() == "SHG")
        widget.new_region.click()
        widget.region.layer.add_rectangles([REGION.corners()])
        widget.region.layer.mode = "pan_zoom"
        self.picture("find-draw")
        widget.find()
        wait(lambda: "%" in widget.panel.message.text())
        cancelled = self._cancel(widget.panel)
        self.ticker.start()
        widget.find()
        wait(lambda: not widget.panel.is_running)
        search_gap = self.ticker.stop()
        self.report("searching", search_gap, cancelled)
        self.ticker.start()
        self._wait_for_hit(widget, 1)
        self.report("showing the first hit (napari adds two layers)", self.ticker.stop())
        best = widget.view.found.result.hits[0]
        check(Path(best.image).name == expected, f"the first hit is {best.image}, not {expected}")
        wait(lambda: all(widget.view.list.item(row).data(1) is not None for row in range(5)))
        self.picture("find-region")
        self.ticker.start()
        press(widget.view.list, Qt.Key.Key_Down)
        self._wait_for_hit(widget, 2)
        self.report("walking to the next hit", self.ticker.stop())
        self.picture("find-second")
        press(widget.view.list, Qt.Key.Key_Up)
        self._wait_for_hit(widget, 1)
        widget.view.how.setCurrentIndex(1)
        wait(lambda: not widget.view.is_busy)
        widget.view.blend.setValue(60)
        self.picture("find-registered")
        widget.view.explain.click()
        wait(lambda: any("Agreement" in layer.name for layer in self.viewer.layers))
        self.picture("find-explained")
        for kind, (_, name, _) in EXPORTS.items():
            widget.view.export.export(kind, Path(name))
            wait(lambda name=name: widget.panel.message.text() == f"Written: {name}")
            check(Path(name).stat().st_size > 0, f"{name} is empty")
        (answer,) = json.loads(Path("hits.json").read_text())["queries"]
        check(Path(answer["hits"][0]["image"]).name == expected, "hits.json holds other hits")
        self.picture("find-exported")
        widget.copy.copy("command")
        wait(lambda: QApplication.clipboard().text().startswith("napari-cmrir query"))

    def memory(self, searches: int) -> None:
        """Search and remove the results repeatedly, and measure the memory that remains."""
        _, widget = self.docks["3. Find region"]
        used = [resident_megabytes()]
        for _ in range(searches):
            widget.find()
            wait(lambda: not widget.panel.is_running)
            self._wait_for_hit(widget, 1)
            widget.view.clear()
            wait(lambda: not widget.view.is_busy)
            settle(100)
            used.append(resident_megabytes())
        if searches:
            in_all, since_first = used[-1] - used[0], used[-1] - used[1]
            print(
                f"memory after {searches} searches and clears: {in_all:+.0f} MB, and {since_first:+.0f} MB"
                " since the first of them"
            )

    def no_match(self) -> None:
        """Search for tissue that is not in the repository, and make requests that must be refused."""
        _, widget = self.docks["3. Find region"]
        other = self.viewer.add_image(
            sample_pair(999, 200).shg[..., 0],
            name="Other tissue",
            colormap="green",
            scale=[MICROMETRES] * 2,
            units=["um"] * 2,
        )
        widget.image.choose(other)
        region = widget.region.layer
        widget.region.choose(None)
        widget.view.how.setCurrentIndex(0)
        widget.find()
        wait(lambda: not widget.panel.is_running)
        self._wait_for_hit(widget, 1)
        self.picture("find-no-match")
        added = len(self.viewer.layers)
        widget.new_region.click()
        widget.find()
        wait(lambda: is_shown("NapariQtNotification"))
        self.picture("find-refused")
        check(len(self.viewer.layers) == added + 1, "a search that was refused has added layers")
        self.viewer.layers.remove(widget.region.layer)
        self.viewer.layers.remove(other)
        widget.image.choose(self.viewer.layers["SHG query"])
        widget.region.choose(region)

    def clear(self) -> None:
        """Remove the plugin's layers, and check that the user's layers remain."""
        _, widget = self.docks["3. Find region"]
        widget.view.remove.click()
        self.picture("find-cleared")
        names = [layer.name for layer in self.viewer.layers]
        check(names == ["SHG query", "Region of SHG query"], f"left are {names}")

    def picture(self, name: str) -> None:
        """Save the whole window."""
        settle()
        self.images.mkdir(exist_ok=True)
        suffix = "" if self.theme == "dark" else f"-{self.theme}"
        self.viewer.window.screenshot(
            str(self.images / f"{name}{suffix}.png"), canvas_only=False, flash=False
        )

    def report(self, what: str, gap: tuple[float, float], cancelled: float | None = None) -> None:
        """Print how long the window stood still, and how long stopping took."""
        end = "" if cancelled is None else f", cancelled in {cancelled:.2f} s"
        still, computed = (f"{1000 * seconds:.0f} ms" for seconds in gap)
        print(f"{what}: the event loop stood still for at most {still}, of it computing {computed}{end}")

    def _raise(self, name: str):
        dock, widget = self.docks[name]
        dock.raise_()
        self.viewer.window._qt_window.resizeDocks([dock], [400], Qt.Orientation.Horizontal)
        settle(500)
        return widget

    def _cancel(self, panel) -> float:
        stopped: list[float] = []
        panel.stopped.connect(lambda: stopped.append(time.perf_counter()))
        start = time.perf_counter()
        panel.stop()
        wait(lambda: not panel.is_running, 5)  # a training then keeps the best so far
        return stopped[0] - start

    def _wait_for_hit(self, widget, rank: int) -> None:
        wait(lambda: shows_hit(self.viewer, widget, rank) and not widget.view.is_busy)


def index_quietly() -> Path:
    """Index the brightfield images, for parts of the tour that need a repository."""
    images = find_images(["slides"], "BF")
    run(build_repository(images, load_model(sample_model()), "BF", "slides.cmrir")).close()
    return Path("slides.cmrir")


if __name__ == "__main__":
    main()
