"""Jobs in a process beside napari: they never block its window, and can be ended at any time.

In a thread of napari's own process, a job and the window would share one interpreter, and loading a large
library would block the window for half a second. A process that does not stop when it is asked to is killed;
files on disk survive the kill. If a process runs out of memory, napari keeps running.

Both sides write messages to each other's pipe. A message is a pickled tuple, followed by the bytes of its
arrays, so that no array is copied while the window waits. A length precedes each of these parts. napari
writes ``("do", folder, task, arguments)`` for every job, and ``("stop",)`` to end it early. The process
sends ``("progress", Progress)`` and ``("warning", sentence)`` during a job, and at its end one of
``("done", result)``, ``("stopped",)``, ``("refused", sentence)`` and ``("failed", exception)``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress

__all__ = ["PROGRESS_SECONDS", "LastOpened", "in_worker_process", "main", "read_message", "write_message"]

Result = TypeVar("Result")
Opened = TypeVar("Opened")

_HEARTBEAT = 0.1  # seconds between two looks at whether the job was stopped
_GRACE_SECONDS = 0.7  # for a job to end before its process is killed: Stop takes at most a second
_MOST_IDLE = 2  # one keeps the searched repository open, the other cuts thumbnails
_START = "import sys; sys.path[:] = {}; from napari_cmrir.napari.jobs.worker_process import main; main()"


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
    return replace(progress, preview=None)


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


class LastOpened(threading.local, Generic[Opened]):
    """Keeps the object that was opened last, by its path; two at once might not fit into memory.

    Parameters
    ----------
    open_path : callable
        Opens a path.
    is_current : callable
        Whether what is kept still holds what the disk holds.
    close : callable
        Called with what is kept no longer.

    Attributes
    ----------
    count : int
        Number of times that an object was opened.
    """

    def __init__(
        self,
        open_path: Callable[[Path], Opened],
        is_current: Callable[[Opened], bool],
        close: Callable[[Opened], object],
    ) -> None:
        self._open, self._is_current, self._close = open_path, is_current, close
        self._kept: tuple[Path, Opened] | None = None
        self.count = 0

    def get(self, path: Path) -> Opened:
        """Return the kept object of a path, or open it.

        Parameters
        ----------
        path : Path
            The path.

        Raises
        ------
        InputError
            The object cannot be opened.
        """
        if self._kept is not None and self._kept[0] == path and self._is_current(self._kept[1]):
            return self._kept[1]
        self.forget()
        opened = self._open(path)
        self._kept = path, opened
        self.count += 1
        return opened

    def forget(self) -> None:
        """Close the kept object, because its files will be written or its memory is needed."""
        if self._kept is not None:
            self._close(self._kept[1])
        self._kept = None


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


PROGRESS_SECONDS = 0.05
"""Shortest interval between two reports of progress, in seconds; shorter ones could not be seen."""

_LAST_SECONDS = 20.0  # for the running job to leave complete files after napari has ended
_NUMBER = struct.Struct("<Q")

Send = Callable[..., None]


def write_message(pipe: BinaryIO, *message: Any) -> None:
    """Write a message.

    Parameters
    ----------
    pipe : binary file
        Stream to write to.
    *message
        Parts of the message; all of them can be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(content), *(buffer.raw() for buffer in buffers)]
    for number in (len(parts), *(part.nbytes for part in parts)):
        pipe.write(_NUMBER.pack(number))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def read_message(pipe: BinaryIO) -> tuple[Any, ...]:
    """Wait for a message.

    Parameters
    ----------
    pipe : binary file
        Stream to read from.

    Raises
    ------
    EOFError
        The other side has closed the pipe, or has gone.
    """
    lengths = [_read_number(pipe) for _ in range(_read_number(pipe))]
    content, *buffers = [_read(pipe, length) for length in lengths]
    message: tuple[Any, ...] = pickle.loads(content, buffers=buffers)
    return message


def _read_number(pipe: BinaryIO) -> int:
    (number,) = _NUMBER.unpack(_read(pipe, _NUMBER.size))
    return int(number)


def _read(pipe: BinaryIO, length: int) -> bytearray:
    content = bytearray(length)
    if pipe.readinto(content) < length:  # type: ignore[attr-defined]
        raise EOFError
    return content


def main() -> None:
    """Do jobs until napari closes the pipe or has ended."""
    orders, answers = _take_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for napari, which then closes us
    lock = threading.Lock()

    def send(*answer: Any) -> None:
        with lock:
            write_message(answers, *answer)

    def send_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning):
            send("warning", str(message))

    warnings.showwarning = send_warning
    tasks: queue.Queue[tuple[Any, ...] | None] = queue.Queue()
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(orders, tasks, stopping), daemon=True).start()
    while (order := tasks.get()) is not None:
        try:
            _do(order, stopping, send)
        except BrokenPipeError:
            return


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Reserve both pipes for messages: code that reads ``stdin`` or prints cannot use them."""
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return orders, answers


def _listen(orders: BinaryIO, tasks: queue.Queue[Any], stopping: threading.Event) -> None:
    while True:
        try:
            order = read_message(orders)
        except EOFError:
            break
        except Exception as error:  # a module is missing
            order = ("do", os.getcwd(), _fail, (_plain(error),))
        if order[0] == "do":
            stopping.clear()
            tasks.put(order)
        else:
            stopping.set()
    stopping.set()  # napari has ended: stop, so that files on disk stay complete
    tasks.put(None)
    time.sleep(_LAST_SECONDS)
    os._exit(1)


def _do(order: tuple[Any, ...], stopping: threading.Event, send: Send) -> None:
    _, folder, task, arguments = order
    try:
        os.chdir(folder)
        send(*_iterate(task(*arguments), stopping, send))
    except InputError as error:
        send("refused", str(error))
    except BrokenPipeError:
        raise
    except Exception as error:
        send("failed", _plain(error))


def _iterate(job: Job[Any], stopping: threading.Event, send: Send) -> tuple[Any, ...]:
    shown = 0.0
    try:
        while not stopping.is_set():
            progress = next(job)
            now = time.monotonic()
            if now - shown >= PROGRESS_SECONDS or progress.preview is not None:
                shown = now
                send("progress", progress)
    except StopIteration as stop:
        return "done", stop.value
    finally:
        job.close()
    return ("stopped",)


def _plain(error: Exception) -> Exception:
    """Return an exception that can be sent, with its traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(text)
    return copy


def _fail(error: Exception) -> Job[None]:
    raise error
    yield
