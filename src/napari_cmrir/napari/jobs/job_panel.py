"""A long job outside the window's thread: two buttons, a bar, a line of text, and the plot of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import QPointF, QRectF, QSize, Qt, Signal
from qtpy.QtGui import QColor, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import (
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.form_fields import WrappedLabel
from napari_cmrir.napari.jobs.workers import (
    JobResult,
    JobWorker,
    SignalRelay,
    Titled,
    ignore,
    started,
)

__all__ = ["JobPanel", "TrainingPlot", "in_units"]

_ESTIMATE_SECONDS = 3.0  # before this, the pace is too uncertain for an estimate
_BAR_STEPS = 1000


class JobPanel(QWidget):
    """Two buttons that start and stop a job, a bar and a line of text that show its progress.

    Parameters
    ----------
    start, stop : str
        Labels of the buttons.
    start_tip, stop_tip : str
        Their tooltips.
    """

    start_requested = Signal()
    """Signal: the start button was pressed; the owner calls `run`."""
    running_changed = Signal(bool)
    progressed = Signal(object)
    """Signal: a `Progress` of the running job."""
    stopped = Signal()
    """Signal: the job has ended because it was stopped."""

    def __init__(self, start: str, stop: str, start_tip: str, stop_tip: str) -> None:
        super().__init__()
        self.start_button, self.stop_button = QPushButton(start), QPushButton(stop)
        self.start_button.setToolTip(start_tip)
        self.stop_button.setToolTip(stop_tip)
        self.bar = _Bar()
        self.bar.setTextVisible(False)
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setToolTip("How far the work has come")
        self.message = WrappedLabel()
        self._buttons = buttons = QHBoxLayout()
        buttons.setSpacing(4)  # five of them fit into a narrow dock
        buttons.addWidget(self.start_button, 1)
        buttons.addWidget(self.stop_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        self.start_button.clicked.connect(self._request_start)
        self.stop_button.clicked.connect(self.stop)
        self._worker: JobWorker | None = None
        self._relay: SignalRelay | None = None
        self._outcome: JobResult | None = None
        self._on_result: Callable[[Any], object] = ignore
        self._clock = _Clock()
        self._relays: set[SignalRelay] = set()
        self._show_running(False)

    @property
    def is_running(self) -> bool:
        """Whether a job is running or stopping."""
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
        worker = create_worker(Titled(title, started), make_job, _worker_class=JobWorker)
        self._worker = worker
        self._relay = SignalRelay(
            self,
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

    def add_button(self, button: QWidget) -> None:
        """Add a button beside the start and stop buttons.

        Parameters
        ----------
        button : QWidget
            The button.
        """
        self._buttons.addWidget(button)

    def stop(self) -> None:
        """Ask the job to stop; its files on disk stay complete."""
        if self._worker is not None:
            self._worker.quit()
            self.stop_button.setEnabled(False)
            self.tell("Stopping …")

    def abandon(self) -> None:
        """Stop the job and ignore its result, because its widget is closed."""
        if self._relay is not None:
            self._relay.detach()
            self._become_idle("Stopped.")

    def refuse(self, error: InputError) -> None:
        """Show an error as one notification.

        Parameters
        ----------
        error : InputError
            The exception; its message is shown.
        """
        self.tell(str(error))
        show_error(str(error))

    def tell(self, message: str) -> None:
        """Show a message below the bar.

        Parameters
        ----------
        message : str
            What it says; a long one takes several lines.
        """
        self.message.setText(message)

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
            share = progress.done / progress.total if progress.share is None else progress.share
            self.bar.setValue(round(_BAR_STEPS * min(share, 1.0)))
        else:
            self.bar.setRange(0, 0)
        self.tell(
            " · ".join(filter(None, [in_units(progress), self._clock.left(progress), progress.message]))
        )
        self.progressed.emit(progress)

    def _keep_outcome(self, outcome: JobResult) -> None:
        self._outcome = outcome

    def _finish(self) -> None:
        outcome, on_result = self._outcome, self._on_result
        if outcome is None:  # stopped, or an exception that napari shows
            was_stopped = self._worker is not None and self._worker.abort_requested
            self._become_idle("Stopped." if was_stopped else "Failed.")
            if was_stopped:
                self.stopped.emit()
        elif outcome.refusal is not None:
            self._become_idle("")
            self.refuse(outcome.refusal)
        else:
            self._become_idle("Done.", share=1.0)
            on_result(outcome.result)

    def _become_idle(self, message: str, share: float = 0.0) -> None:
        self._worker, self._relay, self._outcome, self._on_result = None, None, None, ignore
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setValue(round(_BAR_STEPS * share))
        self.tell(message)
        self._show_running(False)


class _Bar(QProgressBar):
    """Is painted in a later turn; Qt's own bar paints at once, and with it what waits, such as the canvas."""

    def setValue(self, value: int) -> None:  # noqa: N802
        """Show a value with the next paint."""
        self.setUpdatesEnabled(False)
        super().setValue(value)
        self.setUpdatesEnabled(True)


