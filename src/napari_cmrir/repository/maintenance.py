"""Maintenance of a repository: verify, prune and compact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import checksum
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import (
    COMIRS,
    INDEXES,
    MODEL_NAME,
    SEGMENTS,
    Catalogue,
    ImageRow,
    SegmentRow,
    token,
)
from napari_cmrir.repository.indexes.base import FIELD_INDEXES
from napari_cmrir.repository.locking import open_to_change
from napari_cmrir.repository.segments import map_fields, map_tensors, write_fields, write_tensors
from napari_cmrir.repository.tasks import SegmentInfo

__all__ = [
    "Compacted",
    "compact_repository",
    "prune_repository",
    "prune_vanished",
    "verify_repository",
]


class Part(NamedTuple):
    """A file or folder below the repository, its checksum, and the advice if it is lost."""

    file: str
    sha256: str | None
    advice: str


def verify_repository(path: str | os.PathLike[str]) -> Job[list[str]]:
    """Read every file of a repository and compare it with its checksum.

    The repository may be unfinished, or too damaged to be opened. It is not changed. Another process may
    write to it meanwhile.

    Parameters
    ----------
    path : path-like
        The repository.

    Yields
    ------
    Progress
        In files.

    Returns
    -------
    list of str
        One sentence per problem, with advice; empty if there is none.

    Raises
    ------
    InputError
        If there is no repository, or it is of another format.
    """
    folder = Path(os.path.abspath(path))
    with closing(Catalogue(folder)) as catalogue:
        yield Progress(0, None, "files", "checking the catalogue")
        damage = catalogue.damage()
        if damage is not None:
            return [
                f"catalogue.sqlite is damaged ({damage}); restore it from a copy, or index the images into a"
                " new repository."
            ]
        with catalogue.snapshot():
            parts = list(_parts(catalogue))
    problems: dict[Part, str] = {}
    for position, part in enumerate(parts):
        yield Progress(position, len(parts), "files", f"checking {part.file}")
        problem = _problem(folder, part)
        if problem is not None:
            problems[part] = problem
    if problems:  # a writer may have removed parts meanwhile; the catalogue no longer names these
        with closing(Catalogue(folder)) as catalogue:
            current = set(_parts(catalogue))
        problems = {part: problem for part, problem in problems.items() if part in current}
    yield Progress(len(parts), len(parts), "files", f"{len(problems)} problems")
    return list(problems.values())


def _parts(catalogue: Catalogue) -> Iterator[Part]:
    """List all files that the catalogue names."""
    about = catalogue.about
    if about("model_sha256") is not None:
        advice = "restore it from a copy, or put the model file that it was built with there"
        yield Part(MODEL_NAME, about("model_sha256"), advice)
    again = "delete it and index the images again"
    for segment in catalogue.segments():
        yield Part(segment.file, segment.sha256, again)
    files = catalogue.index_files()
    for name in sorted({index.name for index in files}):
        shared = catalogue.shared_of(name) or {}
        if "file" in shared:
            yield Part(shared["file"], shared["sha256"], _anew(name))
    for index in files:
        is_always_built = FIELD_INDEXES[index.name].is_always_built
        yield Part(index.file, index.sha256, again if is_always_built else _anew(index.name))
    for row in catalogue.images("indexed"):
        image = row.absolute_path or row.name
        yield Part(str(row.comir), row.comir_sha256, f"delete it and index {image} again")


def _anew(name: str) -> str:
    how = "'index --rebuild-vocabulary'" if name == "words" else "`build_index` with ``anew``"
    return f"build the index '{name}' anew ({how})"


def _problem(folder: Path, part: Part) -> str | None:
    try:
        if checksum(folder / part.file) == part.sha256:
            return None
    except OSError as error:
        return f"{part.file} cannot be read ({error.strerror}); {part.advice}."
    return f"{part.file} is not as it was written: its checksum differs; {part.advice}."


def prune_repository(path: str | os.PathLike[str]) -> Job[tuple[str, ...]]:
    """Drop the images whose files no longer exist.

    `compact_repository` removes their CoMIRs from the disk. A moved file is found by its content when its new
    folder is indexed, so index the new folder before pruning.

    Parameters
    ----------
    path : path-like
        The repository.

    Yields
    ------
    Progress
        In images.

    Returns
    -------
    tuple of str
        Paths of the dropped images.

    Raises
    ------
    InputError
        If no image would remain, such as when a drive is not connected; or the repository is being written.
    """
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        total = sum(catalogue.count_images().values())
        yield Progress(0, total, "images", "looking for the images")
        with catalogue.transaction():
            dropped = prune_vanished(catalogue)
        yield Progress(total, total, "images", f"{len(dropped)} images dropped")
    return tuple(dropped)


def prune_vanished(catalogue: Catalogue) -> list[str]:
    """Retire the images whose files no longer exist, within a transaction; return their paths.

    Raises
    ------
    InputError
        If no searched image would remain.
    """
    searched = catalogue.count_images().get("indexed", 0)
    dropped = [row for row in list(catalogue.images("indexed")) if _vanished(catalogue, row)]
    if dropped and len(dropped) == searched:
        raise InputError(
            f"None of the {searched} images of {catalogue.folder} is where it was; connect their drive, or"
            " index the folder that they are in now."
        )
    waiting = list(catalogue.images("pending", "failed"))
    dropped += [row for row in waiting if _vanished(catalogue, row)]
    for row in dropped:
        catalogue.change_image(row.id, state="retired", reason="its file vanished")
    return [str(row.absolute_path) for row in dropped]


def _vanished(catalogue: Catalogue, row: ImageRow) -> bool:
    file = catalogue.resolve(row)
    # An undecodable name is stored with escapes (`text`), so its file cannot be looked for.
    return file is not None and "\\udc" not in str(file) and not file.exists()


COMPACT_FIELDS = 2048
"""Largest number of fields of a segment after compacting; larger segments take longer to rewrite. Not
measured."""

Group = list[tuple[SegmentRow, npt.NDArray[np.void]]]


@dataclass(frozen=True)
class Compacted:
    """The result of compacting a repository.

    Parameters
    ----------
    segments : int
        Number of segments afterwards.
    dropped_images : int
        Number of removed entries of changed or pruned images.
    freed_bytes : int
        Disk space freed, in bytes.
    """

    segments: int
    dropped_images: int
    freed_bytes: int


def compact_repository(path: str | os.PathLike[str]) -> Job[Compacted]:
    """Join small segments, and remove files that are no longer searched from the disk.

    Parameters
    ----------
    path : path-like
        The repository.

    Yields
    ------
    Progress
        In segments.

    Returns
    -------
    Compacted

    Raises
    ------
    InputError
        If a segment is damaged, the repository is being written, or its disk is full.

    Notes
    -----
    Readers opened before compaction must reopen.
    """
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        before = _size(folder)
        searched = set(catalogue.image_ids("indexed"))
        groups = list(_groups(folder, catalogue.segments(), searched))
        joined = []
        for position, group in enumerate(groups):
            yield Progress(position, len(groups), "segments", "joining segments")
            joined.append(_join(catalogue, group, searched))
        with catalogue.transaction():
            for group, one in zip(groups, joined, strict=True):
                catalogue.drop_segments([row.file for row, _ in group])
                if one is not None:
                    catalogue.enter_segment(one.file, one.sha256, one.n_fields, one.image_ids, one.indexes)
            dropped = catalogue.drop_retired()
        catalogue.shrink()
        _remove_unnamed(folder, catalogue)
        n_segments = len(catalogue.segments())
        yield Progress(len(groups), len(groups), "segments", f"{n_segments} segments")
    return Compacted(n_segments, dropped, max(0, before - _size(folder)))


def _groups(folder: Path, rows: Sequence[SegmentRow], searched: set[int]) -> Iterator[Group]:
    """Group segments to be joined, in the order of their images; skip those that need no rewriting."""
    mapped = sorted(
        ((row, map_fields(folder / row.file)) for row in rows), key=lambda one: int(one[1]["image"][0])
    )
    group: Group = []
    n_fields = 0
    for row, fields in mapped:
        if n_fields and n_fields + len(fields) > COMPACT_FIELDS:
            if _needs_rewriting(group, searched):
                yield group
            group, n_fields = [], 0
        group.append((row, fields))
        n_fields += len(fields)
    if _needs_rewriting(group, searched):
        yield group


def _needs_rewriting(group: Group, searched: set[int]) -> bool:
    """Tell whether a group has several segments, or fields that are no longer searched."""
    return len(group) > 1 or any(not searched.issuperset(fields["image"].tolist()) for _, fields in group)


def _join(catalogue: Catalogue, group: Group, searched: set[int]) -> SegmentInfo | None:
    """Write the searched fields of a group, and their indexes, as one segment; ``None`` if there are none."""
    folder = catalogue.folder
    numbers = np.array(sorted(searched), np.int64)
    kept = [np.isin(fields["image"], numbers) for _, fields in group]
    fields = np.concatenate([table[keep] for (_, table), keep in zip(group, kept, strict=True)])
    if not len(fields):
        return None
    image_ids = tuple(dict.fromkeys(fields["image"].tolist()))
    inputs = token(*(row.sha256 for row, _ in group), *image_ids)
    stem = f"{image_ids[0]:08d}-{inputs}"
    file = f"{SEGMENTS}/{stem}.safetensors"
    write_fields(folder / file, np.array(fields.tolist()))
    indexes = []
    segments = {row.id for row, _ in group}
    files = [file for file in catalogue.index_files() if file.segment in segments]
    for name in sorted({file.name for file in files}):
        of = {file.segment: folder / file.file for file in files if file.name == name}
        if len(of) < len(group) or not all(path.exists() for path in of.values()):
            continue  # incomplete: it is built again when it is needed
        index = FIELD_INDEXES[name]()
        parts = [
            index.select(map_tensors(of[row.id]), table, keep)
            for (row, table), keep in zip(group, kept, strict=True)
        ]
        path = folder / INDEXES / name / f"{stem}.safetensors"
        write_tensors(path, index.join(parts))
        indexes.append((name, f"{INDEXES}/{name}/{path.name}", checksum(path)))
    return SegmentInfo(file, checksum(folder / file), len(fields), image_ids, tuple(indexes))


def _remove_unnamed(folder: Path, catalogue: Catalogue) -> None:
    """Remove the files that the catalogue does not name; no reader uses them."""
    files = catalogue.index_files()
    shared = [catalogue.shared_of(name) or {} for name in {index.name for index in files}]
    named = {
        *(segment.file for segment in catalogue.segments()),
        *(index.file for index in files),
        *(row.comir for row in catalogue.images("indexed")),
        *(one.get("file") for one in shared),
    }
    places = [*(folder / SEGMENTS).iterdir(), *(folder / COMIRS).iterdir(), *(folder / INDEXES).glob("*/*")]
    for place in places:
        if place.relative_to(folder).as_posix() not in named:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
