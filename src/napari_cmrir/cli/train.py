"""Commands that write a model, or the pairs to train one: ``train``, ``import-checkpoint`` and ``pair``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.cli.jobs import Failures
from napari_cmrir.cli.options import (
    READING,
    Device,
    Lists,
    Pattern,
    Preset,
    SettingsOptions,
    saying_what_is_read,
    settings_options,
)
from napari_cmrir.errors import InputError
from napari_cmrir.representations.training_settings import CycleGanSettings, Pix2PixSettings, TrainingSettings
from napari_cmrir.search.settings import PairingSettings
from napari_cmrir.settings import PAIR_PATTERN, Settings

if TYPE_CHECKING:
    from napari_cmrir.images.discovery import Pair
    from napari_cmrir.jobs import Job, Progress
    from napari_cmrir.pairing.pair_files import FoundPair
    from napari_cmrir.representations.base import Representation
    from napari_cmrir.settings import ReadingSettings

__all__ = ["import_checkpoint", "pair", "pair_command", "train"]

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
    pattern: Pattern = PAIR_PATTERN,
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
            help="Adapt this repository's model: find confident pairs of its images and PAIRS, train on them,"
            " and index its images again beside the new model.",
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
    from napari_cmrir.pairing.adapt import AFRESH, WENT_ON, adapt_model

    TRAINING.settings(training)  # a wrong value is refused by the name of its option
    job = adapt_model(
        repository,
        images,
        modalities,
        output,
        changes=training,
        reading=READING.settings(reading) if reading else None,
        device=device,
        resume=resume,
    )
    result = draw(_with_notes(job), "Adapting")
    model, mistaken = result.model, sum(map(len, result.mistaken.values())) // 2
    went_on = "went_on_from" in model.provenance
    how = "Went on from its model" if went_on else "Trained from random weights"
    tried = {WENT_ON: "going on", AFRESH: "from random weights"}
    shares = ", ".join(f"{tried[way]} {share:.0%}" for way, share in result.retrieved.items())
    if len(result.retrieved) > 1:
        how = f"Retrieved of the validation queries: {shares}. {how}"
    typer.echo(
        f"{len(result.pairs.accepted)} confident pairs found in {repository}: {result.pairs.folder}\n"
        f"Taken for one another, hard negatives where training goes on: {mistaken} twos of pairs\n"
        f"{how} for {model.provenance['steps_done']} steps{_kept(model)}: {output}\n"
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
    from napari_cmrir.jobs import changed
    from napari_cmrir.representations.training_settings import PairNotes, TrainingPreview

    figures = ""

    def show(progress: Progress) -> Progress:
        nonlocal figures
        preview = progress.preview
        if isinstance(preview, PairNotes | TrainingPreview):
            for note in preview.notes:
                typer.echo(note, err=True)
        if isinstance(preview, TrainingPreview) and preview.figures is not None:
            figures = f", {preview.figures.peak_memory_bytes / 2**20:.0f} MiB"
        return replace(progress, message=progress.message + figures)

    return changed(job, show)


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


PAIRING = SettingsOptions(PairingSettings, "How pairs are looked for")
pair_command = Lists.of("--landmarks")


@settings_options(pairing=PAIRING, reading=READING)
def pair(
    first: Annotated[Path, typer.Argument(help="Folder of images, or an image, of the first modality.")],
    second: Annotated[Path, typer.Argument(help="Folder of images, or an image, of the second modality.")],
    modalities: Annotated[tuple[str, str], typer.Option(help="The two modalities.", metavar="A B")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for <identifier>_<MODALITY>.tif and pairs.csv.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Model file, or the name of one that comes with the package."
            " By default starter; landmarks are refined only where a model is given."
        ),
    ] = None,
    landmarks: Annotated[
        list[Path] | None,
        typer.Option(
            help="Make the pairs from landmarks: a CSV with first_y, first_x, second_y and second_x (and"
            " first and second, the names of the images), a CSV of BigWarp, or two files of points of"
            " QuPath.",
            metavar="FILE",
        ),
    ] = None,
    warp: Annotated[
        str, typer.Option(help="Map that landmarks are fitted with: similarity or affine.")
    ] = "similarity",
    *,
    pairing: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Find the images of two folders that show the same tissue, and cut them to aligned pairs.

    File names play no part. Pairs that are not sure are listed in pairs.csv with the reason.
    """
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.pairing.find import find_aligned_pairs
    from napari_cmrir.representations.base import load_model

    settings, read_as = PAIRING.settings(pairing), READING.settings(reading)
    if landmarks:
        _by_landmarks((first, second), modalities, output, model, landmarks, warp, settings, read_as)
        return
    loaded = load_model(model or "starter")
    job = find_aligned_pairs(first, second, modalities, loaded, output, settings=settings, reading=read_as)
    try:
        with saying_what_is_read():
            result = draw(job, "Pairing")
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command goes on where it was.", err=True)
        raise
    for note in result.notes:
        typer.echo(note, err=True)
    _print(result.pairs)
    accepted = len(result.accepted)
    rounds = f" in {result.rounds} rounds" if result.rounds > 1 else ""
    typer.echo(
        f"{accepted} pairs found{rounds}, {len(result.pairs) - accepted} candidates rejected: {output}"
    )
    failures = Failures()
    for path, reason in result.failures.items():
        failures.add(path, reason)
    failures.end(len(result.failures))


