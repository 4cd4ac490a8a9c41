"""What makes a dock usable without a mouse: the order of its fields, and the keys that its tooltips tell."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QAbstractButton, QLayout, QWidget

__all__ = ["order_tabs", "tell_keys"]


def order_tabs(content: QWidget) -> None:
    """Let the Tab key go through the fields in the order in which they are laid out.

    Parameters
    ----------
    content : QWidget
        What holds them.
    """
    for before, after in pairwise(_fields(content.layout())):
        QWidget.setTabOrder(before, after)


def tell_keys(content: QWidget) -> None:
    """Add to the tooltip of each button the key that presses it, where there is one.

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
