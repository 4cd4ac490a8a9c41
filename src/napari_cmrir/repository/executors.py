"""Executors of indexing tasks (this process, worker processes or a dask cluster), and a worker's context."""

from __future__ import annotations

import platform
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress, run
from napari_cmrir.repository.catalogue import MODEL_NAME, ImageRow
from napari_cmrir.repository.pyramids import open_level
from napari_cmrir.repository.settings import RepositorySettings

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.descriptors.features import Features
    from napari_cmrir.bag_of_words.vocabulary import Vocabulary
    from napari_cmrir.representations.base import Representation

__all__ = [
    "DaskExecutor",
    "Executor",
    "IndexConfig",
    "LocalExecutor",
    "TaskFailed",
    "WorkerContext",
    "cluster_at",
    "make_executor",
]


REMEMBERED_BYTES = 2**29
"""Bytes of descriptors kept from learning the vocabulary to counting words, to compute them once; a limit on
memory, not measured."""

GIVE_BACK_EVERY = 16
"""Fields between two calls of `devices.trim_malloc`; fewer cost time, more cost memory. Not measured."""


@dataclass(frozen=True)
class IndexConfig:
    """The part of a repository's state that a worker needs; it is sent with every task.

    Parameters
    ----------
    folder : Path
        The repository, at the same path for every worker.
    fingerprint : str
        Fingerprint of the repository's model.
    modality : str
    settings : RepositorySettings
    device : str
        Device that computes CoMIRs.
    """

    folder: Path
    fingerprint: str
    modality: str
    settings: RepositorySettings
    device: str = "auto"

    def context(self) -> WorkerContext:
        """Make the context of a worker."""
        return WorkerContext(self)


