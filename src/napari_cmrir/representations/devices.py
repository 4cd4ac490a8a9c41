"""Devices, memory and threads: which device computes, in which number format; and a pool of threads.

torch splits every product over its threads and waits for all of them. For hundreds of small products this
costs more time than it saves, and many times more on a busy machine. The pool gives whole pieces of work to
threads instead, each of which computes on one thread of torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, wraps
from typing import Any, Literal, ParamSpec, TypeVar

import torch

from napari_cmrir.errors import InputError

__all__ = [
    "DeviceName",
    "choose_device",
    "describe_device",
    "is_out_of_memory",
    "keep_freed_memory",
    "on_one_thread",
    "parallel_map",
    "peak_memory",
    "release_memory",
    "run_parallel",
    "training_precision",
    "trim_malloc",
]

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the named device, or the fastest available device for ``"auto"``.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"}

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        If this machine has no such device.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    devices = {  # fastest first
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    available = [device for device, is_available in devices.items() if is_available]
    if name == "auto":
        return torch.device(available[0])
    if name not in available:
        raise InputError(
            f"This machine has no device {name!r}; choose auto or one of: {', '.join(available)}."
        )
    return torch.device(name)


def training_precision(device: torch.device) -> torch.dtype:
    """Return the number format in which convolutions run fastest on a device.

    It is bfloat16 if the hardware multiplies bfloat16 matrices (CUDA, processors with AMX), else float32.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.dtype

    Examples
    --------
    >>> training_precision(torch.device("mps"))
    torch.float32
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # recent torch only
        return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16", False) else torch.float32
    return torch.float32


def describe_device(name: str, chosen: torch.device) -> str:
    """Describe the chosen device in words; for ``"auto"``, say why it was chosen.

    Parameters
    ----------
    name : str
        The requested device name.
    chosen : torch.device
        Device that `choose_device` returned for it.

    Returns
    -------
    str

    Examples
    --------
    >>> describe_device("cpu", torch.device("cpu"))
    'cpu'
    >>> describe_device("auto", torch.device("cpu"))
    'cpu (no cuda or mps device is available)'
    """
    if chosen.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(chosen)})"
    if name != "auto":
        return chosen.type
    return f"{chosen.type} (no cuda{' or mps' if chosen.type == 'cpu' else ''} device is available)"


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that a device's memory was too small.

    Parameters
    ----------
    error : BaseException

    Returns
    -------
    bool

    Examples
    --------
    >>> is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    True
    >>> is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    True
    >>> is_out_of_memory(RuntimeError("shape mismatch"))
    False
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch's CPU allocator raises a plain RuntimeError; only its message says what happened.
    message = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in message or "can't allocate memory" in message
    )


def release_memory(device: torch.device) -> None:
    """Return torch's cached, unused memory to a device.

    Parameters
    ----------
    device : torch.device
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def peak_memory(device: torch.device) -> int:
    """Return this process's peak memory in bytes: on the GPU for CUDA, else in total.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int
        Bytes.

    Examples
    --------
    >>> peak_memory(torch.device("cpu")) > 2**20
    True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")

_here = threading.local()


def parallel_map(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Map a function over items on as many threads as torch may use; yield the results in order.

    All calls in a process share these threads. The items are computed one after another in this thread if it
    belongs to the pool, or if torch may use one thread only.

    Parameters
    ----------
    work : callable
        Function of an item.
    items : sequence

    Returns
    -------
    iterator
        Result of each item, in order.

    Examples
    --------
    >>> list(parallel_map(lambda n: n * n, [1, 2, 3]))
    [1, 4, 9]
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2 or getattr(_here, "is_worker", False):
        return map(work, items)
    return _pool(threads, 1).map(work, items)


def on_one_thread(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function compute on one thread of the pool, no matter which thread calls it.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable

    Examples
    --------
    >>> on_one_thread(torch.ones)(3).tolist()
    [1.0, 1.0, 1.0]
    """

    @wraps(function)
    def on_one_thread(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        threads = torch.get_num_threads()
        if threads == 1 or getattr(_here, "is_worker", False):
            return function(*args, **kwargs)
        return _pool(threads, 1).submit(function, *args, **kwargs).result()

    return on_one_thread


@cache
def _pool(workers: int, threads_each: int) -> ThreadPoolExecutor:
    """Start a pool of threads, each with its own number of torch threads."""
    threads = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def start() -> None:
        _here.is_worker = threads_each == 1
        # A thread's first call sets its number to the global number; a later one would undo the next line.
        torch.get_num_threads()
        torch.set_num_threads(threads_each)
        started.wait()

    pool = ThreadPoolExecutor(workers, thread_name_prefix="napari-cmrir", initializer=start)
    for _ in range(workers):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run_parallel(
    first: Callable[[], Result], second: Callable[[], Result], device: torch.device
) -> tuple[Result, Result]:
    """Call two functions, in parallel if that is faster.

    Parameters
    ----------
    first, second : callable
        Functions without arguments. They must not depend on each other or share a random generator.
    device : torch.device
        Device of both. They run in parallel only on a CPU with at least two threads for torch.

    Returns
    -------
    tuple
        Both results.

    Examples
    --------
    >>> run_parallel(lambda: 1, lambda: 2, torch.device("cpu"))
    (1, 2)
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return first(), second()
    futures = [_pool(2, threads // 2).submit(work) for work in (first, second)]
    wait(futures)  # also after an error, so that no work continues when this function has returned
    return futures[0].result(), futures[1].result()


def trim_malloc() -> None:
    """Return freed memory to the system, if the C library is GNU's; otherwise do nothing.

    Small allocations that stay fragment the memory between large temporary arrays, such as the descriptors of
    a field. Without trimming, a long job grows by about one such array per field.
    """
    library = _gnu_library()
    if library is not None:
        library.malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt


@cache
def keep_freed_memory() -> None:
    """Let this process reuse the memory of large arrays, if the C library is GNU's.

    It takes arrays of more than 128 kB to 32 MB from the system and gives them back, page by page; by and by
    it adapts, unless MALLOC_TRIM_THRESHOLD_ is set, as in dask's workers. There, a search took twice as long.
    Up to 512 MB stay with the process.
    """
    library = _gnu_library()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, 2**25)  # the library takes no larger value
        library.mallopt(_TRIM_THRESHOLD, 2**29)


@cache
def _gnu_library() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
