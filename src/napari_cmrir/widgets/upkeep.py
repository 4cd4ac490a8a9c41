"""What keeps a repository in order: verify it, and drop images whose files are gone."""

from __future__ import annotations

from pathlib import Path

from napari_cmrir.jobs import Job, Progress

__all__ = ["prune", "verify"]


def verify(folder: Path) -> Job[str]:
    """Read a repository again and compare it with its checksums.

    Parameters
    ----------
    folder : Path
        The repository.

    Yields
    ------
    Progress
        In files.

    Returns
    -------
    str
        What is wrong, or that all is well.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    from napari_cmrir.repository.verify import verify_repository

    yield Progress(0, None, "files", "Reading the repository")
    problems = yield from verify_repository(folder)
    return "\n".join(problems)


def prune(folder: Path) -> Job[str]:
    """Drop images whose files are nowhere any more.

    Parameters
    ----------
    folder : Path
        The repository.

    Yields
    ------
    Progress
        In images.

    Returns
    -------
    str
        What was dropped, a path a line.

    Raises
    ------
    InputError
        As `repository.upkeep.prune_repository`.
    """
    from napari_cmrir.repository.upkeep import prune_repository

    yield Progress(0, None, "images", "Looking for the images")
    dropped = yield from prune_repository(folder)
    return "\n".join(dropped)
