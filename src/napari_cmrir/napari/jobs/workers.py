"""Threads that iterate a job, and how their signals reach a widget that may be gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, ClassVar

from napari.qt.threading import GeneratorWorker
from qtpy.compat import isalive
from qtpy.QtCore import QObject

from napari_cmrir.errors import InputError, in_words
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.jobs.worker_main import PROGRESS_SECONDS

__all__ = [
    "ClosingWorker",
    "JobResult",
    "JobWorker",
    "SignalRelay",
    "Titled",
    "detach_all",
    "ignore",
    "started",
]


class SignalRelay(QObject):
    """Takes a worker's signals in the window's thread for a widget that may be deleted before it ends.

    A slot of the widget itself could be deleted while the other thread emits, which PyQt does not survive.
    Nothing hangs on the widget's ``destroyed`` signal either: Python's collector may clear a callable that is
    connected to it before Qt emits, and napari then dies. The relay asks whether the widget lives instead,
    whenever its worker says something.

    Parameters
    ----------
    owner : QObject
        The widget; once Qt has deleted it, the worker is told to quit and nothing is passed on.
    worker : WorkerBase
        The worker.
    running : set
        Where the widget keeps its relays: this one is in it until its worker has finished.
    **slots : callable
        What to call, by the name of the signal; among them ``finished``.
    """

    _all: ClassVar[set[SignalRelay]] = set()

    def __init__(
        self, owner: QObject, worker: Any, running: set[SignalRelay], **slots: Callable[..., object]
    ) -> None:
        super().__init__()
        self._owner, self._worker, self._running, self._to = owner, worker, running, slots
        self._all.add(self)
        running.add(self)
        for name in slots:
            getattr(worker, name).connect(getattr(self, f"_{name}"))

    def detach(self) -> None:
        """Quit the worker and pass nothing on any more."""
        self._worker.quit()
        self._to = dict.fromkeys(self._to, ignore)

    def _pass_on(self, name: str, *values: object) -> None:
        if not isalive(self._owner):
            self.detach()
        self._to[name](*values)

    def _yielded(self, progress: Progress) -> None:
        self._pass_on("yielded", progress)

    def _returned(self, result: Any) -> None:
        self._pass_on("returned", result)

    def _finished(self) -> None:
        self._all.discard(self)
        self._running.discard(self)
        self._pass_on("finished")


class JobResult:
    """How a job ended: with its result, or refused."""

    def __init__(self, result: Any = None, refusal: InputError | None = None) -> None:
        self.result, self.refusal = result, refusal


class ClosingWorker(GeneratorWorker):
    """Iterates a generator that its subclass can reach, which superqt's own worker keeps to itself.

    Parameters
    ----------
    function : callable
        Makes the generator.
    *arguments
        What it is called with.
    """

    def __init__(self, function: Callable[..., Generator[Any, Any, Any]], *arguments: Any) -> None:
        self.generator = function(*arguments)
        super().__init__(_delegate, self.generator)

    def work(self) -> Any:
        """Iterate, and close the generator in this thread wherever it is stopped."""
        try:
            return super().work()
        finally:
            self.generator.close()


class JobWorker(ClosingWorker):
    """Iterates a job, passes on as much of its progress as can be seen, and closes it in its own thread."""

    def work(self) -> JobResult | None:
        """Iterate until the job ends or is stopped."""
        job, shown, last = self.generator, 0.0, None
        try:
            while not self.abort_requested:
                progress = next(job)
                now = time.monotonic()
                is_news = progress is not last
                if is_news and (now - shown >= PROGRESS_SECONDS or progress.preview is not None):
                    shown, last = now, progress
                    self.yielded.emit(progress)
        except StopIteration as stop:
            return JobResult(stop.value)
        except InputError as error:
            return JobResult(refusal=error)
        except OSError as error:
            refusal = in_words(error)
            if refusal is None:
                raise
            return JobResult(refusal=refusal)
        finally:
            job.close()
        self.aborted.emit()
        return None


class Titled(partial):  # type: ignore[type-arg]
    """A function that napari names in words in its list of running work."""

    title: str = ""

    def __new__(cls, title: str, function: Callable[..., Any]) -> Titled:
        """Name a function."""
        self = super().__new__(cls, function)
        self.title = title
        return self

    def __str__(self) -> str:
        return self.title


def _delegate(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    return (yield from generator)


def started(make_job: Callable[[], Job[Any]]) -> Job[Any]:
    """Make a job in the thread that iterates it, and iterate it.

    Parameters
    ----------
    make_job : callable
        Makes the job.
    """
    yield Progress(0, None, "", "")
    return (yield from make_job())


def detach_all(relays: set[SignalRelay]) -> None:
    """Detach relays whose widget goes.

    Parameters
    ----------
    relays : set of SignalRelay
        Those of the widget.
    """
    for relay in list(relays):
        relay.detach()


def ignore(*_: object) -> None:
    """Do nothing, whatever is told."""
