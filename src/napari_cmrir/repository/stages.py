"""The three stages of indexing as tasks: images to CoMIRs, fields to samples of words, CoMIRs to segments.

A task is a batch of images that a thread or a process of any computer can do that sees the repository's
folder. It writes files whose names follow from what they are computed from, and never the catalogue: done
twice, or by two workers at once, it leaves the same files, and what a lost worker had written is used again.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import ImageRow
from napari_cmrir.repository.fields import cut_fields
from napari_cmrir.repository.memory import give_back
from napari_cmrir.repository.publishing import digest
from napari_cmrir.repository.pyramids import open_level, read_notes
from napari_cmrir.repository.segments import map_segment, write_segment
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.sources import AnySource, open_source, stamp
from napari_cmrir.repository.store import MODEL_NAME, VOCABULARY_NAME
from napari_cmrir.repository.storing import store_comir
from napari_cmrir.repository.thumbnails import read_thumbnail

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel
    from napari_cmrir.words.features import Features
    from napari_cmrir.words.vocabulary import Vocabulary

__all__ = [
    "COMIRS",
    "SEGMENTS",
    "Counted",
    "Given",
    "Recipe",
    "Sampled",
    "Tools",
    "count_batch",
    "fields_of",
    "represent_batch",
    "sample_batch",
    "token",
]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

COMIRS, SEGMENTS = "comirs", "segments"

REMEMBERED_BYTES = 2**29
"""Descriptors kept in memory from the vocabulary to the words, so that they are not computed twice."""


GIVE_BACK_EVERY = 16
"""Fields after which freed memory is given back to the system."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker has to know of the repository that it works for.

    Parameters
    ----------
    folder : Path
        The repository, where every worker sees it.
    fingerprint : str
        Of its model.
    modality : str
    settings : RepositorySettings
    device : str
        Where CoMIRs are computed.
    vocabulary_file : str
        Below the folder.
    vocabulary_sha256 : str or None
        ``None`` while it is not learned.
    """

    folder: Path
    fingerprint: str
    modality: str
    settings: RepositorySettings
    device: str = "auto"
    vocabulary_file: str = VOCABULARY_NAME
    vocabulary_sha256: str | None = None


class Tools:
    """A recipe with what is needed to follow it, loaded from the repository when first used.

    Parameters
    ----------
    recipe : Recipe
    model : ComirModel, optional
        By default the repository's copy.
    remembers : bool
        Keep features of fields, up to `REMEMBERED_BYTES`, from `sample_batch` to `count_batch`.
    """

    def __init__(self, recipe: Recipe, model: ComirModel | None = None, *, remembers: bool = False) -> None:
        self.recipe = recipe
        self._model = model
        self._remembers = remembers
        self._remembered: dict[tuple[int, ...], Features] = {}
        self._described = 0

    @cached_property
    def model(self) -> ComirModel:
        """The model that represents images."""
        from napari_cmrir.comir.model import load_model

        return self._model or load_model(self.recipe.folder / MODEL_NAME)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The visual words."""
        from napari_cmrir.words.vocabulary import load_vocabulary

        return load_vocabulary(self.recipe.folder / self.recipe.vocabulary_file)

    def follow(self, recipe: Recipe) -> Tools:
        """Return the same tools, and what they remember, for another recipe of the same repository."""
        tools = Tools(recipe, self._model, remembers=self._remembers)
        tools._remembered = self._remembered
        return tools

    def describe(self, row: ImageRow, rectangle: npt.NDArray[np.int64], *, again: bool = False) -> Features:
        """Describe a field (y, x, height, width) of a stored CoMIR; remember it if asked for ``again``."""
        from napari_cmrir.words.descriptors import describe

        y, x, height, width = rectangle.tolist()
        features = self._remembered.pop((row.id, y, x), None)
        if features is None:
            assert row.comir is not None
            comir = open_level(self.recipe.folder / row.comir)[:, y : y + height, x : x + width]
            features = describe(np.asarray(comir), self.recipe.settings.descriptor)
        self._described += 1
        if self._described % GIVE_BACK_EVERY == 0:
            give_back()
        held = sum(other.descriptors.nbytes for other in self._remembered.values())
        if again and self._remembers and held + features.descriptors.nbytes <= REMEMBERED_BYTES:
            self._remembered[row.id, y, x] = features
        return features


@dataclass(frozen=True)
class Given:
    """An image to represent: its number and name in the catalogue, and where to read it."""

    image_id: int
    name: str
    source: AnySource = field(repr=False)


@dataclass(frozen=True)
class Sampled:
    """A field to learn words from: its image, its rectangle, and its position among ``n_fields`` such."""

    row: ImageRow
    rectangle: npt.NDArray[np.int64]
    position: int
    n_fields: int


@dataclass(frozen=True)
class Counted:
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


def represent_batch(tools: Tools, batch: Sequence[Given]) -> Job[list[dict[str, Any]]]:
    """Store the CoMIRs of images.

    Returns
    -------
    list of dict
        What the catalogue shall note of each image: state ``represented`` and the columns that go with it,
        or ``failed`` and the reason why it cannot be used.
    """
    noted = []
    for position, image in enumerate(batch):
        message = f"CoMIR of {image.name}"
        yield Progress(position, len(batch), "images", message)
        try:
            noted.append((yield from _within(_represent(tools, image), position, len(batch), message)))
        except InputError as error:
            noted.append({"state": "failed", "reason": str(error)})
    return noted


