"""A folder in which the demo replaces what it made itself, and touches nothing else."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_cmrir.comir.model import write_whole
from napari_cmrir.errors import InputError

__all__ = ["NOTE", "make_way"]

NOTE = "demo.json"
_MAKER = "napari-cmrir demo"
_PARTS_OF_REPOSITORY = ("catalogue.", "model.", "vocabulary.", "segments", "comirs", "writer.lock", ".")


def make_way(folder: Path, names: Sequence[str], about: dict[str, Any]) -> None:
    """Remove what an earlier demo made in a folder, and note in it what this one is going to make.

    Parameters
    ----------
    folder : Path
        Made if need be.
    names : sequence of str
        Files and repositories to be made, as paths in the folder.
    about : dict
        What else to note.

    Raises
    ------
    InputError
        A file is in the way that no demo made; nothing is removed then.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder with --out.")
    made = _noted(folder)
    foreign = [folder / name for name in names if name not in made and (folder / name).exists()]
    foreign += [entry for name in made for entry in _strangers(folder / name)]
    if foreign:
        raise InputError(f"{foreign[0]} is not from a demo; move it away or give another --out.")
    for name in made:
        _remove(folder, folder / name)
    note = {"made_by": _MAKER, **about, "files": list(names)}
    write_whole(folder / NOTE, (json.dumps(note, indent=1) + "\n").encode())


def _noted(folder: Path) -> list[str]:
    """Names of what an earlier demo made, or began to make, in the folder."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        names = [str(name) for name in note["files"] if note["made_by"] == _MAKER]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / NOTE} is not from a demo; give another --out.") from None
    root = folder.resolve()
    return [name for name in names if (folder / name).resolve().is_relative_to(root)]


def _strangers(path: Path) -> list[Path]:
    """What does not belong into a repository, if the path is one."""
    if not path.is_dir():
        return []
    return [entry for entry in path.iterdir() if not entry.name.startswith(_PARTS_OF_REPOSITORY)]


def _remove(folder: Path, path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent != folder:
        with contextlib.suppress(OSError):  # others keep something there
            path.parent.rmdir()
