"""Commands that write a model: ``napari-cmrir train`` and ``napari-cmrir import-checkpoint``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.cli.options import READING, Device, Pattern, Preset, SettingsOptions, settings_options
from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import PATTERN
from napari_cmrir.representations.training_settings import CycleGanSettings, Pix2PixSettings, TrainingSettings
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from napari_cmrir.images.discovery import Pair
    from napari_cmrir.jobs import Job
    from napari_cmrir.representations.base import Representation

__all__ = ["import_checkpoint", "train"]

TRAINING = SettingsOptions(
    TrainingSettings,
    "How the networks are trained",
    flags={"channels": ("--comir-channels",)},
    others=(Pix2PixSettings, CycleGanSettings),
    other_panel="How pix2pix and CycleGAN are trained",
)


@settings_options(training=TRAINING, reading=READING)
def train(
    pairs: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of <identifier>_<MODALITY>.<ext> files, or two folders of equal names; with --adapt,"
            " images of the other modality."
        ),
    ],
    modalities: Annotated[
        tuple[str, str], typer.Option(help="The two modalities, as in the file names.", metavar="A B")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Model file to write (.safetensors).")
    ] = None,
    preset: Annotated[Preset, typer.Option(help="fast: for a laptop; paper: as published.")] = Preset.fast,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")] = False,
    representation: Annotated[
        str,
        typer.Option(
            help="Representation to train: comir, pix2pix, cyclegan, original, or one that an installed"
            " package adds."
        ),
    ] = "comir",
    pattern: Pattern = PATTERN,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only look at the pairs, with a model: tell partners that are turned, shifted or of other"
            " tissue. Nothing is trained.",
        ),
    ] = False,
    check_model: Annotated[
        str, typer.Option(help="Model that --check looks with; one that was not trained on the pairs.")
    ] = "starter",
    correct: Annotated[
        Path | None,
        typer.Option(help="With --check: write the pairs, corrected, to this new folder.", metavar="FOLDER"),
    ] = None,
    adapt: Annotated[
        Path | None,
        typer.Option(
            help="Go on from this repository's model: find confident pairs of its images and PAIRS, train on"
            " them, and index its images again beside the new model.",
            metavar="NAME.cmrir",
        ),
    ] = None,
    *,
    training: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Train a representation, by default CoMIR, on aligned image pairs."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.images.discovery import find_pairs, unpaired_images
    from napari_cmrir.representations.base import REPRESENTATIONS
    from napari_cmrir.representations.base import train as train_model

    if check:
        found = find_pairs(pairs, modalities, READING.settings(reading), pattern)
        _check(found, modalities, check_model, correct)
        return
    if correct is not None:
        raise InputError("--correct goes with --check; give both, or neither to train.")
    if output is None:
        raise typer.BadParameter("give the model file to write", param_hint="'--output'")
    if adapt is not None:
        _adapt(adapt, pairs, modalities, output, training, reading, device.value, resume)
        return
    settings = REPRESENTATIONS[representation].presets.get(preset)
    known = type(settings).model_fields if isinstance(settings, Settings) else {}
    strange = [TRAINING.flag(name) for name in training if name not in known]
    if strange:
        raise InputError(
            f"The representation '{representation}' is trained without {', '.join(strange)}; leave it out."
        )
    if training:
        settings = TRAINING.settings(training, settings)
    read_as = READING.settings(reading)
    found = find_pairs(pairs, modalities, read_as, pattern)
    alone = unpaired_images(pairs, modalities, pattern)
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
            pixel_size=read_as.pixel_size,
        )
        model = draw(_with_notes(job), "Reading the pairs")
    except KeyboardInterrupt:
        typer.echo(f"Stopped; the same command with --resume continues ({output}.checkpoint).", err=True)
        raise
    last = model.history[-1] if model.history else None
    learnt = f", {last['step']} steps, last loss {last['loss']:.3f}" if last else ""
    typer.echo(f"Trained on {len(found)} pairs of {' and '.join(modalities)}{learnt}{_kept(model)}: {output}")
    if model.caveat:
        typer.echo(f"Note: {model.caveat}.")


def _adapt(
    repository: Path,
    images: list[Path],
    modalities: tuple[str, str],
    output: Path,
    training: dict[str, Any],
    reading: dict[str, Any],
    device: str,
    resume: bool,
) -> None:
    """Adapt a repository's model to its own images, and say what was done."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.pairing.adapt import adapt_model, adaptation_settings
    from napari_cmrir.repository.repository import open_repository

    with open_repository(repository) as opened:
        base = adaptation_settings(opened.model)
    job = adapt_model(
        repository,
        images,
        modalities,
        output,
        settings=TRAINING.settings(training, base),
        reading=READING.settings(reading) if reading else None,
        device=device,
        resume=resume,
    )
    result = draw(_with_notes(job), "Adapting")
    model, mistaken = result.model, sum(map(len, result.mistaken.values())) // 2
    typer.echo(
        f"{len(result.pairs.accepted)} confident pairs found in {repository}: {result.pairs.folder}\n"
        f"Taken for one another, and trained on as hard negatives: {mistaken} twos of pairs\n"
        f"Went on from its model for {model.provenance['steps_done']} steps{_kept(model)}: {output}\n"
        f"Indexed again with the new model: {result.repository}"
    )


