"""Commands that apply a model to images: ``index`` into a repository, and ``represent`` into files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from napari_cmrir.cli.jobs import Failures, list_images, output_names
from napari_cmrir.cli.options import (
    READING,
    Device,
    Preset,
    SettingsOptions,
    saying_what_is_read,
    settings_options,
)
from napari_cmrir.errors import InputError
from napari_cmrir.repository.settings import RepositorySettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_cmrir.jobs import Job
    from napari_cmrir.repository.repository import Repository

__all__ = ["index", "represent"]

Result = TypeVar("Result")


FIELDS = SettingsOptions(RepositorySettings, "How images are cut into fields, and their words learned")


@settings_options(fields=FIELDS, reading=READING)
def index(
    output: Annotated[Path, typer.Option("--output", "-o", help="Repository to make or to add to (.cmrir).")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, folders, or addresses of OME-Zarr images."
            " May be left out with --prune, --words, --rebuild-vocabulary or --compact."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Model file, or starter; by default the copy in an existing repository."),
    ] = None,
    modality: Annotated[
        str | None, typer.Option(help="Modality of the images; by default an existing repository's.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of worker processes; by default none: this process uses all threads."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Compute on the dask cluster of the scheduler at this address, such as tcp://host:8786;"
            " its workers see images and repository under the same paths."
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Drop images whose files no longer exist.")] = False,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Build missing bags of visual words, too. A search that needs them"
            " (--rerank none or bow) builds them otherwise.",
        ),
    ] = False,
    rebuild_vocabulary: Annotated[
        bool,
        typer.Option(
            "--rebuild-vocabulary",
            help="Learn a new vocabulary from all images, and count its words.",
        ),
    ] = False,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Join small files, and remove files that are no longer searched."),
    ] = False,
    preset: Annotated[
        Preset | None,
        typer.Option(help="Settings of a new repository: the defaults, or the published ones."),
    ] = None,
    keep_glass: Annotated[
        bool, typer.Option("--keep-glass", help="Index fields of large images that are empty glass too.")
    ] = False,
    *,
    fields: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Index images in a repository; of an existing repository, only new and changed images."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.errors import InputError
    from napari_cmrir.repository.build import build_index
    from napari_cmrir.repository.maintenance import compact_repository, prune_repository

    if not images and not (prune or words or rebuild_vocabulary or compact):
        raise InputError("There is no image to index; give image files or folders.")
    missing = Failures()
    settings = _settings(output, preset, fields | ({"least_tissue": 0.0} if keep_glass else {}), reading)
    try:
        if images:
            job = _build(images, model, modality, output, settings, workers, scheduler, prune, missing)
            with saying_what_is_read(), draw(_announced(job), "Indexing") as repository:
                failures = repository.failures
        else:
            failures = {}
            if prune:
                dropped = draw(prune_repository(output), "Pruning")
                typer.echo(f"{len(dropped)} images dropped whose files no longer exist.")
        if words or rebuild_vocabulary:
            building = build_index(output, rebuild=rebuild_vocabulary, workers=workers, scheduler=scheduler)
            draw(building, "Building words")
        if compact:
            done = draw(compact_repository(output), "Compacting")
            typer.echo(f"{done.segments} segments, {done.freed_bytes / 1e6:.1f} MB of disk space freed.")
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command continues with the remaining images.", err=True)
        raise
    failures = missing.reasons | failures
    for path, reason in failures.items():
        typer.echo(f"Not indexed: {path}: {reason}", err=True)
    _say_what_there_is(output)
    if failures:
        raise typer.Exit(2)


def _settings(
    path: Path, preset: Preset | None, fields: dict[str, Any], reading: dict[str, Any]
) -> RepositorySettings | None:
    """Return the settings with the options that were given; ``None`` if none was."""
    from napari_cmrir.repository.settings import own_settings

    if preset is None and not fields and not reading:
        return None
    presets = {Preset.fast: RepositorySettings(), Preset.paper: RepositorySettings.paper()}
    base = presets[preset] if preset is not None else own_settings(path)
    read_as = READING.settings(reading, base.reading)
    settings: RepositorySettings = FIELDS.settings(fields | {"reading": read_as}, base)
    return settings


def _build(
    images: list[str],
    model: Path | None,
    modality: str | None,
    output: Path,
    settings: RepositorySettings | None,
    workers: int | None,
    scheduler: str | None,
    prune: bool,
    failures: Failures,
) -> Job[Repository]:
    from napari_cmrir.errors import InputError
    from napari_cmrir.images.discovery import is_remote
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.repository.catalogue import MODEL_NAME
    from napari_cmrir.repository.settings import modality_of
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.model_input import other_modality

    if model is None and not (output / MODEL_NAME).is_file():
        raise InputError(f"{output} is not a repository yet; give a --model to build it.")
    loaded = load_model(model or output / MODEL_NAME)
    if modality is None:
        modality = modality_of(output)
    loaded.require_modality(modality)
    addresses = [image for image in images if is_remote(image)]
    paths = [image for image in images if not is_remote(image)]
    other = other_modality(loaded, modality)
    found = list_images(paths, modality, other, failures) if paths else []
    return build_repository(
        [*found, *addresses],
        loaded,
        modality,
        output,
        settings,
        workers=workers,
        scheduler=scheduler,
        prune=prune,
    )


def _announced(job: Job[Result]) -> Job[Result]:
    """Print the estimate of time and disk space, even without a progress bar."""
    from napari_cmrir.repository.build import Estimate

    try:
        first = next(job)
    except StopIteration as end:
        result: Result = end.value
        return result
    if isinstance(first.preview, Estimate) and first.preview.seconds is not None:
        typer.echo(f"{first.preview}.", err=True)
    yield first
    return (yield from job)


def _say_what_there_is(path: Path) -> None:
    from napari_cmrir.images.series import SAME_SIZE
    from napari_cmrir.repository.repository import open_repository

    with open_repository(path) as repository:
        summary = repository.summary()
        sizes = repository.pixel_sizes if repository.model.pixel_size is None else ()
    if sizes and sizes[-1] > sizes[0] * (1 + SAME_SIZE):
        typer.echo(
            f"Note: the images have pixels of {sizes[0]:.3g} to {sizes[-1]:.3g} µm, and the model has no size"
            " to bring them to; queries are found only in images of their own pixel size.",
            err=True,
        )
    n_images = summary["images"].get("indexed", 0)
    typer.echo(f"{n_images} {summary['modality']} images searchable: {path}")


@settings_options(reading=READING)
def represent(
    model: Annotated[Path, typer.Argument(help="Model file, or starter.")],
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    modality: Annotated[str, typer.Option(help="Modality of the images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for <name>_CoMIR.tif files.")],
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    rotations: Annotated[
        int | None,
        typer.Option(
            help="Rotations to average: 4 quarter turns, or 1 for none. As the model was trained for,"
            " unless given."
        ),
    ] = None,
    pyramid: Annotated[
        bool, typer.Option("--pyramid", help="Write <name>_CoMIR.ome.zarr pyramids instead of TIFF.")
    ] = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Write the CoMIRs of images as 8-bit TIFF files or OME-Zarr pyramids.

    Images of another known pixel size than the model's are resampled to it first, as `index` does.
    """
    import logging
    import warnings
    from contextlib import closing

    import numpy as np

    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.images.intensity import plain_type
    from napari_cmrir.images.readers import image_stem, open_image
    from napari_cmrir.repository.pyramids import write_pyramid
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.base import represent as comir_of
    from napari_cmrir.representations.model_input import fit_to_model, other_modality, warn_of

    read_as = READING.settings(reading)
    loaded = load_model(model)
    loaded.require_modality(modality)
    failures = Failures()
    found = list_images(images, modality, other_modality(loaded, modality), failures)
    n_given = len(found) + len(failures.reasons)
    ending = "_CoMIR.ome.zarr" if pyramid else "_CoMIR.tif"
    targets = [output / f"{name}{ending}" for name in output_names(found, map(image_stem, found))]
    with saying_what_is_read():
        for path, target in zip(found, targets, strict=True):
            with failures.of(path):
                _refuse_other_source(target, path)
                with closing(open_image(path, read_as, pixel_size=loaded.pixel_size)) as image:
                    if image.assumption:
                        warnings.warn(image.assumption, stacklevel=1)
                    image, doubts = fit_to_model(image, loaded, modality)
                    warn_of(path.name, doubts)
                    if image.reading_note:
                        logging.getLogger("napari_cmrir").info("%s: %s.", path.name, image.reading_note)
                    pixels, pixel_size = plain_type(np.ascontiguousarray(image[:, :])), image.pixel_size
                job = comir_of(loaded, pixels, modality, device=device.value, rotations=rotations)
                comir = draw(job, path.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                notes: dict[str, Any] = {} if pixel_size is None else {"pixel_size": pixel_size}
                notes["source"] = str(path.absolute())
                if pyramid:
                    write_pyramid(target, comir, target.name.removesuffix(".ome.zarr"), notes)
                else:
                    _write_tiff(target, comir, notes)
                typer.echo(str(target))
    failures.end(n_given)


def _write_tiff(target: Path, comir: NDArray[np.uint8], notes: dict[str, Any]) -> None:
    """Write a CoMIR as TIFF, with its pixel size in the resolution tags."""
    import tifffile

    from napari_cmrir.files import atomic_path

    size: dict[str, Any] = {}
    if "pixel_size" in notes:
        per_centimetre = 1e4 / notes["pixel_size"]
        size = {"resolution": (per_centimetre, per_centimetre), "resolutionunit": "CENTIMETER"}
    with atomic_path(target) as partial:
        tifffile.imwrite(
            partial,
            comir[0] if len(comir) == 1 else comir,
            photometric="minisblack",
            metadata={"source": notes["source"]},
            **size,
        )


def _refuse_other_source(target: Path, path: Path) -> None:
    """Refuse to write over the CoMIR of another image."""
    from contextlib import suppress

    import tifffile

    from napari_cmrir.repository.pyramids import read_notes

    source = None
    with suppress(Exception):  # what is no CoMIR of ours is replaced, as the user asked for
        if target.is_dir():
            source = read_notes(target).get("source")
        elif target.is_file():
            with tifffile.TiffFile(target) as tiff:
                shaped: Any = tiff.shaped_metadata
                source = shaped[0].get("source") if shaped else None
    if source is not None and source != str(path.absolute()):
        raise InputError(f"{target} is the CoMIR of {source}; give {path} another folder to write to.")
