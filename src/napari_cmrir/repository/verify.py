"""Reading a repository through, to find what is not as it was written and to say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from napari_cmrir.jobs import Job, Progress
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.publishing import digest
from napari_cmrir.repository.store import MODEL_NAME, VOCABULARY_NAME

__all__ = ["verify_repository"]


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
