"""The model file: its header, whether it can be written, and the models that ship with the package."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from napari_cmrir.errors import InputError

__all__ = ["FORMAT", "KEY", "SHIPPED", "find_model", "read_header", "require_writable", "sample_model"]

KEY = "napari-cmrir"
"""Key of the header in the file's metadata; the header is JSON."""

FORMAT = 1
"""Version of the header. A file of a newer version is refused."""


SHIPPED = ("starter", "sample")
"""Names of the models that come with the package: of any two modalities, and of generated SHG and BF."""


def find_model(name: str | os.PathLike[str]) -> Path:
    """Find a model file by its path, or by the name of a model that comes with the package.

    Parameters
    ----------
    name : path-like
        What exists under this path is meant; else it may be one of `SHIPPED`.

    Returns
    -------
    Path
        As given, if it is no such name.

    Examples
    --------
    >>> find_model("sample").name, find_model("elsewhere/model.safetensors").name
    ('sample.safetensors', 'model.safetensors')
    """
    from importlib.resources import files

    path = Path(name)
    if path.exists() or str(name) not in SHIPPED:
        return path
    return Path(str(files("napari_cmrir") / "data" / f"{path.name}.safetensors"))


def require_writable(path: Path) -> None:
    """Refuse a model path that cannot be written, before training spends time on it.

    Parameters
    ----------
    path : Path
        The model file. Missing folders are accepted, because writing creates them.

    Raises
    ------
    InputError
        If the path is a folder, or its folder is not writable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a model file such as {path / 'model.safetensors'}.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"{path} cannot be written into {folder}; choose another place for the model.")


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the header of a model file without its weights.

    Parameters
    ----------
    path : path-like
        Or a name, as of `find_model`.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file is missing, is not a model of napari-cmrir, or has a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = find_model(path)
    if not path.is_file():
        raise InputError(
            f"There is no model file {path}; give a .safetensors file that 'train' wrote, or the name"
            f" {' or '.join(SHIPPED)}."
        )
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a model ({error}); give a .safetensors file that 'train' wrote."
        ) from None
    try:
        header: dict[str, Any] = json.loads(metadata[KEY])
    except (KeyError, json.JSONDecodeError):
        raise InputError(
            f"{path} is a .safetensors file but not a model of napari-cmrir; give one that 'train' wrote."
        ) from None
    if header.get("format", 0) > FORMAT:
        raise InputError(
            f"{path} was written by a newer napari-cmrir (format {header['format']}); upgrade this one."
        )
    return header


def sample_model() -> Path:
    """Give the path of the shipped sample model, a small CoMIR model of generated SHG and BF images.

    Returns
    -------
    Path
        The model file, for `load_model`.

    Examples
    --------
    >>> read_header(sample_model())["modalities"]
    ['SHG', 'BF']
    """
    return find_model("sample")
