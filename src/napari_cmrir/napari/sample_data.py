"""The samples in napari's File menu: generated tissue, made on the spot and offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ready_search", "sample_model", "tissue_folder", "tissue_pair"]

_SIZE = 384
_PAIR_SEED, _FOLDER_SEEDS = 100, range(12)
_ANSWER = 4

LayerData = tuple[Any, dict[str, Any], str]


def tissue_pair() -> list[LayerData]:
    """Generate one tissue in two modalities.

    Returns
    -------
    list of LayerData
        Two image layers: brightfield and second harmonic generation.
    """
    from napari_cmrir.images.synthetic.sample_pairs import sample_pair

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

    from napari_cmrir.images.readers import read_pair

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


def ready_search() -> list[LayerData]:
    """Open an SHG image and get the sample folder indexed with a ready model: only a region is left to draw.

    Writes twelve generated brightfield images to the user's cache and indexes them, once: some ten seconds.
    The viewer's widgets then propose the model and the repository.

    Returns
    -------
    list of LayerData
        The SHG image, a turned part of one of the tissues.
    """
    from napari.utils.notifications import show_info

    from napari_cmrir.images.geometry import Region, cut
    from napari_cmrir.images.readers import read_image

    pairs = _write_once(_cache() / "tissue")
    repository = _index_once([pair.paths[1] for pair in pairs], _cache() / "tissue.cmrir")
    part, _ = cut(
        read_image(pairs[_ANSWER].paths[0]),
        Region((_SIZE / 2, _SIZE / 2), 2 * _SIZE // 3, 2 * _SIZE // 3, 15),
    )
    _propose(sample_model(), repository)
    show_info("Open Find region, press New region, draw a rectangle on the SHG image, and press Find.")
    return [(part[..., 0], {"name": "SHG to find", "gamma": 0.6}, "image")]


def sample_model() -> Path:
    """Give the small model that comes with the package, trained on generated pairs of SHG and BF.

    Returns
    -------
    Path
        The model file.
    """
    from importlib.resources import files

    return Path(str(files("napari_cmrir") / "data" / "sample.safetensors"))


def _index_once(images: list[Path], path: Path) -> Path:
    from napari_cmrir.jobs import run
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.representations.base import load_model

    run(build_repository(images, load_model(sample_model()), "BF", path)).close()
    return path


def _propose(model: Path, repository: Path) -> None:
    import napari

    from napari_cmrir.napari.shared_state import shared_state_of

    viewer = napari.current_viewer()
    if viewer is not None:
        session = shared_state_of(viewer)
        session.model, session.repository = model, repository


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("napari-cmrir"))


def _write_once(folder: Path) -> list[Any]:
    from napari_cmrir.errors import InputError
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

    try:
        pairs = find_pairs(folder, ("SHG", "BF"))
    except InputError:
        pairs = []
    return pairs if len(pairs) == len(_FOLDER_SEEDS) else write_sample_folder(folder, _FOLDER_SEEDS, _SIZE)
