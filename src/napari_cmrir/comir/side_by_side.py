"""The work of the two modalities on two threads.

The two networks of a training do not depend on one another until the loss, and small ones cannot keep
many cores busy: one beside the other, each on half of the cores, takes less time than one after the other
on all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

__all__ = ["side_by_side"]

Result = TypeVar("Result")


def side_by_side(
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
    >>> side_by_side(lambda: 1, lambda: 2, torch.device("cpu"))
    (1, 2)
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return first(), second()
    futures = [_pool(threads).submit(work) for work in (first, second)]
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


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    started = threading.Barrier(3)

    def start() -> None:
        torch.get_num_threads()  # a thread's first question sets its number to everybody's: ask before
        torch.set_num_threads(threads // 2)
        started.wait()

    pool = ThreadPoolExecutor(2, thread_name_prefix="comir", initializer=start)
    for _ in range(2):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool
