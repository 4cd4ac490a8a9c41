"""Main function of the process beside napari: it does one job after another, and reports progress.

Both sides write messages to each other's pipe. A message is a pickled tuple, followed by the bytes of its
arrays, so that no array is copied while the window waits. A length precedes each of these parts. napari
writes ``("do", folder, task, arguments)`` for every job, and ``("stop",)`` to end it early. This process
sends ``("progress", Progress)`` and ``("warning", sentence)`` during a job, and at its end one of
``("done", result)``, ``("stopped",)``, ``("refused", sentence)`` and ``("failed", exception)``.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job

__all__ = ["PROGRESS_SECONDS", "main", "read_message", "write_message"]

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
