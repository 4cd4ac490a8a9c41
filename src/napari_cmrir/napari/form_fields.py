"""Fields of a dock: file and layer choosers, labels, tab order, keys, and hints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QUrl, Signal
from qtpy.QtGui import QDesktopServices, QKeySequence, QPainter, QPalette
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer
    from qtpy.QtGui import QDragEnterEvent, QDropEvent, QResizeEvent

    from napari_cmrir.napari.summaries import KnownModalities

__all__ = [
    "Folded",
    "HelpButton",
    "LayerCombo",
    "PathEdit",
    "WrappedLabel",
    "add_key_hints",
    "align_labels",
    "draw_hint",
    "guard_wheel",
    "heading",
    "offer_modalities",
    "order_tabs",
]


_MARGIN = 12


def draw_hint(view: QAbstractItemView, text: str) -> None:
    """Draw a hint in the middle of an empty list or table; call it in ``paintEvent``.

    Parameters
    ----------
    view : QAbstractItemView
        The list.
    text : str
        The hint.
    """
    painter = QPainter(view.viewport())
    painter.setPen(view.palette().color(QPalette.ColorRole.Text))
    painter.setOpacity(0.7)
    place = view.viewport().rect().adjusted(_MARGIN, _MARGIN, -_MARGIN, -_MARGIN)
    painter.drawText(place, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, text)
    painter.end()


def heading(text: str) -> QLabel:
    """Make the heading of a part of a dock.

    Parameters
    ----------
    text : str
        What it says.
    """
    label = QLabel(f"<b>{text}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label


class WrappedLabel(QLabel):
    """A line of text that wraps, also within a long path, and can be copied.

    Parameters
    ----------
    tip : str
        The tooltip.
    """

    def __init__(self, tip: str = "") -> None:
        super().__init__()
        self._said = ""
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setToolTip(tip)

    def setText(self, said: str) -> None:  # noqa: N802
        """Show a text; it may be broken after each separator of a path, and within a long name."""
        self._said = said
        super().setText(re.sub(r"([/\\_]|[^\s/\\_]{24})", "\\1\u200b", said))

    def text(self) -> str:
        """Return the text without the marks where it may be broken."""
        return self._said

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the height of the text at the label's width; Qt would guess a narrow label of many lines."""
        hint = super().sizeHint()
        if self.width() > hint.width():
            hint.setHeight(self.heightForWidth(self.width()))
        return hint

    def resizeEvent(self, event: QResizeEvent) -> None:  # noqa: N802
        """Ask for the height that the text needs at the new width."""
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self.updateGeometry()


def align_labels(content: QWidget) -> None:
    """Give the labels of all forms in a widget the same width, so that their fields form one column."""
    labels = []
    for form in content.findChildren(QFormLayout):
        items = (form.itemAt(row, QFormLayout.ItemRole.LabelRole) for row in range(form.rowCount()))
        labels += [item.widget() for item in items if item is not None and item.widget() is not None]
    width = max((label.sizeHint().width() for label in labels), default=0)
    for label in labels:
        label.setMinimumWidth(width)


class HelpButton(QPushButton):
    """A button that opens a page of the documentation in the browser.

    Parameters
    ----------
    page : str
        Name of the page: ``"training"``.
    """

    def __init__(self, page: str) -> None:
        super().__init__("?")
        self._page = page
        self.setAccessibleName("Help")
        self.setToolTip("Open the page of the documentation about this dock in your browser")
        self.setFixedWidth(self.fontMetrics().horizontalAdvance("?") + 20)
        self.clicked.connect(lambda: QDesktopServices.openUrl(self.address()))

    def address(self) -> QUrl:
        """Return the address of the page, below the documentation that the distribution names."""
        named = metadata("napari-cmrir").get_all("Project-URL") or []
        base = next(entry.split(", ")[1] for entry in named if entry.startswith("Documentation"))
        return QUrl(f"{base.rstrip('/')}/{self._page}/")


class Folded(QWidget):
    """A button that shows and hides the widgets below it; the Tab key skips hidden widgets.

    Parameters
    ----------
    title : str
        What the button says.
    tip : str
        Its tooltip.
    content : QWidget
        What it shows.
    """

    def __init__(self, title: str, tip: str, content: QWidget) -> None:
        super().__init__()
        self._title, self._content = title, content
        self.button = QPushButton()
        self.button.setCheckable(True)
        self.button.setStyleSheet("text-align: left; padding-left: 6px")
        self.button.setToolTip(tip)
        self.button.toggled.connect(self._show)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        layout.addWidget(content)
        self._show(False)

    def _show(self, is_open: bool) -> None:
        self.button.setText(f"{'▾' if is_open else '▸'} {self._title}")
        self._content.setVisible(is_open)


