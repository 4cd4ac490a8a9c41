"""The options of reading images, and what was chosen where they were left out, said once."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from napari_cmrir.repository.settings import RepositorySettings

__all__ = [
    "Channels",
    "KeepGlass",
    "Level",
    "PixelSize",
    "Series",
    "Time",
    "ZPlane",
    "repository_settings",
    "saying_what_is_read",
]

_PANEL = "What is read of files that hold more than one plain image"

Series = Annotated[
    int | None,
    typer.Option(min=0, help="Series, from 0; by default the largest.", rich_help_panel=_PANEL),
]
Level = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Level of a pyramid, 0 the finest; by default what suits the model's pixel size.",
        rich_help_panel=_PANEL,
    ),
]
ZPlane = Annotated[
    str | None,
    typer.Option(
        "--z",
        help="Plane of a stack, from 0, or max or middle; by default max of grey images, middle of RGB.",
        rich_help_panel=_PANEL,
    ),
]
Time = Annotated[
    int | None, typer.Option("--t", min=0, help="Point in time; by default 0.", rich_help_panel=_PANEL)
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        help="Channel, by name or number from 0; again for each further one; by default all.",
        rich_help_panel=_PANEL,
    ),
]
PixelSize = Annotated[
    float | None,
    typer.Option(
        "--pixel-size",
        help="Side of a pixel of the finest level, micrometres; by default as the file says.",
        rich_help_panel=_PANEL,
    ),
]
KeepGlass = Annotated[
    bool,
    typer.Option("--keep-glass", help="Index fields of large images that are empty glass too."),
]


def repository_settings(
    path: Path,
    *,
    series: int | None,
    level: int | None,
    z: str | None,
    t: int | None,
    channels: list[str] | None,
    pixel_size: float | None,
    keep_glass: bool,
) -> RepositorySettings | None:
    """Return a repository's settings with the options that were given; ``None`` if none was.

    Raises
    ------
    InputError
        If an option is out of its bounds.
    """
    from pydantic import ValidationError

    from napari_cmrir.errors import InputError
    from napari_cmrir.repository.repository import changed_settings

    names: list[int | str] = [int(name) if name.isdigit() else name for name in channels or ()]
    plane: int | str | None = int(z) if z is not None and z.isdigit() else z
    try:
        return changed_settings(
            path,
            keep_glass=keep_glass,
            series=series,
            level=level,
            z=plane,
            t=t,
            channels=tuple(names) or None,
            pixel_size=pixel_size,
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        option = str(wrong["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} cannot be {wrong['input']!r}: {wrong['msg']}.") from None


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
