"""``napari-cmrir datasets``: fetch published data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["datasets"]

datasets = typer.Typer(name="datasets", help="Fetch published data.", no_args_is_help=True)


@datasets.callback()
def _verbs() -> None:
    """Fetch published data."""


@datasets.command()
def fetch(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the data.")] = Path("shg_bf"),
    server: Annotated[
        str | None, typer.Option(help="Address of a mirror with Zenodo's interface, to ask instead.")
    ] = None,
) -> None:
    """Fetch the paper's data: aligned SHG and brightfield images of tissue cores (Zenodo 3874362)."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.evaluation.datasets import fetch_dataset

    dataset = draw(fetch_dataset(output, server=server))
    for part, count in dataset.parts.items():
        typer.echo(f"{dataset.folder / part}: {count} images")
    for path in dataset.unplaced:
        typer.echo(f"{path}: no image in it that could be placed", err=True)