def order_tabs(content: QWidget) -> None:
    """Set the order of the Tab key to the order of the layout.

    Parameters
    ----------
    content : QWidget
        What holds them.
    """
    for before, after in pairwise(_fields(content.layout())):
        QWidget.setTabOrder(before, after)


def add_key_hints(content: QWidget) -> None:
    """Add the key of each button to its tooltip, if it has one.

    Parameters
    ----------
    content : QWidget
        What holds the buttons.
    """
    for button in content.findChildren(QAbstractButton):
        key = QKeySequence.mnemonic(button.text()).toString(QKeySequence.SequenceFormat.NativeText)
        if key:
            button.setToolTip(f"{button.toolTip()} ({key})")


def _fields(layout: QLayout | None) -> Iterator[QWidget]:
    items = [] if layout is None else [layout.itemAt(number) for number in range(layout.count())]
    for item in items:
        widget = item.widget()
        if widget is None:
            yield from _fields(item.layout())
            continue
        if widget.focusPolicy() & Qt.FocusPolicy.TabFocus:
            yield widget
        yield from _fields(widget.layout())


Kind = Literal["folder", "files", "file", "save"]
_BUTTONS: dict[Kind, str] = {"folder": "Folder…", "files": "Files…", "file": "File…", "save": "Save as…"}


class PathEdit(QWidget):
    """A line for paths, with a button for each kind of path; files can be dropped on it.

    Parameters
    ----------
    kinds : sequence of {"folder", "files", "file", "save"}
        What can be chosen.
    title : str
        What is chosen, for the dialog: ``"Model file"``.
    tip : str
        The tooltip.
    pattern : str
        The dialog's filter: ``"CoMIR models (*.safetensors)"``.
    """

    changed = Signal()

    def __init__(self, kinds: Sequence[Kind], title: str, tip: str, pattern: str = "") -> None:
        super().__init__()
        self._title, self._pattern = title, pattern
        self.line = _PathLine()
        self.line.setToolTip(tip)
        self.line.setPlaceholderText(title)
        self.line.setAccessibleName(title)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.line, 1)
        browse = {"folder": self._folder, "files": self._files, "file": self._file, "save": self._save}
        for kind in kinds:
            button = QPushButton(_BUTTONS[kind] if len(kinds) > 1 else "…")
            button.setToolTip(f"Choose: {title[0].lower()}{title[1:]}")
            button.setAccessibleName(f"Choose {title[0].lower()}{title[1:]}: {kind}")
            button.clicked.connect(browse[kind])
            layout.addWidget(button)
        self._proposed = ""
        self.line.textChanged.connect(self.changed)

    @property
    def paths(self) -> list[Path]:
        """The chosen paths; several files are quoted."""
        text = self.line.text().strip()
        found = re.findall(r'"([^"]+)"', text) or [text]
        return [Path(name).expanduser() for name in found if name]

    @property
    def path(self) -> Path | None:
        """The chosen path, or ``None`` if the line is empty."""
        return self.paths[0] if self.paths else None

    def set_paths(self, *paths: Path) -> None:
        """Set the chosen paths, as the user would.

        Parameters
        ----------
        *paths : Path
            One, or several files.
        """
        quoted = " ".join(f'"{path}"' for path in paths)
        self.line.setText(str(paths[0]) if len(paths) == 1 else quoted)

    @property
    def is_free(self) -> bool:
        """Whether the user has chosen nothing: the line is empty, or holds a proposal."""
        return self.line.text() in ("", self._proposed)

    def propose(self, path: Path) -> None:
        """Propose a path, unless the user has chosen another, be it in the last session.

        Parameters
        ----------
        path : Path
            The path to propose.
        """
        if self.is_free or self.line.text() == str(path):
            self._proposed = str(path)
            self.line.setText(self._proposed)

    def _start(self) -> str:
        return str(self.path or "")

    def _folder(self) -> None:
        self._accept([QFileDialog.getExistingDirectory(self, self._title, self._start())])

    def _files(self) -> None:
        self._accept(QFileDialog.getOpenFileNames(self, self._title, self._start(), self._pattern)[0])

    def _file(self) -> None:
        self._accept([QFileDialog.getOpenFileName(self, self._title, self._start(), self._pattern)[0]])

    def _save(self) -> None:
        self._accept([QFileDialog.getSaveFileName(self, self._title, self._start(), self._pattern)[0]])

    def _accept(self, names: Sequence[str]) -> None:
        chosen = [Path(name) for name in names if name]
        if chosen:
            self.set_paths(*chosen)


