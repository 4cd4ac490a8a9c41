"""``napari-cmrir train``: pairs in, model out."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Device", "train"]


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Preset(StrEnum):
    """Which settings to start from."""

    fast = "fast"
    paper = "paper"


def train(
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Folder of <identifier>_<MODALITY>.<ext> files, or two folders of equal names."),
    ],
    modalities: Annotated[
        tuple[str, str], typer.Option(help="The two modalities, as in the file names.", metavar="A B")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.safetensors).")],
    preset: Annotated[Preset, typer.Option(help="fast for a laptop, paper as published.")] = Preset.fast,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimisation steps, instead of the preset's.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random draw.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
) -> None:
    """Train a CoMIR model on aligned image pairs."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.comir.settings import PRESETS
    from napari_cmrir.comir.training import train as train_model
    from napari_cmrir.errors import InputError
    from napari_cmrir.images.pairs import find_pairs, unpaired_images

    changes = {"seed": seed} | ({} if steps is None else {"steps": steps})
    settings = PRESETS[preset].model_copy(update=changes)
    if output.is_dir():
        raise InputError(f"{output} is a folder; give a model file such as {output / 'model.safetensors'}.")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"{output} cannot be written into {folder}; give another -o.")
    found = find_pairs(pairs, modalities)
    alone = unpaired_images(pairs, modalities)
    if alone:
        names = ", ".join(path.name for path in alone[:5]) + (" ..." if len(alone) > 5 else "")
        typer.echo(f"Left out, without a partner: {names}", err=True)
    try:
        model = draw(
            train_model(found, modalities, settings, output=output, device=device.value, resume=resume),
            "Reading the pairs",
        )
    except KeyboardInterrupt:
        typer.echo(f"Stopped; the same command with --resume goes on ({output}.checkpoint).", err=True)
        raise
    typer.echo(
        f"Trained on {len(found)} pairs of {' and '.join(modalities)}, {settings.steps} steps,"
        f" last loss {model.history[-1]['loss']:.3f}: {output}"
    )
