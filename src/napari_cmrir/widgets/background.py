"""Work away from the window: long jobs with a bar and two buttons, and quick questions to the disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from napari.qt.threading import GeneratorWorker, create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QPushButton, QVBoxLayout, QWidget
from superqt import QElidingLabel
from superqt.utils import create_worker as create_silent_worker

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress

__all__ = ["Inquiry", "JobPanel"]

_PROGRESS_SECONDS = 0.05
_ESTIMATE_SECONDS = 3.0
_BAR_STEPS = 1000
_TYPING_MILLISECONDS = 250


class JobPanel(QWidget):
    """Two buttons that start and stop a job, a bar and a line that tell how far it has come.

    Parameters
    ----------
    start, stop : str
        What the buttons say.
    start_tip, stop_tip : str
        Their tooltips.
    """

    start_requested = Signal()
    """The start button was pressed: the owner answers with `run`."""
    running_changed = Signal(bool)

    def __init__(self, start: str, stop: str, start_tip: str, stop_tip: str) -> None:
        super().__init__()
        self.start_button, self.stop_button = QPushButton(start), QPushButton(stop)
        self.start_button.setToolTip(start_tip)
        self.stop_button.setToolTip(stop_tip)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setToolTip("How far the work has come")
        self.message = QElidingLabel()
        buttons = QHBoxLayout()
        buttons.addWidget(self.start_button)
        buttons.addWidget(self.stop_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        self.start_button.clicked.connect(self._request_start)
        self.stop_button.clicked.connect(self.stop)
        self._worker: _JobWorker | None = None
        self._relay: _Relay | None = None
        self._outcome: _Outcome | None = None
        self._on_result: Callable[[Any], object] = _ignore
        self._clock = _Clock()
        self._relays: set[_Relay] = set()
        self.destroyed.connect(partial(_detach_all, self._relays))
        self._show_running(False)

    @property
    def is_running(self) -> bool:
        """Whether a job is under way, or stopping."""
        return self._worker is not None

    def run(self, title: str, make_job: Callable[[], Job[Any]], on_result: Callable[[Any], object]) -> None:
        """Run a job in another thread.

        An `InputError` of the job becomes one notification; any other exception is raised in the window's
        thread, where napari shows it with its traceback.

        Parameters
        ----------
        title : str
            What it does, for napari's question before it closes: ``"Training a CoMIR model"``.
        make_job : callable
            Makes the job; called in the other thread. It must not touch layers or widgets.
        on_result : callable
            Called with the job's result, in the window's thread, unless the job was stopped.
        """
        if self._worker is not None:
            return
        self._outcome, self._on_result, self._clock = None, on_result, _Clock()
        worker = create_worker(_Titled(title, _start), make_job, _worker_class=_JobWorker)
        self._worker = worker
        self._relay = _Relay(
            worker,
            self._relays,
            yielded=self._show_progress,
            returned=self._keep_outcome,
            finished=self._finish,
        )
        self._show_running(True)
        self.bar.setRange(0, 0)
        self.tell(f"{title} …")
        worker.start()

    def stop(self) -> None:
        """Ask the job to stop; what it has left on the disk is complete."""
        if self._worker is not None:
            self._worker.quit()
            self.stop_button.setEnabled(False)
            self.tell("Stopping …")

    def abandon(self) -> None:
        """Stop the job and take no more notice of it: its widget goes."""
        if self._relay is not None:
            self._relay.detach()
            self._become_idle("Stopped.")

    def refuse(self, error: InputError) -> None:
        """Show what cannot be done, as one notification.

        Parameters
        ----------
        error : InputError
            Its message is the sentence to show.
        """
        self.tell(str(error))
        show_error(str(error))

    def tell(self, message: str) -> None:
        """Show a line below the bar.

        Parameters
        ----------
        message : str
            Cut where it is too long; the tooltip has it whole.
        """
        self.message.setText(message)
        self.message.setToolTip(message)

    def _request_start(self) -> None:
        self.start_requested.emit()

    def _show_running(self, is_running: bool) -> None:
        self.start_button.setEnabled(not is_running)
        self.stop_button.setEnabled(is_running)
        self.running_changed.emit(is_running)

    def _show_progress(self, progress: Progress) -> None:
        if self._worker is None or self._worker.abort_requested:
            return
        if progress.total:
            self.bar.setRange(0, _BAR_STEPS)
            self.bar.setValue(round(_BAR_STEPS * min(progress.done / progress.total, 1.0)))
        else:
            self.bar.setRange(0, 0)
        self.tell(" · ".join(filter(None, [_count(progress), progress.message, self._clock.left(progress)])))

    def _keep_outcome(self, outcome: _Outcome) -> None:
        self._outcome = outcome

    def _finish(self) -> None:
        outcome, on_result = self._outcome, self._on_result
        if outcome is None:  # stopped, or an exception that napari shows
            was_stopped = self._worker is not None and self._worker.abort_requested
            self._become_idle("Stopped." if was_stopped else "Failed.")
        elif outcome.refusal is not None:
            self._become_idle("")
            self.refuse(outcome.refusal)
        else:
            self._become_idle("Done.", share=1.0)
            on_result(outcome.result)

    def _become_idle(self, message: str, share: float = 0.0) -> None:
        self._worker, self._relay, self._outcome, self._on_result = None, None, None, _ignore
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setValue(round(_BAR_STEPS * share))
        self.tell(message)
        self._show_running(False)


class Inquiry(QObject):
    """Asks the disk a quick question, away from the window; only the answer to the last one counts.

    Parameters
    ----------
    parent : QObject
        Ends with it.
    """

    answered = Signal(object)
    """The answer."""
    refused = Signal(str)
    """The sentence of the `InputError` that came instead."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._question: Callable[[], Any] = _ignore
        self._number = 0
        self._relays: set[_Relay] = set()
        self.destroyed.connect(partial(_detach_all, self._relays))
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_TYPING_MILLISECONDS)
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

    def _start(self) -> None:
        worker = create_silent_worker(_answer, self._number, self._question)
        _Relay(worker, self._relays, returned=self._receive, finished=_ignore)
        worker.start()

    def _receive(self, answer: tuple[int, Any, str | None]) -> None:
        number, value, refusal = answer
        if number != self._number:
            return
        if refusal is not None:
            self.refused.emit(refusal)
        else:
            self.answered.emit(value)