class WorkerContext:
    """Data of the repository that tasks use, loaded on first use and kept between tasks.

    Parameters
    ----------
    config : IndexConfig
    model : Representation, optional
        The default is the repository's copy.
    remembers : bool
        Keep features of fields, up to `REMEMBERED_BYTES`, from learning the words to counting them.
    """

    def __init__(
        self, config: IndexConfig, model: Representation | None = None, *, remembers: bool = False
    ) -> None:
        self.config = config
        self._model = model
        self._remembers = remembers
        self._remembered: dict[tuple[int, ...], Features] = {}
        self._described = 0
        self._vocabulary: tuple[str, Vocabulary] | None = None

    @cached_property
    def model(self) -> Representation:
        """The model that represents images."""
        from napari_cmrir.representations.base import load_model

        return self._model or load_model(self.config.folder / MODEL_NAME)

    def vocabulary(self, file: str) -> Vocabulary:
        """Load the vocabulary of a file below the repository; the last one is kept."""
        from napari_cmrir.bag_of_words.vocabulary import load_vocabulary

        if self._vocabulary is None or self._vocabulary[0] != file:
            self._vocabulary = file, load_vocabulary(self.config.folder / file)
        return self._vocabulary[1]

    def comir(self, image: ImageRow, rectangle: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Read the CoMIR (channel, y, x) of a field (y, x, height, width) of an image."""
        y, x, height, width = rectangle.tolist()
        assert image.comir is not None
        pixels = open_level(self.config.folder / image.comir)[:, y : y + height, x : x + width]
        return np.asarray(pixels, np.uint8)

    def describe(self, row: ImageRow, rectangle: npt.NDArray[np.int64], *, again: bool = False) -> Features:
        """Describe a field (y, x, height, width) of a stored CoMIR.

        ``again`` means that the field will be described once more; its features are kept if there is room.
        """
        from napari_cmrir.bag_of_words.descriptors.features import describe
        from napari_cmrir.representations.devices import trim_malloc

        y, x = rectangle[:2].tolist()
        features = self._remembered.pop((row.id, y, x), None)
        if features is None:
            features = describe(self.comir(row, rectangle), self.config.settings.descriptor)
        self._described += 1
        if self._described % GIVE_BACK_EVERY == 0:
            trim_malloc()
        held = sum(other.descriptors.nbytes for other in self._remembered.values())
        if again and self._remembers and held + features.descriptors.nbytes <= REMEMBERED_BYTES:
            self._remembered[row.id, y, x] = features
        return features


HEARTBEAT = 0.4
"""Seconds between two `Progress` of a job that waits for workers; cancelling takes effect at one."""

CONNECT_SECONDS = 10
"""Seconds to wait for a dask scheduler to answer."""

_REPLACED_SECONDS = 600  # a worker process needs 3 s to start, and more than 20 where all cores are busy

Item = TypeVar("Item")
Task = Callable[[Any, Sequence[Any]], Job[Any]]
"""``task(context, batch)`` is a job."""


class Config(Protocol):
    """What is sent to a worker with every task; equal configurations share a context there."""

    @property
    def folder(self) -> Path:
        """The repository, at the same path for every worker."""

    def context(self) -> Any:
        """Make the context of a worker, which its tasks are given."""


class Context(Protocol):
    """What tasks are given."""

    @property
    def config(self) -> Config:
        """What a worker makes an equal context of."""


Events = Generator[Progress | tuple[Sequence[Any], Any], None, None]
"""Progress within a batch, counted in its items; or a finished batch and its result."""


class TaskFailed:
    """The result of a task whose workers died repeatedly."""


class Executor(Protocol):
    """Runs tasks."""

    @property
    def size(self) -> int:
        """Number of tasks that run at once."""

    def run_batches(self, task: Task, context: Context, batches: Sequence[Sequence[Any]]) -> Events:
        """Run a task for every batch; a result may be `TaskFailed`."""


class LocalExecutor:
    """Runs tasks in this process, one after another, on all threads of torch."""

    size = 1

    def run_batches(self, task: Task, context: Context, batches: Sequence[Sequence[Any]]) -> Events:
        """Run a task for every batch, in order."""
        for batch in batches:
            with closing(task(context, batch)) as job:
                yield batch, (yield from job)


@dataclass(frozen=True)
class DaskExecutor:
    """Runs tasks on the workers of a dask cluster, each on one thread of torch.

    If a worker dies, another worker runs its task. dask gives up on a task after four workers died.

    Parameters
    ----------
    client : distributed.Client
    address : str
        Of the scheduler.
    keeps_places : bool
        Give batch ``i`` to worker ``i`` modulo their number, as long as that worker lives, so that it finds
        in its memory what it read for the same batch before.
    """

    client: Any
    address: str
    keeps_places: bool = False

    @property
    def workers(self) -> list[str]:
        """Addresses of the workers, in order."""
        with self._answering():
            return sorted(self.client.nthreads())

    @property
    def size(self) -> int:
        """Number of tasks that the cluster runs at once."""
        with self._answering():
            n_threads: int = sum(self.client.nthreads().values())
        return max(1, n_threads)

    def run_batches(self, task: Task, context: Context, batches: Sequence[Sequence[Any]]) -> Events:
        """Run a task for every batch, in any order; the scheduler holds at most two tasks per worker."""
        return self._do(task, context, batches, is_alone=False)

    def _do(
        self, task: Task, context: Context, batches: Sequence[Sequence[Any]], *, is_alone: bool
    ) -> Events:
        """Submit batches and yield results as they come; ``is_alone``: each batch is one suspect item."""
        from distributed import KilledWorker

        waiting = deque(batches)
        running: dict[Any, Sequence[Any]] = {}
        places = cycle(self.workers if self.keeps_places else [None])
        try:
            while waiting or running:
                room = 2 * self.size
                while waiting and len(running) < room:
                    batch, place = waiting.popleft(), next(places)
                    running[self._submit(task, context.config, batch, place)] = batch
                finished = self._finished(list(running))
                if not finished:
                    yield Progress(0, 1, "batches", self._state())
                for future in finished:
                    batch = running.pop(future)
                    try:
                        yield batch, future.result()
                    except KilledWorker:
                        if is_alone:
                            yield batch, TaskFailed()
                        else:
                            yield from self._one_by_one(task, context, batch)
        finally:
            if running:
                self.client.cancel(list(running), force=True)

    def _submit(self, task: Task, config: Config, batch: Sequence[Any], place: str | None) -> Any:
        where = {"workers": [place], "allow_other_workers": True} if place else {}
        with self._answering():
            return self.client.submit(_run_task, task, config, list(batch), pure=False, **where)

    def _finished(self, futures: Sequence[Any]) -> list[Any]:
        """Wait at most a heartbeat for one of the futures, and return the finished ones."""
        from distributed import wait

        with self._answering(), self.client.as_current():
            try:
                return list(wait(futures, timeout=HEARTBEAT, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                return []

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say that the scheduler is gone, where the connection or what it held is lost."""
        try:
            yield
        except (CancelledError, OSError) as error:
            raise InputError(
                f"The dask scheduler at {self.address} no longer answers; start it again, or go on without"
                " a scheduler."
            ) from error

    def _one_by_one(self, task: Task, context: Context, batch: Sequence[Any]) -> Events:
        """Run the items of a batch that killed its workers one by one, to find the item that kills them.

        dask blames all tasks that wait at a worker for its death. Therefore an item is submitted only after
        the previous one has ended.
        """
        for item in batch:
            yield from self._do(task, context, [[item]], is_alone=True)

    def _state(self) -> str:
        workers = len(self.workers)
        return f"{workers} workers" if workers != 1 else "1 worker"


@contextmanager
def make_executor(workers: int | None, scheduler: str | None) -> Iterator[Executor]:
    """Choose and start the executor of tasks.

    Parameters
    ----------
    workers : int or None
        Number of worker processes to start on this computer. They end with the executor and with this
        process. None, without a scheduler, runs tasks in this process.
    scheduler : str or None
        Address of the scheduler of a dask cluster, such as ``tcp://10.0.0.1:8786``.

    Yields
    ------
    Executor

    Raises
    ------
    InputError
        If both are given, the number of workers is below 1, or no scheduler answers at the address.
    """
    if workers is not None and scheduler is not None:
        raise InputError("Give a number of workers or the address of a scheduler, not both.")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} workers cannot do anything; give at least one.")
    if workers is None and scheduler is None:
        yield LocalExecutor()
        return
    with _cluster(workers) as address, _connect(scheduler or address) as client:
        yield DaskExecutor(client, scheduler or address)


