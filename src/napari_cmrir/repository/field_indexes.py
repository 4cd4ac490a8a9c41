"""Field indexes: their interface and registry, and the two that come with the package.

Thumbnails are the CoMIR of every field at a quarter of its resolution, for screening. A file of that index
holds ``pixels``, (b,) uint8: the concatenated thumbnails (channel, y, x) of the fields.

Words are the bag of words of every field (Breznik et al. 2024, Stage II), with the repository's own
vocabulary. A file of that index holds for the ``n`` fields of a segment:

- ``indptr``, (n + 1,) int64: start of each field's bag in the two arrays below (compressed sparse rows);
- ``words``, (m,) uint32: words of each bag, ascending;
- ``counts``, (m,) uint16: occurrences of each word.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from napari_cmrir.files import atomic_path, checksum
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registry import Registry
from napari_cmrir.repository.catalogue import INDEXES, ImageRow, token
from napari_cmrir.repository.executors import IndexConfig, TaskFailed, WorkerContext
from napari_cmrir.repository.pyramids import coarsest_level, halve, open_level
from napari_cmrir.repository.segments import Tensors, joined

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.bags import BagIndex
    from napari_cmrir.bag_of_words.descriptors.features import Features
    from napari_cmrir.bag_of_words.settings import BagSettings

__all__ = [
    "FIELD_INDEXES",
    "THUMBNAIL_LEVEL",
    "FieldIndex",
    "IndexBuild",
    "StoredField",
    "ThumbnailIndex",
    "Thumbnails",
    "WordIndex",
    "bag_index",
    "read_thumbnail",
    "thumbnail_shape",
]


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
        "thumbnails": "napari_cmrir.repository.field_indexes:ThumbnailIndex",
        "words": "napari_cmrir.repository.field_indexes:WordIndex",
    },
)
"""Field indexes by name. Other packages add theirs as entry points of ``napari_cmrir.field_indexes``."""


THUMBNAIL_LEVEL = 2
"""Pyramid level of a thumbnail: a quarter of the resolution, which screening of patches needs.

