"""What the docks share: the frame, the layers that a dock has added, and forms made from settings."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin
from weakref import ref

from magicgui.widgets import Container, create_widget
from pydantic import ValidationError
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtOpenGLWidgets import QOpenGLWidget
from qtpy.QtWidgets import (
    QAbstractButton,
    QDockWidget,
    QDoubleSpinBox,
    QFrame,
    QMainWindow,
    QMessageBox,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.napari.form_fields import add_key_hints, align_labels, guard_wheel, order_tabs
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.workers import DebouncedQuery, StreamWorker, UiStepQueue
from napari_cmrir.napari.shared_state import behind_proxy, remember, shared_state_of
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer
    from pydantic.fields import FieldInfo
    from qtpy.QtGui import QShowEvent

__all__ = ["DOCKS", "Dock", "PluginLayers", "ScrolledDock", "SettingsForm", "open_dock"]


_PRESSING = (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter)
_CLOSE_BUTTON = "QTitleBarCloseButton"  # napari's name of it, which its style sheet uses


class PluginLayers:
    """Layers of a viewer that a widget owns; each change runs in a separate turn of the event loop.

    napari collects garbage for each layer that is removed, and compiles shaders for each that is added: two
    in one turn would stop the window twice as long.

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

    def stops_when_closed(self) -> str:
        """Return what closing the dock would end, in words, if the user is to be asked first."""
        return ""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Ask before the button of the dock's title bar closes it, if a long job would end."""
        presses = event.type() == QEvent.Type.MouseButtonPress or (
            isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress and event.key() in _PRESSING
        )
        if not presses or not isinstance(watched, QAbstractButton) or not self.stops_when_closed():
            return super().eventFilter(watched, event)
        QTimer.singleShot(0, partial(self._ask_to_close, watched))
        return True

    def _ask_to_close(self, button: QAbstractButton) -> None:
        box = QMessageBox(self)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.setText(f"{self.stops_when_closed()}; closing the dock stops it.")
        box.setInformativeText("It can be continued later from its checkpoint, a few seconds old.")
        stop = box.addButton("Stop and close", QMessageBox.ButtonRole.DestructiveRole)
        stays = box.addButton("Keep open", QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stays)
        box.setEscapeButton(stays)
        stop.clicked.connect(partial(QTimer.singleShot, 0, button.click))
        box.open()

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

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802
        """Ask for a new width when the content's may have changed, which Qt tells no outer layout."""
        changes = QEvent.Type.LayoutRequest, QEvent.Type.Resize
        if watched is self.widget() and event.type() in changes:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Return the smallest size that cuts nothing off."""
        bar = max(self.verticalScrollBar().sizeHint().width(), self.width() - self.viewport().width())
        return QSize(self.widget().minimumSizeHint().width() + bar, super().minimumSizeHint().height())


class ScrolledDock(Dock):
    """A dock whose fields scroll if the window is small.

    Parameters
    ----------
    viewer : Viewer
        The viewer of the widget.
    """

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer)
        self._joining = QTimer(self)
        self._joining.setSingleShot(True)
        self._joining.timeout.connect(self._join_tabs)
        self._warming_up = DebouncedQuery(self, 0)
        self._warming_up.ask(_load_what_layers_need)
        self.content = QWidget()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._area = _Area(self.content)
        layout.addWidget(self._area)
        self._revealing = QTimer(self)
        self._revealing.setSingleShot(True)
        self._revealing.timeout.connect(self._reveal)
        self._revealed = self.content

    def reveal(self, widget: QWidget) -> None:
        """Scroll to a part of the content, once it is laid out."""
        self._revealed = widget
        self._revealing.start(0)

    def _reveal(self) -> None:
        self._area.ensureWidgetVisible(self._revealed, 0, 2 * self.fontMetrics().height())

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        """Join the tabs of the other docks once napari has put the widget into a dock."""
        super().changeEvent(event)
        if event.type() == QEvent.Type.ParentChange and self.parent() is not None:
            self._joining.start(0)

    def _join_tabs(self) -> None:
        frame = _frame_of(self)
        window = frame.parent() if frame is not None else None
        if frame is not None and isinstance(window, QMainWindow):
            _remove_in_canvas_context(self.viewer, window)
            _join_tabs(self, frame, window)
            for button in frame.findChildren(QAbstractButton, _CLOSE_BUTTON):
                button.installEventFilter(self)

    def make_reachable(self) -> None:
        """Set the order of the Tab key, and name the buttons' keys in tooltips; call it after the layout."""
        guard_wheel(self.content)
        order_tabs(self.content)
        add_key_hints(self.content)

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802
        """Align the labels; their widths are known only after napari's style is applied."""
        super().showEvent(event)
        align_labels(self.content)