class _Relay(QObject):
    """Takes a worker's signals in the window's thread for a widget that may be deleted before it ends.

    A slot of the widget itself could be deleted while the other thread emits, which PyQt does not survive.

    Parameters
    ----------
    worker : WorkerBase
        The worker.
    running : set
        Where the widget keeps its relays: this one is in it until its worker has finished.
    **slots : callable
        What to call, by the name of the signal; among them ``finished``.
    """

    _all: ClassVar[set[_Relay]] = set()

    def __init__(self, worker: Any, running: set[_Relay], **slots: Callable[..., object]) -> None:
        super().__init__()
        self._worker, self._running, self._to = worker, running, slots
        self._all.add(self)
        running.add(self)
        for name in slots:
            getattr(worker, name).connect(getattr(self, f"_{name}"))

    def detach(self) -> None:
        """Quit the worker and pass nothing on any more."""
        self._worker.quit()
        self._to = dict.fromkeys(self._to, _ignore)

    def _yielded(self, progress: Progress) -> None:
        self._to["yielded"](progress)

    def _returned(self, result: Any) -> None:
        self._to["returned"](result)

    def _finished(self) -> None:
        self._all.discard(self)
        self._running.discard(self)
        self._to["finished"]()


class _Outcome:
    """How a job ended: with its result, or refused."""

    def __init__(self, result: Any = None, refusal: InputError | None = None) -> None:
        self.result, self.refusal = result, refusal


class _JobWorker(GeneratorWorker):
    """Iterates a job, passes on as much of its progress as can be seen, and closes it in its own thread."""

    def work(self) -> _Outcome | None:
        job, shown = self._gen, 0.0
        try:
            while not self.abort_requested:
                progress = next(job)
                now = time.monotonic()
                if now - shown >= _PROGRESS_SECONDS:
                    shown = now
                    self.yielded.emit(progress)
        except StopIteration as stop:
            return _Outcome(stop.value)
        except InputError as error:
            return _Outcome(refusal=error)
        finally:
            job.close()
        self.aborted.emit()
        return None


class _Titled(partial):  # type: ignore[type-arg]
    """A function that napari names in words in its list of running work."""

    title: str = ""

    def __new__(cls, title: str, function: Callable[..., Any]) -> _Titled:
        self = super().__new__(cls, function)
        self.title = title
        return self

    def __str__(self) -> str:
        return self.title


class _Clock:
    """Estimates how long a job will still take, from the pace of the unit that it counts in now."""

    def __init__(self) -> None:
        self._unit, self._since, self._first = "", 0.0, 0.0

    def left(self, progress: Progress) -> str:
        now = time.monotonic()
        if progress.unit != self._unit:
            self._unit, self._since, self._first = progress.unit, now, progress.done
        passed, done = now - self._since, progress.done - self._first
        if not progress.total or done <= 0 or passed < _ESTIMATE_SECONDS:
            return ""
        seconds = passed / done * (progress.total - progress.done)
        return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


def _start(make_job: Callable[[], Job[Any]]) -> Job[Any]:
    yield Progress(0, None, "", "")
    return (yield from make_job())


def _answer(number: int, question: Callable[[], Any]) -> tuple[int, Any, str | None]:
    try:
        return number, question(), None
    except InputError as error:
        return number, None, str(error)


def _count(progress: Progress) -> str:
    if not progress.total:
        return ""
    return f"{progress.done:.0f} of {progress.total:.0f} {progress.unit}"


def _detach_all(relays: set[_Relay], *_: object) -> None:
    for relay in list(relays):
        relay.detach()


def _ignore(*_: object) -> None:
    pass
