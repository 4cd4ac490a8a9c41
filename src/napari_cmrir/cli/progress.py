"""Jobs drawn as progress bars on stderr."""

from __future__ import annotations

from typing import TypeVar

from napari_cmrir.jobs import Job, Progress

__all__ = ["draw"]

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

    from napari_cmrir.jobs import run

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
