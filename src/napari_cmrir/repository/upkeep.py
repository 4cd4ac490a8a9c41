"""The life of a repository after it is built: dropping vanished images, learning new words."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.crew import Lost, gather_crew
from napari_cmrir.repository.indexing import Indexing, count_rows, enter_counted, learn_vocabulary
from napari_cmrir.repository.publishing import digest
from napari_cmrir.repository.recipe import Recipe, Tools, token
from napari_cmrir.repository.schema import ImageRow
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.store import Repository, open_repository
from napari_cmrir.repository.writing import open_to_change

__all__ = ["is_outgrown", "prune_repository", "prune_vanished", "rebuild_vocabulary"]

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
        settings = RepositorySettings.model_validate(catalogue.about("settings"))
        recipe = Recipe(folder, catalogue.about("model_fingerprint"), catalogue.about("modality"), settings)
        with gather_crew(workers, scheduler) as crew:
            indexing = Indexing(catalogue, crew, Tools(recipe, remembers=True), len(rows))
            yield indexing.progress(0, "vocabulary: learning anew")
            inputs = token(settings.model_dump_json(), *(f"{row.id} {row.comir_sha256}" for row in rows))
            file = f"vocabulary-{inputs}.safetensors"
            sha256, n_fields = yield from learn_vocabulary(indexing, rows, file, 0.0, 0.5 * len(rows))
            recipe = replace(recipe, vocabulary_file=file, vocabulary_sha256=sha256)
            indexing.tools = indexing.tools.follow(recipe)
            _remove_damaged(catalogue)
            counted = []
            with closing(count_rows(indexing, rows, 0.5 * len(rows), len(rows))) as events:
                for event in events:
                    if isinstance(event, Progress):
                        yield event
                    elif isinstance(event[1], Lost):
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
