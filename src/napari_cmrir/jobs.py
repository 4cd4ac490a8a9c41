"""What a long job is: a generator that yields its progress and returns its result.

The command line draws the progress, a widget runs the generator in a worker thread, a notebook loops
over it. Whoever stops iterating cancels the job: its ``finally`` clauses leave what is on disk
complete and resumable.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Job", "Preview", "Progress", "portion", "run", "step_of"]

Result = TypeVar("Result")


class Preview:
    """Base of what a job shows while it runs.

    A job that has something to show derives a frozen dataclass from it, beside the job. Readers test the type
    with ``isinstance``. A preview may be pickled and read in another process: define it where its import
    costs little.
    """


@dataclass(frozen=True)
class Progress:
    """How far a job has come.

    Parameters
    ----------
    done : float
        Units finished so far.
    total : float or None
        Units in all, or ``None`` while that is not known.
    unit : str
        What is counted, in the plural: ``"images"``, ``"steps"``.
    message : str
        One short line for the user on what is happening now.
    preview : Preview or None
        Intermediate result worth showing.
    """

    done: float
    total: float | None
    unit: str
    message: str = ""
    preview: Preview | None = None


Job = Generator[Progress, None, Result]
"""A long job: iterate it for its `Progress`; its return value is the result."""


def run(job: Job[Result], on_progress: Callable[[Progress], object] | None = None) -> Result:
    """Run a job to its end and return its result.

    Parameters
    ----------
    job : Job
        The generator to exhaust. It is closed whatever happens, so that its clean-up runs.
    on_progress : callable, optional
        Called with every `Progress`.

    Returns
    -------
    Result
        What the job returns.

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


def portion(
    job: Job[Result],
    start: float,
    stop: float,
    total: float = 100,
    unit: str = "%",
    describe: Callable[[Progress], str] | None = None,
) -> Job[Result]:
    """Run a job as a part of a longer one.

    Parameters
    ----------
    job : Job
        The part.
    start, stop : float
        Units of the longer job that are done when the part begins, and when it ends.
    total : float
        Units of the longer job in all.
    unit : str
        What the longer job counts, in the plural.
    describe : callable, optional
        Makes the message from the part's own `Progress`; by default the message stays.

    Yields
    ------
    Progress
        Of the longer job, with the part's previews.

    Returns
    -------
    Result
        What the part returns.

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
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as end:
                result: Result = end.value
                return result
            share = progress.done / progress.total if progress.total else 0.0
            done = start + (stop - start) * min(1.0, share)
            message = progress.message if describe is None else describe(progress)
            yield Progress(done, total, unit, message, progress.preview)
    finally:
        job.close()


def step_of(
    job: Job[Result],
    position: int,
    total: int,
    unit: str,
    describe: Callable[[Progress], str] | None = None,
) -> Job[Result]:
    """Run a job as one of the steps of a longer one: `portion` from ``position`` to ``position + 1``.

    Parameters
    ----------
    job : Job
        The step.
    position : int
        Steps that are done before it.
    total : int
        Steps in all.
    unit : str
        What the steps are, in the plural.
    describe : callable, optional
        Makes the message from the step's own `Progress`; by default the message stays.

    Returns
    -------
    Job
        Yields `Progress` in steps, and returns what ``job`` returns.

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