def _remove_in_canvas_context(viewer: Viewer, window: QMainWindow) -> None:
    """Make the canvas' OpenGL context current whenever a layer of a viewer is about to be removed.

    napari 0.9 flushes vispy's pending OpenGL commands when a layer is removed, in whichever context is
    current: outside a paint that is the one with which Qt composes the window. The canvas' own context then
    holds buffers and programs that no longer exist, and the next paint ends in a segmentation fault in
    glDrawArrays. ``removing`` is the last event before that; napari calls the callbacks of others to
    ``removed`` too late.
    """
    state = shared_state_of(viewer)
    found = window.findChild(QOpenGLWidget)
    if state.removes_in_context or found is None:
        return
    state.removes_in_context = True
    canvas = ref(found)

    def make_current(_: object = None) -> None:
        widget = canvas()
        if widget is not None and isalive(widget) and widget.isValid():
            widget.makeCurrent()

    behind_proxy(viewer).layers.events.removing.connect(make_current)


def _join_tabs(dock: Dock, frame: QDockWidget, window: QMainWindow) -> None:
    """Show a dock as a tab of the area of another dock of the plugin, in front; stacked, each has 60 px."""
    if frame.isFloating() or window.tabifiedDockWidgets(frame):  # another one has joined it
        return
    for other in window.findChildren(Dock):
        beside = _frame_of(other)
        if other is not dock and beside is not None and not beside.isFloating() and not beside.isHidden():
            window.tabifyDockWidget(beside, frame)
            frame.raise_()
            return


def _frame_of(dock: QWidget) -> QDockWidget | None:
    widget: Any = dock
    while widget is not None and not isinstance(widget, QDockWidget):
        widget = widget.parent()
    return widget


DOCKS = {"model": "1. CoMIR model", "index": "2. Index images", "find": "3. Find region"}
"""Names of the docks in napari's menu, in the order of use."""


def open_dock(viewer: Viewer, name: str) -> Any:
    """Open a dock of the plugin, or bring the open one to the front, and return its widget.

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    name : {"model", "index", "find"}
        Which.
    """
    frame, widget = behind_proxy(viewer).window.add_plugin_dock_widget("napari-cmrir", DOCKS[name])
    frame.show()
    QTimer.singleShot(0, frame.raise_)
    return widget


def _load_what_layers_need() -> None:
    """Import the modules that napari would import in the window's thread for its first image and shapes."""
    import_module("scipy.ndimage")
    import_module("scipy.linalg")
    import_module("pandas")


Model = TypeVar("Model", bound=Settings)

_MOST = {int: 2**31 - 1, float: 1e6}
"""Upper end of a field without an upper bound: what a Qt spin box of whole numbers holds."""


