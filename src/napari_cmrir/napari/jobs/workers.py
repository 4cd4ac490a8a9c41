"""Work outside the window's thread: jobs, disk queries, steps of the event loop, and relays of signals."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import Any, ClassVar

from napari.qt.threading import GeneratorWorker
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import create_worker as create_silent_worker

from napari_cmrir.errors import InputError, in_words
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.jobs.worker_process import PROGRESS_SECONDS

__all__ = [
    "ClosingWorker",
    "DebouncedQuery",
    "JobResult",
    "JobWorker",
    "SignalRelay",
    "StreamWorker",
    "Titled",
    "UiStepQueue",
    "detach_all",
    "ignore",
    "started",
]


class SignalRelay(QObject):
    """Receives a worker's signals in the window's thread for a widget that may be deleted before the worker.

    A slot of the widget itself could be deleted while the other thread emits, which PyQt does not survive.
    Nothing hangs on the widget's ``destroyed`` signal either: Python's collector may clear a callable that is
    connected to it before Qt emits, and napari then dies. The relay asks whether the widget lives instead,
    whenever its worker says something.

    Parameters
    ----------
    owner : QObject
        The widget; when Qt deletes it, the worker quits and its signals are ignored.
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
        """Quit the worker, and pass on no more signals."""
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
    """How a job ended: with its result, or with an `InputError`."""

    def __init__(self, result: Any = None, refusal: InputError | None = None) -> None:
        self.result, self.refusal = result, refusal


class ClosingWorker(GeneratorWorker):
    """Iterates a generator that its subclass can access; superqt's own worker keeps it private.

    Parameters
    ----------
    function : callable
        Makes the generator.
    *arguments
        Arguments of the function.
    """

    def __init__(self, function: Callable[..., Generator[Any, Any, Any]], *arguments: Any) -> None:
        self.generator = function(*arguments)
        super().__init__(_delegate, self.generator)

    def work(self) -> Any:
        """Iterate, and always close the generator in this thread."""
        try:
            return super().work()
        finally:
            self.generator.close()


class JobWorker(ClosingWorker):
    """Iterates a job, passes on its progress at a visible rate, and closes the job in its own thread."""

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
    """A function with a title for napari's list of running work."""

    title: str = ""

    def __new__(cls, title: str, function: Callable[..., Any]) -> Titled:
        """Wrap a function with a title."""
        self = super().__new__(cls, function)
        self.title = title
        return self

    def __str__(self) -> str:
        return self.title


def _delegate(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    return (yield from generator)


def started(make_job: Callable[[], Job[Any]]) -> Job[Any]:
    """Create a job in the thread that iterates it, and iterate it.

    Parameters
    ----------
    make_job : callable
        Makes the job.
    """
    yield Progress(0, None, "", "")
    return (yield from make_job())


def detach_all(relays: set[SignalRelay]) -> None:
    """Detach the relays of a widget that is closed.

    Parameters
    ----------
    relays : set of SignalRelay
        Relays of the widget.
    """
    for relay in list(relays):
        relay.detach()


def ignore(*_: object) -> None:
    """Do nothing, with any arguments."""


_TYPING_MILLISECONDS = 250  # pause after a key before the disk is asked: longer than between two keys
_TURN_MILLISECONDS = 10  # Qt draws 5 ms after a request: each step is drawn before the next starts


class DebouncedQuery(QObject):
    """Asks for information on disk in another thread; only the answer to the last question is delivered.

    Parameters
    ----------
    parent : QObject
        Ends with it.
    milliseconds : int
        Pause without a newer question before a question is sent.
    """

    answered = Signal(object)
    """Signal: the answer."""
    refused = Signal(str)
    """Signal: the message of an `InputError`."""

    def __init__(self, parent: QObject, milliseconds: int = _TYPING_MILLISECONDS) -> None:
        super().__init__(parent)
        self._question: Callable[[], Any] = ignore
        self._number = 0
        self._relays: set[SignalRelay] = set()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(milliseconds)
        self._timer.timeout.connect(self._start)

    def ask(self, question: Callable[[], Any]) -> None:
        """Ask after a short pause without newer questions.

        Parameters
        ----------
        question : callable
            Called in another thread; it may raise `InputError`.
        """
        self._question = question
        self._number += 1
        self._timer.start()

    def forget(self) -> None:
        """Ignore the answers to all earlier questions."""
        self._number += 1
        self._timer.stop()
        detach_all(self._relays)

    def _start(self) -> None:
        worker = create_silent_worker(_answer, self._number, self._question)
        SignalRelay(self, worker, self._relays, returned=self._receive, finished=ignore)
        worker.start()

    def _receive(self, answer: tuple[int, Any, str | None]) -> None:
        number, value, refusal = answer
        if number != self._number:
            return
        if refusal is not None:
            self.refused.emit(refusal)
        else:
            self.answered.emit(value)


class StreamWorker(QObject):
    """Computes items one after another in another thread, and delivers each when it is ready.

    Parameters
    ----------
    parent : QObject
        Ends with it.
    """

    arrived = Signal(object)
    """Signal: one item."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._relays: set[SignalRelay] = set()

    def start(self, make: Callable[[], Iterator[Any]]) -> None:
        """Compute these items, and cancel the earlier ones.

        Parameters
        ----------
        make : callable
            Called in another thread; it yields what is handed over.
        """
        self.stop()
        worker = create_silent_worker(_pass_on, make, _worker_class=ClosingWorker)
        SignalRelay(self, worker, self._relays, yielded=self.arrived.emit, finished=ignore)
        worker.start()

    def stop(self) -> None:
        """Deliver no more items."""
        detach_all(self._relays)


class UiStepQueue(QObject):
    """Runs short steps in the window's thread, with turns of the event loop in between.

    Parameters
    ----------
    parent : QObject
        Ends with it.
    """

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._steps: deque[Callable[[], object]] = deque()
        self._timer = QTimer(self)
        self._timer.setInterval(_TURN_MILLISECONDS)
        self._timer.timeout.connect(self._step)

    @property
    def is_busy(self) -> bool:
        """Whether steps are left."""
        return bool(self._steps)

    def take(self, steps: Iterable[Callable[[], object]]) -> None:
        """Run these steps instead of the remaining ones.

        Parameters
        ----------
        steps : iterable of callable
            Called one a turn.
        """
        self._steps = deque()
        self.add(steps)

    def add(self, steps: Iterable[Callable[[], object]]) -> None:
        """Run these steps after the remaining ones.

        Parameters
        ----------
        steps : iterable of callable
            Called one a turn.
        """
        self._steps.extend(steps)
        self._timer.start()

    def forget(self) -> None:
        """Cancel the remaining steps."""
        self._steps.clear()

    def _step(self) -> None:
        if not self._steps:
            self._timer.stop()
            return
        step = self._steps[0]
        try:
            step()
        finally:
            if self._steps and self._steps[0] is step:
                self._steps.popleft()


def _pass_on(make: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    yield from make()


def _answer(number: int, question: Callable[[], Any]) -> tuple[int, Any, str | None]:
    try:
        return number, question(), None
    except InputError as error:
        return number, None, str(error)
    except OSError as error:
        refusal = in_words(error)
        if refusal is None:
            raise
        return number, None, str(refusal)
