"""Long jobs: generators that yield their progress and return their result.

The command line draws the progress, the napari plugin runs the generator in a worker process, and a notebook
loops over it. A caller cancels a job by closing the generator; its ``finally`` clauses leave the files on the
disk complete and resumable.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Job", "Preview", "Progress", "changed", "portion", "run", "step_of"]

Result = TypeVar("Result")


class Preview:
    """Base class of intermediate results that a job shows while it runs.

    A job defines a frozen dataclass that derives from it. Readers test the type with ``isinstance``. Another
    process may unpickle a preview, so define the dataclass in a module that imports fast.
    """


@dataclass(frozen=True)
class Progress:
    """The progress of a job.

    Parameters
    ----------
    done : float
        Units finished so far.
    total : float or None
        Number of units, or ``None`` while it is unknown.
    unit : str
        Name of the units, in the plural, such as ``"images"``.
    message : str
        One short line for the user on the current work.
    preview : Preview or None
        Intermediate result to show.
    share : float or None
        Share of the work that is done, 0 to 1, where it differs from ``done / total``: units of unequal size.
    """

    done: float
    total: float | None
    unit: str
    message: str = ""
    preview: Preview | None = None
    share: float | None = None


Job = Generator[Progress, None, Result]
"""A long job: iteration yields `Progress`, and the return value is the result."""


def run(job: Job[Result], on_progress: Callable[[Progress], object] | None = None) -> Result:
    """Run a job to its end and return its result.

    Parameters
    ----------
    job : Job
        The generator to exhaust. It is closed also after an exception, so that its clean-up runs.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Result
        Return value of the job.

    Examples
    --------
    >>> def count(n):
    ...     for i in range(n):
    ...         yield Progress(i + 1, n, "numbers")
    ...     return n * (n - 1) // 2
    >>> run(count(4))
    6
    """
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            if on_progress is not None:
                on_progress(progress)
    finally:
        job.close()


def changed(job: Job[Result], change: Callable[[Progress], Progress | None]) -> Job[Result]:
    """Run a job with its progress changed.

    Parameters
    ----------
    job : Job
        It is closed when the changed job ends or is closed.
    change : callable
        Makes a `Progress` of each; ``None`` leaves it out.

    Yields
    ------
    Progress
        What ``change`` returns.

    Returns
    -------
    Result
        Return value of the job.

    Examples
    --------
    >>> def double(n):
    ...     for i in range(n):
    ...         yield Progress(i + 1, n, "numbers")
    ...     return 2 * n
    >>> run(changed(double(3), lambda progress: progress if progress.done > 1 else None), print)
    Progress(done=2, total=3, unit='numbers', message='', preview=None, share=None)
    Progress(done=3, total=3, unit='numbers', message='', preview=None, share=None)
    6
    """
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as end:
                result: Result = end.value
                return result
            shown = change(progress)
            if shown is not None:
                yield shown
    finally:
        job.close()


def portion(
    job: Job[Result],
    start: float,
    stop: float,
    total: float = 100,
    unit: str = "%",
    describe: Callable[[Progress], str] | None = None,
) -> Job[Result]:
    """Run a job as a part of a longer job.

    Parameters
    ----------
    job : Job
        The part.
    start, stop : float
        Units of the longer job that are done when the part begins and when it ends.
    total : float
        Number of units of the longer job.
    unit : str
        Name of the units of the longer job, in the plural.
    describe : callable, optional
        Makes the message from the part's `Progress`. By default the part's message is kept.

    Yields
    ------
    Progress
        Progress of the longer job, with the part's previews.

    Returns
    -------
    Result
        Return value of the part.

    Examples
    --------
    >>> def double(n):
    ...     for i in range(n):
    ...         yield Progress(i + 1, n, "numbers", "Doubling")
    ...     return 2 * n
    >>> run(portion(double(2), 40, 60), lambda progress: print(progress.done, progress.unit))
    50.0 %
    60.0 %
    4
    """

    def within(progress: Progress) -> Progress:
        share = progress.done / progress.total if progress.total else 0.0
        done = start + (stop - start) * min(1.0, share)
        message = progress.message if describe is None else describe(progress)
        return Progress(done, total, unit, message, progress.preview)

    return changed(job, within)


def step_of(
    job: Job[Result],
    position: int,
    total: int,
    unit: str,
    describe: Callable[[Progress], str] | None = None,
) -> Job[Result]:
    """Run a job as one step of a longer job: `portion` from ``position`` to ``position + 1``.

    Parameters
    ----------
    job : Job
        The step.
    position : int
        Number of steps before this one.
    total : int
        Number of steps.
    unit : str
        Name of the steps, in the plural.
    describe : callable, optional
        Makes the message from the step's `Progress`. By default the step's message is kept.

    Returns
    -------
    Job
        It yields `Progress` in steps, and returns the return value of ``job``.

    Examples
    --------
    >>> def double(n):
    ...     yield Progress(1, 2, "numbers", "Doubling")
    ...     return 2 * n
    >>> run(step_of(double(2), 3, 8, "images"), lambda progress: print(progress.done, progress.unit))
    3.5 images
    4
    """
    return portion(job, position, position + 1, total, unit, describe)
