"""Building a repository or adding to it: the job of the command ``index``, and its estimate."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_cmrir import __version__
from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path, checksum
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.jobs import Job, Preview, Progress, portion, run
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, MODEL_NAME, Catalogue, ImageRow
from napari_cmrir.repository.executors import IndexConfig, WorkerContext, make_executor
from napari_cmrir.repository.field_indexes import FIELD_INDEXES
from napari_cmrir.repository.indexing import Indexing, build_segments, represent_images
from napari_cmrir.repository.maintenance import open_to_change, open_to_write, prune_vanished
from napari_cmrir.repository.repository import Repository, open_repository
from napari_cmrir.repository.segments import cut_fields
from napari_cmrir.repository.settings import WORD_SETTINGS, RepositorySettings, load_repository_settings
from napari_cmrir.repository.sources import (
    AnySource,
    Source,
    diff_sources,
    list_sources,
    missing_comirs,
    open_source,
)
from napari_cmrir.settings import dump_settings

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = ["Estimate", "Source", "build_index", "build_repository", "ensure_index", "estimate"]


SAMPLE_IMAGES = 3
"""Images whose sizes are read for the estimate; more give a better mean and take longer. Not measured."""
SIZED_IMAGES = 64
"""Images whose sizes are read for the progress: their headers take less than a second on a local disk."""
SAMPLE_SIDE = 192
"""Side of the patch, px, that is represented for the estimate; not measured."""
BYTES_A_PIXEL = 1.2
"""Bytes of a CoMIR's channel and its coarser levels per pixel, after compression: an upper estimate, because
noise hardly compresses and glass compresses to nothing. Its measurement is not recorded."""

FEW, FEW_PIXELS = 8, 8 * 1024**2
"""Largest number of images, and of their pixels together, whose indexing takes less time than an estimate."""


@dataclass(frozen=True)
class Estimate(Preview):
    """The expected time and disk space of indexing.

    Parameters
    ----------
    images : int
        Number of images to index.
    bytes : int or None
        Disk space; ``None`` if nothing was measured.
    seconds : float or None
        Time; ``None`` if nothing was measured.
    free_bytes : int
        Free space of the disk.

    Examples
    --------
    >>> print(Estimate(1000, 3_000_000_000, 5400.0, 10**12))
    1000 images to index: about 90 minutes and 3.0 GB of 1000.0 GB free
    >>> print(Estimate(3, None, None, 10**12))
    3 images to index
    """

    images: int
    bytes: int | None
    seconds: float | None
    free_bytes: int

    def __str__(self) -> str:
        if self.bytes is None or self.seconds is None:
            return f"{self.images} images to index"
        text = (
            f"{self.images} images to index: about {_duration(self.seconds)} and {_size(self.bytes)}"
            f" of {_size(self.free_bytes)} free"
        )
        return text + "; make room first" if self.bytes > self.free_bytes else text


def estimate(
    work: Sequence[tuple[int, AnySource]], context: WorkerContext, catalogue: Catalogue, n_at_once: int
) -> Estimate:
    """Estimate time and disk space from the sizes of a few images and the representation of one patch.

    Images that cannot be read count as readable.

    Parameters
    ----------
    work : sequence of (int, Path, Source or Remote)
        Number and source of each image to index.
    context : WorkerContext
    catalogue : Catalogue
    n_at_once : int
        Number of tasks that run at once.

    Returns
    -------
    Estimate
    """
    free = shutil.disk_usage(catalogue.folder).free
    waiting = [source for number, source in work if catalogue.image(number).state == "pending"]
    evenly = np.linspace(0, len(waiting) - 1, min(SAMPLE_IMAGES, len(waiting))).astype(int)
    found = [
        (waiting[position], size) for position in evenly if (size := _read_size(waiting[position], context))
    ]
    sizes = [size for _, size in found]
    n_pixels = float(np.mean([height * width for height, width in sizes])) * len(waiting) if sizes else 0.0
    is_worth_it = sizes and (len(waiting) > FEW or n_pixels > FEW_PIXELS)
    patch = _read_middle(*found[len(found) // 2], context) if is_worth_it else None
    if patch is None:
        return Estimate(len(work), None, None, free)
    seconds, bytes_a_pixel = _measure(context, patch, sizes)
    return Estimate(len(work), int(bytes_a_pixel * n_pixels), seconds * n_pixels / n_at_once, free)


def _read_size(source: AnySource, context: WorkerContext) -> tuple[int, int] | None:
    """Read height and width of an image; None if it cannot be read, which indexing reports later."""
    with suppress(Exception), closing(_open(source, context)) as image:
        return image.shape[:2]
    return None


def _read_middle(source: AnySource, size: tuple[int, int], context: WorkerContext) -> npt.NDArray[Any] | None:
    """Read a patch in the middle of an image, where a slide rarely shows glass."""
    top, left = (max(0, side - SAMPLE_SIDE) // 2 for side in size)
    with suppress(Exception), closing(_open(source, context)) as image:
        return image[top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE]
    return None


def _open(source: AnySource, context: WorkerContext) -> LazyImage:
    return open_source(source, context.config.settings.reading, context.model.pixel_size)


def _measure(
    context: WorkerContext, patch: npt.NDArray[Any], sizes: Sequence[tuple[int, ...]]
) -> tuple[float, float]:
    """Measure seconds and bytes per pixel."""
    from napari_cmrir.representations.base import represent

    config = context.config
    for _ in range(2):  # the first round loads and warms up
        started = time.perf_counter()
        comir = run(represent(context.model, patch, config.modality, device=config.device))
        seconds = time.perf_counter() - started
    grid = config.settings.field_size, config.settings.field_overlap
    fields = np.concatenate([cut_fields(height, width, *grid) for height, width in sizes])
    in_fields = float(fields[:, 2:].prod(axis=1).sum()) / sum(height * width for height, width in sizes)
    # A thumbnail has a sixteenth of the pixels of its field.
    n_bytes = len(comir) * (BYTES_A_PIXEL + in_fields / 16)
    return seconds / patch[..., 0].size, n_bytes


def _duration(seconds: float) -> str:
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'' if whole == 1 else 's'}"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:.0f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:.1f} GB"


Work = list[tuple[int, AnySource]]
_IMAGES_PERCENT = 50  # share of images in a build with further indexes: words take about as long as CoMIRs


def build_repository(
    sources: Iterable[str | os.PathLike[str] | Source],
    model: Representation,
    modality: str,
    path: str | os.PathLike[str],
    settings: RepositorySettings | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
    prune: bool = False,
    indexes: Sequence[str] = (),
) -> Job[Repository]:
    """Build a repository of images, or add new and changed images to one.

    After the job is stopped or killed, the same call continues. Each batch of images becomes searchable when
    it is complete: its CoMIRs, fields and thumbnails are published together.

    Parameters
    ----------
    sources : iterable of path-like or Source
        Image files, folders of them, addresses of OME-Zarr images (``http``, ``https``, ``s3``), and named
        arrays (y, x, channel).
    model : Representation
        The model that represents the images; the repository keeps a copy.
    modality : str
        Modality of the images, one of the model's two.
    path : path-like
        Folder of the repository; created if missing.
    settings : RepositorySettings, optional
        Settings of a new repository. The default is the repository's own settings, or `RepositorySettings()`.
    device : {"auto", "cpu", "cuda", "mps"}
        Device that computes CoMIRs.
    workers : int, optional
        Number of worker processes, each on one thread. By default this process computes, on all threads of
        torch. A script that sets it must guard its calls with ``if __name__ == "__main__"``, because Python
        starts processes by importing the script.
    scheduler : str, optional
        Address of the scheduler of a dask cluster whose workers compute. Each worker needs this package, and
        the images and the repository under the same paths.
    prune : bool
        Drop images whose files no longer exist; see `maintenance.prune_repository`.
    indexes : sequence of str
        Further field indexes to build, from `FIELD_INDEXES`, such as ``"words"``. A search that needs a
        missing index also builds it.

    Yields
    ------
    Progress
        In images, or in percent if further indexes are built. The first one has an `Estimate` as preview, if
        there are images to index.

    Returns
    -------
    Repository
        Open for searching. ``failures`` lists images that could not be used.

    Raises
    ------
    InputError
        If no image can be used; the folder is not a repository, is being written, or was built with another
        model, modality or settings; the disk is full; or no scheduler answers.
    """
    from napari_cmrir.representations.devices import choose_device
    from napari_cmrir.representations.model_input import other_modality

    model.require_modality(modality)
    choose_device(device)
    folder = Path(os.path.abspath(path))
    list_all = partial(list_sources, sources, modality, other_modality(model, modality))
    found = None if (folder / CATALOGUE_NAME).is_file() else list_all()  # make no folder for nothing
    with open_to_write(folder) as catalogue:
        settings = _agree(catalogue, model, modality, settings)
        found = list_all() if found is None else found
        with catalogue.transaction():
            _reset_lost_segments(catalogue)
            work = list(diff_sources(catalogue, found.values()))
            work += missing_comirs(catalogue, found.values())
            if prune:
                prune_vanished(catalogue)
        if work:
            config = IndexConfig(folder, model.fingerprint, modality, settings, device)
            job = _index(catalogue, config, model, work, workers, scheduler)
            yield from portion(job, 0, _IMAGES_PERCENT) if indexes else job
            _refuse_nothing(catalogue, work, len(found))
    each = (100 - _IMAGES_PERCENT) / max(1, len(indexes))
    for position, name in enumerate(indexes):
        building = build_index(folder, name, workers=workers, scheduler=scheduler)
        start = _IMAGES_PERCENT + position * each
        yield from portion(building, start, start + each)
    return open_repository(folder)


def _reset_lost_segments(catalogue: Catalogue) -> None:
    """Mark the images of segments with missing files as pending, within a transaction."""
    segments = {segment.id: segment.file for segment in catalogue.segments()}
    files = {segment_id: [file] for segment_id, file in segments.items()}
    for index in catalogue.index_files():
        if FIELD_INDEXES[index.name].is_always_built:
            files[index.segment].append(index.file)
    lost = {
        segment_id
        for segment_id, needed in files.items()
        if not all((catalogue.folder / file).exists() for file in needed)
    }
    if lost:
        for row in list(catalogue.images("indexed")):
            if row.segment in lost:
                catalogue.change_image(row.id, state="pending")
        catalogue.drop_segments([segments[segment_id] for segment_id in sorted(lost)])


def build_index(
    path: str | os.PathLike[str],
    name: str = "words",
    *,
    rebuild: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
) -> Job[None]:
    """Build or complete a field index of a repository from the stored CoMIRs.

    After the job is stopped or killed, the same call continues with the segments that are missing.

    Parameters
    ----------
    path : path-like
        The repository.
    name : str
        Name of the index: ``"words"``, or an index of another package.
    rebuild : bool
        Prepare the index again: learn other visual words. Readers see the previous index until the new one is
        complete.
    workers, scheduler : optional
        See `build_repository`.

    Yields
    ------
    Progress
        In percent.

    Raises
    ------
    InputError
        If there is no such index; the folder is not a repository, holds no image, is being written or is not
        writable; or its disk is full.
    """
    FIELD_INDEXES[name]  # refuse an unknown name first
    folder = Path(os.path.abspath(path))
    with open_to_change(folder) as catalogue:
        if not catalogue.count_images().get("indexed"):
            raise InputError(f"{folder} holds no image yet; index images into it first.")
        settings = load_repository_settings(catalogue)
        modality = catalogue.about("modality")
        config = IndexConfig(folder, catalogue.about("model_fingerprint"), modality, settings)
        with make_executor(workers, scheduler) as executor:
            context = WorkerContext(config, remembers=True)
            indexing = Indexing(catalogue, executor, context, 100.0, "%")
            yield indexing.progress(0, f"building the index '{name}'")
            yield from build_segments(indexing, name, rebuild=rebuild)
            yield indexing.progress(100, f"the index '{name}' is complete")


def ensure_index(repository: Repository, name: str) -> Job[None]:
    """Complete an index of an opened repository, if necessary, and reload it.

    Parameters
    ----------
    repository : Repository
    name : str
        Name of the index in `FIELD_INDEXES`.

    Yields
    ------
    Progress
        In percent; nothing if the index is complete.

    Raises
    ------
    InputError
        See `build_index`.
    """
    if not repository.has_index(name):
        yield from build_index(repository.path, name)
        repository.reload_indexes()


def _index(
    catalogue: Catalogue,
    config: IndexConfig,
    model: Representation,
    work: Work,
    workers: int | None,
    scheduler: str | None,
) -> Job[None]:
    """Estimate the work, and represent the images on the chosen executor."""
    with make_executor(workers, scheduler) as executor:
        context = WorkerContext(config, model)
        indexing = Indexing(catalogue, executor, context, len(work), sizes=_sizes(work, context))
        expected = estimate(work, indexing.context, catalogue, executor.size)
        yield Progress(0, len(work), "images", str(expected), expected)
        yield from represent_images(indexing, work)
    yield indexing.progress(len(work), _ending(catalogue, work))


def _sizes(work: Work, context: WorkerContext) -> dict[int, float]:
    """Read the pixels of the images, evenly chosen where they are many; the others get the mean."""
    if len(work) < 2:
        return {}
    chosen = np.unique(np.linspace(0, len(work) - 1, min(SIZED_IMAGES, len(work))).astype(int))
    found = {work[one][0]: _read_size(work[one][1], context) for one in chosen}
    pixels = {number: float(size[0] * size[1]) for number, size in found.items() if size is not None}
    mean = float(np.mean(list(pixels.values()))) if pixels else 0.0
    return {number: pixels.get(number, mean) for number, _ in work}


def _ending(catalogue: Catalogue, work: Work) -> str:
    failures = _failures(catalogue, work)
    message = f"{len(work) - len(failures)} images indexed"
    if failures:
        message += f", {len(failures)} not: {_why(failures[0])}"
    return message


def _failures(catalogue: Catalogue, work: Work) -> list[ImageRow]:
    rows = (catalogue.image(image_id) for image_id, _ in work)
    return [row for row in rows if row.state == "failed"]


def _refuse_nothing(catalogue: Catalogue, work: Work, n_sources: int) -> None:
    failures = _failures(catalogue, work)
    if len(failures) == n_sources:
        what = "The image could not" if n_sources == 1 else f"None of the {n_sources} images could"
        raise InputError(f"{what} be indexed; {_why(failures[0])}")


def _why(failure: ImageRow) -> str:
    reason = failure.reason or ""
    return reason if failure.name in reason else f"{failure.name}: {reason}"


def _agree(
    catalogue: Catalogue, model: Representation, modality: str, settings: RepositorySettings | None
) -> RepositorySettings:
    """Check model, modality and settings against the repository's; store them in a new repository.

    Returns
    -------
    RepositorySettings
        The settings to index with.

    Raises
    ------
    InputError
        If they differ from those of the repository.
    """
    folder = catalogue.folder
    own = None if catalogue.about("settings") is None else load_repository_settings(catalogue)
    counts = catalogue.count_images()
    if own is None or not any(counts.get(state) for state in ("indexed", "retired")):
        settings = settings or own or RepositorySettings()
        with atomic_path(folder / MODEL_NAME) as partial:
            model.save(partial)
        with catalogue.transaction():
            catalogue.note(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                created_by=f"napari-cmrir {__version__}",
                modality=modality,
                model_fingerprint=model.fingerprint,
                model_sha256=checksum(folder / MODEL_NAME),
                model_pixel_size=model.pixel_size,
                settings=dump_settings(settings),
            )
        return settings
    fingerprint, own_modality = catalogue.about("model_fingerprint"), catalogue.about("modality")
    if fingerprint != model.fingerprint:
        own_size = catalogue.about("model_pixel_size")
        if own_size != model.pixel_size:
            raise InputError(
                f"{folder} was built with a model of {_micrometres(own_size)}, and this model is of"
                f" {_micrometres(model.pixel_size)}; give the same model, or another repository to write."
            )
        raise InputError(
            f"{folder} was built with another model ({fingerprint[:12]}, not {model.fingerprint[:12]});"
            " give the same model, or another repository to write."
        )
    if own_modality != modality:
        raise InputError(
            f"{folder} holds {own_modality} images, not {modality};"
            f" give {own_modality} as modality, or another repository to write."
        )
    if settings is None or settings == own:
        return own
    differences = [name for name in type(own).model_fields if getattr(own, name) != getattr(settings, name)]
    if set(differences) <= WORD_SETTINGS and catalogue.shared_of("words") is None:
        catalogue.note(settings=dump_settings(settings))  # no word is learned yet
        return settings
    raise InputError(
        f"{folder} was built with other settings ({', '.join(differences)});"
        " leave them out to add with the repository's own, or give another repository to write."
    )


def _micrometres(pixel_size: float | None) -> str:
    return "unknown pixel size" if pixel_size is None else f"{pixel_size:g} µm a pixel"
