"""A repository opened for searching; files are mapped or read on first use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import is_remote
from napari_cmrir.images.series import SAME_SIZE
from napari_cmrir.repository.catalogue import (
    CATALOGUE_NAME,
    FORMAT_VERSION,
    MODEL_NAME,
    Catalogue,
    ImageRow,
    token,
)
from napari_cmrir.repository.field_indexes import THUMBNAIL_LEVEL, Thumbnails
from napari_cmrir.repository.pyramids import open_level, read_notes
from napari_cmrir.repository.segments import Tensors, map_fields, map_tensors
from napari_cmrir.repository.settings import load_repository_settings
from napari_cmrir.settings import ReadingSettings

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

_CACHED_COMIRS = 512  # fields of reduced resolution kept in memory: at most 128 MB per channel
_CACHED_NOTES = 4096  # notes of images kept in memory; a note is small, reading one opens a zarr group
_SAMPLED_FIELDS = 8  # fields whose pixel sizes are compared; all fields would be slow; not measured


def open_repository(path: str | os.PathLike[str]) -> Repository:
    """Open a repository for searching. Any number of readers may do so, also while it is written.

    Parameters
    ----------
    path : path-like
        The repository's folder.

    Returns
    -------
    Repository
        It shows the state that is published now; see `Repository.is_current`.

    Raises
    ------
    InputError
        If it is not a repository, is unfinished, of another format, or lacks a file.
    """
    return Repository(Path(os.path.abspath(path)))


def file_state(path: Path) -> tuple[int, ...]:
    """Return values that change when a file is written or replaced.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of int
        Device, inode number, size in bytes and time of the last change in ns; empty if there is no file.
    """
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Repository:
    """The state of a repository that is published when it is opened.

    Parameters
    ----------
    path : Path
        The repository's folder.

    Attributes
    ----------
    path : Path
        The repository's folder.
    modality : str
        Modality of the images.
    settings : RepositorySettings
        Settings of the repository.
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
            self._state = self._read_state()  # first, so that `is_current` notices changes while opening
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Read the published state and map the segments, in the order of their images."""
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

    @cached_property
    def snapshot(self) -> str:
        """Key of the fields that are searched: equal for every process that opened this state."""
        searched = hashlib.sha256(self._searched.tobytes()).hexdigest()
        return token(searched, *(segment.file for segment in self._segments))

    def is_current(self) -> bool:
        """Tell whether, since opening, nothing was published and neither catalogue nor model was replaced."""
        return self._read_state() == self._state

    def _read_state(self) -> tuple[Any, ...]:
        files = (file_state(self.path / name) for name in (CATALOGUE_NAME, MODEL_NAME))
        return self._catalogue.data_version(), *files

    def close(self) -> None:
        """Close the catalogue; data that were read stay usable."""
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
        """The model that represents queries, loaded on first use."""
        from napari_cmrir.representations.base import load_model

        return load_model(self.path / MODEL_NAME)

    def has_index(self, name: str) -> bool:
        """Tell whether an index, such as ``"words"``, is complete."""
        indexed = {index.segment for index in self._catalogue.index_files(name)}
        return all(segment.id in indexed for segment in self._segments)

    def index(self, name: str) -> list[Tensors]:
        """Map the files of an index, one per segment.

        Raises
        ------
        InputError
            If the index is incomplete, or one of its files is missing or damaged.
        """
        if name not in self._indexes:
            files = {index.segment: index.file for index in self._catalogue.index_files(name)}
            n_missing = sum(segment.id not in files for segment in self._segments)
            if n_missing:
                raise InputError(
                    f"{self.path} has no complete index '{name}' ({n_missing} of {len(self._segments)}"
                    f" segments lack it); build it ('index --{name}', or `build_index`)."
                )
            self._indexes[name] = [map_tensors(self.path / files[segment.id]) for segment in self._segments]
        return self._indexes[name]

    def reload_indexes(self) -> None:
        """Forget loaded indexes, so that the next use reads the published ones."""
        self._indexes.clear()
        for name in ("vocabulary", "bag_index"):
            self.__dict__.pop(name, None)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The visual words, loaded on first use.

        Raises
        ------
        InputError
            If no words have been learned.
        """
        from napari_cmrir.bag_of_words.vocabulary import load_vocabulary

        shared = self._catalogue.shared_of("words")
        if shared is None:
            raise InputError(f"{self.path} has no visual words yet; learn them ('index --words').")
        return load_vocabulary(self.path / shared["file"])

    @cached_property
    def bag_index(self) -> BagIndex:
        """The bags of all fields, mapped from the disk; row ``i`` is field ``i``."""
        from napari_cmrir.repository.field_indexes import bag_index

        parts = list(zip(self.index("words"), self._searched_of_segments(), strict=True))
        return bag_index(parts, len(self.vocabulary), self.settings.bags)

    def _searched_of_segments(self) -> list[npt.NDArray[np.bool_]]:
        """Split the mask of searched fields by segment."""
        return np.split(self._is_searched, self._segment_ends[:-1])

    @property
    def descriptor_settings(self) -> DescriptorSettings:
        """Settings of the descriptor of the CoMIRs."""
        return self.settings.descriptor

    @property
    def failures(self) -> dict[str, str]:
        """Reason by path or name of each image that could not be used."""
        rows = self._catalogue.images("failed")
        return {row.absolute_path or row.name: row.reason or "" for row in rows}

    def image_name(self, field: int) -> str:
        """Give the name of a field's image: the name of the file or of the array."""
        return self._image(field).name

    def image_path(self, field: int) -> Path | None:
        """Find the file of a field's image, also if it moved with the repository; ``None`` for an array."""
        return self._catalogue.resolve(self._image(field))

    def pixel_step(self, field: int) -> float | npt.NDArray[np.float64]:
        """Pixels of a field's image, at its finest level, per pixel of its CoMIR: one number or (y, x)."""
        step = self._notes_of(field).get("pixel_step", 1.0)
        return np.array(step, np.float64) if isinstance(step, (list, tuple)) else float(step)

    def pixel_size(self, field: int) -> float | None:
        """Give the side of a pixel of a field's CoMIR, in micrometres; ``None`` if unknown."""
        size = self._notes_of(field).get("pixel_size")
        return None if size is None else float(size)

    @cached_property
    def reading(self) -> ReadingSettings:
        """The reading settings of the index, at the finest level.

        Boxes of hits are in pixels of the finest level, even if another level was indexed.
        """
        return self.settings.reading.model_copy(update={"level": None})

    def open_image(self, field: int) -> LazyImage:
        """Open the image of a field with the reading settings of the index.

        Parameters
        ----------
        field : int
            Row in `fields`.

        Returns
        -------
        LazyImage
            The finest level of the indexed series, planes and channels. Boxes of hits are in its pixels. The
            caller closes it.

        Raises
        ------
        InputError
            If the image cannot be opened, or was indexed from an array.
        """
        from napari_cmrir.images.readers import open_image

        name, path = self.image_name(field), self.image_path(field)
        if path is None and not is_remote(name):
            raise InputError(f"{name} was indexed from an array and has no file to open.")
        return open_image(name if path is None else path, self.reading)

    @cached_property
    def pixel_sizes(self) -> tuple[float, ...]:
        """The known sizes, in order, among the `pixel_size` of a few evenly spaced fields."""
        sampled = np.unique(np.linspace(0, len(self) - 1, _SAMPLED_FIELDS).astype(int)).tolist()
        sizes = {self.pixel_size(field) for field in sampled}
        self._has_unknown_sizes = None in sizes
        return tuple(sorted(size for size in sizes if size is not None))

    @cached_property
    def common_pixel_size(self) -> float | None:
        """The `pixel_size` of a few evenly spaced fields; ``None`` if they differ or one is unknown."""
        sizes = self.pixel_sizes
        if not sizes or self._has_unknown_sizes or sizes[-1] > sizes[0] * (1 + SAME_SIZE):
            return None
        return sizes[0]

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
            0 is full resolution. Each further level averages 2 x 2 pixels of the previous one.

        Returns
        -------
        ndarray, (channel, height // 2**level, width // 2**level) uint8

        Raises
        ------
        InputError
            If the pyramid is missing or has no such level.
        """
        if level == THUMBNAIL_LEVEL:
            (segment,), (row,) = self._places(np.array([field]))
            return self._thumbnails[int(segment)][int(row)]
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
        comir.flags.writeable = level == 0  # other levels are shared by the cache
        return comir

    def thumbnails(self, fields: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Read the thumbnails of fields: CoMIRs at a quarter of the resolution.

        Returns
        -------
        ndarray, (n, channel, height // 4, width // 4) uint8
            Fields of several sizes are padded with 0, below and to the right.
        """
        segments, rows = self._places(np.asarray(fields, np.int64))
        chosen = self.fields[np.asarray(fields, np.int64)]
        sides = [int(chosen[side].max()) >> THUMBNAIL_LEVEL for side in ("height", "width")]
        stacked = np.zeros((len(fields), self._thumbnails[segments[0]].n_channels, *sides), np.uint8)
        for segment in np.unique(segments).tolist():
            places = np.flatnonzero(segments == segment)
            self._thumbnails[segment].copy_to(stacked, places, rows[places])
        return stacked

    @cached_property
    def _thumbnails(self) -> list[Thumbnails]:
        """The thumbnails of each segment."""
        return [
            Thumbnails(tensors, table)
            for tensors, table in zip(self.index("thumbnails"), self._tables, strict=True)
        ]

    def _places(self, fields: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give the segment of each field, and its row there."""
        rows = self._stored_rows[fields]
        segments = np.searchsorted(self._segment_ends, rows, side="right")
        starts = np.concatenate(([0], self._segment_ends))
        return segments, rows - starts[segments]

    @cached_property
    def _stored_rows(self) -> npt.NDArray[np.int64]:
        """The row of each searched field among the fields of all segments."""
        return np.flatnonzero(self._is_searched)

    @cached_property
    def _segment_ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum([len(table) for table in self._tables])

    def verify(self) -> list[str]:
        """Read every file and compare it with its checksum; `verify_repository` is the same as a job.

        Returns
        -------
        list of str
            One sentence per problem, with advice; empty if there is none.
        """
        from napari_cmrir.jobs import run
        from napari_cmrir.repository.maintenance import verify_repository

        return run(verify_repository(self.path))

    def summary(self) -> dict[str, Any]:
        """Summarise the repository in JSON values."""
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
