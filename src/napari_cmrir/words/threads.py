"""Many small computations side by side, each on one thread.

torch spreads every single product over its threads and waits for all of them. For hundreds of small products
this costs more than it gains, on a busy machine many times more. Here whole pieces of work go to threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch

__all__ = ["alone", "spread"]

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")

_here = threading.local()


def spread(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield the result of each item in order, computed on as many threads as torch may use.

    All calls of a process share these threads; within one, and where torch may use one thread only, work is
    done in turn.

    Examples
    --------
    >>> list(spread(lambda n: n * n, [1, 2, 3]))
    [1, 4, 9]
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < 2 or getattr(_here, "is_worker", False):
        return map(work, items)
    return _pool(threads).map(work, items)


def alone(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function compute on one of these threads, whoever calls it.

    Examples
    --------
    >>> alone(torch.ones)(3).tolist()
    [1.0, 1.0, 1.0]
    """

    @wraps(function)
    def on_one_thread(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        threads = torch.get_num_threads()
        if threads == 1 or getattr(_here, "is_worker", False):
            return function(*args, **kwargs)
        return _pool(threads).submit(function, *args, **kwargs).result()

    return on_one_thread


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    started = threading.Barrier(threads + 1)

    def start() -> None:
        _here.is_worker = True
        torch.get_num_threads()  # a thread's first question sets its number to everybody's: ask before
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="words", initializer=start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
