"""How the fields of a dock are set out: headings, labels in one column, settings behind a button."""

from __future__ import annotations

from qtpy.QtWidgets import QFormLayout, QLabel, QPushButton, QVBoxLayout, QWidget

__all__ = ["Folded", "align_labels", "heading"]


def heading(text: str) -> QLabel:
    """Make a heading for a part of a dock.

    Parameters
    ----------
    text : str
        What it says.
    """
    label = QLabel(f"<b>{text}</b>")
    label.setContentsMargins(0, 6, 0, 0)
    return label


def align_labels(content: QWidget) -> None:
    """Make the labels of all the forms of a dock equally wide, so that their fields stand in one column.

    Parameters
    ----------
    content : QWidget
        What holds the forms.
    """
    labels = []
    for form in content.findChildren(QFormLayout):
        items = (form.itemAt(row, QFormLayout.ItemRole.LabelRole) for row in range(form.rowCount()))
        labels += [item.widget() for item in items if item is not None and item.widget() is not None]
    width = max((label.sizeHint().width() for label in labels), default=0)
    for label in labels:
        label.setMinimumWidth(width)


class Folded(QWidget):
    """A button that shows and hides what lies below it; what is hidden is not reached with the keyboard.

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