class SettingsForm(Generic[Model]):
    """Input fields for some settings of a model, with its bounds, choices, units and descriptions.

    A setting that may be missing (None) is missing at the lowest value of its field.

    Parameters
    ----------
    model : type of Settings
        The settings model.
    names : sequence of str
        Settings to show, in order.
    labels : mapping of str to str
        Label of a field; by default the name of the setting in words.
    missing : mapping of str to str
        Text that a field shows where its setting is missing.
    parent : QWidget, optional
        The dock, which lays out the fields and deletes the form with itself.

    Examples
    --------
    >>> form = SettingsForm(SearchSettings, ["hits", "mirror"])  # doctest: +SKIP
    >>> form.value().hits  # doctest: +SKIP
    10
    """

    def __init__(
        self,
        model: type[Model],
        names: Sequence[str],
        labels: Mapping[str, str] | None = None,
        missing: Mapping[str, str] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        self._model, self._missing = model, missing or {}
        self.container: Container[Any] = Container(
            widgets=[self._make(name, (labels or {}).get(name)) for name in names], labels=False
        )
        if parent is not None:
            self.container.native.setParent(parent)
            self.container.native.hide()
        self.changed = self.container.changed
        """Signal of magicgui: a field was changed, by the user or by the program."""

    def field(self, name: str) -> QWidget:
        """Return the Qt widget of a setting, to lay it out."""
        native: QWidget = self.container[name].native
        return native

    def value(self, base: Model | None = None) -> Model:
        """Return the settings that the form shows.

        Parameters
        ----------
        base : Settings, optional
            Gives the settings that the form does not show; by default the model's defaults.

        Raises
        ------
        InputError
            If the values do not go together.
        """
        values = {} if base is None else {name: getattr(base, name) for name in self._model.model_fields}
        for widget in self.container:
            is_missing = widget.name in self._missing and widget.value == widget.min
            values[widget.name] = None if is_missing else widget.value
        try:
            return self._model.model_validate(values)
        except ValidationError as error:
            wrong = error.errors()[0]
            name = str(wrong["loc"][0]) if wrong["loc"] else "The settings"
            raise InputError(f"{name.replace('_', ' ')} cannot be used: {wrong['msg']}.") from None

    def show(self, settings: Model) -> None:
        """Show settings in the form.

        Parameters
        ----------
        settings : Settings
            An instance of the form's model.
        """
        for widget in self.container:
            value = getattr(settings, widget.name)
            widget.value = widget.min if value is None else value

    def _make(self, name: str, label: str | None) -> Any:
        info = self._model.model_fields[name]
        kind, choices = _kind(info.annotation)
        text = label or name.replace("_", " ").capitalize()
        options: dict[str, Any] = {"tooltip": info.description}
        if choices:
            options["choices"] = choices
        elif kind in (int, float):
            options |= _bounds(info, kind)
            if name in self._missing:
                options["min"] = 0
        value = options.get("min") if info.default is None else info.default
        widget = create_widget(value=value, annotation=kind, name=name, label=text, options=options)
        native: Any = widget.native
        native.setAccessibleName(text)
        shown: Mapping[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        unit = shown.get("unit")
        if isinstance(native, QDoubleSpinBox):
            native.setSpecialValueText(self._missing.get(name, ""))
            native.setDecimals(shown.get("decimals", native.decimals()))
            native.setSuffix(f" {unit}" if unit and unit != "°" else str(unit or ""))
        elif kind is bool:
            native.setText(text)
        return widget


def _kind(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type of a setting without None, and its choices where there is a fixed list of them."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return _kind(next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Literal:
        return type(get_args(annotation)[0]), get_args(annotation)
    return annotation, ()


def _bounds(info: FieldInfo, kind: type) -> dict[str, Any]:
    """Return the bounds of a spin box; it steps onto an open bound, which the model then refuses."""
    bounds: dict[str, Any] = {"min": -_MOST[kind], "max": _MOST[kind]}
    for rule in info.metadata:
        for end, names in (("min", ("ge", "gt")), ("max", ("le", "lt"))):
            for rule_name in names:
                if getattr(rule, rule_name, None) is not None:
                    bounds[end] = getattr(rule, rule_name)
    return bounds
