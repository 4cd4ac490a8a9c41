"""Quick questions to the disk, and small steps in the window, without making it wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal
from superqt.utils import create_worker as create_silent_worker

from napari_cmrir.errors import InputError, in_words
from napari_cmrir.napari.jobs.workers import ClosingWorker, SignalRelay, detach_all, ignore

__all__ = ["DebouncedQuery", "StreamWorker", "UiStepQueue"]

_TYPING_MILLISECONDS = 250
_TURN_MILLISECONDS = 10  # Qt draws 5 ms after it was asked to: each step is drawn before the next


class DebouncedQuery(QObject):
    """Asks the disk a quick question, away from the window; only the answer to the last one counts.

    Parameters
    ----------
    parent : QObject
        Ends with it.
    milliseconds : int
        How long nothing new has to be asked before the question is put.
    """

    answered = Signal(object)
    """The answer."""
    refused = Signal(str)
    """The sentence of the `InputError` that came instead."""

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
        """Ask once nothing new has been asked for a moment.

        Parameters
        ----------
        question : callable
            Called in another thread; it may raise `InputError`.
        """
        self._question = question
        self._number += 1
        self._timer.start()

    def forget(self) -> None:
        """Take no more answers to what was asked so far."""
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
    """Makes things one after the other, away from the window, and hands over each as it is ready.

    Parameters
    ----------
    parent : QObject
        Ends with it.
    """

    arrived = Signal(object)
    """One of the things."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._relays: set[SignalRelay] = set()

    def start(self, make: Callable[[], Iterator[Any]]) -> None:
        """Make these, and no more of those before.

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
        """Hand over nothing more."""
        detach_all(self._relays)


class UiStepQueue(QObject):
    """Does small steps in the window's thread, between which its event loop turns and draws.

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
        """Do these steps, in place of those that are left of others.

        Parameters
        ----------
        steps : iterable of callable
            Called one a turn.
        """
        self._steps = deque()
        self.add(steps)

    def add(self, steps: Iterable[Callable[[], object]]) -> None:
        """Do these steps, after those that are left.

        Parameters
        ----------
        steps : iterable of callable
            Called one a turn.
        """
        self._steps.extend(steps)
        self._timer.start()

    def forget(self) -> None:
        """Do no more of them."""
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
