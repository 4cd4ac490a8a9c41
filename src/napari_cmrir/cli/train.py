"""``napari-cmrir train``: pairs in, model out."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from napari_cmrir.jobs import Job
    from napari_cmrir.representations.base import Representation

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
    pixel_size: Annotated[
        float | None, typer.Option(min=0, help="Side of a pixel in micrometres, to be noted in the model.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    representation: Annotated[
        str, typer.Option(help="What is trained: comir, original, or one that an installed package adds.")
    ] = "comir",
) -> None:
    """Train a representation, by default CoMIR, on aligned image pairs."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.images.discovery import find_pairs, unpaired_images
    from napari_cmrir.representations.base import REPRESENTATIONS
    from napari_cmrir.representations.base import train as train_model

    changes = {"seed": seed} | ({} if steps is None else {"steps": steps})
    settings = REPRESENTATIONS[representation].presets.get(preset)
    if settings is not None:
        settings = settings.model_copy(update=changes)
    found = find_pairs(pairs, modalities)
    alone = unpaired_images(pairs, modalities)
    if alone:
        names = ", ".join(path.name for path in alone[:5]) + (" ..." if len(alone) > 5 else "")
        typer.echo(f"Left out, without a partner: {names}", err=True)
    try:
        job = train_model(
            found,
            modalities,
            settings,
            representation=representation,
            output=output,
            device=device.value,
            resume=resume,
            pixel_size=pixel_size,
        )
        model = draw(_with_notes(job), "Reading the pairs")
    except KeyboardInterrupt:
        typer.echo(f"Stopped; the same command with --resume goes on ({output}.checkpoint).", err=True)
        raise
    last = model.history[-1] if model.history else None
    learnt = f", {last['step']} steps, last loss {last['loss']:.3f}" if last else ""
    typer.echo(f"Trained on {len(found)} pairs of {' and '.join(modalities)}{learnt}{_kept(model)}: {output}")


def _with_notes(job: Job[Representation]) -> Job[Representation]:
    """Print a training's notes above its bar, and its figures into the bar."""
    from napari_cmrir.representations.comir.training.preview import PairNotes, TrainingPreview

    figures = ""
    try:
        while True:
            progress = next(job)
            preview = progress.preview
            if isinstance(preview, PairNotes | TrainingPreview):
                for note in preview.notes:
                    typer.echo(note, err=True)
            if isinstance(preview, TrainingPreview) and preview.figures is not None:
                figures = f", {preview.figures.peak_memory_bytes / 2**20:.0f} MiB"
            yield replace(progress, message=progress.message + figures)
    except StopIteration as end:
        result: Representation = end.value
        return result
    finally:
        job.close()


def _kept(model: Representation) -> str:
    if not model.score:
        return ""
    return (
        f"; kept step {model.score['step']:.0f}, which retrieves {model.score['retrieval']:.0%} of"
        f" {model.score['queries']:.0f} validation queries"
    )
