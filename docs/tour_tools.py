"""Tools of the tour: waiting, pressing keys, and measuring how long the event loop stands still."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent, QMouseEvent
from qtpy.QtTest import QTest
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


class Hand:
    """The user's hand: each action is an event of mouse or keyboard, and counts.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer, self._window = viewer, viewer.window._qt_window
        self.actions: list[str] = []
        self._start = time.monotonic()

    def begin(self) -> None:
        """Count from here."""
        self.actions, self._start = [], time.monotonic()

    def report(self, what: str, most: int) -> None:
        """Print the actions and the seconds since `begin`, and stop the tour at too many."""
        seconds, count = time.monotonic() - self._start, len(self.actions)
        print(f"{what}: {count} actions (at most {most}), {seconds:.0f} s: {', '.join(self.actions)}")
        check(count <= most, f"{what} took {count} actions")

    def choose(self, *path: str) -> None:
        """Choose from a menu."""
        self.actions.append(f"{path[-1]} in the menu")
        actions = self._window.menuBar().actions()
        for name in path:
            found = [one for one in actions if one.text().replace("&", "").startswith(name)]
            check(bool(found), f"no {name} in a menu of {[one.text() for one in actions]}")
            menu = found[0].menu()
            if menu is not None:
                menu.aboutToShow.emit()
                actions = menu.actions()
        found[0].trigger()
        settle()

    def click(self, button: Any) -> None:
        """Click on a button."""
        self.actions.append(button.text().replace("&", ""))
        wait(lambda: button.isVisible() and button.isEnabled())
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    def drop(self, path: Path, target: Any = None) -> None:
        """Drop a file or folder on a field, or on the canvas."""
        self.actions.append(f"drop {path.name}")
        files = QMimeData()
        files.setUrls([QUrl.fromLocalFile(str(path.resolve()))])
        how = Qt.DropAction.CopyAction, files, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        onto = self._window._qt_viewer if target is None else target
        for event in (QDragEnterEvent(QPoint(9, 9), *how), QDropEvent(QPointF(9, 9), *how)):
            QApplication.sendEvent(onto, event)

    def draw(self, low: tuple[float, float], high: tuple[float, float]) -> None:
        """Drag the mouse over the canvas, from one place (y, x) of the world to another."""
        self.actions.append("draw")
        canvas = self._window._qt_viewer.canvas.native
        camera = self.viewer.scene.camera
        move, press, release = (
            getattr(QEvent.Type, f"Mouse{name}") for name in ("Move", "ButtonPress", "ButtonRelease")
        )
        steps = (move, 0.0), (press, 0.0), (move, 0.5), (move, 1.0), (release, 1.0)
        pressed = False
        for kind, share in steps:
            at = (np.array(low) + share * (np.array(high) - low) - camera.center[-2:]) * camera.zoom
            place = QPointF(at[1] + canvas.width() / 2, at[0] + canvas.height() / 2)
            button = Qt.MouseButton.NoButton if kind == move else Qt.MouseButton.LeftButton
            pressed = kind == press or (pressed and kind == move)
            held = Qt.MouseButton.LeftButton if pressed else Qt.MouseButton.NoButton
            there = QPointF(canvas.mapToGlobal(place.toPoint()))
            event = QMouseEvent(kind, place, there, button, held, Qt.KeyboardModifier.NoModifier)
            QApplication.sendEvent(canvas, event)
            settle(50)


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
