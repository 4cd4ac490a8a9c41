"""A repository opened to search: everything is mapped or read when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import is_remote
from napari_cmrir.images.series import SAME_SIZE
from napari_cmrir.images.settings import ReadingSettings
from napari_cmrir.repository.catalogue import FORMAT_VERSION, Catalogue, ImageRow
from napari_cmrir.repository.indexes.thumbnails import THUMBNAIL_LEVEL, thumbnails_of
from napari_cmrir.repository.layout import CATALOGUE_NAME, MODEL_NAME
from napari_cmrir.repository.pyramids import open_level, read_notes
from napari_cmrir.repository.segments import Tensors, map_fields, map_tensors
from napari_cmrir.repository.settings import load_repository_settings

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.bags import BagIndex
    from napari_cmrir.bag_of_words.settings import DescriptorSettings
    from napari_cmrir.bag_of_words.vocabulary import Vocabulary
    from napari_cmrir.images.lazy_image import LazyImage
    from napari_cmrir.representations.base import Representation

__all__ = [
    "Repository",
    "file_state",
    "open_repository",
]

_CACHED_COMIRS = 512  # fields of reduced resolution kept in memory: 128 MB a channel at most
_CACHED_NOTES = 4096
_ASKED = 8  # fields whose pixel sizes are compared


def open_repository(path: str | os.PathLike[str]) -> Repository:
    """Open a repository to search it; any number of readers may, also while it is written.

    Parameters
    ----------
    path : path-like
        The repository's folder.

    Returns
    -------
    Repository
        The state published when it was opened.

    Raises
    ------
    InputError
        If it is not a repository, is unfinished, of a newer format, or misses a file.
    """
    return Repository(Path(os.path.abspath(path)))


def file_state(path: Path) -> tuple[int, ...]:
    """Return what tells a file from one that was put in its place, or written, since.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of int
        Device, number, size and time of its last change; empty where there is no file.
    """
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Repository:
    """What is published of a repository at the moment it is opened.

    Parameters
    ----------
    path : Path
        The repository's folder.

    Attributes
    ----------
    path : Path
        The repository's folder.
    modality : str
        The modality of its images.
    settings : RepositorySettings
        What it was built with.
    fields : ndarray, (n,) of `FIELD_DTYPE`
        Image number, y, x, height and width in pixels of every field, in the order of `bag_index`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._comirs: dict[tuple[int, int], npt.NDArray[np.uint8]] = {}
        self._notes: dict[Path, dict[str, Any]] = {}
        self._indexes: dict[str, list[Tensors]] = {}
        self._catalogue = Catalogue(path)
        try:
            self._state = self._read_state()  # before the rest: what is published meanwhile is then noticed
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with self._catalogue.snapshot():
            self.modality: str = self._catalogue.about("modality")
            numbers = self._catalogue.image_ids("indexed")
            if not numbers:
                self._refuse_empty()
            self.settings = load_repository_settings(self._catalogue)
            self._searched = np.array(numbers, dtype=np.int64)
            rows = self._catalogue.segments()
        if not (self.path / MODEL_NAME).is_file():
            raise InputError(
                f"{self.path} misses its {MODEL_NAME}; restore it from a copy or index again elsewhere."
            )
        mapped = [(row, map_fields(self.path / row.file)) for row in rows]
        mapped.sort(key=lambda one: int(one[1]["image"][0]))
        self._segments = [row for row, _ in mapped]
        self._tables = [table for _, table in mapped]
        fields = np.concatenate(self._tables)
        self._is_searched = np.isin(fields["image"], self._searched)
        self.fields: npt.NDArray[np.void] = fields[self._is_searched]

    def _refuse_empty(self) -> None:
        known = sum(self._catalogue.count_images().values())
        raise InputError(
            f"{self.path} is unfinished (none of {known} images is searchable yet);"
            " index the same images into it again to finish it."
        )

    def is_current(self) -> bool:
        """Whether nothing was published, and neither catalogue nor model replaced, since it was opened."""
        return self._read_state() == self._state

    def _read_state(self) -> tuple[Any, ...]:
        files = (file_state(self.path / name) for name in (CATALOGUE_NAME, MODEL_NAME))
        return self._catalogue.data_version(), *files

    def close(self) -> None:
        """Close the catalogue; what was read stays usable."""
        self._catalogue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Repository {self.path.name}: {len(self._searched)} {self.modality} images>"

    def __len__(self) -> int:
        return len(self.fields)

    @cached_property
    def model(self) -> Representation:
        """The model that represents queries, loaded when first asked for."""
        from napari_cmrir.representations.base import load_model

        return load_model(self.path / MODEL_NAME)

    def has_index(self, name: str) -> bool:
        """Tell whether an index of all fields is there, such as ``"words"``."""
        there = {index.segment for index in self._catalogue.index_files(name)}
        return all(segment.id in there for segment in self._segments)

    def index(self, name: str) -> list[Tensors]:
        """Map the files of an index, one a segment.

        Raises
        ------
        InputError
            If the index is not there for all fields, or a file of it is missing or damaged.
        """
        if name not in self._indexes:
            files = {index.segment: index.file for index in self._catalogue.index_files(name)}
            lacking = sum(segment.id not in files for segment in self._segments)
            if lacking:
                raise InputError(
                    f"{self.path} has no complete index '{name}' ({lacking} of {len(self._segments)} segments"
                    f" lack it); build it ('index --{name}', or `build_index`)."
                )
            self._indexes[name] = [map_tensors(self.path / files[segment.id]) for segment in self._segments]
        return self._indexes[name]

    def reload_indexes(self) -> None:
        """Use the indexes as they are published now."""
        self._indexes.clear()
        for name in ("vocabulary", "bag_index"):
            self.__dict__.pop(name, None)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The visual words, loaded when first asked for.

        Raises
        ------
        InputError
            If no words were learned yet.
        """
        from napari_cmrir.bag_of_words.vocabulary import load_vocabulary

        shared = self._catalogue.shared_of("words")
        if shared is None:
            raise InputError(f"{self.path} has no visual words yet; learn them ('index --words').")
        return load_vocabulary(self.path / shared["file"])

    @cached_property
    def bag_index(self) -> BagIndex:
        """The bags of all fields, mapped from the disk: row ``i`` is field ``i``."""
        from napari_cmrir.repository.indexes.words import bag_index

        parts = list(zip(self.index("words"), self._searched_of_segments(), strict=True))
        return bag_index(parts, len(self.vocabulary), self.settings.bags)

    def _searched_of_segments(self) -> list[npt.NDArray[np.bool_]]:
        """Tell, segment by segment, which fields are searched."""
        return np.split(self._is_searched, np.cumsum([len(table) for table in self._tables])[:-1])

    @property
    def descriptor_settings(self) -> DescriptorSettings:
        """How its CoMIRs are described."""
        return self.settings.descriptor

    @property
    def failures(self) -> dict[str, str]:
        """Why, by path or name, an image that was given could not be used."""
        rows = self._catalogue.images("failed")
        return {row.absolute_path or row.name: row.reason or "" for row in rows}

    def image_name(self, field: int) -> str:
        """Name of the image that a field lies in: its file's name, or an array's."""
        return self._image(field).name

    def image_path(self, field: int) -> Path | None:
        """Find the file that a field lies in, if need be beside the repository; ``None`` for an array."""
        return self._catalogue.resolve(self._image(field))

    def pixel_step(self, field: int) -> float:
        """Pixels of a field's image, at its finest level, to a pixel of its CoMIR along each axis."""
        return float(self._notes_of(field).get("pixel_step", 1.0))

    def pixel_size(self, field: int) -> float | None:
        """Side of a pixel of a field's CoMIR, in micrometres; ``None`` if it is not known."""
        size = self._notes_of(field).get("pixel_size")
        return None if size is None else float(size)

    @cached_property
    def reading(self) -> ReadingSettings:
        """How its images were read when they were indexed, at the finest level.

        The boxes of hits are in pixels of the finest level, whichever level was indexed.
        """
        return self.settings.reading.model_copy(update={"level": None})

    def open_image(self, field: int) -> LazyImage:
        """Open the image that a field lies in as it was read when it was indexed.

        Parameters
        ----------
        field : int
            Row in `fields`.

        Returns
        -------
        LazyImage
            The finest level of the series, planes and channels that were indexed: the boxes of hits are in
            its pixels. Close it when it is read.

        Raises
        ------
        InputError
            The image cannot be opened, or was indexed from an array.
        """
        from napari_cmrir.images.readers import open_image

        name, path = self.image_name(field), self.image_path(field)
        if path is None and not is_remote(name):
            raise InputError(f"{name} was indexed from an array and has no file to open.")
        return open_image(name if path is None else path, self.reading)

    @cached_property
    def common_pixel_size(self) -> float | None:
        """The `pixel_size` of all fields, judged by a few spread evenly; ``None`` if they do not agree."""
        asked = np.unique(np.linspace(0, len(self) - 1, _ASKED).astype(int)).tolist()
        sizes = {self.pixel_size(field) for field in asked}
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes) or max(known) > min(known) * (1 + SAME_SIZE):
            return None
        return known[0]

    def _notes_of(self, field: int) -> dict[str, Any]:
        path = self.comir_path(field)
        if path not in self._notes:
            if len(self._notes) >= _CACHED_NOTES:
                self._notes.pop(next(iter(self._notes)), None)
            self._notes[path] = read_notes(path)
        return self._notes[path]

    def comir_path(self, field: int) -> Path:
        """Return the OME-Zarr pyramid that holds the CoMIR of a field's image."""
        row = self._image(field)
        assert row.comir is not None
        return self.path / row.comir

    def comir(self, field: int, level: int = 0) -> npt.NDArray[np.uint8]:
        """Read the CoMIR of a field.

        Parameters
        ----------
        field : int
            Row in `fields`.
        level : int
            0 is full resolution; each further one averages 2 x 2 pixels of that before.

        Returns
        -------
        ndarray, (channel, height // 2**level, width // 2**level) uint8

        Raises
        ------
        InputError
            If the pyramid is missing or has no such level.
        """
        if level == THUMBNAIL_LEVEL:
            return self._thumbnails[field]
        if level == 0:
            return self._read_comir(field, level)
        kept = self._comirs.get((field, level))
        if kept is None:
            if len(self._comirs) >= _CACHED_COMIRS:
                self._comirs.pop(next(iter(self._comirs)), None)  # the oldest
            kept = self._comirs[field, level] = self._read_comir(field, level)
        return kept

    def _read_comir(self, field: int, level: int) -> npt.NDArray[np.uint8]:
        _, y, x, height, width = (int(value) >> level for value in self.fields[field].item())
        pixels = open_level(self.comir_path(field), level)[:, y : y + height, x : x + width]
        comir: npt.NDArray[np.uint8] = np.asarray(pixels, dtype=np.uint8)
        comir.flags.writeable = level == 0  # the others are shared
        return comir

    def thumbnails(self, fields: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Read the CoMIRs of fields of equal size at a quarter of their resolution.

        They are mapped from the disk.

        Returns
        -------
        ndarray, (n, channel, height // 4, width // 4) uint8
        """
        return np.stack([self._thumbnails[field] for field in fields])

    @cached_property
    def _thumbnails(self) -> list[npt.NDArray[np.uint8]]:
        thumbnails: list[npt.NDArray[np.uint8]] = []
        for tensors, table in zip(self.index("thumbnails"), self._tables, strict=True):
            thumbnails += thumbnails_of(tensors, table)
        return list(compress(thumbnails, self._is_searched.tolist()))

    def verify(self) -> list[str]:
        """Read every file again and compare it with its checksum; `verify_repository` as a job.

        Returns
        -------
        list of str
            What is wrong and what to do about it, a sentence each; empty if all is well.
        """
        from napari_cmrir.jobs import run
        from napari_cmrir.repository.maintenance import verify_repository

        return run(verify_repository(self.path))

    def summary(self) -> dict[str, Any]:
        """Describe the repository in numbers and names, as JSON can hold them."""
        about = self._catalogue.about
        indexes = sorted({index.name for index in self._catalogue.index_files()})
        return {
            "path": str(self.path),
            "format": FORMAT_VERSION,
            "created": about("created"),
            "created_by": about("created_by"),
            "modality": self.modality,
            "model": about("model_fingerprint"),
            "images": self._catalogue.count_images(),
            "fields": len(self.fields),
            "indexes": {name: self.has_index(name) for name in indexes},
            "words": len(self.vocabulary) if self.has_index("words") else None,
            "segments": len(self._segments),
            "settings": self.settings.model_dump(mode="json"),
            "failures": self.failures,
        }

    def _image(self, field: int) -> ImageRow:
        return self._catalogue.image(int(self.fields["image"][field]))
