"""The stages of indexing put together: tasks given out, and their results published in the catalogue."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from napari_cmrir.files import atomic_path, checksum
from napari_cmrir.jobs import Job, Progress, portion
from napari_cmrir.repository.catalogue import Catalogue, ImageRow
from napari_cmrir.repository.counting import FieldSample, SegmentInfo, count_batch, fields_of, sample_batch
from napari_cmrir.repository.executors import Executor, IndexConfig, Task, TaskFailed, WorkerContext
from napari_cmrir.repository.sources import AnySource
from napari_cmrir.repository.tasks import ImageTask, represent_batch

__all__ = ["Indexing", "count_rows", "index_words", "learn_vocabulary", "represent_images"]

BATCH_FIELDS = 32
"""Fields of a segment, or one image with more: what a killed job or a lost worker has to count again."""

BATCH_IMAGES = 8
"""Images that are represented in one task; the CoMIR of each is kept as soon as it is stored."""

DIED = "its worker died several times, perhaps for want of memory; index it again with fewer workers."

Item = TypeVar("Item")
Rows = Sequence[ImageRow]


@dataclass
class Indexing:
    """What one call works on, and how far it has come.

    Parameters
    ----------
    catalogue : Catalogue
        Of the repository, open to write.
    executor : Executor
        Who does the tasks.
    context : WorkerContext
        With which they are done here.
    n_images : int
        Images that progress is counted in.
    """

    catalogue: Catalogue
    executor: Executor
    context: WorkerContext
    n_images: int
    started: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> IndexConfig:
        """The recipe followed."""
        return self.context.config

    def progress(self, done: float, message: str) -> Progress:
        """Say how far the call has come, in images, and how fast it goes."""
        seconds = time.monotonic() - self.started
        if done >= 1 and seconds > 2:
            message += f" ({60 * done / seconds:.3g} images a minute)"
        return Progress(done, self.n_images, "images", message)

    def give_out(
        self, task: Task, batches: Sequence[Sequence[Any]], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Have a task done for all batches, with progress from ``start`` to ``stop`` images."""
        each = (stop - start) / max(1, sum(map(len, batches)))
        done = start
        with closing(self.executor.do(task, self.context, batches)) as events:
            for event in events:
                if isinstance(event, Progress):
                    yield self.progress(done + each * event.done, event.message)
                else:
                    done += each * len(event[0])
                    yield event