@contextmanager
def _cluster(workers: int | None) -> Iterator[str]:
    """Start a local cluster, and yield its address; an empty one if no workers are given."""
    if workers is None:
        yield ""
        return
    import dask
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    # A worker that died is replaced at once, but dask ends the new one if it is not there after 15 s.
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": f"{_REPLACED_SECONDS}s"})
    with (
        patient,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=MEMORY_LIMIT // workers,  # dask restarts a worker that needs more
            dashboard_address="127.0.0.1:0",
            silence_logs="CRITICAL",
        ) as cluster,
    ):
        yield cluster.scheduler_address


def cluster_at(address: str) -> DaskExecutor:
    """Connect to a dask cluster for searches, which come one after another; the connection is kept.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://10.0.0.1:8786``.

    Returns
    -------
    DaskExecutor

    Raises
    ------
    InputError
        If no scheduler answers there.
    """
    client = _CLIENTS.get(address)
    if client is None or client.status != "running":
        client = _CLIENTS[address] = _connect(address)
    return DaskExecutor(client, address, keeps_places=True)


_CLIENTS: dict[str, Any] = {}


def _connect(address: str) -> Any:
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No dask scheduler answers at {address}; start one with 'dask scheduler', or use --workers."
        ) from error


class _Kept(threading.local):
    """Contexts of a worker's thread, the latest last."""

    def __init__(self) -> None:
        self.contexts: dict[Config, Any] = {}


_KEPT, _MOST_KEPT = _Kept(), 2  # a search's context holds its turned query: megabytes


def _run_task(task: Task, config: Config, batch: Sequence[Any]) -> Any:
    """Run a task in a worker, on one thread of torch, because the process runs one task per thread."""
    import torch

    from napari_cmrir.representations.devices import keep_freed_memory

    if not (config.folder / MODEL_NAME).is_file():
        raise InputError(
            f"The worker on {platform.node()} does not see {config.folder};"
            " put the repository and the images where every worker finds them under the same path."
        )
    torch.set_num_threads(1)
    keep_freed_memory()
    contexts = _KEPT.contexts
    if config not in contexts:
        if len(contexts) == _MOST_KEPT:
            contexts.pop(next(iter(contexts)))
        contexts[config] = config.context()
    return run(task(contexts[config], batch))