def _by_landmarks(
    folders: tuple[Path, Path],
    modalities: tuple[str, str],
    output: Path,
    model: str | None,
    files: list[Path],
    warp: str,
    settings: PairingSettings,
    reading: ReadingSettings,
) -> None:
    import numpy as np

    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.images.readers import find_images
    from napari_cmrir.pairing.landmark_files import read_landmarks
    from napari_cmrir.pairing.landmarks import pair_from_landmarks
    from napari_cmrir.pairing.pair_files import FoundPair, name_pairs, write_table
    from napari_cmrir.representations.base import load_model

    if warp not in ("similarity", "affine"):
        raise InputError(f"--warp cannot be {warp}; give similarity or affine.")
    images = [find_images([folder], name) for folder, name in zip(folders, modalities, strict=True)]
    sets = read_landmarks(files, images[0], images[1], reading)
    loaded = None if model is None else load_model(model)
    rows = [FoundPair(one.first, one.second, True, 1.0, None, "") for one in sets]
    found = []
    for name, one in zip(name_pairs(rows, modalities), sets, strict=True):
        job = pair_from_landmarks(
            one.first,
            one.second,
            (one.first_points, one.second_points),
            modalities,
            output,
            motion="affine" if warp == "affine" else "similarity",
            model=loaded,
            reading=reading,
            device=settings.device,
            identifier=name,
        )
        made = draw(job, name)
        found.append(made.found)
        residuals = ", ".join(
            f"{number}: {residual:.1f}{' (outlier)' if made.fit.outliers[number - 1] else ''}"
            for number, residual in enumerate(np.round(made.fit.residuals, 1), 1)
        )
        typer.echo(f"{name}: residuals in px {residuals}")
    write_table(output, found)
    typer.echo(f"{len(found)} pairs made from landmarks: {output}")


def _print(pairs: tuple[FoundPair, ...]) -> None:
    """Print the accepted pairs as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in ("first", "second"):
        table.add_column(name, overflow="fold")
    for name in ("confidence", "rotation"):
        table.add_column(name, justify="right")
    table.add_column("reason", overflow="fold")
    for pair in pairs:
        if pair.accepted:
            turned = f"{pair.rotation_degrees:.1f}°{', mirrored' if pair.mirrored else ''}"
            table.add_row(pair.first.name, pair.second.name, f"{pair.confidence:.2f}", turned, pair.reason)
    if table.row_count:
        Console().print(table)