def offer_modalities(combo: QComboBox, known: KnownModalities, otherwise: str = "") -> None:
    """Offer a model's modalities, and let others be typed where the model represents any.

    Parameters
    ----------
    combo : QComboBox
        What is chosen in it stays chosen, if the model represents that.
    known : KnownModalities
    otherwise : str
        What is chosen else; by default the first.
    """
    before = combo.currentText()
    combo.clear()
    combo.setEditable(known.any_other)
    combo.addItems(known.names)
    keep = before in known.names or (known.any_other and before)
    combo.setCurrentText(before if keep else otherwise or next(iter(known.names), ""))


class LayerCombo(QComboBox):
    """Chooses a layer of one type, or of several; updates when layers are added, removed or renamed.

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    layer_type : type, or tuple of types
        Such as `napari.layers.Image`.
    tip : str
        The tooltip.
    none : str, optional
        What to call the choice of no layer, where there is one.
    """

    layer_changed = Signal()

    def __init__(
        self,
        viewer: Viewer,
        layer_type: type[Layer] | tuple[type[Layer], ...],
        tip: str,
        none: str | None = None,
    ) -> None:
        super().__init__()
        self._viewer, self._type, self._none = viewer, layer_type, none
        self._layers: list[Layer | None] = []
        self.setToolTip(tip)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        for event in ("inserted", "removed", "reordered"):
            getattr(viewer.layers.events, event).connect(self._refresh)
        self._refresh()
        self.currentIndexChanged.connect(self._tell)
        self.is_chosen = False
        """Whether the user has chosen a layer by hand."""
        self.activated.connect(self._note_choice)

    @property
    def layers(self) -> list[Layer]:
        """The layers that can be chosen, the topmost first."""
        return [layer for layer in self._layers if layer is not None]

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        index = self.currentIndex()
        return self._layers[index] if 0 <= index < len(self._layers) else None

    def choose(self, layer: Layer | None) -> None:
        """Choose a layer, if the viewer has it.

        Parameters
        ----------
        layer : Layer or None
            A layer of the viewer, or none.
        """
        for index, known in enumerate(self._layers):
            if known is layer:
                self.setCurrentIndex(index)

    def leaves_out(self, layer: Layer) -> bool:
        """Whether the viewer has a layer of the right type that cannot be chosen."""
        return bool(layer.metadata.get("napari-cmrir", {}).get("is_result", False))

    def _refresh(self, event: Any = None) -> None:
        if not isalive(self):  # napari before 0.9 tells it of layers that go after it
            return
        before = self.layer
        fitting = [layer for layer in self._viewer.layers if isinstance(layer, self._type)]
        layers = [layer for layer in reversed(fitting) if not self.leaves_out(layer)]
        for layer in layers:
            layer.events.name.connect(self._refresh)
        self._layers = [*([None] if self._none is not None else []), *layers]
        self.blockSignals(True)
        self.clear()
        self.addItems([self._none or "" if layer is None else layer.name for layer in self._layers])
        self.choose(before)
        self.blockSignals(False)
        if self.layer is not before:
            self.layer_changed.emit()

    def _tell(self) -> None:
        self.layer_changed.emit()

    def _note_choice(self) -> None:
        self.is_chosen = True


class _WheelGuard(QObject):
    """Lets the wheel scroll the dock, unless it is over a field that has the focus."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        if event.type() == QEvent.Type.Wheel and isinstance(watched, QWidget) and not watched.hasFocus():
            event.ignore()  # Qt then asks the parent, which scrolls
            return True
        return False


def guard_wheel(content: QWidget) -> None:
    """Keep the wheel from changing fields that the user only scrolls past.

    Parameters
    ----------
    content : QWidget
        What holds the fields.
    """
    guard = _WheelGuard(content)
    for kind in (QComboBox, QAbstractSpinBox, QSlider):
        for field in content.findChildren(kind):
            field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # the wheel itself gives no focus
            field.installEventFilter(guard)


class _PathLine(QLineEdit):
    """A line edit that accepts dropped files."""

    def __init__(self) -> None:
        super().__init__()
        self.setAcceptDrops(True)
        self.setMinimumWidth(60)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange:  # Qt's placeholder is too pale to read: 2.8 : 1
            palette = self.palette()
            pale = palette.color(QPalette.ColorRole.Text)
            pale.setAlphaF(0.75)
            palette.setColor(QPalette.ColorRole.PlaceholderText, pale)
            self.setPalette(palette)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:  # noqa: N802
        if event.mimeData().hasUrls():
            event.acceptProposedAction()
        else:
            super().dragEnterEvent(event)

    def dropEvent(self, event: QDropEvent) -> None:  # noqa: N802
        files = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if not files:
            super().dropEvent(event)
            return
        self.setText(files[0] if len(files) == 1 else " ".join(f'"{file}"' for file in files))
        event.acceptProposedAction()
