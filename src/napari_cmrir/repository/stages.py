"""The three stages of indexing: images to CoMIRs, CoMIRs to a vocabulary, CoMIRs to words.

Each is a job that can be broken off anywhere and taken up again: what it has published is not done twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import Catalogue, ImageRow
from napari_cmrir.repository.fields import cut_fields
from napari_cmrir.repository.publishing import digest, publishing
from napari_cmrir.repository.pyramids import open_level, write_pyramid
from napari_cmrir.repository.segments import write_segment
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.sources import Source, read_source, stamp
from napari_cmrir.repository.store import VOCABULARY_NAME

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel
    from napari_cmrir.words.bags import Bag
    from napari_cmrir.words.features import Features
    from napari_cmrir.words.vocabulary import Vocabulary

__all__ = ["Indexing", "index_words", "learn_vocabulary", "represent_images"]

COMIRS, SEGMENTS = "comirs", "segments"
SEGMENT_FIELDS = 1024
SEGMENT_SECONDS = 60.0
"""A segment is published when it has so many fields or is so old: what a killed job loses at most."""

REMEMBERED_BYTES = 2**29
"""Descriptors kept in memory from the vocabulary to the words, so that they are not computed twice."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Indexing:
    """What one call to index works on.

    Parameters
    ----------
    folder : Path
        The repository.
    catalogue : Catalogue
        Its catalogue, open to write.
    model : ComirModel
    modality : str
    settings : RepositorySettings
    images : sequence of (int, Path or Source)
        The number of each image to index, and where to read it.
    device : str
        Where CoMIRs are computed.
    remembered : dict
        Features of fields, by image number, y and x, up to `REMEMBERED_BYTES`.
    """

    folder: Path
    catalogue: Catalogue
    model: ComirModel
    modality: str
    settings: RepositorySettings
    images: Sequence[tuple[int, Path | Source]]
    device: str
    remembered: dict[tuple[int, ...], Features] = field(default_factory=dict)

    def represented(self) -> list[ImageRow]:
        """List the images whose CoMIRs are stored and wait for their words."""
        rows = (self.catalogue.image(image_id) for image_id, _ in self.images)
        return sorted((row for row in rows if row.state == "represented"), key=lambda row: row.id)

    def progress(self, done: float, message: str) -> Progress:
        """Say how far the call has come, in images."""
        return Progress(done, len(self.images), "images", message)


def represent_images(indexing: Indexing, start: float, stop: float) -> Job[None]:
    """Store the CoMIR of every image that has none yet; note why an image cannot be used.

    Parameters
    ----------
    indexing : Indexing
    start, stop : float
        The progress before and after, in images.
    """
    from napari_cmrir.comir.inference import represent

    each = (stop - start) / len(indexing.images)
    for position, (image_id, source) in enumerate(indexing.images):
        row = indexing.catalogue.image(image_id)
        before = start + position * each
        yield indexing.progress(before, f"CoMIR of {row.name}")
        if row.state == "represented" and (indexing.folder / str(row.comir)).is_dir():
            continue
        try:
            now, pixels = _read(source)
            job = represent(indexing.model, pixels, indexing.modality, device=indexing.device)
            comir = yield from _part_of(job, before, before + each, indexing, f"CoMIR of {row.name}")
        except InputError as error:
            indexing.catalogue.change_image(image_id, state="failed", reason=str(error))
            continue
        file = f"{COMIRS}/{image_id:08d}-{_plain(row.name)}.ome.zarr"
        write_pyramid(indexing.folder / file, comir, row.name)
        indexing.catalogue.change_image(
            image_id,
            state="represented",
            comir=file,
            comir_sha256=digest(indexing.folder / file),
            height=comir.shape[1],
            width=comir.shape[2],
            sha256=now.sha256,
            n_bytes=now.n_bytes,
            mtime_ns=now.mtime_ns,
        )


def learn_vocabulary(indexing: Indexing, start: float, stop: float) -> Job[Vocabulary]:
    """Learn the words from fields of all represented images, the same number of descriptors from each.

    Parameters
    ----------
    indexing : Indexing
    start, stop : float
        The progress before and after, in images.
    """
    from napari_cmrir.words.sampling import keep_strongest, sample_field
    from napari_cmrir.words.vocabulary import train_vocabulary

    settings = indexing.settings
    fields = [(row, rectangle) for row in indexing.represented() for rectangle in _fields(row, settings)]
    if len(fields) > settings.vocabulary_fields:
        evenly = np.linspace(0, len(fields) - 1, settings.vocabulary_fields).astype(int)
        fields = [fields[position] for position in evenly]
    middle = (start + stop) / 2
    samples = []
    for position, (row, rectangle) in enumerate(fields):
        done = start + (middle - start) * position / len(fields)
        yield indexing.progress(done, f"vocabulary: describing {row.name}")
        features = _describe(indexing, row, rectangle)
        _remember(indexing, row, rectangle, features)
        samples.append(sample_field(features, len(fields), settings.vocabulary, seed=position))
    descriptors = keep_strongest(samples, settings.vocabulary)
    job = train_vocabulary(descriptors, settings.vocabulary)
    vocabulary = yield from _part_of(job, middle, stop, indexing, "vocabulary: learning words")
    with publishing(indexing.folder / VOCABULARY_NAME) as partial:
        vocabulary.save(partial)
    indexing.catalogue.note(vocabulary_sha256=digest(indexing.folder / VOCABULARY_NAME))
    return vocabulary


