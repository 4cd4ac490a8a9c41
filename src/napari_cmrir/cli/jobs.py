"""Run jobs in a terminal: progress, and batches that go on after a file that fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import typer

from napari_cmrir.errors import InputError, refusal_of
from napari_cmrir.jobs import Job, Progress, run

__all__ = ["Failures", "draw", "list_images", "output_names"]

Result = TypeVar("Result")


def draw(job: Job[Result], title: str = "") -> Result:
    """Run a job to its end, with a progress bar if stderr is a terminal, and return its result.

    Parameters
    ----------
    job : Job
        The job; it is closed when the user interrupts.
    title : str
        Shown until the job says what it is doing.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None, unit="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=int(progress.done),
                total=None if progress.total is None else int(progress.total),
                description=progress.message or title,
                unit=progress.unit,
            )

        return run(job, show)


class Failures:
    """Collects why images fail.

    Attributes
    ----------
    reasons : dict
        Sentence by path, in the order of the images.

    Examples
    --------
    >>> failures = Failures()
    >>> with failures.of("a.tif"):
    ...     raise InputError("The region is empty; draw another.")
    >>> failures.reasons
    {'a.tif': 'a.tif: The region is empty; draw another.'}
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    @contextmanager
    def of(self, path: str | Path) -> Iterator[None]:
        """Note what an image is refused for, instead of raising it."""
        try:
            yield
        except (InputError, OSError) as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            self.add(path, str(refusal))

    def add(self, path: str | Path, reason: str) -> None:
        """Note why an image is refused; the sentence names it."""
        self.reasons[str(path)] = reason if Path(path).name in reason else f"{path}: {reason}"

    def end(self, count: int) -> None:
        """Print the reasons on stderr, and leave with status 2 if there is any.

        Parameters
        ----------
        count : int
            Number of images that were given.

        Raises
        ------
        typer.Exit
            With status 2.
        """
        for reason in self.reasons.values():
            typer.echo(f"napari-cmrir: {reason}", err=True)
        if self.reasons and count > len(self.reasons):
            typer.echo(f"{len(self.reasons)} of {count} images failed; the others are done.", err=True)
        if self.reasons:
            raise typer.Exit(2)


def list_images(paths: Sequence[str | Path], modality: str, other: str, failures: Failures) -> list[Path]:
    """List the images of a modality; a path that is not there or holds none does not stop the others.

    Parameters
    ----------
    paths : sequence of path-like
        Files and folders.
    modality, other : str
        Wanted, and the model's other one.
    failures : Failures
        Gets the paths that cannot be used.

    Raises
    ------
    InputError
        No path can be used.
    """
    from napari_cmrir.images.discovery import require_images

    found: dict[Path, Path] = {}
    first: InputError | None = None
    for path in map(Path, paths):
        try:
            for image in require_images([path], modality, other):
                found.setdefault(image.absolute(), image)
        except InputError as error:
            first = first or error
            failures.add(path, str(error))
    if first is not None and not found:
        raise first
    _say_what_is_left_out([Path(path) for path in paths], list(found.values()), modality, other)
    return list(found.values())


def _say_what_is_left_out(paths: list[Path], found: list[Path], modality: str, other: str) -> None:
    """Say which images of folders lie in a folder of the other modality, or are named in another case."""
    from napari_cmrir.images.discovery import images_in, is_zarr
    from napari_cmrir.images.formats.base import ends_with, image_stem

    taken = {image.absolute() for image in found}
    left: dict[str, list[str]] = {}
    for folder in (path for path in paths if path.is_dir() and not is_zarr(path)):
        try:
            images = images_in(folder)
        except InputError:
            continue
        for image in images:
            if image.absolute() in taken:
                continue
            if image.parent.name.lower() == other.lower():
                left.setdefault(f"in folders of {other}", []).append(f"{image.parent.name}/{image.name}")
            elif ends_with(image_stem(image), modality) and not ends_with(image_stem(image), other):
                left.setdefault(f"named otherwise than _{modality}", []).append(image.name)
    for where, names in left.items():
        more = ", ..." if len(names) > 3 else ""
        count = f"{len(names)} image{'s' if len(names) > 1 else ''} {where}"
        typer.echo(f"Note: {count} left out: {', '.join(names[:3])}{more}", err=True)


def output_names(paths: Sequence[Path], stems: Iterable[str]) -> list[Path]:
    """Name the output of each image so that no two are written to one file.

    Parameters
    ----------
    paths : sequence of Path
        The images.
    stems : iterable of str
        Their names without suffix.

    Returns
    -------
    list of Path
        The stem; where two are equal, upper and lower case aside, the name with its suffix; where these are
        equal, too, that below the image's own folder.

    Examples
    --------
    >>> paths = [Path("a/x.tif"), Path("a/x.png"), Path("a/y.tif"), Path("b/y.tif"), Path("b/z.tif")]
    >>> [name.as_posix() for name in output_names(paths, [path.stem for path in paths])]
    ['x.tif', 'x.png', 'a/y.tif', 'b/y.tif', 'z']
    """
    names = [Path(stem) for stem in stems]
    whole = [path.absolute() for path in paths]
    parts = [path.parent.parts for path in whole]
    shared = 0
    while all(len(each) > shared for each in parts) and len({each[shared] for each in parts}) == 1:
        shared += 1
    below = [Path(*path.parts[shared:]) for path in whole]
    for finer in ([Path(path.name) for path in paths], below):
        keys = [str(name).lower() for name in names]
        names = [finer[at] if keys.count(key) > 1 else names[at] for at, key in enumerate(keys)]
    return names
