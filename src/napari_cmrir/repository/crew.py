"""Who does the tasks of indexing: this process, worker processes beside it, or a dask cluster."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress, run
from napari_cmrir.repository.recipe import Recipe, Tools
from napari_cmrir.repository.store import MODEL_NAME

__all__ = ["Cluster", "Crew", "Here", "Lost", "gather_crew"]

HEARTBEAT = 0.4
"""Seconds after which a job that waits for workers says that it still does."""

CONNECT_SECONDS = 10

Item = TypeVar("Item")
Task = Callable[[Tools, Sequence[Any]], Job[Any]]
Events = Generator[Progress | tuple[Sequence[Any], Any], None, None]
"""Progress within a batch, counted in its items, or a batch that is done, with its result."""


class Lost:
    """In place of the result of a task whose workers died again and again."""


class Crew(Protocol):
    """Whoever does tasks."""

    @property
    def size(self) -> int:
        """Number of tasks that are done at once."""

    def do(self, task: Task, tools: Tools, batches: Sequence[Sequence[Any]]) -> Events:
        """Do a task for every batch; a result may be `Lost`."""


class Here:
    """The process itself, one task after the other, each on all threads that torch may use."""

    size = 1

    def do(self, task: Task, tools: Tools, batches: Sequence[Sequence[Any]]) -> Events:
        """Do a task for every batch, in order."""
        for batch in batches:
            with closing(task(tools, batch)) as job:
                yield batch, (yield from job)


@dataclass(frozen=True)
class Cluster:
    """The workers of a dask cluster, each on one thread of torch.

    A task of a worker that dies is done by another; dask gives up on a task whose workers died four times.
    """

    client: Any

    @property
    def size(self) -> int:
        """Number of tasks that the cluster does at once."""
        n_threads: int = sum(self.client.nthreads().values())
        return max(1, n_threads)

    def do(self, task: Task, tools: Tools, batches: Sequence[Sequence[Any]]) -> Events:
        """Do a task for every batch, in whatever order; at most two a worker wait at the scheduler."""
        from distributed import KilledWorker

        waiting = deque(batches)
        running: dict[Any, Sequence[Any]] = {}
        try:
            while waiting or running:
                room = 2 * self.size
                while waiting and len(running) < room:
                    batch = waiting.popleft()
                    future = self.client.submit(_do_there, task, tools.recipe, list(batch), pure=False)
                    running[future] = batch
                finished = self._finished(list(running))
                if not finished:
                    yield Progress(0, 1, "batches", self._state())
                for future in finished:
                    batch = running.pop(future)
                    try:
                        yield batch, future.result()
                    except KilledWorker:
                        yield from self._alone(task, tools, batch)
        finally:
            if running:
                self.client.cancel(list(running), force=True)

    def _finished(self, futures: Sequence[Any]) -> list[Any]:
        """Wait for one of the futures, for a heartbeat at most, and return those that are done."""
        from distributed import wait

        try:
            with self.client.as_current():
                return list(wait(futures, timeout=HEARTBEAT, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []

    def _alone(self, task: Task, tools: Tools, batch: Sequence[Any]) -> Events:
        """Do the items of a batch that killed its workers one by one, to find the one that does."""
        if len(batch) == 1:
            yield batch, Lost()
        else:
            yield from self.do(task, tools, [[item] for item in batch])

    def _state(self) -> str:
        workers = len(self.client.nthreads())
        return f"{workers} workers" if workers != 1 else "1 worker"


@contextmanager
def gather_crew(workers: int | None, scheduler: str | None) -> Iterator[Crew]:
    """Gather who shall do the tasks.

    Parameters
    ----------
    workers : int or None
        Worker processes to start on this computer; they end with the crew, and with this process.
    scheduler : str or None
        Address of the scheduler of a dask cluster, such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    InputError
        If both are given, there are no workers, or no scheduler answers at the address.
    """
    if workers is not None and scheduler is not None:
        raise InputError("Give a number of workers or the address of a scheduler, not both.")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers cannot index anything; give at least one.")
    if workers is None and scheduler is None:
        yield Here()
        return
    with _cluster(workers) as address, _client(scheduler or address) as client:
        yield Cluster(client)


@contextmanager
def _cluster(workers: int | None) -> Iterator[str]:
    if workers is None:
        yield ""
        return
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=MEMORY_LIMIT // workers,  # one that needs more is started anew
        dashboard_address="127.0.0.1:0",
        silence_logs="CRITICAL",
    ) as cluster:
        yield cluster.scheduler_address


@contextmanager
def _client(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No dask scheduler answers at {address}; start one with 'dask scheduler', or use --workers."
        ) from error
    with client:
        yield client


_TOOLS: dict[Recipe, Tools] = {}


def _do_there(task: Task, recipe: Recipe, batch: Sequence[Any]) -> Any:
    """Do a task in a worker: on one thread, for the process has as many tasks as threads."""
    import torch

    if not (recipe.folder / MODEL_NAME).is_file():
        raise InputError(
            f"The worker on {platform.node()} does not see {recipe.folder};"
            " put the repository and the images where every worker finds them under the same path."
        )
    torch.set_num_threads(1)
    if recipe not in _TOOLS:
        _TOOLS.clear()
        _TOOLS[recipe] = Tools(recipe)
    return run(task(_TOOLS[recipe], batch))
