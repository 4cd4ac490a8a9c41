"""What the plugin reads and writes for napari: repositories opened as layers, hits written to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["get_repository_reader", "write_hits"]

_SHOWN = 12

LayerData = tuple[Any, dict[str, Any], str]


def get_repository_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Tell napari what reads a repository, for its file dialog and for drops.

    Parameters
    ----------
    path : str or sequence of str
        What is to be opened: a repository's folder, or its ``catalogue.sqlite``. The manifest offers only
        the latter, because napari asks which reader to use for every folder as soon as two take folders.

    Returns
    -------
    callable or None
        ``None`` where it is no repository.
    """
    from napari_cmrir.repository.layout import CATALOGUE_NAME

    if not isinstance(path, str) or not (_folder(path) / CATALOGUE_NAME).is_file():
        return None
    return read_repository


def read_repository(path: str) -> list[LayerData]:
    """Open the CoMIRs of a repository's first images, and propose the repository to Find region.

    Parameters
    ----------
    path : str
        The repository's folder or catalogue.

    Returns
    -------
    list of LayerData
        An image layer each, lazily read, at most twelve.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    import numpy as np

    from napari_cmrir.repository.pyramids import open_level
    from napari_cmrir.repository.repository import open_repository

    layers: list[LayerData] = []
    folder = _folder(path)
    with open_repository(folder) as repository:
        _, first = np.unique(repository.fields["image"], return_index=True)
        for field in first[:_SHOWN].tolist():
            level = open_level(repository.comir_path(field), 0)
            name = f"CoMIR of {repository.image_name(field)}"
            metadata = {"napari-cmrir": {"is_result": True, "repository": str(folder)}}
            keywords = {"name": name, "metadata": metadata, "visible": bool(field == first[0])}
            layers.append((level[0], keywords, "image"))
    _propose(folder)
    return layers


def _folder(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def write_hits(path: str, layer_data: list[LayerData]) -> list[str]:
    """Write the hits of match boxes that the plugin made, as the file's name says.

    Parameters
    ----------
    path : str
        Ends in .csv, .json or .geojson.
    layer_data : list of LayerData
        Shapes layers; those that hold no hit are left out.

    Returns
    -------
    list of str
        The file written; nothing where there is no hit, so that napari looks for another writer.
    """
    from napari_cmrir.napari.hit_files import write_records

    records = [meta.get("metadata", {}).get("napari-cmrir", {}) for _, meta, _ in layer_data]
    hits = [record for record in records if "rank" in record]
    if not hits:
        return []
    query = next((record["query"] for record in hits if "query" in record), "")
    return [str(write_records(Path(path), query, sorted(hits, key=lambda hit: hit["rank"])))]


def _propose(path: Path) -> None:
    import napari

    from napari_cmrir.napari.shared_state import shared_state_of

    viewer = napari.current_viewer()
    if viewer is not None:
        shared_state_of(viewer).repository = path
