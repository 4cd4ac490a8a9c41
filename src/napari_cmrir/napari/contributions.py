"""The plugin's contributions to napari: a reader of repositories, a writer of hits, samples, and commands."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress, run

if TYPE_CHECKING:
    import napari

    from napari_cmrir.napari.jobs.workers import JobResult

__all__ = [
    "find_region",
    "get_repository_reader",
    "load_sample_model",
    "new_region",
    "published_pair",
    "ready_search",
    "tissue_folder",
    "tissue_pair",
    "write_hits",
]


_SHOWN = 12  # CoMIRs that a dropped repository opens: more layers would fill the layer list

LayerData = tuple[Any, dict[str, Any], str]


def get_repository_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Return the reader of a repository, for napari's file dialog and for dropped files.

    Parameters
    ----------
    path : str or sequence of str
        What is to be opened: a repository's folder, or its ``catalogue.sqlite``. The manifest offers only
        folders, because napari asks which reader to use for every folder if two readers accept folders.

    Returns
    -------
    callable or None
        ``None`` where it is no repository.
    """
    from napari_cmrir.repository.catalogue import CATALOGUE_NAME

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
            keywords: dict[str, Any] = {
                "name": name,
                "metadata": metadata,
                "visible": bool(field == first[0]),
            }
            size = repository.pixel_size(field)
            if size is not None:
                keywords |= {"scale": (size, size), "units": ("um", "um")}
            layers.append((level[0], keywords, "image"))
    _propose(folder)
    return layers


