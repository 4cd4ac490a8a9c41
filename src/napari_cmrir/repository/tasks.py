"""The tasks of indexing: compute and store CoMIRs of images, their fields, and indexes of the fields."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.repository.catalogue import COMIRS, INDEXES, SEGMENTS, ImageRow, token
from napari_cmrir.repository.comirs import is_stored, nothing_to_write, store_comir
from napari_cmrir.repository.executors import WorkerContext
from napari_cmrir.repository.field_indexes import FIELD_INDEXES, StoredField
from napari_cmrir.repository.pyramids import open_level
from napari_cmrir.repository.segments import fields_of, map_fields, write_fields, write_tensors
from napari_cmrir.repository.sources import AnySource, Stamp, open_source, stamp
from napari_cmrir.representations.model_input import fit_to_model, warn_of

__all__ = [
    "ImageTask",
    "Represented",
    "SegmentInfo",
    "SegmentTask",
    "index_batch",
    "represent_batch",
    "write_index",
    "write_segment",
]


Result = TypeVar("Result")

logger = logging.getLogger(__name__)
Noted = dict[str, Any]
"""Columns of an image for the catalogue: its state, and the columns that depend on it."""


@dataclass(frozen=True)
class ImageTask:
    """An image to represent: its number and name in the catalogue, and its source."""

    image_id: int
    name: str
    source: AnySource = field(repr=False)


@dataclass(frozen=True)
class SegmentInfo:
    """A segment that is written but not yet published, with its indexes that are always built.

    Parameters
    ----------
    file : str
        Path below the repository.
    sha256 : str
        Checksum of the file.
    n_fields : int
    image_ids : tuple of int
        Images of the segment.
    indexes : tuple of (str, str, str)
        Name, file and checksum of each index.
    """

    file: str
    sha256: str
    n_fields: int
    image_ids: tuple[int, ...]
    indexes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Represented:
    """The result of a batch of images.

    Parameters
    ----------
    columns : list of dict
        Columns of each image for the catalogue: those of its stored CoMIR, or state ``failed`` and the
        reason.
    segment : SegmentInfo or None
        Segment of the images that can be used; ``None`` if there are none.
    """

    columns: list[Noted]
    segment: SegmentInfo | None


def represent_batch(context: WorkerContext, batch: Sequence[ImageTask]) -> Job[Represented]:
    """Store the CoMIRs of images and a segment of their fields.

    A thread writes a CoMIR and syncs it to the disk while the next CoMIR is computed.

    Parameters
    ----------
    context : WorkerContext
    batch : sequence of ImageTask
        Consecutive images.

    Yields
    ------
    Progress
        In images.

    Returns
    -------
    Represented
    """
    waiting: list[Future[Noted]] = []
    with ThreadPoolExecutor(1, "writing") as writer:
        for position, image in enumerate(batch):
            message = f"CoMIR of {image.name}"
            yield Progress(position, len(batch), "images", message)
            job = _represent(context, image, writer)
            describe = partial(_describe_image, message)
            waiting.append((yield from step_of(job, position, len(batch), "images", describe)))
            if position:
                # At most one CoMIR waits to be written, which bounds memory and reports a full disk at once.
                waiting[position - 1].result()
        columns = [future.result() for future in waiting]
    rows = [
        _as_row(image, one) for image, one in zip(batch, columns, strict=True) if one["state"] != "failed"
    ]
    segment = (yield from write_segment(context, rows)) if rows else None
    return Represented(columns, segment)


def write_segment(context: WorkerContext, rows: Sequence[ImageRow]) -> Job[SegmentInfo]:
    """Write the segment of images whose CoMIRs are stored, and its indexes that are always built.

    Parameters
    ----------
    context : WorkerContext
    rows : sequence of ImageRow
        At least one.

    Yields
    ------
    Progress
        Of the indexes.

    Returns
    -------
    SegmentInfo
    """
    config = context.config
    settings = config.settings
    fields = [StoredField(row, one) for row in rows for one in fields_of(config.folder, row, settings)]
    inputs = (settings.field_size, settings.field_overlap, *(f"{row.id} {row.comir_sha256}" for row in rows))
    file = f"{SEGMENTS}/{rows[0].id:08d}-{token(*inputs)}.safetensors"
    if not (config.folder / file).exists():
        table = [(field.image.id, *field.rectangle.tolist()) for field in fields]
        write_fields(config.folder / file, table)
    indexes = []
    for name in FIELD_INDEXES:
        if FIELD_INDEXES[name].is_always_built:
            written = yield from write_index(context, name, file, fields, {})
            indexes.append((name, *written))
    image_ids = tuple(row.id for row in rows)
    return SegmentInfo(file, checksum(config.folder / file), len(fields), image_ids, tuple(indexes))


def write_index(
    context: WorkerContext, name: str, segment: str, fields: Sequence[StoredField], shared: dict[str, Any]
) -> Job[tuple[str, str]]:
    """Compute and write an index of a segment's fields, unless its file exists; return file and checksum.

    Parameters
    ----------
    context : WorkerContext
    name : str
        Name of the index in `FIELD_INDEXES`.
    segment : str
        File of the segment, below the repository.
    fields : sequence of StoredField
        Fields of the segment.
    shared : dict
        Result of `FieldIndex.prepare`.

    Yields
    ------
    Progress

    Returns
    -------
    file : str
        Path below the repository.
    sha256 : str
    """
    # The file name contains a digest of the CoMIRs (in the segment's name) and a digest of the shared values.
    inputs = token(json.dumps(shared, sort_keys=True))
    file = f"{INDEXES}/{name}/{Path(segment).stem}-{inputs}.safetensors"
    path = context.config.folder / file
    if not path.exists():
        tensors = yield from FIELD_INDEXES[name]().compute(context, fields, shared)
        write_tensors(path, tensors)
    return file, checksum(path)


@dataclass(frozen=True)
class SegmentTask:
    """A segment to index: its number, its file below the repository, its images by number, and the index."""

    segment_id: int
    file: str
    rows: dict[int, ImageRow] = field(repr=False)
    index: str
    shared: dict[str, Any] = field(repr=False)

    def fields(self, folder: Path) -> list[StoredField]:
        """List the fields of the segment."""
        table = map_fields(folder / self.file).tolist()
        return [StoredField(self.rows[image], np.array(rectangle)) for image, *rectangle in table]


def index_batch(context: WorkerContext, batch: Sequence[SegmentTask]) -> Job[list[tuple[str, str]]]:
    """Write an index of the fields of segments; return file and checksum of each.

    Parameters
    ----------
    context : WorkerContext
    batch : sequence of SegmentTask

    Yields
    ------
    Progress
        In segments.

    Returns
    -------
    list of (str, str)
    """
    written = []
    for position, task in enumerate(batch):
        yield Progress(position, len(batch), "segments", f"{task.index}: {Path(task.file).name}")
        fields = task.fields(context.config.folder)
        job = write_index(context, task.index, task.file, fields, task.shared)
        written.append((yield from step_of(job, position, len(batch), "segments")))
    return written


def _as_row(image: ImageTask, columns: Noted) -> ImageRow:
    """Make the row of an image as it will be when it is published."""
    empty: dict[str, Any] = dict.fromkeys(field.name for field in dataclass_fields(ImageRow))
    return ImageRow(**(empty | columns | {"id": image.image_id, "name": image.name}))


def _represent(context: WorkerContext, image: ImageTask, writer: Executor) -> Job[Future[Noted]]:
    """Compute the CoMIR of an image, unless it is stored; its writing and its columns are in the future."""
    try:
        path, now = _comir_path(context, image)
        write = nothing_to_write if is_stored(path) else (yield from _compute(context, image, path, now))
        return writer.submit(_finish, write, path, now)
    except InputError as error:
        return writer.submit(dict, state="failed", reason=str(error))


def _comir_path(context: WorkerContext, image: ImageTask) -> tuple[Path, Stamp]:
    """Return the path of the CoMIR of an image's current content, and the image's stamp."""
    config = context.config
    now = _readable(image.source, stamp, image.source)
    settings = config.settings  # the grid of fields decides where the CoMIR of a large image is computed
    grid = (settings.field_size, settings.field_overlap, settings.least_tissue)
    inputs = (now.sha256, config.fingerprint, settings.reading.model_dump_json(), *grid)
    name = f"{image.image_id:08d}-{token(*inputs)}-{_plain(image.name)}.ome.zarr"
    return config.folder / COMIRS / name, now


def _compute(context: WorkerContext, given: ImageTask, path: Path, now: Stamp) -> Job[Callable[[], None]]:
    """Read an image and compute its CoMIR; the result writes what is not yet written."""
    config = context.config
    pixel_size = context.model.pixel_size
    reading = config.settings.reading
    with closing(_readable(given.source, open_source, given.source, reading, pixel_size)) as image:
        if image.assumption:
            warnings.warn(image.assumption, stacklevel=1)
        image, doubts = fit_to_model(image, context.model, config.modality)
        warn_of(given.name, doubts)
        if image.reading_note:
            logger.info("%s: %s.", given.name, image.reading_note)
            yield Progress(0, None, "pixels", image.reading_note)
        return (
            yield from store_comir(
                path,
                image,
                context.model,
                config.modality,
                config.settings,
                name=given.name,
                device=config.device,
                when_read=partial(_refuse_changed, given, now),
            )
        )


def _finish(write: Callable[[], None], path: Path, now: Stamp) -> Noted:
    """Finish writing a CoMIR, and give its columns for the catalogue."""
    write()
    _, height, width = open_level(path).shape
    return {
        "state": "pending",
        "reason": None,
        "comir": f"{COMIRS}/{path.name}",
        "comir_sha256": checksum(path),
        "height": height,
        "width": width,
        "sha256": now.sha256,
        "n_bytes": now.n_bytes,
        "mtime_ns": now.mtime_ns,
    }


def _refuse_changed(image: ImageTask, before: Stamp) -> None:
    now = _readable(image.source, stamp, image.source, thorough=False)
    if (now.n_bytes, now.mtime_ns) != (before.n_bytes, before.mtime_ns):
        raise InputError(f"{image.name} changed while it was read; index it again when it is complete.")


def _readable(source: AnySource, read: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call a function that reads an image; turn its errors into `InputError`, which fails only that image."""
    try:
        return read(*arguments, **options)
    except InputError:
        raise
    except Exception as error:
        name = source if isinstance(source, Path) else source.name
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason}; check the file and index again.") from error


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]


def _describe_image(message: str, progress: Progress) -> str:
    """Add the pixels done to the message of an image that is represented strip by strip."""
    return f"{message}: {progress.message}" if progress.unit == "pixels" else message
