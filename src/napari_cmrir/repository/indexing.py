"""The stages of indexing: tasks given to an executor, and their results published in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.repository.catalogue import Catalogue, ImageRow, SegmentRow
from napari_cmrir.repository.executors import Executor, IndexConfig, Task, TaskFailed, WorkerContext
from napari_cmrir.repository.indexes.base import FIELD_INDEXES, StoredField
from napari_cmrir.repository.layout import COMIRS
from napari_cmrir.repository.sources import AnySource
from napari_cmrir.repository.tasks import ImageTask, Represented, SegmentTask, index_batch, represent_batch

__all__ = ["Indexing", "build_segments", "represent_images"]

BATCH_IMAGES = 8
"""Images that are represented in one task and published together; each CoMIR is kept once it is stored."""

BATCH_FIELDS = 32
"""Fields or segments of a task of an index: what a lost worker has to compute again."""

DIED = "its worker died several times, perhaps for want of memory; index it again with fewer workers."

Item = TypeVar("Item")


@dataclass
class Indexing:
    """One call's work, and how far it has come.

    Parameters
    ----------
    catalogue : Catalogue
        Of the repository, open to write.
    executor : Executor
        Does the tasks.
    context : WorkerContext
        With which they are done in this process.
    total : int
        Units that progress is counted in.
    unit : str
        Their name.
    share : float
        Of the call, that the part under way takes: percentages are of it.
    """

    catalogue: Catalogue
    executor: Executor
    context: WorkerContext
    total: float
    unit: str = "images"
    share: float = 1.0
    started: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> IndexConfig:
        """What workers know of the repository."""
        return self.context.config

    def progress(self, done: float, message: str) -> Progress:
        """Say how far the call has come, and how fast it goes."""
        seconds = time.monotonic() - self.started
        if self.unit == "images" and done >= 1 and seconds > 2:
            message += f" ({60 * done / seconds:.3g} images a minute)"
        return Progress(done, self.total, self.unit, message)

    def give_out(
        self, task: Task, batches: Sequence[Sequence[Any]], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Have a task done for all batches, with progress from ``start`` to ``stop``."""
        each = (stop - start) / max(1, sum(map(len, batches)))
        done = start
        with closing(self.executor.do(task, self.context, batches)) as events:
            for event in events:
                if isinstance(event, Progress):
                    yield self.progress(done + each * event.done, event.message)
                else:
                    done += each * len(event[0])
                    yield event

    def _units(self, start: float, stop: float) -> tuple[float, float]:
        return self.total * self.share * start / 100, self.total * self.share * stop / 100

    def run_tasks(
        self, task: Callable[..., Job[Any]], items: Sequence[Any], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Do a task for all items in batches; yields progress, and each batch with its result."""
        size = _spread_evenly(len(items), self.executor, BATCH_FIELDS)
        batches = [items[first : first + size] for first in range(0, len(items), size)]
        return self.give_out(task, batches, *self._units(start, stop))

    def part(self, job: Job[Item], start: float, stop: float, message: str) -> Job[Item]:
        """Run a job as the part of the call that leads from ``start`` to ``stop`` percent."""
        with closing(portion(job, *self._units(start, stop))) as part:
            while True:
                try:
                    done = next(part).done
                except StopIteration as end:
                    result: Item = end.value
                    return result
                yield self.progress(done, message)


def represent_images(indexing: Indexing, images: Sequence[tuple[int, AnySource]]) -> Job[None]:
    """Make images searchable, a batch at a time; note why an image cannot be used.

    Parameters
    ----------
    indexing : Indexing
    images : sequence of (int, Path, Source or Remote)
        The number of each image, and where to read it.
    """
    catalogue, folder = indexing.catalogue, indexing.config.folder
    (folder / COMIRS).mkdir(exist_ok=True)
    tasks = [ImageTask(number, catalogue.image(number).name, source) for number, source in images]
    batches = _consecutive(tasks, _spread_evenly(len(tasks), indexing.executor, BATCH_IMAGES))
    with closing(indexing.give_out(represent_batch, batches, 0, indexing.total)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
                continue
            batch, done = event
            if isinstance(done, TaskFailed):
                noted = [{"state": "failed", "reason": f"{image.name}: {DIED}"} for image in batch]
                done = Represented(noted, None)
            with catalogue.transaction():
                for image, columns in zip(batch, done.noted, strict=True):
                    catalogue.change_image(image.image_id, **columns)
                if done.segment is not None:
                    one = done.segment
                    catalogue.enter_segment(one.file, one.sha256, one.n_fields, one.image_ids, one.indexes)


def build_segments(indexing: Indexing, name: str, *, anew: bool = False) -> Job[None]:
    """Build an index of all fields, or of those that it lacks.

    Parameters
    ----------
    indexing : Indexing
        Counted in percent.
    name : str
        The index, in `FIELD_INDEXES`.
    anew : bool
        Prepare it again, such as learn other words; readers see the former until all segments are done.

    Raises
    ------
    InputError
        If the workers died over a segment.
    """
    catalogue, index = indexing.catalogue, FIELD_INDEXES[name]()
    folder = indexing.config.folder
    segments = catalogue.segments()
    rows: dict[int, dict[int, ImageRow]] = {segment.id: {} for segment in segments}
    for row in catalogue.images("indexed", "retired"):
        if row.segment in rows:
            rows[row.segment][row.id] = row
    shared = catalogue.shared_of(name)
    file = None if shared is None else shared.get("file")
    if shared is None or anew or (file is not None and not (folder / file).exists()):
        _remove_damaged(catalogue, name)
        indexing.share = 2 / 3
        shared = yield from index.prepare(indexing, _fields(folder, segments, rows))
        indexing.share, anew = 1.0, True
    built: set[int] = set()
    if not anew:
        built = {one.segment for one in catalogue.index_files(name) if (folder / one.file).exists()}
    tasks = [
        SegmentTask(segment.id, segment.file, rows[segment.id], name, shared)
        for segment in segments
        if segment.id not in built
    ]
    start = 200 / 3 if anew else 0.0
    entered = []
    with closing(indexing.run_tasks(index_batch, tasks, start, 100)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
                continue
            batch, written = event
            if isinstance(written, TaskFailed):
                raise InputError(f"The workers died over {batch[0].file}; try with fewer workers.")
            done = [(task.segment_id, *one) for task, one in zip(batch, written, strict=True)]
            entered += done
            if not anew:
                with catalogue.transaction():
                    for segment_id, index_file, sha256 in done:
                        catalogue.enter_index(name, segment_id, index_file, sha256)
    if anew:
        with catalogue.transaction():
            catalogue.drop_index(name)
            for segment_id, index_file, sha256 in entered:
                catalogue.enter_index(name, segment_id, index_file, sha256)
            catalogue.note_shared(name, shared)


def _remove_damaged(catalogue: Catalogue, name: str) -> None:
    """Remove damaged files of an index, which would be taken for ones that a killed job had written."""
    for index in catalogue.index_files(name):
        path = catalogue.folder / index.file
        if path.exists() and checksum(path) != index.sha256:
            path.unlink()


def _fields(
    folder: Path, segments: Sequence[SegmentRow], rows: dict[int, dict[int, ImageRow]]
) -> list[StoredField]:
    """List all fields that are searched, in the order of their images."""
    tasks = [SegmentTask(segment.id, segment.file, rows[segment.id], "", {}) for segment in segments]
    fields = [field for task in tasks for field in task.fields(folder)]
    return sorted((one for one in fields if one.image.state == "indexed"), key=lambda one: one.image.id)


def _consecutive(tasks: Sequence[ImageTask], size: int) -> list[list[ImageTask]]:
    """Split images into batches of up to ``size`` whose numbers follow one another.

    A segment then never reaches over an image of another one: segments can be put in the order of their
    images, whichever of them was stopped and done later.
    """
    batches: list[list[ImageTask]] = []
    for task in sorted(tasks, key=lambda one: one.image_id):
        follows = batches and batches[-1][-1].image_id + 1 == task.image_id
        if not follows or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(task)
    return batches


def _spread_evenly(number: int, executor: Executor, most: int) -> int:
    """Choose the size of a batch so that every worker gets a few of them."""
    return most if executor.size == 1 else max(1, min(most, number // (3 * executor.size)))
