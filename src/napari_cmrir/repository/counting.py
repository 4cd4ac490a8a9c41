"""The tasks that make words of CoMIRs: fields to samples of words, CoMIRs to segments.

As of `representing`, files are named by what they are computed from, and the catalogue is never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_cmrir.files import checksum
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import ImageRow
from napari_cmrir.repository.executors import IndexConfig, WorkerContext, token
from napari_cmrir.repository.fields import cut_fields
from napari_cmrir.repository.pyramids import read_notes
from napari_cmrir.repository.repository import SEGMENTS
from napari_cmrir.repository.segments import map_segment, write_segment
from napari_cmrir.repository.thumbnails import read_thumbnail

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.descriptors.features import Features

__all__ = ["FieldSample", "SegmentInfo", "count_batch", "fields_of", "read_counted", "sample_batch"]


@dataclass(frozen=True)
class FieldSample:
    """A field to learn words from: its image, its rectangle, and its position among ``n_fields`` such."""

    row: ImageRow
    rectangle: npt.NDArray[np.int64]
    position: int
    n_fields: int


@dataclass(frozen=True)
class SegmentInfo:
    """A segment that is written and not yet published.

    Parameters
    ----------
    file : str or None
        Below the repository; ``None`` where no field has any word.
    sha256 : str or None
    n_fields : int
    image_ids : tuple of int
        The images in it.
    blank_ids : tuple of int
        Images of the batch without any word: empty glass.
    """

    file: str | None
    sha256: str | None
    n_fields: int
    image_ids: tuple[int, ...]
    blank_ids: tuple[int, ...]


def sample_batch(context: WorkerContext, batch: Sequence[FieldSample]) -> Job[list[Features]]:
    """Draw the features of fields that words are learned from, the same number of each field."""
    from napari_cmrir.bag_of_words.vocabulary import sample_field

    settings = context.config.settings.vocabulary
    samples = []
    for done, sampled in enumerate(batch):
        yield Progress(done, len(batch), "fields", f"vocabulary: describing {sampled.row.name}")
        features = context.describe(sampled.row, sampled.rectangle, again=True)
        samples.append(sample_field(features, sampled.n_fields, settings, seed=sampled.position))
    return samples


def count_batch(context: WorkerContext, batch: Sequence[ImageRow]) -> Job[SegmentInfo]:
    """Count the words of represented images and write them as one segment, without fields that have none."""
    from napari_cmrir.bag_of_words.bags import count_words

    config = context.config
    inputs = token(config.vocabulary_sha256, *(f"{row.id} {row.comir_sha256}" for row in batch))
    file = f"{SEGMENTS}/{batch[0].id:08d}-{inputs}.safetensors"
    if not (config.folder / file).exists():
        fields, bags, thumbnails = [], [], []
        for position, row in enumerate(batch):
            for rectangle in fields_of(row, config):
                yield Progress(position, len(batch), "images", f"words of {row.name}: describing")
                features = context.describe(row, rectangle)
                yield Progress(position, len(batch), "images", f"words of {row.name}: naming")
                bag = count_words(context.vocabulary.assign(features.descriptors), len(context.vocabulary))
                if len(bag.words):
                    fields.append((row.id, *rectangle.tolist()))
                    bags.append(bag)
                    thumbnails.append(read_thumbnail(config.folder, row, rectangle))
        if not bags:
            return SegmentInfo(None, None, 0, (), tuple(row.id for row in batch))
        write_segment(config.folder / file, fields, bags, thumbnails)
    return read_counted(config.folder, file, [row.id for row in batch])


def read_counted(folder: Path, file: str, image_ids: Sequence[int]) -> SegmentInfo:
    """Say what is in a segment that is written, of the images that it was made of."""
    numbers = map_segment(folder / file).fields["image"]
    inside = set(numbers.tolist())
    return SegmentInfo(
        file,
        checksum(folder / file),
        len(numbers),
        tuple(number for number in image_ids if number in inside),
        tuple(number for number in image_ids if number not in inside),
    )


def fields_of(row: ImageRow, config: IndexConfig) -> npt.NDArray[np.int64]:
    """List the fields of a represented image, (n, 4) of y, x, height and width, without those of glass."""
    assert row.height is not None
    assert row.width is not None
    settings = config.settings
    fields = cut_fields(row.height, row.width, settings.field_size, settings.field_overlap)
    if len(fields) == 1:
        return fields
    kept = read_notes(config.folder / str(row.comir)).get("fields")
    return fields if kept is None else fields[kept]
