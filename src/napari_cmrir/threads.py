"""A thread pool for many small computations, each on one thread of torch.

torch splits every product over its threads and waits for all of them. For hundreds of small products this
costs more time than it saves, and many times more on a busy machine. This module gives whole pieces of work
to threads instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["on_one_thread", "parallel_map", "run_parallel"]


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
