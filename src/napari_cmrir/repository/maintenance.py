"""Maintenance of a repository: verify, prune, compact, and learn the vocabulary again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import Catalogue, ImageRow, SegmentRow
from napari_cmrir.repository.counting import read_counted
from napari_cmrir.repository.executors import IndexConfig, TaskFailed, WorkerContext, make_executor, token
from napari_cmrir.repository.indexing import Indexing, count_rows, enter_counted, learn_vocabulary
from napari_cmrir.repository.locking import open_to_change
from napari_cmrir.repository.publishing import digest
from napari_cmrir.repository.repository import (
    COMIRS,
    MODEL_NAME,
    SEGMENTS,
    VOCABULARY_NAME,
    Repository,
    open_repository,
)
from napari_cmrir.repository.segments import Segment, bags_of, map_segment, thumbnails_of, write_segment
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.thumbnails import read_thumbnail
from napari_cmrir.settings import load_settings

__all__ = [
    "Compacted",
    "compact_repository",
    "is_outgrown",
    "prune_repository",
    "prune_vanished",
    "rebuild_vocabulary",
    "verify_repository",
]


class Part(NamedTuple):
    """A file or folder below the repository, its digest, and what to do if it is lost."""

    file: str
    sha256: str | None
    advice: str


def verify_repository(path: str | os.PathLike[str]) -> Job[list[str]]:
    """Read every file of a repository again and compare it with its checksum.

    It may be one that cannot be opened any more, or is unfinished; it is not changed, and may be written to
    meanwhile.

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
        What is wrong and what to do about it, a sentence each; empty if all is well.

    Raises
    ------
    InputError
        If there is no repository, or it is of a newer format.
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
    problems = []
    for position, part in enumerate(parts):
        yield Progress(position, len(parts), "files", f"checking {part.file}")
        problem = _problem(folder, part)
        if problem is not None and not _is_gone(folder, part):
            problems.append(problem)
    yield Progress(len(parts), len(parts), "files", f"{len(problems)} problems")
    return problems


def _parts(catalogue: Catalogue) -> Iterator[Part]:
    about = catalogue.about
    if about("model_sha256") is not None:
        advice = "restore it from a copy, or put the model file that it was built with there"
        yield Part(MODEL_NAME, about("model_sha256"), advice)
    anew = "learn the words anew ('index --rebuild-vocabulary', or Learn words in napari)"
    if about("vocabulary_sha256") is not None:
        file = about("vocabulary_file") or VOCABULARY_NAME
        yield Part(file, about("vocabulary_sha256"), f"restore it from a copy, or {anew}")
    for segment in catalogue.segments():
        yield Part(segment.file, segment.sha256, f"delete it and {anew}")
    for row in catalogue.images("represented", "indexed"):
        image = row.absolute_path or row.name
        yield Part(str(row.comir), row.comir_sha256, f"delete it and index {image} again")


def _problem(folder: Path, part: Part) -> str | None:
    try:
        if digest(folder / part.file) == part.sha256:
            return None
    except OSError as error:
        return f"{part.file} cannot be read ({error.strerror}); {part.advice}."
    return f"{part.file} is not as it was written: its checksum differs; {part.advice}."


def _is_gone(folder: Path, part: Part) -> bool:
    """Whether the catalogue names the part no more, as when a writer has closed ranks meanwhile."""
    with closing(Catalogue(folder)) as catalogue:
        return part not in list(_parts(catalogue))


OUTGROWN = 4
"""A collection of so many times the fields that its vocabulary was learned from has outgrown it."""


