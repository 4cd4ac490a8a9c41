"""What an index of fields is, and the registry of indexes."""

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
        Its image.
    rectangle : ndarray, (4,) int64
        y, x, height and width in pixels of the CoMIR.
    """

    image: ImageRow
    rectangle: npt.NDArray[np.int64]


class IndexBuild(Protocol):
    """The build that an index is prepared in: it gives tasks to the workers."""

    @property
    def config(self) -> IndexConfig:
        """What workers know of the repository."""

    def run_tasks(
        self, task: Callable[..., Job[Any]], items: Sequence[Any], start: float, stop: float
    ) -> Generator[Progress | tuple[Sequence[Any], Any], None, None]:
        """Do a task for all items in batches; yields progress, and each batch with its result."""

    def part(self, job: Job[Any], start: float, stop: float, message: str) -> Job[Any]:
        """Run a job as the part of the build that leads from ``start`` to ``stop`` percent."""


class FieldIndex(ABC):
    """What is computed of every field from its stored CoMIR, segment by segment, when somebody needs it.

    A subclass gives `name` and `compute`; one whose arrays do not have a row a field gives `select` and
    `join`, too. Each file of an index has its own checksum in the catalogue.

    Attributes
    ----------
    name : str
        The name in the registry.
    is_always_built : bool
        Built with the CoMIR of an image and published with it, so that a search can rely on it.
    """

    name: ClassVar[str]
    is_always_built: ClassVar[bool] = False

    def prepare(self, build: IndexBuild, fields: Sequence[StoredField]) -> Job[dict[str, Any]]:
        """Compute what the files of the index share, such as a vocabulary learned from all fields.

        Parameters
        ----------
        build : IndexBuild
        fields : sequence of StoredField
            All that are searched, in the order of their images.

        Yields
        ------
        Progress

        Returns
        -------
        dict
            Values that JSON can hold: kept in the catalogue and given to `compute`. Files that it names under
            ``"file"`` lie below the repository.
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
            ``context.comir(field)`` reads the CoMIR (channel, y, x) of a field.
        fields : sequence of StoredField
            Those of the segment.
        shared : dict
            What `prepare` returned.
        """

    def select(self, tensors: Tensors, fields: npt.NDArray[np.void], kept: npt.NDArray[np.bool_]) -> Tensors:
        """Give the arrays of the fields that are kept, where fewer fields are."""
        return {name: values[kept] for name, values in tensors.items()}

    def join(self, parts: Sequence[Tensors]) -> Tensors:
        """Put the arrays of several segments one behind the other."""
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


FIELD_INDEXES: Registry[type[FieldIndex]] = Registry(
    "field index",
    "napari_cmrir.field_indexes",
    {
        "thumbnails": "napari_cmrir.repository.indexes.thumbnails:ThumbnailIndex",
        "words": "napari_cmrir.repository.indexes.words:WordIndex",
    },
)
"""Indexes of fields; other packages add theirs as entry points of ``napari_cmrir.field_indexes``."""
