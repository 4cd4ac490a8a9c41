"""From two folders that are not aligned to a ranked hit, by clicks on the real widgets, which are counted."""

import re
import time

import pytest
import tifffile
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.napari.model_dock import ModelWidget

MOST_CLICKS = 8


class Hand:
    """The mouse, and how often it was used: a click, a double-click and a dropped folder count one each."""

    def __init__(self, qtbot, window, pictures):
        self.qtbot, self.clicks = qtbot, 0
        self.window, self.pictures, self.start = window, pictures, time.monotonic()

    def look(self, what):
        """Keep a picture of the window, named by the clicks and the seconds so far."""
        seconds = time.monotonic() - self.start
        self.window.grab().save(str(self.pictures / f"{self.clicks}-{what}-{seconds:.0f}s.png"))

    def click(self, button):
        self.clicks += 1
        QApplication.processEvents()  # laid out anew after what was shown last
        assert button.isEnabled()
        assert button.isVisible()
        self.qtbot.mouseClick(button, Qt.MouseButton.LeftButton)

    def double_click(self, table, row, column):
        self.clicks += 1
        place = table.visualItemRect(table.item(row, column)).center()
        self.qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        self.qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)

    def drop(self, folder, line):
        self.clicks += 1
        files = QMimeData()
        files.setUrls([QUrl.fromLocalFile(str(folder))])
        how = Qt.DropAction.CopyAction, files, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        for event in (QDragEnterEvent(QPoint(5, 5), *how), QDropEvent(QPointF(5, 5), *how)):
            QApplication.sendEvent(line, event)

    def follow(self, label, words):
        """Click on a link of a text, which Qt lays out itself: try places until the link is hit."""
        self.clicks += 1
        hit = []
        label.linkActivated.connect(hit.append)
        for y in range(4, label.height(), 6):
            for x in range(4, label.width(), 12):
                self.qtbot.mouseClick(label, Qt.MouseButton.LeftButton, pos=QPoint(x, y))
                if hit:
                    assert f"<a href='{hit[0]}'>{words}</a>" in self.text_before
                    return
        raise AssertionError("no link was hit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four generated tissues in two modalities, the second turned, under misleading names."""
    root = tmp_path_factory.mktemp("unaligned")
    first, second = root / "shg", root / "slides"
    first.mkdir()
    second.mkdir()
    for number, (seed, degrees) in enumerate({60: 0.0, 61: 20.0, 62: -15.0, 63: 8.0}.items()):
        pair = sample_pair(seed, 320)
        tifffile.imwrite(first / f"a{number}.tif", pair.shg[..., 0])
        turned = cut(pair.bf, Region((159.5, 159.5), 240, 240, degrees))[0]
        tifffile.imwrite(second / f"b{3 - number}.tif", turned, photometric="rgb")
    return first, second


@pytest.mark.timeout(900)
def test_two_unaligned_folders_lead_to_a_ranked_hit_in_eight_clicks(
    dock, viewer, folders, qtbot, wait_for, tmp_path
):
    find, index, model = dock(FindWidget), dock(IndexWidget), dock(ModelWidget)
    viewer.window._qt_window.show()
    model.steps.setValue(2)  # so that the test takes seconds; the default needs no click either
    pairs, hand = model.pairs, Hand(qtbot, viewer.window._qt_window, tmp_path)
    wait_for(lambda: pairs.steps.isVisible() and pairs.steps.width() > 100)

    hand.text_before = pairs.steps.text()
    hand.follow(pairs.steps, "Find them in two folders")
    assert pairs.finder.isVisible()
    for field, folder in zip(pairs.finder.folders, folders, strict=True):
        hand.drop(folder, field.line)
        assert field.path == folder
    hand.click(pairs.finder.find)
    assert model.panel.is_running, model.panel.message.text()
    wait_for(lambda: not model.panel.is_running, 280_000)
    wait_for(lambda: pairs.finder.table.rowCount() > 0)
    accepted = int(re.match(r"\d+", model.panel.message.text())[0])
    assert accepted >= 1, [pair.reason for pair in pairs.finder.pairs]
    wait_for(lambda: pairs.found.text().startswith(f"{accepted} pair"))

    hand.look("found")

    hand.click(model.panel.start_button)
    wait_for(lambda: not model.panel.is_running and index.session.model is not None, 200_000)
    wait_for(lambda: index.modality.currentText() == "BF" and index.found.text().startswith("4 images"))
    wait_for(lambda: index.output.path is not None)
    hand.click(index.panel.start_button)
    wait_for(lambda: not index.panel.is_running and index.session.repository is not None, 200_000)
    wait_for(lambda: find.modality.currentText() == "SHG")

    model.content.parentWidget().parentWidget().ensureWidgetVisible(pairs.finder.table)
    hand.double_click(pairs.finder.table, 0, 1)
    wait_for(lambda: find.image.layer is not None and len(viewer.layers) >= 2)
    wait_for(lambda: find.image.layer.name.endswith(" SHG"))
    hand.click(find.panel.start_button)
    wait_for(lambda: not find.panel.is_running and "hits in" in find.panel.message.text(), 200_000)
    hits = find.view.found.result.hits
    wait_for(lambda: not find.view.is_busy)
    hand.look("hit")
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert hand.clicks <= MOST_CLICKS
