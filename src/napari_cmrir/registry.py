"""Registries: implementations by name, from this package and from installed extensions."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from napari_cmrir.errors import InputError

__all__ = ["Registry"]

T = TypeVar("T")


class Registry(Generic[T]):
    """Implementations of one kind by name.

    A registry is a read-only mapping. Built-in implementations are imported on first use. Other packages
    provide implementations as entry points of `group`. These are loaded once per process, at the first
    listing or at the first use of a name that is not built in.

    Parameters
    ----------
    kind : str
        Name of the kind in the singular, such as ``"descriptor"``, for messages.
    group : str
        Group of the entry points, such as ``"napari_cmrir.descriptors"``.
    built_in : mapping of str to str
        ``"module:attribute"`` by name.

    Examples
    --------
    >>> shapes = Registry("shape", "napari_cmrir.shapes", {"fraction": "fractions:Fraction"})
    >>> shapes["fraction"](1, 2)
    Fraction(1, 2)
    >>> @shapes.register("square")
    ... def square(side):
    ...     return side * side
    >>> list(shapes), "disc" in shapes
    (['fraction', 'square'], False)
    >>> shapes["disc"]
    Traceback (most recent call last):
        ...
    napari_cmrir.errors.InputError: There is no shape 'disc'; choose one of fraction, square.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self._loaded: dict[str, T] = {}
        self._from_extensions: set[str] | None = None  # names; None before they are loaded
        self._loading = threading.RLock()  # a second thread waits until the entry points are loaded

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that adds an implementation under a name, for this process.

        Parameters
        ----------
        name : str

        Returns
        -------
        callable

        Raises
        ------
        ValueError
            If the name is taken.
        """
        if name in self._built_in or name in self._loaded:
            raise ValueError(f"There is a {self.kind} '{name}' already.")

        def add(implementation: T) -> T:
            self._loaded[name] = implementation
            return implementation

        return add

    def __getitem__(self, name: str) -> T:
        """Return the implementation of a name.

        Raises
        ------
        InputError
            If neither this package nor an installed extension has that name.
        """
        if name not in self._loaded and name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            self._loaded[name] = cast(T, getattr(import_module(module), attribute))
        if name not in self:
            raise InputError(f"There is no {self.kind} '{name}'; choose one of {', '.join(self)}.")
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        if name in self._built_in or name in self._loaded:
            return True
        self._load_extensions()
        return name in self._loaded

    def __iter__(self) -> Iterator[str]:
        self._load_extensions()
        return iter([*self._built_in, *(name for name in self._loaded if name not in self._built_in)])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def extensions(self) -> dict[str, T]:
        """Return the implementations that are not built in, by name."""
        return {name: self[name] for name in self if name not in self._built_in}

    def reload(self) -> None:
        """Forget the entry points, so that the next listing finds newly installed and removed packages."""
        for name in self._from_extensions or ():
            del self._loaded[name]
        self._from_extensions = None

    def _load_extensions(self) -> None:
        """Load the entry points; warn about one that fails, so that a broken package breaks only itself."""
        with self._loading:
            if self._from_extensions is not None:
                return
            self._from_extensions = set()
            for entry in sorted(entry_points(group=self.group), key=lambda entry: entry.name):
                if entry.name in self._built_in or entry.name in self._loaded:
                    self._warn(entry, "the name is taken")
                    continue
                try:
                    self._loaded[entry.name] = entry.load()
                    self._from_extensions.add(entry.name)
                except Exception as error:  # importing another package may raise any exception
                    self._warn(entry, f"{type(error).__name__}: {error}")

    def _warn(self, entry: EntryPoint, reason: str) -> None:
        package = entry.dist.name if entry.dist is not None else entry.value
        warnings.warn(
            f"The {self.kind} '{entry.name}' of the package {package} is left out ({reason});"
            " update or remove that package.",
            stacklevel=2,
        )
