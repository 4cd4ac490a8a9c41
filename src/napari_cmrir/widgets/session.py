"""What the three widgets of one viewer share: the model and the repository that were used last."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from psygnal import Signal

if TYPE_CHECKING:
    from napari import Viewer

__all__ = ["Session", "session_of"]


class Session:
    """The model and the repository that one viewer's widgets propose to each other."""

    model_changed = Signal(Path)
    repository_changed = Signal(Path)

    def __init__(self) -> None:
        self._model: Path | None = None
        self._repository: Path | None = None

    @property
    def model(self) -> Path | None:
        """The model file that was trained or loaded last."""
        return self._model

    @model.setter
    def model(self, path: Path) -> None:
        self._model = path
        self.model_changed.emit(path)

    @property
    def repository(self) -> Path | None:
        """The repository that was built last."""
        return self._repository

    @repository.setter
    def repository(self, path: Path) -> None:
        self._repository = path
        self.repository_changed.emit(path)


_SESSIONS: WeakKeyDictionary[object, Session] = WeakKeyDictionary()


def session_of(viewer: Viewer) -> Session:
    """Return the session of a viewer, which lives as long as the viewer.

    Parameters
    ----------
    viewer : Viewer
        The viewer, or the proxy that napari gives to plugins in its place.
    """
    return _SESSIONS.setdefault(getattr(viewer, "__wrapped__", viewer), Session())