def _represent(tools: Tools, image: Given) -> Job[dict[str, Any]]:
    recipe = tools.recipe
    now = _readable(image.source, stamp, image.source)
    inputs = (now.sha256, recipe.fingerprint, recipe.settings.reading, recipe.settings.least_tissue)
    name = f"{image.image_id:08d}-{token(*inputs)}-{_plain(image.name)}.ome.zarr"
    path = recipe.folder / COMIRS / name
    if not path.is_dir():
        yield from _store(tools, image, path)
        after = _readable(image.source, stamp, image.source, thorough=False)
        if (now.n_bytes, now.mtime_ns) != (after.n_bytes, after.mtime_ns):
            shutil.rmtree(path)
            raise InputError(f"{image.name} changed while it was read; index it again when it is complete.")
    _, height, width = open_level(path).shape
    return {
        "state": "represented",
        "reason": None,
        "comir": f"{COMIRS}/{name}",
        "comir_sha256": digest(path),
        "height": height,
        "width": width,
        "sha256": now.sha256,
        "n_bytes": now.n_bytes,
        "mtime_ns": now.mtime_ns,
    }


def sample_batch(tools: Tools, batch: Sequence[Sampled]) -> Job[list[Features]]:
    """Draw the features of fields that words are learned from, the same number of each field."""
    from napari_cmrir.words.sampling import sample_field

    settings = tools.recipe.settings.vocabulary
    samples = []
    for done, sampled in enumerate(batch):
        yield Progress(done, len(batch), "fields", f"vocabulary: describing {sampled.row.name}")
        features = tools.describe(sampled.row, sampled.rectangle, again=True)
        samples.append(sample_field(features, sampled.n_fields, settings, seed=sampled.position))
    return samples


def count_batch(tools: Tools, batch: Sequence[ImageRow]) -> Job[Counted]:
    """Count the words of represented images and write them as one segment, without fields that have none."""
    from napari_cmrir.words.bags import count_words

    recipe = tools.recipe
    inputs = token(recipe.vocabulary_sha256, *(f"{row.id} {row.comir_sha256}" for row in batch))
    file = f"{SEGMENTS}/{batch[0].id:08d}-{inputs}.safetensors"
    if not (recipe.folder / file).exists():
        fields, bags, thumbnails = [], [], []
        for position, row in enumerate(batch):
            for rectangle in fields_of(row, recipe):
                yield Progress(position, len(batch), "images", f"words of {row.name}: describing")
                features = tools.describe(row, rectangle)
                yield Progress(position, len(batch), "images", f"words of {row.name}: naming")
                bag = count_words(tools.vocabulary.assign(features.descriptors), len(tools.vocabulary))
                if len(bag.words):
                    fields.append((row.id, *rectangle.tolist()))
                    bags.append(bag)
                    thumbnails.append(read_thumbnail(recipe.folder, row, rectangle))
        if not bags:
            return Counted(None, None, 0, (), tuple(row.id for row in batch))
        write_segment(recipe.folder / file, fields, bags, thumbnails)
    return read_counted(recipe.folder, file, [row.id for row in batch])


def read_counted(folder: Path, file: str, image_ids: Sequence[int]) -> Counted:
    """Say what is in a segment that is written, of the images that it was made of."""
    numbers = map_segment(folder / file).fields["image"]
    inside = set(numbers.tolist())
    return Counted(
        file,
        digest(folder / file),
        len(numbers),
        tuple(number for number in image_ids if number in inside),
        tuple(number for number in image_ids if number not in inside),
    )


def fields_of(row: ImageRow, recipe: Recipe) -> npt.NDArray[np.int64]:
    """List the fields of a represented image, (n, 4) of y, x, height and width, without those of glass."""
    assert row.height is not None
    assert row.width is not None
    settings = recipe.settings
    fields = cut_fields(row.height, row.width, settings.field_size, settings.field_overlap)
    if len(fields) == 1:
        return fields
    kept = read_notes(recipe.folder / str(row.comir)).get("fields")
    return fields if kept is None else fields[kept]


def token(*inputs: object) -> str:
    """Name what is computed from these inputs: 12 hexadecimal digits.

    Examples
    --------
    >>> token("a", 1) == token("a", 1), token("a", 1) == token("a", 2)
    (True, False)
    """
    return hashlib.sha256("\n".join(map(str, inputs)).encode()).hexdigest()[:12]


def _store(tools: Tools, given: Given, path: Path) -> Job[None]:
    recipe = tools.recipe
    pixel_size = tools.model.pixel_size
    reading = recipe.settings.reading
    with closing(_readable(given.source, open_source, given.source, reading, pixel_size)) as image:
        if image.assumption:
            warnings.warn(image.assumption, stacklevel=1)
        if image.choice:
            logger.info("%s: %s.", given.name, image.choice)
            yield Progress(0, None, "blocks", image.choice)
        yield from store_comir(
            path, image, tools.model, recipe.modality, recipe.settings, name=given.name, device=recipe.device
        )


def _readable(source: AnySource, read: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Say in one line why an image cannot be read: one such file must not stop the others."""
    try:
        return read(*arguments, **options)
    except InputError:
        raise
    except Exception as error:
        name = source if isinstance(source, Path) else source.name
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {reason}.") from error


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]


def _within(job: Job[Any], position: int, total: int, message: str) -> Job[Any]:
    """Run a job as the ``position``-th of ``total`` steps."""
    try:
        while True:
            try:
                progress = next(job)
            except StopIteration as end:
                return end.value
            share = min(1.0, progress.done / progress.total) if progress.total else 0.0
            detail = f"{message}: {progress.message}" if progress.unit == "blocks" else message
            yield Progress(position + share, total, "images", detail)
    finally:
        job.close()
