"""The stages of indexing: tasks run by an executor, and their results published in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum
from napari_cmrir.jobs import Job, Progress, changed, portion
from napari_cmrir.repository.catalogue import COMIRS, Catalogue, ImageRow, SegmentRow
from napari_cmrir.repository.executors import Executor, IndexConfig, Task, TaskFailed, WorkerContext
from napari_cmrir.repository.field_indexes import FIELD_INDEXES, StoredField
from napari_cmrir.repository.sources import AnySource
from napari_cmrir.repository.tasks import ImageTask, Represented, SegmentTask, index_batch, represent_batch

__all__ = ["Indexing", "build_segments", "represent_images"]

BATCH_IMAGES = 8
"""Images of one task, which are published together. Larger batches make fewer segments; images become
searchable later. A stored CoMIR is not computed again after an interruption. Not measured."""

BATCH_FIELDS = 32
"""Fields or segments of one task of an index: the work that a dying worker loses. Not measured."""

DIED = "its worker died several times, perhaps for lack of memory; index it again with fewer workers."

Item = TypeVar("Item")


@dataclass
class Indexing:
    """The work of one call of `build_repository` or `build_index`, and its progress.

    Parameters
    ----------
    catalogue : Catalogue
        Catalogue of the repository, open for writing.
    executor : Executor
        Runs the tasks.
    context : WorkerContext
        Context of tasks in this process.
    total : int
        Number of units of progress.
    unit : str
        Name of the units.
    sizes : dict of int to float
        Relative sizes of images, by number, where they are known: their progress counts by size.
    share : float
        Share of the call that the current stage takes. `run_tasks` and `part` take percentages of this share.
    """

    catalogue: Catalogue
    executor: Executor
    context: WorkerContext
    total: float
    unit: str = "images"
    sizes: Mapping[int, float] = field(default_factory=dict)
    share: float = 1.0
    started: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> IndexConfig:
        """Configuration of the workers."""
        return self.context.config

    def progress(self, done: float, message: str, share: float | None = None) -> Progress:
        """Make a `Progress` of the call; after 2 s the message includes the speed."""
        seconds = time.monotonic() - self.started
        if self.unit == "images" and done >= 1 and seconds > 2:
            message += f" ({60 * done / seconds:.3g} images a minute)"
        return Progress(done, self.total, self.unit, message, share=share)

    def run_batches(
        self, task: Task, batches: Sequence[Sequence[Any]], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Run a task for all batches; yield progress from ``start`` to ``stop``, and results by batch."""
        each = (stop - start) / max(1, sum(map(len, batches)))
        done, finished = start, 0
        whole, past = sum(map(self._size, batches)), 0.0
        with closing(self.executor.run_batches(task, self.context, batches)) as events:
            for event in events:
                if isinstance(event, Progress):
                    batch = batches[finished] if finished < len(batches) else ()
                    here = int(event.done)
                    within = self._size(batch[:here]) + event.done % 1 * self._size(batch[here : here + 1])
                    share = min(1.0, (past + within) / whole) if whole else None
                    yield self.progress(done + each * event.done, event.message, share)
                else:
                    past += self._size(event[0])
                    finished += 1
                    done += each * len(event[0])
                    yield event

    def _size(self, batch: Sequence[Any]) -> float:
        return sum(self.sizes.get(getattr(item, "image_id", -1), 0.0) for item in batch)

    def _units(self, start: float, stop: float) -> tuple[float, float]:
        return self.total * self.share * start / 100, self.total * self.share * stop / 100

    def run_tasks(
        self, task: Callable[..., Job[Any]], items: Sequence[Any], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Run a task for all items in batches; yield progress, and each batch with its result."""
        size = _spread_evenly(len(items), self.executor, BATCH_FIELDS)
        batches = [items[first : first + size] for first in range(0, len(items), size)]
        return self.run_batches(task, batches, *self._units(start, stop))

    def part(self, job: Job[Item], start: float, stop: float, message: str) -> Job[Item]:
        """Run a job as the part of the current stage from ``start`` to ``stop`` percent."""
        part = portion(job, *self._units(start, stop))
        return changed(part, lambda progress: self.progress(progress.done, message))


def represent_images(indexing: Indexing, images: Sequence[tuple[int, AnySource]]) -> Job[None]:
    """Make images searchable, batch by batch; note the reason for each image that cannot be used.

    Parameters
    ----------
    indexing : Indexing
    images : sequence of (int, Path, Source or Remote)
        Number and source of each image.

    Yields
    ------
    Progress
        In images.
    """
    catalogue, folder = indexing.catalogue, indexing.config.folder
    (folder / COMIRS).mkdir(exist_ok=True)
    tasks = [ImageTask(number, catalogue.image(number).name, source) for number, source in images]
    batches = _consecutive(tasks, _spread_evenly(len(tasks), indexing.executor, BATCH_IMAGES))
    with closing(indexing.run_batches(represent_batch, batches, 0, indexing.total)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
                continue
            batch, done = event
            if isinstance(done, TaskFailed):
                noted = [{"state": "failed", "reason": f"{image.name}: {DIED}"} for image in batch]
                done = Represented(noted, None)
            with catalogue.transaction():
                for image, columns in zip(batch, done.columns, strict=True):
                    catalogue.change_image(image.image_id, **columns)
                if done.segment is not None:
                    one = done.segment
                    catalogue.enter_segment(one.file, one.sha256, one.n_fields, one.image_ids, one.indexes)


def build_segments(indexing: Indexing, name: str, *, rebuild: bool = False) -> Job[None]:
    """Build an index of all fields, or complete it.

    Parameters
    ----------
    indexing : Indexing
        It counts in percent.
    name : str
        Name of the index in `FIELD_INDEXES`.
    rebuild : bool
        Prepare the index again, for example learn other words. Readers see the previous index until all
        segments are done.

    Yields
    ------
    Progress
        In percent.

    Raises
    ------
    InputError
        If a segment kills its workers repeatedly.
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
    if shared is None or rebuild or (file is not None and not (folder / file).exists()):
        _remove_damaged(catalogue, name)
        indexing.share = 2 / 3  # preparing learns words, which takes about twice the counting; not measured
        shared = yield from index.prepare(indexing, _fields(folder, segments, rows))
        indexing.share, rebuild = 1.0, True
    built: set[int] = set()
    if not rebuild:
        built = {one.segment for one in catalogue.index_files(name) if (folder / one.file).exists()}
    tasks = [
        SegmentTask(segment.id, segment.file, rows[segment.id], name, shared)
        for segment in segments
        if segment.id not in built
    ]
    start = 200 / 3 if rebuild else 0.0
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
            if not rebuild:
                with catalogue.transaction():
                    for segment_id, index_file, sha256 in done:
                        catalogue.enter_index(name, segment_id, index_file, sha256)
    if rebuild:
        with catalogue.transaction():
            catalogue.drop_index(name)
            for segment_id, index_file, sha256 in entered:
                catalogue.enter_index(name, segment_id, index_file, sha256)
            catalogue.note_shared(name, shared)


def _remove_damaged(catalogue: Catalogue, name: str) -> None:
    """Remove damaged files of an index, because `write_index` would reuse existing files of the same name."""
    for index in catalogue.index_files(name):
        path = catalogue.folder / index.file
        if path.exists() and checksum(path) != index.sha256:
            path.unlink()


def _fields(
    folder: Path, segments: Sequence[SegmentRow], rows: dict[int, dict[int, ImageRow]]
) -> list[StoredField]:
    """List all searched fields, in the order of their images."""
    tasks = [SegmentTask(segment.id, segment.file, rows[segment.id], "", {}) for segment in segments]
    fields = [field for task in tasks for field in task.fields(folder)]
    return sorted((one for one in fields if one.image.state == "indexed"), key=lambda one: one.image.id)


def _consecutive(tasks: Sequence[ImageTask], size: int) -> list[list[ImageTask]]:
    """Split images into batches of at most ``size`` consecutive numbers.

    The image numbers of two segments then never interleave, so that segments can be sorted by their images
    even if an interrupted batch was finished later.
    """
    batches: list[list[ImageTask]] = []
    for task in sorted(tasks, key=lambda one: one.image_id):
        follows = batches and batches[-1][-1].image_id + 1 == task.image_id
        if not follows or len(batches[-1]) == size:
            batches.append([])
        batches[-1].append(task)
    return batches


def _spread_evenly(number: int, executor: Executor, most: int) -> int:
    """Choose a batch size at which every worker gets about three batches, at most ``most``."""
    return most if executor.size == 1 else max(1, min(most, number // (3 * executor.size)))