def _check(pairs: list[Pair], modalities: tuple[str, str], model: str, correct: Path | None) -> None:
    """Say what is wrong with the pairs, and write corrected ones where asked to."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.pairing.review import check_alignment, correct_pairs
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.representations.comir.training.pair_checks import check_pairs

    loaded = load_model(model)
    problems = draw(check_pairs(pairs), "Reading the pairs")
    for problem in problems:
        typer.echo(problem.sentence)
    unusable = {problem.number for problem in problems if problem.severity in ("fatal", "useless")}
    pairs = [pair for number, pair in enumerate(pairs) if number not in unusable]
    findings = draw(check_alignment(pairs, modalities, loaded), "Checking the pairs")
    for finding in findings:
        if finding.kind != "aligned":
            typer.echo(finding.sentence)
    kinds = [finding.kind for finding in findings]
    wrong, unclear = sum(kind in ("turned", "shifted", "other") for kind in kinds), kinds.count("unclear")
    typer.echo(f"Not aligned or of other tissue: {wrong} of {len(pairs)} pairs; unclear: {unclear}.")
    if correct is None:
        if wrong:
            typer.echo("--correct FOLDER writes them corrected to a new folder.")
        return
    for name in draw(correct_pairs(pairs, findings, modalities, correct), "Writing the pairs"):
        typer.echo(f"Left out: {name}, whose tissue belongs to another pair.")
    typer.echo(f"Corrected pairs: {correct}")


def _with_notes(job: Job[Any]) -> Job[Any]:
    """Print a training's notes above the progress bar, and its figures in the bar."""
    from napari_cmrir.representations.training_settings import PairNotes, TrainingPreview

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
        return end.value
    finally:
        job.close()


def _kept(model: Representation) -> str:
    if not model.score:
        return ""
    return (
        f"; kept step {model.score['step']:.0f}, which retrieves {model.score['retrieval']:.0%} of"
        f" {model.score['queries']:.0f} validation queries"
    )


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="Released checkpoint (.pt).")],
    modalities: Annotated[
        tuple[str, str], typer.Option(help="Modalities of its modelA and modelB.", metavar="A B")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write (.safetensors).")],
) -> None:
    """Convert a released CoMIR checkpoint to a model file, without running code from it."""
    from napari_cmrir.representations.comir.model import import_checkpoint as read

    model = read(checkpoint, modalities)
    model.save(output)
    typer.echo(f"Imported {checkpoint.name} for {' and '.join(modalities)}: {output}")
