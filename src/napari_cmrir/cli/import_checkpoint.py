"""``napari-cmrir import-checkpoint``: a released CoMIR checkpoint in, a model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["import_checkpoint"]


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="Released checkpoint (.pt).")],
    modalities: Annotated[
        tuple[str, str], typer.Option(help="Modalities of its modelA and modelB.", metavar="A B")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.safetensors).")],
) -> None:
    """Turn a released CoMIR checkpoint into a model file; nothing in it is run."""
    from napari_cmrir.representations.comir.checkpoint_import import import_checkpoint as read

    model = read(checkpoint, modalities)
    model.save(output)
    typer.echo(f"Imported {checkpoint.name} for {' and '.join(modalities)}: {output}")