docs/searching.md compares an eighth and a quarter. A field of 256 px takes 4 kB per channel, a field of
1,024 px 64 kB.
"""


class ThumbnailIndex(FieldIndex):
    """The thumbnails of all fields, published with every image."""

    name: ClassVar[str] = "thumbnails"
    is_always_built: ClassVar[bool] = True

    def compute(
        self, context: WorkerContext, fields: Sequence[StoredField], shared: dict[str, Any]
    ) -> Job[Tensors]:
        """Read the thumbnails from the pyramids of the images."""
        yield from ()
        folder = context.config.folder
        pixels = [read_thumbnail(folder, field.image, field.rectangle).ravel() for field in fields]
        return {"pixels": np.concatenate([np.empty(0, np.uint8), *pixels])}

    def select(self, tensors: Tensors, fields: npt.NDArray[np.void], kept: npt.NDArray[np.bool_]) -> Tensors:
        """Select the thumbnails of the kept fields."""
        stored = Thumbnails(tensors, fields)
        chosen = [stored[row].ravel() for row in np.flatnonzero(kept).tolist()]
        return {"pixels": np.concatenate([np.empty(0, np.uint8), *chosen])}


class Thumbnails:
    """The thumbnails of a segment, read from the mapped file field by field.

    Parameters
    ----------
    tensors : Tensors
        File of the index.
    fields : ndarray, (n,) of `FIELD_DTYPE`
        Fields of the segment.
    """

    def __init__(self, tensors: Tensors, fields: npt.NDArray[np.void]) -> None:
        self._pixels = np.asarray(tensors["pixels"])  # slicing a memmap is slow, slicing an array view is not
        sides = np.stack((fields["height"], fields["width"]), 1) >> THUMBNAIL_LEVEL
        areas = sides.prod(1)
        self.n_channels = len(self._pixels) // max(1, int(areas.sum()))
        self._sides, self._ends = sides, np.cumsum(areas) * self.n_channels
        self._uniform: npt.NDArray[np.uint8] | None = None
        if len(sides) and (sides == sides[0]).all():
            self._uniform = self._pixels.reshape(len(sides), self.n_channels, *sides[0].tolist())

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> npt.NDArray[np.uint8]:
        """Give the thumbnail (channel, height // 4, width // 4) of a field, a view of the file."""
        height, width = self._sides[row].tolist()
        end = int(self._ends[row])
        flat = self._pixels[end - height * width * self.n_channels : end]
        thumbnail: npt.NDArray[np.uint8] = flat.reshape(self.n_channels, height, width)
        return thumbnail

    def copy_to(
        self, target: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
    ) -> None:
        """Copy the thumbnails of fields to the top left of places of an array (n, channel, y, x)."""
        if self._uniform is not None and self._uniform.shape[2:] == target.shape[2:]:
            target[places] = self._uniform[rows]
            return
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            thumbnail = self[row]
            target[place, :, : thumbnail.shape[1], : thumbnail.shape[2]] = thumbnail


def read_thumbnail(folder: Path, image: ImageRow, rectangle: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Read a field's thumbnail from the pyramid of its image; halve it further if the pyramid is too small.

    Parameters
    ----------
    folder : Path
        The repository.
    image : ImageRow
        Row of an image whose CoMIR is stored.
    rectangle : ndarray, (4,) int64
        (y, x, height, width) of the field, px.

    Returns
    -------
    ndarray, (channel, height // 4, width // 4) uint8
    """
    assert image.comir is not None
    assert image.height is not None
    assert image.width is not None
    stored = coarsest_level(image.height, image.width)
    level = min(stored, THUMBNAIL_LEVEL)
    y, x, height, width = (rectangle >> level).tolist()
    pixels: npt.NDArray[np.uint8] = np.asarray(
        open_level(folder / image.comir, level)[:, y : y + height, x : x + width], dtype=np.uint8
    )
    for _ in range(THUMBNAIL_LEVEL - level):
        pixels = halve(pixels)
    return pixels


def thumbnail_shape(height: int, width: int) -> tuple[int, int]:
    """Give the height and width of a field's thumbnail, in px.

    Examples
    --------
    >>> thumbnail_shape(834, 1024)
    (208, 256)
    """
    return height >> THUMBNAIL_LEVEL, width >> THUMBNAIL_LEVEL


@dataclass(frozen=True)
class FieldSample:
    """A field from which words are learned, and its position among the ``n_fields`` such fields."""

    field: StoredField
    position: int
    n_fields: int


class WordIndex(FieldIndex):
    """The bags of words of all fields, built when a search needs words."""

    name: ClassVar[str] = "words"

    def prepare(self, build: IndexBuild, fields: Sequence[StoredField]) -> Job[dict[str, Any]]:
        """Learn the words from evenly spaced fields, with an equal number of descriptors from each."""
        from napari_cmrir.bag_of_words.vocabulary import keep_strongest, train_vocabulary

        settings = build.config.settings
        chosen = list(fields)
        if len(chosen) > settings.vocabulary_fields:
            evenly = np.linspace(0, len(chosen) - 1, settings.vocabulary_fields).astype(int)
            chosen = [chosen[position] for position in evenly]
        wanted = [FieldSample(one, position, len(chosen)) for position, one in enumerate(chosen)]
        samples: dict[int, Any] = {}
        with closing(build.run_tasks(sample_batch, wanted, 0, 50)) as events:
            for event in events:
                if isinstance(event, Progress):
                    yield event
                elif not isinstance(event[1], TaskFailed):
                    samples |= {one.position: drawn for one, drawn in zip(*event, strict=True)}
        descriptors = keep_strongest([samples[position] for position in sorted(samples)], settings.vocabulary)
        job = train_vocabulary(descriptors, settings.vocabulary)
        vocabulary = yield from build.part(job, 50, 100, "vocabulary: learning words")
        inputs = token(
            settings.descriptor.model_dump_json(),
            settings.vocabulary.model_dump_json(),
            *(f"{one.image.comir_sha256} {one.rectangle.tolist()}" for one in fields),
        )
        file = f"{INDEXES}/{self.name}/vocabulary-{inputs}.safetensors"
        path = build.config.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            vocabulary.save(partial)
        return {"file": file, "sha256": checksum(path), "fields": len(fields)}

    def compute(
        self, context: WorkerContext, fields: Sequence[StoredField], shared: dict[str, Any]
    ) -> Job[Tensors]:
        """Count the words of every field."""
        from napari_cmrir.bag_of_words.bags import count_words

        vocabulary = context.vocabulary(shared["file"])
        bags = []
        for position, field in enumerate(fields):
            name = field.image.name
            yield Progress(position, len(fields), "fields", f"words of {name}: describing")
            features = context.describe(field.image, field.rectangle)
            yield Progress(position, len(fields), "fields", f"words of {name}: naming")
            bags.append(count_words(vocabulary.assign(features.descriptors), len(vocabulary)))
        return {
            "indptr": np.cumsum([0, *(len(bag.words) for bag in bags)], dtype=np.int64),
            "words": np.concatenate([np.empty(0, np.uint32), *(bag.words for bag in bags)]),
            "counts": np.concatenate([np.empty(0, np.uint16), *(bag.counts for bag in bags)]),
        }

    def select(self, tensors: Tensors, fields: npt.NDArray[np.void], kept: npt.NDArray[np.bool_]) -> Tensors:
        """Select the bags of the kept fields."""
        lengths = np.diff(tensors["indptr"])
        entries = np.repeat(kept, lengths)
        return {
            "indptr": np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64),
            "words": tensors["words"][entries],
            "counts": tensors["counts"][entries],
        }

    def join(self, parts: Sequence[Tensors]) -> Tensors:
        """Concatenate the bags of several segments."""
        lengths = np.concatenate([np.diff(part["indptr"]) for part in parts])
        return {
            "indptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            "words": np.concatenate([part["words"] for part in parts]),
            "counts": np.concatenate([part["counts"] for part in parts]),
        }


def sample_batch(context: WorkerContext, batch: Sequence[FieldSample]) -> Job[list[Features]]:
    """Draw the features from which words are learned, an equal number from each field."""
    from napari_cmrir.bag_of_words.vocabulary import sample_field

    settings = context.config.settings.vocabulary
    samples = []
    for done, sample in enumerate(batch):
        name = sample.field.image.name
        yield Progress(done, len(batch), "fields", f"vocabulary: describing {name}")
        features = context.describe(sample.field.image, sample.field.rectangle, again=True)
        samples.append(sample_field(features, sample.n_fields, settings, seed=sample.position))
    return samples


def bag_index(
    parts: Sequence[tuple[Tensors, npt.NDArray[np.bool_]]], vocabulary_size: int, settings: BagSettings
) -> BagIndex:
    """Join the bags of segments to one index for ranking, without reading them.

    Parameters
    ----------
    parts : sequence of (Tensors, ndarray (n,) bool)
        Mapped file of each segment, and True for the fields to rank.
    vocabulary_size : int
    settings : BagSettings

    Returns
    -------
    BagIndex
        Bags of the fields to rank, in their order.
    """
    from napari_cmrir.bag_of_words.bags import BagIndex

    words, counts, lengths = [], [], []
    for tensors, kept in parts:
        lengths.append(np.diff(tensors["indptr"])[kept])
        for first, last in _runs(kept):
            entries = slice(int(tensors["indptr"][first]), int(tensors["indptr"][last]))
            words.append(tensors["words"][entries])
            counts.append(tensors["counts"][entries])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return BagIndex(indptr, joined(words), joined(counts), vocabulary_size, settings)


def _runs(kept: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """List start and stop of each run of consecutive kept fields."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    return [(first, last) for first, last in edges.reshape(-1, 2).tolist()]
