"""What the dock widgets have in common: they end their work when they are closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_cmrir.widgets.choices import remember
from napari_cmrir.widgets.job_panel import JobPanel
from napari_cmrir.widgets.session import session_of

if TYPE_CHECKING:
    from napari import Viewer

__all__ = ["Dock", "ScrolledDock"]


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
        self._keys: list[str] = []

    def remember(self, group: str, **fields: QWidget) -> None:
        """Bring the last choices back, and keep those made from now on.

        Parameters
        ----------
        group : str
            Whose: ``"find"``.
        **fields : QWidget
            By the name to keep each under.
        """
        for name, field in fields.items():
            remember(f"{group}/{name}", field)

    def bind_key(self, key: str, action: Callable[[], object]) -> None:
        """Bind a key of the viewer while the dock is open, unless it has another meaning already.

        Parameters
        ----------
        key : str
            As napari writes it: ``"Shift-F"``.
        action : callable
            What it does.
        """
        try:
            self.viewer.bind_key(key, lambda _: action())
        except ValueError:
            return
        self._keys.append(key)

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
        """Stop what runs and take no more notice of it, and give the keys back."""
        for key in self._keys:
            self.viewer.bind_key(key, None)
        self._keys = []
        for panel in self.findChildren(JobPanel):
            panel.abandon()


class ScrolledDock(Dock):
    """A dock whose fields can be scrolled to where the window is small.

    Parameters
    ----------
    viewer : Viewer
        The viewer that it belongs to.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer)
        self.content = QWidget()
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(self.content)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(area)