class _Clock:
    """Estimates the remaining time of a job from the pace of what it counts now; it only falls."""

    def __init__(self) -> None:
        self._unit, self._since, self._first, self._least = "", 0.0, 0.0, math.inf

    def left(self, progress: Progress) -> str:
        now = time.monotonic()
        counted, total = progress.done, progress.total
        if progress.share is not None:
            counted, total = progress.share, 1.0
        unit = f"{progress.unit} {progress.share is None}"
        if unit != self._unit:
            self._unit, self._since, self._first, self._least = unit, now, counted, math.inf
        passed, done = now - self._since, counted - self._first
        if not total or done <= 0 or passed < _ESTIMATE_SECONDS:
            return ""
        self._least = seconds = min(self._least, passed / done * (total - counted))
        return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


def in_units(progress: Progress) -> str:
    """Say how much is done of what is to do, as ``"3 of 12 images"``; nothing while the total is unknown."""
    if not progress.total:
        return ""
    return f"{progress.done:.0f} of {progress.total:.0f} {progress.unit}"


_ON_DARK, _ON_LIGHT = ("#e69f00", "#56b4e9"), ("#8f5200", "#005a8f")  # distinguishable for the colour-blind
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 34, 18, 16


class TrainingPlot(QWidget):
    """Draws the loss (left axis) and the retrieval score (right axis, 0 to 100 %) over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[tuple[float, float]] = []
        self.scores: list[tuple[float, float]] = []
        self._steps = 1.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "The loss (lower is better) and, once measured, the share of validation"
            " regions that are retrieved first (higher is better)"
        )
        self.setAccessibleName("Loss and retrieval score")

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the preferred size."""
        return QSize(200, 120)

    def clear(self) -> None:
        """Draw an empty plot."""
        self.losses, self.scores = [], []
        self.update()

    def add(self, step: float, loss: float | None, score: float | None) -> None:
        """Add the values of a step.

        Parameters
        ----------
        step : float
            Steps done, up to which the plot goes.
        loss : float or None
            The loss.
        score : float or None
            Share of regions retrieved first, 0 to 1.
        """
        self._steps = max(step, 1.0)
        if loss is not None and math.isfinite(loss):
            self.losses.append((step, loss))
        if score is not None and (not self.scores or self.scores[-1][1] != score):
            self.scores.append((step, score))
        self.update()

    def paintEvent(self, _: Any) -> None:  # noqa: N802
        """Draw the plot."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = QRectF(self.rect()).adjusted(_LEFT, _TOP, -_RIGHT, -_BOTTOM)
        ink = self.palette().color(QPalette.ColorRole.Text)
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() * 0.8))
        painter.setFont(font)
        faint = QColor(ink)
        faint.setAlphaF(0.3)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(frame)
        painter.setPen(ink)
        painter.drawText(
            QRectF(_LEFT, frame.bottom(), frame.width(), _BOTTOM),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            f"{self._steps:.0f} steps",
        )
        loss, retrieval = _ON_DARK if ink.lightnessF() > 0.5 else _ON_LIGHT
        self._draw_losses(painter, frame, loss)
        self._draw_scores(painter, frame, retrieval)
        painter.end()

    def _draw_losses(self, painter: QPainter, frame: QRectF, colour: str) -> None:
        values = [value for _, value in self.losses]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        last = f"loss {values[-1]:.3f}" if values else "loss"
        self._draw(painter, frame, self.losses, low, high, colour)
        left = QRectF(0, frame.top() - 6, _LEFT - 4, 12)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if values:
            painter.drawText(left, right, f"{high:.2f}")
            painter.drawText(left.translated(0, frame.height()), right, f"{low:.2f}")
        painter.drawText(
            QRectF(_LEFT, 0, frame.width(), _TOP),
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            last,
        )

    def _draw_scores(self, painter: QPainter, frame: QRectF, colour: str) -> None:
        if not self.scores:
            return
        self._draw(painter, frame, self.scores, 0.0, 1.0, colour)
        side = QRectF(frame.right() + 3, frame.top() - 6, _RIGHT - 3, 12)
        painter.drawText(side, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, "100%")
        painter.drawText(
            side.translated(0, frame.height()),
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            "0%",
        )
        painter.drawText(
            QRectF(_LEFT, 0, frame.width(), _TOP),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            f"retrieved first {self.scores[-1][1]:.0%}",
        )

    def _draw(
        self,
        painter: QPainter,
        frame: QRectF,
        points: list[tuple[float, float]],
        low: float,
        high: float,
        colour: str,
    ) -> None:
        line = QPolygonF(
            [
                QPointF(
                    frame.left() + frame.width() * min(step / self._steps, 1.0),
                    frame.bottom() - frame.height() * (value - low) / (high - low),
                )
                for step, value in points
            ]
        )
        painter.setPen(QPen(QColor(colour), 2))
        painter.drawPolyline(line)
        if points:
            painter.setBrush(QColor(colour))
            painter.drawEllipse(line[line.size() - 1], 2.5, 2.5)
            painter.setBrush(Qt.BrushStyle.NoBrush)
