"""The button that copies an action as a command or as Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QApplication, QMenu, QPushButton

from napari_cmrir.errors import InputError
from napari_cmrir.widgets.inquiry import Inquiry

__all__ = ["CopyButton", "Language", "kept_folder"]

Language = Literal["command", "python"]


class CopyButton(QPushButton):
    """Copies an action, as it is set now, as a command or as Python.

    Parameters
    ----------
    action : str
        What is copied, for the tooltip: ``"this search"``.
    write : callable
        Takes ``"command"`` or ``"python"`` in the window's thread, and returns what writes the text in
        another. Either may raise `InputError`.
    """

    copied = Signal(str)
    """The text, when it is in the clipboard."""

    def __init__(self, action: str, write: Callable[[Language], Callable[[], str]]) -> None:
        super().__init__()
        self._write = write
        self.setText("Copy")
        self.setToolTip(f"Copy {action} as a command or as Python that gives the same result")
        self._menu = QMenu(self)
        self._menu.addAction("Copy as command", partial(self.copy, "command"))
        self._menu.addAction("Copy as Python", partial(self.copy, "python"))
        self.setMenu(self._menu)
        self._inquiry = Inquiry(self, 0)
        self._inquiry.answered.connect(self._take)
        self._inquiry.refused.connect(show_error)

    def copy(self, language: Language) -> None:
        """Copy the action.

        Parameters
        ----------
        language : {"command", "python"}
            As what.
        """
        try:
            write = self._write(language)
        except InputError as error:
            show_error(str(error))
        else:
            self._inquiry.ask(write)

    def _take(self, text: str) -> None:
        QApplication.clipboard().setText(text)
        self.copied.emit(text)


def kept_folder() -> Path:
    """Give the folder in which layers without a file are kept for what was copied."""
    import pooch

    return Path(pooch.os_cache("napari-cmrir")) / "copied"
