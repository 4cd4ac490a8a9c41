"""Jobs in a process beside napari: they never block its window, and can be ended at any time.

In a thread of napari's own process, a job and the window would share one interpreter, and loading a large
library would block the window for half a second. A process that does not stop when it is asked to is killed;
files on disk survive the kill. If a process runs out of memory, napari keeps running.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.napari.jobs.worker_main import read_message, write_message

__all__ = ["in_worker_process"]

Result = TypeVar("Result")

_HEARTBEAT = 0.1  # seconds between two looks at whether the job was stopped
_GRACE_SECONDS = 0.7  # for a job to end before its process is killed: Stop takes at most a second
_MOST_IDLE = 2  # one keeps the searched repository open, the other cuts thumbnails
_START = "import sys; sys.path[:] = {}; from napari_cmrir.napari.jobs.worker_main import main; main()"


def in_worker_process(task: Callable[..., Job[Result]], *arguments: Any) -> Job[Result]:
    """Run a job in a process beside this one.

    Parameters
    ----------
    task : callable
        Makes the job, there; a function of a module that does not import Qt.
    *arguments
        What it is called with. These and the result can be pickled.

    Yields
    ------
    Progress
        What the job yields; between, the last one again, so that it can be stopped at any time.

    Returns
    -------
    Result
        The result of the job.

    Raises
    ------
    InputError
        As the job, or where its process died.

    Notes
    -----
    Where the job is cancelled it has 0.7 s to end by itself; then its process is killed.
    """
    process = _hire(arguments)
    if process is None:
        return (yield from task(*arguments))
    progress = Progress(0, None, "", "")
    try:
        process.tell("do", os.getcwd(), task, arguments)
        while True:
            yield progress
            progress = _without_preview(progress)
            answer, *content = process.hear(_HEARTBEAT)
            if answer == "progress":
                progress = content[0]
            elif answer == "warning":
                warnings.warn(content[0], stacklevel=1)
            elif answer == "done":
                process.is_idle = True
                return content[0]
            elif answer != "silence":
                process.is_idle = answer != "gone"
                raise _error(answer, *content)
    finally:
        _dismiss(process)


def _error(answer: str, content: Any) -> Exception:
    if answer == "refused":
        return InputError(content)
    if answer == "failed":
        return content
    return InputError(
        f"The computation has ended unexpectedly (exit status {content}), probably because memory is full;"
        " close other programs, or use smaller images."
    )


def _without_preview(progress: Progress) -> Progress:
    if progress.preview is None:
        return progress
    return Progress(progress.done, progress.total, progress.unit, progress.message)


class _Process:
    """Handle of a process that does jobs; `kept` are the paths that the process may have left open."""

    def __init__(self) -> None:
        self.is_idle = True
        self.kept: set[Path] = set()
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _START.format(repr(sys.path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if sys.stderr is not None else subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._heard: queue.Queue[tuple[Any, ...]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._popen.poll() is None

    def tell(self, *message: Any) -> None:
        """Send a message; `hear` reports a process that has died."""
        self.is_idle = self.is_idle and message[0] != "do"
        with contextlib.suppress(OSError):
            write_message(self._popen.stdin, *message)  # type: ignore[arg-type]

    def hear(self, seconds: float) -> tuple[Any, ...]:
        """Wait for an answer, up to a time limit."""
        try:
            return self._heard.get(timeout=seconds)
        except queue.Empty:
            return ("silence",)

    def stop(self) -> None:
        """End the running job: ask first, then kill the process."""
        self.tell("stop")
        end = time.monotonic() + _GRACE_SECONDS
        while (left := end - time.monotonic()) > 0:
            answer = self.hear(left)[0]
            if answer in ("done", "stopped", "refused", "failed"):
                self.is_idle = True
                return
            if answer == "gone":
                return
        self._popen.kill()

    def close(self) -> None:
        """Close the pipe; the process ends after its job."""
        with contextlib.suppress(OSError):
            self._popen.stdin.close()  # type: ignore[union-attr]

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._heard.put(read_message(self._popen.stdout))  # type: ignore[arg-type]
        self._heard.put(("gone", self._popen.wait()))
        self._popen.stdout.close()  # type: ignore[union-attr]


_idle: list[_Process] = []
_lock = threading.Lock()


def _hire(arguments: tuple[Any, ...]) -> _Process | None:
    """Return an idle process, or start one; ``None`` if none can be started.

    The one that has opened the paths of this job before is taken first, then one that keeps least.
    """
    paths = {argument for argument in arguments if isinstance(argument, Path)}
    with _lock:
        for process in [process for process in _idle if not process.is_alive]:
            _idle.remove(process)
            process.close()
        if _idle:
            process = max(_idle, key=lambda one: (len(one.kept & paths), -len(one.kept)))
            _idle.remove(process)
            process.kept |= paths
            return process
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    try:
        process = _Process()
    except OSError:
        return None
    process.kept |= paths
    return process


def _dismiss(process: _Process) -> None:
    """Keep a process and everything it has loaded for the next job, or end it."""
    if not process.is_idle:
        process.stop()
    with _lock:
        if process.is_idle and len(_idle) < _MOST_IDLE:
            _idle.append(process)
            return
    process.close()


@atexit.register
def _close_all() -> None:
    while _idle:
        _idle.pop().close()
