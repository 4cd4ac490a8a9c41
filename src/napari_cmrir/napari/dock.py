"""Base classes of the docks: the frame, and the layers that a dock has added to the viewer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

from napari_cmrir.napari.form_fields import add_key_hints, align_labels, order_tabs
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.workers import DebouncedQuery, StreamWorker, UiStepQueue
from napari_cmrir.napari.shared_state import remember, shared_state_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer
    from qtpy.QtGui import QShowEvent

__all__ = ["Dock", "PluginLayers", "ScrolledDock"]


class PluginLayers:
    """Layers of a viewer that a widget owns; each change runs in a separate turn of the event loop.

    napari draws between two turns: several layers removed without a paint in between can end the program in
    the graphics driver (seen with napari 0.9 and software OpenGL).

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    parent : QObject
        The widget; remaining steps end with it.
    """

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        self._viewer = viewer
        self._layers: dict[str, Image] = {}
        self._turns = UiStepQueue(parent)

    def put(self, key: str, data: Any, make: Callable[[], Image]) -> None:
        """Show data in the layer of this key, or in a new layer if the old one does not fit or was removed.

        Parameters
        ----------
        key : str
            Key of the layer.
        data : ndarray
            Data of the layer.
        make : callable
            Makes the layer.
        """
        self._turns.add([partial(self._change_or_make, key, data, make), partial(self._add, key)])

    def remove(self, key: str) -> None:
        """Remove a layer.

        Parameters
        ----------
        key : str
            Key of the layer; without such a layer, nothing happens.
        """
        layer = self._layers.pop(key, None)
        if layer is not None and self._is_there(layer):
            self._viewer.layers.remove(layer)

    def remove_all(self) -> None:
        """Remove all layers of the widget, and cancel layers that are still to be added."""
        self._turns.take([partial(self.remove, key) for key in self._layers])

    def _change_or_make(self, key: str, data: Any, make: Callable[[], Image]) -> None:
        layer = self._layers.get(key)
        if layer is not None and self._is_there(layer) and layer.data.shape == data.shape:
            layer.data = data
            return
        self.remove(key)
        self._layers[key] = make()

    def _add(self, key: str) -> None:
        layer = self._layers.get(key)
        if layer is not None and not self._is_there(layer):
            self._viewer.layers.append(layer)

    def _is_there(self, layer: Layer) -> bool:
        return any(one is layer for one in self._viewer.layers)


class Dock(QWidget):
    """A widget of a napari viewer; closing its dock stops its jobs.

    Parameters
    ----------
    viewer : Viewer
        The viewer of the widget.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.viewer = viewer
        self.session = shared_state_of(viewer)
        self._keys: list[str] = []

    def remember(self, group: str, **fields: QWidget) -> None:
        """Restore the last choices, and save later ones.

        Parameters
        ----------
        group : str
            Whose: ``"find"``.
        **fields : QWidget
            By the name to keep each under.
        """
        remember({f"{group}/{name}": field for name, field in fields.items()}, self)

    def bind_key(self, key: str, action: Callable[[], object]) -> None:
        """Bind a key of the viewer while the dock is open, unless the key is already bound.

        Parameters
        ----------
        key : str
            As napari writes it: ``"Shift-F"``.
        action : callable
            Function that the key calls.
        """
        try:
            self.viewer.bind_key(key, lambda _: action())
        except ValueError:
            return
        self._keys.append(key)

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        """Detect that napari closes the dock: it then takes the widget out of the dock."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self.stop_jobs()

    def closeEvent(self, event: QEvent) -> None:  # noqa: N802
        """Detect that a widget without a dock is closed."""
        self.stop_jobs()
        super().closeEvent(event)

    def stop_jobs(self) -> None:
        """Stop the jobs, ignore their results, and unbind the keys."""
        for key in self._keys:
            self.viewer.bind_key(key, None)
        self._keys = []
        for panel in self.findChildren(JobPanel):
            panel.abandon()
        for query in self.findChildren(DebouncedQuery):
            query.forget()
        for stream in self.findChildren(StreamWorker):
            stream.stop()


class _Area(QScrollArea):
    """Scrolls vertically only, and is never narrower than its content."""

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Return the smallest size that cuts nothing off."""
        width = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(width, super().minimumSizeHint().height())


class ScrolledDock(Dock):
    """A dock whose fields scroll if the window is small.

    Parameters
    ----------
    viewer : Viewer
        The viewer of the widget.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer)
        self._warming_up = DebouncedQuery(self, 0)
        self._warming_up.ask(_load_what_layers_need)
        self.content = QWidget()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(_Area(self.content))

    def make_reachable(self) -> None:
        """Set the order of the Tab key, and name the buttons' keys in tooltips; call it after the layout."""
        order_tabs(self.content)
        add_key_hints(self.content)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Align the labels; their widths are known only after napari's style is applied."""
        super().showEvent(event)
        align_labels(self.content)


def _load_what_layers_need() -> None:
    """Import the modules that napari would import in the window's thread for its first image and shapes."""
    import_module("scipy.ndimage")
    import_module("pandas")