def _folder(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def write_hits(path: str, layer_data: list[LayerData]) -> list[str]:
    """Write the hits of the plugin's match boxes in the format of the file name.

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
    hits = [hit for record in records for hit in record.get("hits", [record]) if "rank" in hit]
    if not hits:
        return []
    query = next((record["query"] for record in hits if "query" in record), "")
    return [str(write_records(Path(path), query, sorted(hits, key=lambda hit: hit["rank"])))]


def _propose(path: Path) -> None:
    from napari_cmrir.napari.shared_state import shared_state_of

    viewer = _current_viewer()
    if viewer is not None:
        shared_state_of(viewer).repository = path


_SIZE = 384  # px a side of the samples: small enough to be indexed in seconds
_PAIR_SEED, _FOLDER_SEEDS = 100, range(12)
_ANSWER = 4  # number of the sample image in the folder whose SHG partner is opened as the query


def tissue_pair() -> list[LayerData]:
    """Generate one tissue section in two modalities; in a window, a worker fills the layers.

    Returns
    -------
    list of LayerData
        Two image layers: brightfield and second harmonic generation.
    """
    metadata = [{"napari-cmrir": {"sample": name}} for name in ("BF", "SHG")]
    bf, shg = np.zeros((_SIZE, _SIZE, 3), np.uint8), np.zeros((_SIZE, _SIZE), np.uint16)

    def fill(pair: tuple[NDArray[Any], NDArray[Any]] | None) -> None:
        if pair is not None:
            bf[...], shg[...] = pair
            for layer in [layer for one in metadata for layer in _layers_with(one)]:
                layer.refresh()
                if not layer.rgb:
                    layer.reset_contrast_limits()

    _do("Making a sample image", _yield_pair, fill, lambda _: None)
    return [
        (bf, {"name": "Tissue BF", "rgb": True, "metadata": metadata[0]}, "image"),
        (shg, {"name": "Tissue SHG", "metadata": metadata[1]}, "image"),
    ]


def _yield_pair() -> Generator[Any, None, None]:
    from napari_cmrir.images.synthetic.sample_pairs import sample_pair

    yield None
    pair = sample_pair(_PAIR_SEED, _SIZE)
    yield pair.bf, pair.shg[..., 0]


def tissue_folder() -> list[LayerData]:
    """Write twelve generated tissue sections to a folder, to index and to train on, and open them.

    The folder lies in the user's cache and is written once. Its brightfield files can be indexed, and since
    every tissue has its SHG file beside it, the folder also serves as pairs to train on. In a window, a
    worker writes the folder and fills the layers plane by plane.

    Returns
    -------
    list of LayerData
        Two stacks of twelve planes, brightfield and SHG; ``metadata["folder"]`` names the folder.
    """
    folder = _cache() / "tissue"
    metadata = {"folder": str(folder)}
    shape = len(_FOLDER_SEEDS), _SIZE, _SIZE
    bf, shg = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint16)

    def show_planes(planes: tuple[int, NDArray[Any], NDArray[Any]] | None) -> None:
        if planes is None:
            return
        number = planes[0]
        shg[number], bf[number] = planes[1:]
        for layer in _layers_with(metadata):
            layer.refresh()

    def tell(_: object) -> None:
        for layer in _layers_with(metadata):
            if not layer.rgb:
                layer.reset_contrast_limits()
        _tell(f"Twelve brightfield images to index, each with its SHG partner to train on, lie in {folder}")

    _do("Making sample images", partial(_write_and_read, folder), show_planes, tell)
    return [
        (bf, {"name": "Tissues BF", "rgb": True, "metadata": metadata}, "image"),
        (shg, {"name": "Tissues SHG", "metadata": metadata, "contrast_limits": (0, 65535)}, "image"),
    ]


def _layers_with(metadata: dict[str, Any]) -> list[Any]:
    viewer = _current_viewer()
    return [] if viewer is None else [layer for layer in viewer.layers if layer.metadata == metadata]


def ready_search() -> list[LayerData]:
    """Open an SHG image with a drawn region, and the indexed sample folder: one click finds.

    Twelve generated brightfield images are written to the user's cache and indexed, once: some ten seconds,
    in a window by a worker with a bar. The dock Find region opens at once; it gets the repository when it is
    ready.

    Returns
    -------
    list of LayerData
        The SHG image, a rotated part of one of the tissues, and the region on it. In a window the pixels
        arrive when they are generated.
    """
    from napari_cmrir.representations.model_file import sample_model

    side = 2 * _SIZE // 3
    metadata = {"napari-cmrir": {"sample": True}}

    def propose(repository: Path) -> None:
        _propose_repository(sample_model(), repository)
        _tell("Press Find: the region is searched in twelve indexed brightfield images.")

    if (viewer := _current_viewer()) is None:
        pixels = _query_pixels()
        run(_write_and_index(_cache()))
    else:
        pixels = np.zeros((side, side), np.uint16)
        _do("Making the sample image", _yield_query_pixels, _fill(metadata), lambda _: None)
        _do("Indexing sample images", partial(_write_and_index, _cache()), lambda _: None, propose)
        _open_beside(viewer, metadata)
    return [(pixels, {"name": "SHG to find", "gamma": 0.6, "metadata": metadata}, "image")]


def published_pair(server: str | None = None) -> list[LayerData]:
    """Download the published pairs of the paper's tissue to the user's cache, once, and open the first.

    In a window a worker downloads them, with a bar in napari's activity dock; the layers are added when they
    are there. Without a network a sentence says how to get them.

    Parameters
    ----------
    server : str, optional
        As of `evaluation.datasets.fetch_dataset`.

    Returns
    -------
    list of LayerData
        The SHG and the brightfield image of a tissue core; nothing yet in a window.

    Raises
    ------
    InputError
        As `evaluation.datasets.fetch_dataset`, where no napari is open; a window warns.
    """
    viewer = _current_viewer()
    if viewer is None:
        return run(_fetch_pair(server))

    def show(found: list[LayerData]) -> None:
        for pixels, keywords, _ in found:
            viewer.add_image(pixels, **keywords)
        _tell(f"All pairs of real tissue, to index and to train on, lie in folders of {_cache() / 'shg_bf'}")

    _do("Downloading tissue", partial(_fetch_pair, server), lambda _: None, show)
    return []


def _fetch_pair(server: str | None) -> Job[list[LayerData]]:
    """Download the data set, and read its first pair."""
    from napari_cmrir.evaluation.datasets import fetch_dataset
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.images.readers import read_pair

    dataset = yield from fetch_dataset(_cache() / "shg_bf", server=server)
    pair = find_pairs(dataset.folder / max(dataset.parts, key=dataset.parts.__getitem__), ("SHG", "BF"))[0]
    shg, bf = read_pair(pair)
    return [
        (bf, {"name": f"{pair.identifier} BF", "rgb": True}, "image"),
        (shg[..., 0], {"name": f"{pair.identifier} SHG"}, "image"),
    ]


def _open_beside(viewer: napari.Viewer, metadata: dict[str, Any]) -> None:
    """Open Find region, and draw the sample's region, once the sample's layer is there."""
    from qtpy.QtCore import QTimer

    from napari_cmrir.napari.dock import open_dock

    find = open_dock(viewer, "find")

    def draw() -> None:
        for image in _layers_with(metadata)[-1:]:
            find.image.choose(image)
            find.add_region()
            side = image.data.shape[0]
            low, high = 0.2 * side, 0.75 * side
            find.region.layer.add_rectangles([[[low, low], [low, high], [high, high], [high, low]]])
            find.region.layer.mode = "pan_zoom"

    QTimer.singleShot(0, draw)


def _query_pixels() -> NDArray[Any]:
    from napari_cmrir.images.geometry import Region, cut
    from napari_cmrir.images.synthetic.sample_pairs import sample_pair

    side = 2 * _SIZE // 3
    region = Region((_SIZE / 2, _SIZE / 2), side, side, 15)
    part, _ = cut(sample_pair(_FOLDER_SEEDS[_ANSWER], _SIZE).shg, region)
    return part[..., 0]


def _yield_query_pixels() -> Generator[Any, None, None]:
    yield None
    yield _query_pixels()


def _fill(metadata: dict[str, Any]) -> Callable[[Any], None]:
    """Return what puts pixels into the layers with this metadata when they arrive."""

    def fill(pixels: Any) -> None:
        for layer in [] if pixels is None else _layers_with(metadata):
            layer.data = pixels
            layer.reset_contrast_limits()

    return fill


def _tell(message: str) -> None:
    from napari.utils.notifications import show_info

    show_info(message)


def _current_viewer() -> napari.Viewer | None:
    import napari

    return napari.current_viewer()


def _do(
    title: str,
    make: Callable[[], Generator[Any, None, Any]],
    on_yielded: Callable[[Any], object],
    on_returned: Callable[[Any], object],
) -> None:
    """Run the job of a sample, in a worker with a bar in napari's activity dock if there is a window."""
    if _current_viewer() is None:
        on_returned(run(make(), on_yielded))
        return
    from napari.qt.threading import create_worker
    from napari.utils.notifications import show_warning

    from napari_cmrir.napari.jobs.job_panel import in_units
    from napari_cmrir.napari.jobs.workers import ClosingWorker, Titled

    worker = create_worker(
        Titled(title, _iterate), make, _worker_class=ClosingWorker, _progress={"total": 0, "desc": title}
    )

    def note(yielded: Any) -> None:
        if isinstance(yielded, Progress) and (count := in_units(yielded)):
            worker.pbar.set_description(f"{title}: {count}")
        on_yielded(yielded)

    def end(ended: JobResult) -> None:
        if ended.refusal is None:
            on_returned(ended.result)
        else:
            show_warning(str(ended.refusal))

    worker.yielded.connect(note)
    worker.returned.connect(end)
    worker.start()


def _iterate(make: Callable[[], Generator[Any, None, Any]]) -> Generator[Any, None, JobResult]:
    """Return how a job ended; napari would show an error with its traceback."""
    from napari_cmrir.napari.jobs.workers import JobResult

    try:
        return JobResult((yield from make()))
    except InputError as error:
        return JobResult(refusal=error)


def _write_and_read(folder: Path) -> Generator[tuple[int, NDArray[Any], NDArray[Any]] | None, None, None]:
    """Yield the number, the SHG and the brightfield image of each pair."""
    from napari_cmrir.images.readers import read_pair

    yield None
    for number, pair in enumerate(_write_once(folder)):
        shg, bf = read_pair(pair)
        yield number, shg[..., 0], bf


def _write_and_index(cache: Path) -> Job[Path]:
    from napari_cmrir.napari.jobs import tasks
    from napari_cmrir.napari.jobs.worker_process import in_worker_process
    from napari_cmrir.representations.model_file import sample_model

    yield Progress(0, None, "images", "Writing sample images")
    images = [pair.paths[1] for pair in _write_once(cache / "tissue")]
    path = cache / "tissue.cmrir"
    yield from in_worker_process(tasks.index, images, sample_model(), "BF", path)
    return path


def _propose_repository(model: Path, repository: Path) -> None:
    from napari_cmrir.napari.shared_state import shared_state_of

    viewer = _current_viewer()
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


def new_region() -> None:
    """Open Find region, and add a layer to draw a region on."""
    _find_widget().add_region()


def find_region() -> None:
    """Open Find region, and search with the drawn region."""
    _find_widget().find()


def load_sample_model() -> Path:
    """Propose the small model for generated tissue to the docks."""
    from napari_cmrir.napari.shared_state import shared_state_of
    from napari_cmrir.representations.model_file import sample_model

    shared_state_of(_viewer()).model = sample_model()
    return sample_model()


def _find_widget() -> Any:
    from napari_cmrir.napari.dock import open_dock
    from napari_cmrir.napari.find_dock import FindWidget

    viewer = _viewer()
    for dock in viewer.window.dock_widgets.values():
        if isinstance(dock, FindWidget):
            return dock
    return open_dock(viewer, "find")


def _viewer() -> napari.Viewer:
    viewer = _current_viewer()
    if viewer is None:
        raise InputError("No napari viewer is open; open one first.")
    return viewer
