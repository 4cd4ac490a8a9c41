"""The model file: its header, whether it can be written, and the shipped sample model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from napari_cmrir.errors import InputError

__all__ = ["FORMAT", "KEY", "read_header", "require_writable", "sample_model"]

KEY = "napari-cmrir"
"""Key of the header in the file's metadata; the header is JSON."""

FORMAT = 1
"""Version of the header. A file of a newer version is refused."""


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

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If the file is missing, is not a model of napari-cmrir, or has a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no model file {path}; give a .safetensors file that 'train' wrote.")
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
    from importlib.resources import files

    return Path(str(files("napari_cmrir") / "data" / "sample.safetensors"))
