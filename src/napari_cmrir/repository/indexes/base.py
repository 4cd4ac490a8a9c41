"""The interface of a field index, and the registry of field indexes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registry import Registry
from napari_cmrir.repository.catalogue import ImageRow
from napari_cmrir.repository.executors import IndexConfig, WorkerContext
from napari_cmrir.repository.segments import Tensors

__all__ = ["FIELD_INDEXES", "FieldIndex", "IndexBuild", "StoredField"]


@dataclass(frozen=True)
class StoredField:
    """A field whose CoMIR is stored.

    Parameters
    ----------
    image : ImageRow
        Row of the field's image.
    rectangle : ndarray, (4,) int64
        (y, x, height, width) in pixels of the CoMIR.
    """

    image: ImageRow
    rectangle: npt.NDArray[np.int64]


class IndexBuild(Protocol):
    """The build that prepares an index: it sends tasks to the workers."""

    @property
    def config(self) -> IndexConfig:
        """Configuration of the workers."""

    def run_tasks(
        self, task: Callable[..., Job[Any]], items: Sequence[Any], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Run a task for all items in batches; yield progress, and each batch with its result."""

    def part(self, job: Job[Any], start: float, stop: float, message: str) -> Job[Any]:
        """Run a job as the part of the build from ``start`` to ``stop`` percent."""


class FieldIndex(ABC):
    """Data computed for every field from its stored CoMIR, segment by segment, when a search needs it.

    A subclass defines `name` and `compute`. A subclass whose arrays do not have one row per field also
    defines `select` and `join`. Each file of an index has its own checksum in the catalogue.

    Attributes
    ----------
    name : str
        Name in the registry.
    is_always_built : bool
        Whether the index is built and published with every image, so that every search can use it.
    """

    name: ClassVar[str]
    is_always_built: ClassVar[bool] = False

    def prepare(self, build: IndexBuild, fields: Sequence[StoredField]) -> Job[dict[str, Any]]:
        """Compute the values that the files of the index share, such as a vocabulary learned from all fields.

        Parameters
        ----------
        build : IndexBuild
        fields : sequence of StoredField
            All searched fields, in the order of their images.

        Yields
        ------
        Progress

        Returns
        -------
        dict
            JSON values, which the catalogue stores and `compute` receives. A ``"file"`` is a path below the
            repository.
        """
        yield from ()
        return {}

    @abstractmethod
    def compute(
        self, context: WorkerContext, fields: Sequence[StoredField], shared: dict[str, Any]
    ) -> Job[Tensors]:
        """Compute the arrays of the fields of one segment.

        Parameters
        ----------
        context : WorkerContext
            ``context.comir(field.image, field.rectangle)`` reads the CoMIR (channel, y, x) of a field.
        fields : sequence of StoredField
            Fields of the segment.
        shared : dict
            Result of `prepare`.

        Yields
        ------
        Progress

        Returns
        -------
        dict of str to ndarray
            One row per field in each array, unless `select` and `join` are overridden.
        """

    def select(self, tensors: Tensors, fields: npt.NDArray[np.void], kept: npt.NDArray[np.bool_]) -> Tensors:
        """Select the arrays of the kept fields of a segment, when compacting drops fields."""
        return {name: values[kept] for name, values in tensors.items()}

    def join(self, parts: Sequence[Tensors]) -> Tensors:
        """Concatenate the arrays of several segments."""
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


FIELD_INDEXES: Registry[type[FieldIndex]] = Registry(
    "field index",
    "napari_cmrir.field_indexes",
    {
        "thumbnails": "napari_cmrir.repository.indexes.thumbnails:ThumbnailIndex",
        "words": "napari_cmrir.repository.indexes.words:WordIndex",
    },
)
"""Field indexes by name. Other packages add theirs as entry points of ``napari_cmrir.field_indexes``."""
