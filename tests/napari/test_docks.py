"""What holds for all three docks."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy import QtGui
from qtpy.QtCore import QMimeData, QObject, QPoint, QPointF, Qt, QUrl, Slot
from qtpy.QtGui import QAction, QDesktopServices, QDragEnterEvent, QDropEvent, QKeySequence, QWheelEvent
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QDockWidget,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QSlider,
)

from napari_cmrir.napari.dock import open_dock
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.form_fields import HelpButton
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.napari.model_dock import ModelWidget
from napari_cmrir.napari.summaries import look_at_images

DOCKS = (ModelWidget, IndexWidget, FindWidget)
FIELDS = (QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox, QSlider)


def fields(widget):
    """Give the fields of a dock, without the parts that Qt makes them of."""
    found = [child for kind in FIELDS for child in widget.findChildren(kind)]
    return [field for field in found if not field.objectName().startswith("qt_")]


@pytest.mark.parametrize("widget_class", DOCKS)
def test_every_field_says_what_it_is_for(dock, widget_class):
    widget = dock(widget_class)
    assert len(fields(widget)) > 10
    for field in fields(widget):
        assert field.toolTip(), field


@pytest.mark.parametrize("widget_class", DOCKS)
def test_every_field_has_a_name_for_screen_readers(dock, widget_class):
    QAccessible = getattr(QtGui, "QAccessible", None)
    if QAccessible is None:
        pytest.skip("PyQt6 does not wrap QAccessible")
    for field in fields(dock(widget_class)):
        name = QAccessible.queryAccessibleInterface(field).text(QAccessible.Text.Name)
        assert any(character.isalpha() for character in name), field


@pytest.mark.parametrize("widget_class", DOCKS)
def test_the_tab_key_goes_through_the_fields_as_they_are_read(qtbot, widget_class):
    widget = widget_class(ViewerModel())
    qtbot.addWidget(widget)
    widget.grab()  # lays it out
    reached, field = [], widget.content
    while (field := field.nextInFocusChain()) is not widget.content:
        if (
            field in fields(widget)
            and field.focusPolicy() & Qt.FocusPolicy.TabFocus
            and field.isVisibleTo(widget)
        ):
            reached.append(field.mapTo(widget.content, QPoint(0, field.height() // 2)))
    assert len(reached) > 8
    first = min(range(len(reached)), key=lambda number: (reached[number].y(), reached[number].x()))
    for before, after in pairwise(reached[first:] + reached[:first]):
        down = after.y() - before.y()
        assert down > 8 or (abs(down) <= 8 and after.x() > before.x())


def test_each_key_presses_one_button_is_told_in_its_tooltip_and_is_none_of_naparis(viewer, dock):
    window = viewer.window._qt_window
    shortcuts = [sequence for action in window.findChildren(QAction) for sequence in action.shortcuts()]
    taken = {key.toString() for key in shortcuts}
    taken |= {QKeySequence.mnemonic(action.text()).toString() for action in window.menuBar().actions()}
    taken.add("Alt+S")  # File > Save Screenshot, which napari makes when the menu is first opened
    assert "Alt+F" in taken
    keys = []
    for widget_class in DOCKS:
        for button in dock(widget_class).findChildren(QAbstractButton):
            key = QKeySequence.mnemonic(button.text()).toString(QKeySequence.SequenceFormat.NativeText)
            if key:
                assert button.toolTip().endswith(f"({key})")
                keys.append(key)
    assert len(keys) > 10
    assert len(keys) == len(set(keys))
    assert not taken & set(keys)


def test_the_docks_are_tabs_of_one_area_lead_on_and_the_wheel_changes_no_field(
    viewer, repository_path, model_path, wait_for
):
    find = open_dock(viewer, "find")  # whichever is first
    index, model = open_dock(viewer, "index"), open_dock(viewer, "model")
    window = viewer.window._qt_window
    frame = next(frame for frame in window.findChildren(QDockWidget) if frame.isAncestorOf(find))
    wait_for(lambda: len(window.tabifiedDockWidgets(frame)) == 2)
    model.use.load.set_paths(model_path)
    wait_for(lambda: model.lead_on.isEnabled())
    model.lead_on.click()
    assert index.model.path == model_path
    index.output.set_paths(repository_path)
    wait_for(lambda: index.search.isEnabled())
    viewer.add_image(np.zeros((64, 64)), name="core 7")
    index.modality.setCurrentText("BF")
    index.search.click()
    assert find.repository.path == repository_path
    assert viewer.layers.selection.active.mode == "add_rectangle"  # ready to draw

    before = find.hits.value(), find.modality.currentIndex(), find.rotation.value()
    for field in (find.hits, find.modality, find.rotation):
        field.clearFocus()
        at = QPointF(5, 5)
        wheel = QWheelEvent(
            at,
            field.mapToGlobal(at),
            QPoint(0, -120),
            QPoint(0, -120),
            Qt.MouseButton.NoButton,
            Qt.KeyboardModifier.NoModifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(field, wheel)
    assert (find.hits.value(), find.modality.currentIndex(), find.rotation.value()) == before


@pytest.mark.parametrize(
    ("widget_class", "page"),
    [(ModelWidget, "training"), (IndexWidget, "repositories"), (FindWidget, "searching")],
)
def test_each_dock_opens_its_page_of_the_documentation(dock, widget_class, page):
    opened = []

    class Browser(QObject):
        @Slot(QUrl)
        def show(self, address):
            opened.append(address.toString())

    browser = Browser()
    QDesktopServices.setUrlHandler("https", browser, "show")
    button = dock(widget_class).findChild(HelpButton)
    button.click()
    QDesktopServices.unsetUrlHandler("https")
    assert [Path(one.rstrip("/")).stem for one in opened] == [page]
    assert (Path(__file__).parents[2] / "docs" / f"{page}.md").is_file()


def test_the_top_of_a_drive_as_folder_is_answered_in_words(dock, tmp_path, wait_for, notifications):
    assert look_at_images([Path(tmp_path.anchor)], "NONE_SUCH").repository.suffix == ".cmrir"
    model = dock(ModelWidget)
    model.pairs.folder.set_paths(Path(tmp_path.anchor))
    wait_for(lambda: "/" in model.pairs.found.text())
    assert model.output.path.parent == Path.home()
    long = "A sentence that is long goes on. " * 9 + str(tmp_path / ("folder" * 20))
    width = model.minimumSizeHint().width()
    model.panel.tell(long)
    assert model.panel.message.text() == long
    assert model.panel.message.heightForWidth(300) > 3 * model.panel.message.fontMetrics().height()
    model.pairs.found.setText("a" * 300)
    assert model.minimumSizeHint().width() <= max(width, 400)


@pytest.mark.parametrize("widget_class", DOCKS)
def test_a_dock_fits_beside_others_into_a_small_window(dock, widget_class):
    least = dock(widget_class).minimumSizeHint()
    assert least.width() <= 400
    assert least.height() <= 200


def test_a_new_dock_cuts_nothing_off_and_shows_its_main_button_in_a_small_window(
    viewer, pairs_folder, tmp_path, wait_for
):
    """Its fields are wider once napari's style, the labels' column and the found pairs are there."""
    viewer.window._qt_window.resize(1366, 768)
    viewer.window._qt_window.show()
    model = open_dock(viewer, "model")
    model.pairs.folder.set_paths(pairs_folder)
    wait_for(lambda: "pairs found" in model.pairs.found.text())
    area = model.findChild(QScrollArea)
    wait_for(lambda: area.viewport().width() >= model.content.minimumSizeHint().width())
    assert model.content.width() == area.viewport().width()
    start = model.panel.findChild(QPushButton)
    assert start.text() == "&Train"
    below = start.mapTo(area.viewport(), QPoint(0, start.height()))
    assert below.y() <= area.viewport().height()
    assert model.minutes.height() < 2.5 * model.minutes.fontMetrics().height()  # one line, not room for three
    model.output.set_paths(tmp_path / "model.safetensors")
    model.train()
    low = QPoint(0, model.plot.height())
    wait_for(lambda: 0 < model.plot.mapTo(area.viewport(), low).y() <= area.viewport().height())
    model.panel.stop()
    wait_for(lambda: not model.panel.is_running)


def relative_luminance(colours):
    """Of sRGB colours of 0 to 255 (WCAG 2.2)."""
    shares = np.asarray(colours) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(widget):
    """Of what a widget draws against its most frequent colour."""
    image = widget.grab().toImage()
    seen = [image.pixelColor(x, y).getRgb()[:3] for y in range(image.height()) for x in range(image.width())]
    colours, counts = np.unique(seen, axis=0, return_counts=True)
    luminance = relative_luminance(colours) + 0.05
    ground = luminance[counts.argmax()]
    return float((np.maximum(luminance, ground) / np.minimum(luminance, ground)).max())


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_text_is_dark_enough_against_its_background(viewer, theme, qtbot):
    """4.5 : 1 (WCAG 2.2, 1.4.3), which leaves out what is disabled."""
    if theme == "light" and not hasattr(viewer, "scene"):
        pytest.skip("napari's own light theme is paler before 0.9")
    assert relative_luminance([255, 255, 255]) == pytest.approx(1)
    assert (relative_luminance([119, 119, 119]) + 0.05) * 4.48 == pytest.approx(1.05, rel=1e-3)
    viewer.theme = theme
    viewer.window._qt_window.resize(1366, 768)
    viewer.window._qt_window.show()
    poor = {}
    for name in ("model", "index", "find"):
        widget = open_dock(viewer, name)
        qtbot.waitUntil(widget.isVisible)
        QApplication.processEvents()
        for part in widget.findChildren(QLabel) + fields(widget) + widget.findChildren(QAbstractItemView):
            text = part.currentText() if isinstance(part, QComboBox) else getattr(part, "text", str)()
            if "<a " in text:  # its links alone
                style = re.match("<style>.*</style>", text)[0]
                part.setText(style + " ".join(re.findall("<a .*?</a>", text)))
            is_said = text or getattr(part, "placeholderText", str)() or isinstance(part, QAbstractItemView)
            if is_said and part.isVisible() and part.isEnabled() and contrast(part) < 4.5:
                poor[name, text or part.accessibleName() or type(part).__name__] = contrast(part)
    assert not poor


def test_two_viewers_do_not_touch_each_other(make_napari_viewer, repository_path):
    viewers = [make_napari_viewer(strict_qt="raise") for _ in range(2)]
    docks = [FindWidget(viewer) for viewer in viewers]
    for viewer, dock, name in zip(viewers, docks, ("one", "other"), strict=True):
        viewer.window.add_dock_widget(dock)
        viewer.add_image(np.zeros((64, 64)), name=name)
    docks[0].session.repository = repository_path
    docks[0].new_region.click()
    assert [layer.name for layer in viewers[0].layers] == ["one", "Region of one"]
    assert [layer.name for layer in viewers[1].layers] == ["other"]
    assert [dock.repository.path for dock in docks] == [repository_path, None]
    assert [dock.image.itemText(0) for dock in docks] == ["one", "other"]


def drop(line, *paths):
    """Drag files over a line and let go of them, as a file manager does."""
    files = QMimeData()
    files.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    how = Qt.DropAction.CopyAction, files, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    enter, let_go = QDragEnterEvent(QPoint(5, 5), *how), QDropEvent(QPointF(5, 5), *how)
    enter.ignore()
    QApplication.sendEvent(line, enter)
    assert enter.isAccepted()
    QApplication.sendEvent(line, let_go)


def test_a_repository_that_was_proposed_last_time_gives_way_to_that_of_another_folder(
    qtbot, pairs_folder, model_path, tmp_path, wait_for
):
    def proposed(images=None):
        dock = IndexWidget(ViewerModel())
        qtbot.addWidget(dock)
        if images is not None:
            dock.images.set_paths(images)
        wait_for(lambda: "images found" in dock.found.text())
        return dock

    other = tmp_path / "other"
    other.mkdir()
    for name in ("sample-000_BF.tif", "sample-001_BF.tif"):
        (other / name).write_bytes((pairs_folder / name).read_bytes())
    first = proposed(pairs_folder).output.path
    again = proposed()
    assert again.output.path == first
    again.images.set_paths(other)
    wait_for(lambda: again.output.path == look_at_images([other], None).repository)
    again.output.set_paths(first)  # chosen: to add images to it
    again.images.set_paths(pairs_folder / "sample-002_BF.tif")
    wait_for(lambda: "1 image found" in again.found.text())
    assert again.output.path == first


def test_files_and_folders_are_dropped(dock, pairs_folder, model_path, repository_path, wait_for):
    model, index, find = (dock(widget_class) for widget_class in DOCKS)
    drop(model.use.load.line, model_path)
    wait_for(lambda: model.session.model == index.model.path == model_path)
    drop(model.pairs.folder.line, pairs_folder)
    wait_for(lambda: model.pairs.found.text() == "4 pairs found")
    images = sorted(pairs_folder.glob("*_BF.tif"))[:2]
    drop(index.images.line, *images)
    wait_for(lambda: index.found.text().startswith("2 images found"))
    assert index.images.paths == images
    drop(find.repository.line, repository_path)
    wait_for(lambda: find.about.text() == "4 BF images")


def test_choices_come_back_the_next_time(qtbot, pairs_folder, model_path, wait_for):
    def both():
        docks = ModelWidget(ViewerModel()), IndexWidget(ViewerModel())
        for dock in docks:
            qtbot.addWidget(dock)
        return docks

    model, index = both()
    first = model
    model.pairs.folder.set_paths(pairs_folder)
    model.pairs.modalities[0].setText("MPM")
    model.preset.setCurrentText("paper")
    model.previews.setChecked(False)
    index.images.set_paths(pairs_folder)
    index.model.set_paths(model_path)
    index.output.set_paths(pairs_folder)
    model, index = both()
    paths = model.pairs.folder, index.images, index.output
    wait_for(
        lambda: {field.path for field in paths} == {Path(pairs_folder)} and index.model.path == model_path
    )
    assert (model.pairs.names, model.preset.currentText()) == (("MPM", "BF"), "paper")
    assert not model.previews.isChecked()
    first.use.load.set_paths(model_path)  # the model in use, too
    again, _ = both()
    wait_for(lambda: again.session.model == model_path)
