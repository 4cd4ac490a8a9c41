"""``napari-cmrir index``: build a repository of images, extend and maintain it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from napari_cmrir.cli.jobs import Failures, list_images
from napari_cmrir.cli.options import READING, Preset, SettingsOptions, saying_what_is_read, settings_options
from napari_cmrir.repository.settings import RepositorySettings

if TYPE_CHECKING:
    from napari_cmrir.jobs import Job
    from napari_cmrir.repository.repository import Repository

__all__ = ["index"]

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