def represent_images(
    indexing: Indexing, images: Sequence[tuple[int, AnySource]], start: float, stop: float
) -> Job[None]:
    """Store the CoMIR of every image that has none yet; note why an image cannot be used.

    Parameters
    ----------
    indexing : Indexing
    images : sequence of (int, Path, Source or Remote)
        The number of each image, and where to read it.
    start, stop : float
        The progress before and after, in images.
    """
    catalogue, folder = indexing.catalogue, indexing.config.folder
    missing = []
    for image_id, source in images:
        row = catalogue.image(image_id)
        if row.state != "represented" or not (folder / str(row.comir)).is_dir():
            missing.append(ImageTask(image_id, row.name, source))
    size = _spread_evenly(len(missing), indexing.executor, BATCH_IMAGES)
    batches = [missing[first : first + size] for first in range(0, len(missing), size)]
    with closing(indexing.give_out(represent_batch, batches, start, stop)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
                continue
            batch, noted = event
            if isinstance(noted, TaskFailed):
                noted = [{"state": "failed", "reason": f"{image.name}: {DIED}"} for image in batch]
            with catalogue.transaction():
                for image, columns in zip(batch, noted, strict=True):
                    catalogue.change_image(image.image_id, **columns)


def learn_vocabulary(
    indexing: Indexing, rows: Rows, file: str, start: float, stop: float
) -> Job[tuple[str, int]]:
    """Learn the words from fields of represented images, the same number of descriptors from each.

    Parameters
    ----------
    indexing : Indexing
    rows : sequence of ImageRow
        The images.
    file : str
        Where the vocabulary is written, below the repository.
    start, stop : float
        The progress before and after, in images.

    Returns
    -------
    (str, int)
        The file's digest, and of how many fields those that taught the words were drawn.
    """
    from napari_cmrir.bag_of_words.vocabulary import keep_strongest, train_vocabulary

    settings = indexing.config.settings
    fields = [(row, rectangle) for row in rows for rectangle in fields_of(row, indexing.config)]
    n_collection = len(fields)
    if n_collection > settings.vocabulary_fields:
        evenly = np.linspace(0, n_collection - 1, settings.vocabulary_fields).astype(int)
        fields = [fields[position] for position in evenly]
    wanted = [FieldSample(row, rectangle, i, len(fields)) for i, (row, rectangle) in enumerate(fields)]
    size = _spread_evenly(len(wanted), indexing.executor, BATCH_FIELDS)
    batches = [wanted[first : first + size] for first in range(0, len(wanted), size)]
    middle = (start + stop) / 2
    samples: dict[int, Any] = {}
    with closing(indexing.give_out(sample_batch, batches, start, middle)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
            elif not isinstance(event[1], TaskFailed):
                samples |= {one.position: drawn for one, drawn in zip(*event, strict=True)}
    descriptors = keep_strongest([samples[position] for position in sorted(samples)], settings.vocabulary)
    job = train_vocabulary(descriptors, settings.vocabulary)
    vocabulary = yield from _part_of(job, middle, stop, indexing, "vocabulary: learning words")
    path = indexing.config.folder / file
    with atomic_path(path) as partial:
        vocabulary.save(partial)
    return checksum(path), n_collection


def count_rows(
    indexing: Indexing, rows: Rows, start: float, stop: float
) -> Generator[Progress | tuple[Rows, SegmentInfo | TaskFailed], None, None]:
    """Count the words of represented images in batches that each write a segment.

    Parameters
    ----------
    indexing : Indexing
    rows : sequence of ImageRow
        The images, by their numbers.
    start, stop : float
        The progress before and after, in images.
    """
    n_fields = [len(fields_of(row, indexing.config)) for row in rows]
    size = _spread_evenly(sum(n_fields), indexing.executor, BATCH_FIELDS)
    yield from indexing.give_out(count_batch, _batches(rows, n_fields, size), start, stop)


def index_words(indexing: Indexing, rows: Rows, start: float, stop: float) -> Job[None]:
    """Count the words of represented images and publish them, segment by segment.

    Fields without any word, such as empty glass, are left out.

    Parameters
    ----------
    indexing : Indexing
    rows : sequence of ImageRow
        The images, by their numbers.
    start, stop : float
        The progress before and after, in images.
    """
    with closing(count_rows(indexing, rows, start, stop)) as events:
        for event in events:
            if isinstance(event, Progress):
                yield event
            else:
                with indexing.catalogue.transaction():
                    enter_counted(indexing.catalogue, *event)


def enter_counted(catalogue: Catalogue, batch: Rows, counted: SegmentInfo | TaskFailed) -> None:
    """Make a batch searchable, within a transaction; note why an image of it is not."""
    if isinstance(counted, TaskFailed):
        for row in batch:
            catalogue.change_image(row.id, state="failed", reason=f"{row.name}: {DIED}")
        return
    if counted.file is not None and counted.sha256 is not None:
        catalogue.enter_segment(counted.file, counted.sha256, counted.n_fields, counted.image_ids)
    for row in batch:
        if row.id in counted.blank_ids:
            reason = f"{row.name} ({row.height} x {row.width} px) is blank or too small to be described."
            catalogue.change_image(row.id, state="failed", segment=None, reason=reason)


def _batches(rows: Rows, n_fields: Sequence[int], size: int) -> list[Rows]:
    """Split images into batches of so many fields, each of images whose numbers follow one another.

    A batch never reaches over an image that is not to be counted, so that segments can be put in the order of
    their images whichever of them was lost and counted again.
    """
    batches: list[list[ImageRow]] = []
    room = 0
    for row, number in zip(rows, n_fields, strict=True):
        if room <= 0 or row.id != batches[-1][-1].id + 1:
            batches.append([])
            room = size
        batches[-1].append(row)
        room -= number
    return list(batches)


def _spread_evenly(number: int, executor: Executor, most: int) -> int:
    """Choose the size of a batch so that every worker of a crew gets a few of them."""
    return most if executor.size == 1 else max(1, min(most, number // (3 * executor.size)))


def _part_of(job: Job[Item], start: float, stop: float, indexing: Indexing, message: str) -> Job[Item]:
    """Run a job as the part of this one that leads from ``start`` to ``stop`` images."""
    with closing(portion(job, start, stop)) as part:
        try:
            while True:
                yield indexing.progress(next(part).done, message)
        except StopIteration as end:
            result: Item = end.value
            return result
