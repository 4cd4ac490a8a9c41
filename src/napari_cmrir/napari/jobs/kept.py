"""What a worker process keeps open from one job to the next: the repository and the model used last.

A search of a small repository spends most of its time on opening it and on loading its model. Each thread
keeps its own, because an SQLite connection belongs to the thread that opened it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.representations.base import Representation

__all__ = ["MODELS", "REPOSITORIES", "LastOpened", "kept_model", "kept_repository"]

Opened = TypeVar("Opened")


class LastOpened(threading.local, Generic[Opened]):
    """Keeps what was opened last, by its path; one is enough, and two might not fit into the memory.

    Parameters
    ----------
    open_path : callable
        Opens a path.
    is_current : callable
        Whether what is kept still holds what the disk holds.
    close : callable
        Called with what is kept no longer.

    Attributes
    ----------
    count : int
        How often something was opened.
    """

    def __init__(
        self,
        open_path: Callable[[Path], Opened],
        is_current: Callable[[Opened], bool],
        close: Callable[[Opened], object],
    ) -> None:
        self._open, self._is_current, self._close = open_path, is_current, close
        self._kept: tuple[Path, Opened] | None = None
        self.count = 0

    def get(self, path: Path) -> Opened:
        """Give what is kept of a path, or open it.

        Parameters
        ----------
        path : Path
            The path.

        Raises
        ------
        InputError
            It cannot be opened.
        """
        if self._kept is not None and self._kept[0] == path and self._is_current(self._kept[1]):
            return self._kept[1]
        self.forget()
        opened = self._open(path)
        self._kept = path, opened
        self.count += 1
        return opened

    def forget(self) -> None:
        """Close what is kept: its files will be written, or its memory is needed."""
        if self._kept is not None:
            self._close(self._kept[1])
        self._kept = None


@dataclass(frozen=True, eq=False)
class _LoadedModel:
    path: Path
    state: tuple[Any, ...]
    model: Representation


def _open_repository(path: Path) -> Repository:
    from napari_cmrir.repository.repository import open_repository

    return open_repository(path)


def _load_model(path: Path) -> _LoadedModel:
    from napari_cmrir.repository.repository import file_state
    from napari_cmrir.representations.base import load_model

    state = file_state(path)  # before it is read: a later change is then noticed
    return _LoadedModel(path, state, load_model(path))


def _is_same_file(loaded: _LoadedModel) -> bool:
    from napari_cmrir.repository.repository import file_state

    return file_state(loaded.path) == loaded.state


REPOSITORIES = LastOpened(
    _open_repository, lambda repository: repository.is_current(), lambda repository: repository.close()
)
MODELS = LastOpened(_load_model, _is_same_file, lambda loaded: None)


def kept_repository(path: Path) -> Repository:
    """Open a repository, or give the one that is open if nothing was published in it since.

    Parameters
    ----------
    path : Path
        The repository.

    Raises
    ------
    InputError
        As `repository.open_repository`.
    """
    return REPOSITORIES.get(path)


def kept_model(path: Path) -> Representation:
    """Load a model, or give the one that is loaded if its file is the same.

    Parameters
    ----------
    path : Path
        The model file.

    Raises
    ------
    InputError
        As `representations.comir.model.load_model`.
    """
    return MODELS.get(path).model
