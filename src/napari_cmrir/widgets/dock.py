"""What the dock widgets have in common: they end their work when they are closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QWidget

from napari_cmrir.widgets.background import JobPanel
from napari_cmrir.widgets.session import session_of

if TYPE_CHECKING:
    from napari import Viewer

__all__ = ["Dock"]


class Dock(QWidget):
    """A widget of a napari viewer; closing its dock stops its jobs.

    Parameters
    ----------
    viewer : Viewer
        The viewer that it belongs to.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = session_of(viewer)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        """Notice that napari has taken the widget out of its dock, which is how it closes one."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.stop_jobs()

    def closeEvent(self, event: QEvent) -> None:  # noqa: N802
        """Notice that the widget is closed where it stands alone."""
        self.stop_jobs()
        super().closeEvent(event)

    def stop_jobs(self) -> None:
        """Stop what runs and take no more notice of it."""
        for panel in self.findChildren(JobPanel):
            panel.abandon()