def prune_repository(path: str | os.PathLike[str]) -> Job[tuple[str, ...]]:
    """Drop the images whose files are nowhere any more; what they leave on the disk, compacting removes.

    A file that has moved is found by its content when its new folder is indexed: do that first.

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
        The paths at which the dropped images were.

    Raises
    ------
    InputError
        If no image would be left, as when a drive is not connected; or the repository is being written.
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
    """Retire the images whose files are nowhere, within a transaction; return their paths."""
    searched = catalogue.count_images().get("indexed", 0)
    dropped = [row for row in list(catalogue.images("indexed")) if _vanished(catalogue, row)]
    if dropped and len(dropped) == searched:
        raise InputError(
            f"None of the {searched} images of {catalogue.folder} is where it was; connect their drive, or"
            " index the folder that they are in now."
        )
    waiting = list(catalogue.images("pending", "represented", "failed"))
    dropped += [row for row in waiting if _vanished(catalogue, row)]
    for row in dropped:
        catalogue.change_image(row.id, state="retired", reason="its file vanished")
    return [str(row.absolute_path) for row in dropped]


def _vanished(catalogue: Catalogue, row: ImageRow) -> bool:
    file = catalogue.resolve(row)
    # A name that no encoding of Unicode can hold is noted with escapes, and cannot be looked for.
    return file is not None and "\\udc" not in str(file) and not file.exists()


def is_outgrown(catalogue: Catalogue) -> bool:
    """Tell whether the collection has outgrown its vocabulary.

    It has when it holds four times the fields, or more, that it held when the words were learned: then three
    fields of four had no say in what a word is. Nothing is done about it until it is asked for.
    """
    learned_from = catalogue.about("vocabulary_fields")
    n_fields = sum(segment.n_fields for segment in catalogue.segments())
    return bool(learned_from) and n_fields >= OUTGROWN * int(learned_from)


def rebuild_vocabulary(
    path: str | os.PathLike[str], *, workers: int | None = None, scheduler: str | None = None
) -> Job[Repository]:
    """Learn the visual words anew from the whole collection, and count them anew in every image.

    Worth its time when the collection has outgrown its vocabulary, that is when it holds four times the
    fields, or more, that the words were learned from (`Repository.summary` says so); it also makes lost or
    damaged segments and vocabularies anew, out of the stored CoMIRs. Readers see the old words until all are
    counted, then the new ones. What a killed job has counted, the next call does not count again. Compacting
    removes the old words' files.

    Parameters
    ----------
    path : path-like
        The repository.
    workers, scheduler : optional
        Who computes, as in `build.build_repository`.

    Yields
    ------
    Progress
        In images.

    Returns
    -------
    Repository
        Open to search.

    Raises
    ------
    InputError
        If no CoMIR is stored; the repository is being written, or its disk is full.
    """
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        rows = sorted(catalogue.images("represented", "indexed"), key=lambda row: row.id)
        replaced = {row.replaces for row in rows if row.state == "represented"}
        rows = [row for row in rows if row.id not in replaced]
        if not rows:
            raise InputError(f"{folder} holds no CoMIR to learn words from; index images into it first.")
        settings = load_settings(RepositorySettings, catalogue.about("settings"), str(folder))
        config = IndexConfig(
            folder, catalogue.about("model_fingerprint"), catalogue.about("modality"), settings
        )
        with make_executor(workers, scheduler) as executor:
            indexing = Indexing(catalogue, executor, WorkerContext(config, remembers=True), len(rows))
            yield indexing.progress(0, "vocabulary: learning anew")
            inputs = token(settings.model_dump_json(), *(f"{row.id} {row.comir_sha256}" for row in rows))
            file = f"vocabulary-{inputs}.safetensors"
            sha256, n_fields = yield from learn_vocabulary(indexing, rows, file, 0.0, 0.5 * len(rows))
            config = replace(config, vocabulary_file=file, vocabulary_sha256=sha256)
            indexing.context = indexing.context.follow(config)
            _remove_damaged(catalogue)
            counted = []
            with closing(count_rows(indexing, rows, 0.5 * len(rows), len(rows))) as events:
                for event in events:
                    if isinstance(event, Progress):
                        yield event
                    elif isinstance(event[1], TaskFailed):
                        raise InputError(f"The workers died over {event[0][0].name}; try with fewer workers.")
                    else:
                        counted.append(event)
            with catalogue.transaction():
                catalogue.drop_segments([segment.file for segment in catalogue.segments()])
                for batch, one in counted:
                    enter_counted(catalogue, batch, one)
                catalogue.note_vocabulary(file, sha256, n_fields)
    return open_repository(folder)


def _remove_damaged(catalogue: Catalogue) -> None:
    """Remove damaged segments, which would be taken for ones that a killed job had counted."""
    for segment in catalogue.segments():
        path = catalogue.folder / segment.file
        if path.exists() and digest(path) != segment.sha256:
            path.unlink()


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
