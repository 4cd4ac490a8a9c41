"""Notes on how images are read, each printed once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

__all__ = ["saying_what_is_read"]


@contextmanager
def saying_what_is_read() -> Iterator[None]:
    """Print on stderr, once each, what was chosen of an image and what was assumed of its pixel size."""
    logger = logging.getLogger("napari_cmrir")
    handler, level = _Saying(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", module="napari_cmrir")
            show = warnings.showwarning

            def plainly(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
                if category is UserWarning and "napari_cmrir" in Path(filename).parts:
                    typer.echo(f"Note: {message}", err=True)
                else:
                    show(message, category, filename, *rest, **more)

            warnings.showwarning = plainly
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _Saying(logging.Handler):
    """Prints a record unless one that says the same was printed, of whatever image."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._said: set[Any] = set()

    def emit(self, record: logging.LogRecord) -> None:
        what = record.args if not record.args else tuple(record.args)[-1]
        if what not in self._said:
            self._said.add(what)
            typer.echo(record.getMessage(), err=True)
