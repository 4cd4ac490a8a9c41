"""``napari-cmrir index``: images in, a searchable repository out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["index"]


def index(
    images: Annotated[list[Path], typer.Argument(help="Image files or folders.")],
    model: Annotated[Path, typer.Option(help="Model file.")],
    modality: Annotated[str, typer.Option(help="Modality of the images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Repository to make or to add to (.cmrir).")],
) -> None:
    """Make images searchable; into an existing repository, add the new and the changed ones."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.comir.model import load_model
    from napari_cmrir.images.readers import find_images
    from napari_cmrir.repository.build import build_repository

    loaded = load_model(model)
    loaded.require_modality(modality)
    found = find_images(images, modality)
    try:
        repository = draw(build_repository(found, loaded, modality, output), "Indexing")
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command goes on where it was.", err=True)
        raise
    for path, reason in repository.failures.items():
        typer.echo(f"Not indexed: {path}: {reason}", err=True)
    typer.echo(f"{repository.summary()['images'].get('indexed', 0)} {modality} images searchable: {output}")
