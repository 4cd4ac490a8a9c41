"""Tools of the tour: waiting, pressing keys, and measuring how long the event loop stands still."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, Qt, QTimer
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QApplication

PATIENCE_SECONDS = 900


class Ticker:
    """Ticks in the window's event loop, and notes the longest time between two ticks, passed and computed."""

    def __init__(self) -> None:
        self.longest = self.computed = 0.0
        self._last = time.perf_counter(), time.thread_time()
        self._timer = QTimer()
        self._timer.setInterval(5)
        self._timer.timeout.connect(self._tick)

    def start(self) -> None:
        """Start to tick."""
        self.longest = self.computed = 0.0
        self._last = time.perf_counter(), time.thread_time()
        self._timer.start()

    def stop(self) -> tuple[float, float]:
        """Stop, and return the longest time between two ticks, and the longest computing time in it."""
        self._timer.stop()
        return self.longest, self.computed

    def _tick(self) -> None:
        now = time.perf_counter(), time.thread_time()
        self.longest = max(self.longest, now[0] - self._last[0])
        self.computed = max(self.computed, now[1] - self._last[1])
        self._last = now


def check(condition: bool, otherwise: str) -> None:
    """Stop the tour if a step has failed."""
    if not condition:
        raise SystemExit(f"The tour went wrong: {otherwise}.")


def press(widget, key) -> None:
    """Press a key on a widget."""
    for kind in (QEvent.Type.KeyPress, QEvent.Type.KeyRelease):
        QApplication.sendEvent(widget, QKeyEvent(kind, key, Qt.KeyboardModifier.NoModifier))


def is_shown(kind: str) -> bool:
    """Whether a widget of the named class is visible."""
    return any(type(widget).__name__ == kind and widget.isVisible() for widget in QApplication.allWidgets())


def resident_megabytes() -> float:
    """Memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(np.round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1))


def wait(condition: Callable[[], object], milliseconds: int = 20) -> None:
    """Process events until a condition holds."""
    start = time.monotonic()
    while not condition():
        check(time.monotonic() - start < PATIENCE_SECONDS, "a step took too long")
        settle(milliseconds)


def settle(milliseconds: int = 1200) -> None:
    """Process events for a while, in an event loop like napari's: other loops delete no widgets."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()
