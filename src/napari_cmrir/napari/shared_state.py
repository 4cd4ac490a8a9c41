"""State that the docks of one viewer share, and choices remembered between sessions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from psygnal import Signal
from qtpy.QtCore import QObject, QSettings
from qtpy.QtWidgets import QAbstractSpinBox, QCheckBox, QComboBox, QDoubleSpinBox, QLineEdit, QWidget
from superqt.utils import create_worker as create_silent_worker

from napari_cmrir.napari.form_fields import PathEdit
from napari_cmrir.napari.jobs.workers import DebouncedQuery

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

__all__ = [
    "SharedState",
    "behind_proxy",
    "current_if_same",
    "default",
    "forget_choices",
    "remember",
    "shared_state_of",
]


class SharedState:
    """What the docks of one viewer propose to each other: a model, images to index and a repository."""

    model_changed = Signal(Path)
    images_changed = Signal(Path)
    repository_changed = Signal(Path)

    def __init__(self) -> None:
        self._model: Path | None = None
        self._images: Path | None = None
        self._repository: Path | None = None
        self.left: tuple[list[Layer], list[Layer]] = [], []
        """Layers of hits, and layers hidden for them, that a closed dock has left to the next."""
        self.removes_in_context = False
        """Whether the canvas' OpenGL context is made current before napari removes a layer."""

    @property
    def model(self) -> Path | None:
        """The model file that was last trained or loaded."""
        return self._model

    @model.setter
    def model(self, path: Path) -> None:
        self._model = path
        self.model_changed.emit(path)

    @property
    def images(self) -> Path | None:
        """The folder of the second modality, in which pairs were last found."""
        return self._images

    @images.setter
    def images(self, path: Path) -> None:
        self._images = path
        self.images_changed.emit(path)

    @property
    def repository(self) -> Path | None:
        """The repository that was last built."""
        return self._repository

    @repository.setter
    def repository(self, path: Path) -> None:
        self._repository = path
        self.repository_changed.emit(path)


_unwritten: dict[str, str] = {}
_lock = Lock()  # only one thread at a time reads or writes the choices
_SESSIONS: WeakKeyDictionary[object, SharedState] = WeakKeyDictionary()


def shared_state_of(viewer: Viewer) -> SharedState:
    """Return the shared state of a viewer, which lives as long as the viewer.

    Parameters
    ----------
    viewer : Viewer
        The viewer, or the proxy that napari gives to plugins in its place.
    """
    return _SESSIONS.setdefault(behind_proxy(viewer), SharedState())


def behind_proxy(viewer: Viewer) -> Viewer:
    """Return the viewer behind napari's proxy; a viewer itself is returned unchanged.

    Parameters
    ----------
    viewer : Viewer
        The viewer, or the proxy.

    Notes
    -----
    ``__wrapped__`` is an attribute of napari's present kind of proxy, and no promise of napari's.
    """
    wrapped: Viewer | None = getattr(viewer, "__wrapped__", None)
    return current_if_same(viewer) if wrapped is None else wrapped


def current_if_same(viewer: Viewer) -> Viewer:
    """Return the current viewer if the proxy stands for it, else the argument; uses only napari's public API.

    Parameters
    ----------
    viewer : Viewer
        The viewer, or a proxy.
    """
    import napari

    current = napari.current_viewer()
    # Hashes are compared because viewers are equal if all their values are; a proxy has the viewer's hash.
    return current if current is not None and hash(current) == hash(viewer) else viewer


def remember(fields: Mapping[str, QWidget], parent: QObject) -> None:
    """Restore the last choices of fields, and save later ones.

    The disk is read and written away from the window. What the user chooses before it is read counts.

    Parameters
    ----------
    fields : mapping of str to QWidget
        Spin boxes, combo boxes, check boxes, lines and paths, by the name to keep each under:
        ``"find/hits"``.
    parent : QObject
        Ends what is still to be read.
    """
    before = {key: _get(field) for key, field in fields.items()}
    reading = DebouncedQuery(parent, 0)
    reading.answered.connect(partial(_bring_back, dict(fields), before))
    paths = {key for key, field in fields.items() if isinstance(field, PathEdit)}
    reading.ask(partial(_read_choices, list(fields), paths))
    for key, field in fields.items():
        _changed(field).connect(partial(_keep, key, field))


def _bring_back(fields: Mapping[str, QWidget], before: Mapping[str, str], kept: Mapping[str, str]) -> None:
    for key, choice in kept.items():
        field = fields[key]
        if _get(field) == before[key] or (isinstance(field, PathEdit) and field.is_free):
            _set(field, choice)


def _read_choices(keys: Sequence[str], paths: Collection[str]) -> dict[str, str]:
    """Read the saved choices, without paths that no longer exist."""
    with _lock:
        _write_choices()
        settings = _settings()
        kept = {key: str(settings.value(key)) for key in keys if settings.contains(key)}
    return {key: choice for key, choice in kept.items() if key not in paths or _exists(choice)}


def _exists(choice: str) -> bool:
    from napari_cmrir.representations.model_file import find_model

    try:
        return bool(choice) and find_model(choice).exists()
    except OSError:
        return False


def _keep(key: str, field: QWidget, *_: object) -> None:
    _unwritten[key] = _get(field)
    create_silent_worker(_write_unwritten, _start_thread=True)


def _write_unwritten() -> None:
    with _lock:
        _write_choices()


def _write_choices() -> None:
    settings = _settings()
    while _unwritten:
        settings.setValue(*_unwritten.popitem())
    settings.sync()


Value = TypeVar("Value", int, str)


def default(name: str, otherwise: Value) -> Value:
    """Read a default of Find region from napari's preferences.

    Parameters
    ----------
    name : str
        As in the manifest's ``configurations``.
    otherwise : int or str
        Value for versions of napari without preferences of plugins; its type is that of the default.

    Returns
    -------
    int or str
    """
    try:
        from napari.settings import get_plugin_settings

        return type(otherwise)(getattr(get_plugin_settings("napari-cmrir").search, name))
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        return otherwise


def forget_choices() -> None:
    """Delete all saved choices."""
    with _lock:
        _unwritten.clear()
        _settings().clear()


def _settings() -> QSettings:
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-cmrir", "widgets")


def _get(field: Any) -> str:
    if isinstance(field, QAbstractSpinBox):
        return f"{field.value()}"
    if isinstance(field, QCheckBox):
        return str(int(field.isChecked()))
    if isinstance(field, QComboBox):
        return field.currentText()
    return field.line.text() if isinstance(field, PathEdit) else field.text()


def _set(field: Any, kept: str) -> None:
    if isinstance(field, QAbstractSpinBox):
        with suppress(ValueError):  # another version may have saved a value that is invalid now
            field.setValue(float(kept) if isinstance(field, QDoubleSpinBox) else round(float(kept)))
    elif isinstance(field, QCheckBox):
        if kept in ("0", "1"):
            field.setChecked(kept == "1")
    elif isinstance(field, QComboBox):
        field.setCurrentText(kept)
    elif isinstance(field, PathEdit):
        field.set_paths(Path(kept))
    elif isinstance(field, QLineEdit):
        field.setText(kept)


def _changed(field: Any) -> Any:
    if isinstance(field, QAbstractSpinBox):
        return field.valueChanged
    if isinstance(field, QCheckBox):
        return field.toggled
    if isinstance(field, QComboBox):
        return field.currentTextChanged
    return field.changed if isinstance(field, PathEdit) else field.textChanged
