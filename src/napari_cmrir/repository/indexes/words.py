"""The bag of words of every field (Breznik et al. 2024, Stage II), with the repository's own vocabulary.

A file of the index holds for the ``n`` fields of a segment:

- ``indptr``, (n + 1,) int64: start of each field's bag in the two arrays below (compressed sparse rows);
- ``words``, (m,) uint32: words of each bag, ascending;
- ``counts``, (m,) uint16: occurrences of each word.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from napari_cmrir.files import atomic_path, checksum
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import INDEXES, token
from napari_cmrir.repository.executors import TaskFailed, WorkerContext
from napari_cmrir.repository.indexes.base import FieldIndex, IndexBuild, StoredField
from napari_cmrir.repository.segments import Tensors, joined

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.bags import BagIndex
    from napari_cmrir.bag_of_words.descriptors.features import Features
    from napari_cmrir.bag_of_words.settings import BagSettings

__all__ = ["WordIndex", "bag_index"]


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
