"""Closing ranks: small segments joined, and what is no longer searched removed from the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.counting import read_counted
from napari_cmrir.repository.recipe import token
from napari_cmrir.repository.schema import SegmentRow
from napari_cmrir.repository.segments import Segment, bags_of, map_segment, thumbnails_of, write_segment
from napari_cmrir.repository.store import COMIRS, SEGMENTS
from napari_cmrir.repository.thumbnails import read_thumbnail
from napari_cmrir.repository.writing import open_to_change

__all__ = ["Compacted", "compact_repository"]

COMPACT_FIELDS = 2048
"""Fields of a segment after compacting."""

Group = list[tuple[SegmentRow, Segment]]


@dataclass(frozen=True)
class Compacted:
    """What compacting a repository did.

    Parameters
    ----------
    segments : int
        Segments that there are now.
    dropped_images : int
        Entries of images changed or pruned before that were forgotten.
    freed_bytes : int
        Room given back to the disk.
    """

    segments: int
    dropped_images: int
    freed_bytes: int


def compact_repository(path: str | os.PathLike[str]) -> Job[Compacted]:
    """Join small segments, and remove from the disk what is no longer searched.

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
        What was done.

    Raises
    ------
    InputError
        If a segment is damaged; the repository is being written, or its disk is full.

    Notes
    -----
    Who opened the repository before and still searches in a former state of it has to open it again.
    """
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        before = _size(folder)
        searched = set(catalogue.image_ids("indexed"))
        groups = list(_groups(folder, catalogue.segments(), searched))
        joined = []
        for position, group in enumerate(groups):
            yield Progress(position, len(groups), "segments", "joining segments")
            file = _join(catalogue, group, searched)
            joined.append(
                (file, sorted({int(n) for _, one in group for n in one.fields["image"]} & searched))
            )
        with catalogue.transaction():
            for group, (file, image_ids) in zip(groups, joined, strict=True):
                catalogue.drop_segments([row.file for row, _ in group])
                if file is not None:
                    counted = read_counted(folder, file, image_ids)
                    catalogue.enter_segment(file, str(counted.sha256), counted.n_fields, counted.image_ids)
            dropped = catalogue.drop_retired()
        catalogue.shrink()
        _remove_unnamed(folder, catalogue)
        n_segments = len(catalogue.segments())
        yield Progress(len(groups), len(groups), "segments", f"{n_segments} segments")
    return Compacted(n_segments, dropped, max(0, before - _size(folder)))


def _groups(folder: Path, rows: Sequence[SegmentRow], searched: set[int]) -> Iterator[Group]:
    """Group the segments that are worth rewriting, in the order of their images."""
    mapped = sorted(
        ((row, map_segment(folder / row.file)) for row in rows),
        key=lambda one: int(one[1].fields["image"][0]),
    )
    group: Group = []
    n_fields = 0
    for row, segment in mapped:
        if n_fields and n_fields + len(segment.fields) > COMPACT_FIELDS:
            if _is_worth_it(group, searched):
                yield group
            group, n_fields = [], 0
        group.append((row, segment))
        n_fields += len(segment.fields)
    if _is_worth_it(group, searched):
        yield group


def _is_worth_it(group: Group, searched: set[int]) -> bool:
    return len(group) > 1 or any(
        one.thumbnails is None or not searched.issuperset(one.fields["image"].tolist()) for _, one in group
    )


def _join(catalogue: Catalogue, group: Group, searched: set[int]) -> str | None:
    """Write the searched fields of segments as one segment; ``None`` where there are none."""
    folder, fields, bags, thumbnails = catalogue.folder, [], [], []
    for _, segment in group:
        stored = thumbnails_of(segment)
        for position, (row, bag) in enumerate(zip(segment.fields.tolist(), bags_of(segment), strict=True)):
            if row[0] in searched:
                fields.append(row)
                bags.append(bag)
                image, rectangle = catalogue.image(row[0]), np.array(row[1:])
                thumbnails.append(stored[position] if stored else read_thumbnail(folder, image, rectangle))
    if not fields:
        return None
    inputs = token(*(row.sha256 for row, _ in group), *sorted({row[0] for row in fields}))
    file = f"{SEGMENTS}/{fields[0][0]:08d}-{inputs}.safetensors"
    write_segment(folder / file, fields, bags, thumbnails)
    return file


def _remove_unnamed(folder: Path, catalogue: Catalogue) -> None:
    """Remove the files that the catalogue does not name: they do not exist for anybody."""
    named = {segment.file for segment in catalogue.segments()} | {catalogue.about("vocabulary_file")}
    named |= {row.comir for row in catalogue.images("represented", "indexed")}
    places = [*folder.glob("vocabulary-*.safetensors"), *(folder / SEGMENTS).iterdir()]
    for place in [*places, *(folder / COMIRS).iterdir()]:
        if place.relative_to(folder).as_posix() not in named:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
    first = folder / "vocabulary.safetensors"
    if first.name not in named and catalogue.about("vocabulary_file") is not None:
        first.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
