"""The samples in napari's File menu: generated tissue, made on the spot and offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["tissue_folder", "tissue_pair"]

_SIZE = 384
_PAIR_SEED, _FOLDER_SEEDS = 100, range(12)

LayerData = tuple[Any, dict[str, Any], str]


def tissue_pair() -> list[LayerData]:
    """Generate one tissue in two modalities.

    Returns
    -------
    list of LayerData
        Two image layers: brightfield and second harmonic generation.
    """
    from napari_cmrir.images.samples import sample_pair

    pair = sample_pair(_PAIR_SEED, _SIZE)
    return [
        (pair.bf, {"name": "Tissue BF", "rgb": True}, "image"),
        (pair.shg[..., 0], {"name": "Tissue SHG"}, "image"),
    ]


def tissue_folder() -> list[LayerData]:
    """Write twelve generated tissues to a folder, to index and to train on, and open them.

    The folder lies in the user's cache and is written once. Its brightfield files can be indexed, and since
    every tissue has its SHG file beside it, the folder also serves as pairs to train on.

    Returns
    -------
    list of LayerData
        Two stacks of twelve planes, brightfield and SHG; ``metadata["folder"]`` names the folder.
    """
    from napari.utils.notifications import show_info

    from napari_cmrir.images.pairs import read_pair

    pairs = _write_once(_cache() / "tissue")
    folder = pairs[0].paths[0].parent
    shown = [read_pair(pair) for pair in pairs]
    metadata = {"folder": str(folder)}
    show_info(f"Twelve brightfield images to index, each with its SHG partner to train on, lie in {folder}")
    return [
        (
            np.stack([bf for _, bf in shown]),
            {"name": "Tissues BF", "rgb": True, "metadata": metadata},
            "image",
        ),
        (np.stack([shg[..., 0] for shg, _ in shown]), {"name": "Tissues SHG", "metadata": metadata}, "image"),
    ]


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("napari-cmrir"))


def _write_once(folder: Path) -> list[Any]:
    from napari_cmrir.errors import InputError
    from napari_cmrir.images.pairs import find_pairs
    from napari_cmrir.images.samples import write_sample_folder

    try:
        pairs = find_pairs(folder, ("SHG", "BF"))
    except InputError:
        pairs = []
    return pairs if len(pairs) == len(_FOLDER_SEEDS) else write_sample_folder(folder, _FOLDER_SEEDS, _SIZE)
