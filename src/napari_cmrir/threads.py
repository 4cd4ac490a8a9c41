"""Many small computations side by side, each on one thread.

torch spreads every single product over its threads and waits for all of them. For hundreds of small products
this costs more than it gains, on a busy machine many times more. Here whole pieces of work go to threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["on_one_thread", "parallel_map", "run_parallel"]


Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")

_here = threading.local()


def parallel_map(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result of each item in order, computed on as many threads as torch may use.

    All calls of a process share these threads; within one, and where torch may use one thread only, work is
    done in turn.

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
    """Make a function compute on one thread of this pool, from whichever thread it is called.

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
    """Start a pool whose workers each compute on their own number of torch threads."""
    threads = torch.get_num_threads()
    started = threading.Barrier(workers + 1)

    def start() -> None:
        _here.is_worker = threads_each == 1
        torch.get_num_threads()  # a thread's first question sets its number to everybody's: ask before
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
    """Do two pieces of work, at the same time where that is faster.

    Parameters
    ----------
    first, second : callable
        The work; neither may depend on the other or draw from a generator that both share.
    device : torch.device
        Where they compute; only a processor on which torch may use two threads or more does both at once.

    Returns
    -------
    tuple
        What they return.

    Examples
    --------
    >>> run_parallel(lambda: 1, lambda: 2, torch.device("cpu"))
    (1, 2)
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return first(), second()
    futures = [_pool(2, threads // 2).submit(work) for work in (first, second)]
    results = _all(future.result for future in futures)
    return results[0], results[1]


def _all(waits: Iterable[Callable[[], Result]]) -> list[Result]:
    """Wait for all, then raise the first fault if there is one: nothing goes on behind the caller's back."""
    results, faults = [], []
    for wait in waits:
        try:
            results.append(wait())
        except Exception as fault:
            faults.append(fault)
    if faults:
        raise faults[0]
    return results