def index_words(indexing: Indexing, vocabulary: Vocabulary, start: float, stop: float) -> Job[None]:
    """Count the words of every represented image and publish them, segment by segment.

    Fields without any word, such as empty glass, are left out.

    Parameters
    ----------
    indexing : Indexing
    vocabulary : Vocabulary
    start, stop : float
        The progress before and after, in images.
    """
    from napari_cmrir.words.bags import count_words

    rows = indexing.represented()
    batch = _Batch(indexing)
    try:
        for position, row in enumerate(rows):
            done = start + (stop - start) * position / len(rows)
            fields = _fields(row, indexing.settings)
            bags = []
            for rectangle in fields:
                yield indexing.progress(done, f"words of {row.name}: describing")
                features = _describe(indexing, row, rectangle)
                yield indexing.progress(done, f"words of {row.name}: naming")
                bags.append(count_words(vocabulary.assign(features.descriptors), len(vocabulary)))
            something = [i for i, bag in enumerate(bags) if len(bag.words)]
            if something:
                batch.add(row.id, fields[something], [bags[i] for i in something])
            else:
                reason = f"{row.name} ({row.height} x {row.width} px) is blank or too small to be described."
                indexing.catalogue.change_image(row.id, state="failed", reason=reason)
    except (GeneratorExit, KeyboardInterrupt):
        batch.publish()
        raise
    batch.publish()


class _Batch:
    """Images whose words are counted and not yet published."""

    def __init__(self, indexing: Indexing) -> None:
        self._indexing = indexing
        self._clear()

    def _clear(self) -> None:
        self._image_ids: list[int] = []
        self._fields: list[npt.NDArray[np.int64]] = []
        self._bags: list[Bag] = []
        self._since = time.monotonic()

    def add(self, image_id: int, fields: npt.NDArray[np.int64], bags: Sequence[Bag]) -> None:
        self._image_ids.append(image_id)
        self._fields.append(np.insert(fields, 0, image_id, axis=1))
        self._bags.extend(bags)
        if len(self._bags) >= SEGMENT_FIELDS or time.monotonic() - self._since > SEGMENT_SECONDS:
            self.publish()

    def publish(self) -> None:
        if not self._image_ids:
            return
        catalogue, folder = self._indexing.catalogue, self._indexing.folder
        segment_id = max((segment.id for segment in catalogue.segments()), default=0) + 1
        file = f"{SEGMENTS}/{segment_id:08d}.safetensors"
        write_segment(folder / file, np.concatenate(self._fields), self._bags)
        catalogue.publish_segment(segment_id, file, digest(folder / file), len(self._bags), self._image_ids)
        self._clear()


def _read(source: Path | Source) -> tuple[Any, npt.NDArray[Any]]:
    try:
        return stamp(source), read_source(source)
    except InputError:
        raise
    except Exception as error:  # whatever a decoder stumbles over in one file must not stop the others
        name = source if isinstance(source, Path) else source.name
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason}.") from error


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]


def _fields(row: ImageRow, settings: RepositorySettings) -> npt.NDArray[np.int64]:
    assert row.height is not None
    assert row.width is not None
    return cut_fields(row.height, row.width, settings.field_size, settings.field_overlap)


def _describe(indexing: Indexing, row: ImageRow, rectangle: npt.NDArray[np.int64]) -> Features:
    from napari_cmrir.words.descriptors import describe

    y, x, height, width = rectangle.tolist()
    remembered = indexing.remembered.pop((row.id, y, x), None)
    if remembered is not None:
        return remembered
    assert row.comir is not None
    comir = open_level(indexing.folder / row.comir)[:, y : y + height, x : x + width]
    return describe(np.asarray(comir), indexing.settings.descriptor)


def _remember(
    indexing: Indexing, row: ImageRow, rectangle: npt.NDArray[np.int64], features: Features
) -> None:
    held = sum(other.descriptors.nbytes for other in indexing.remembered.values())
    if held + features.descriptors.nbytes <= REMEMBERED_BYTES:
        indexing.remembered[row.id, *rectangle[:2].tolist()] = features


def _part_of(job: Job[Result], start: float, stop: float, indexing: Indexing, message: str) -> Job[Result]:
    """Run a job as the part of this one that leads from ``start`` to ``stop``."""
    while True:
        try:
            progress = next(job)
        except StopIteration as end:
            result: Result = end.value
            return result
        share = min(1.0, progress.done / progress.total) if progress.total else 0.0
        yield indexing.progress(start + (stop - start) * share, message)
