"""``napari-cmrir pair``: two folders that are not aligned, or landmarks, in; aligned pairs out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.cli.jobs import Failures
from napari_cmrir.cli.options import READING, Lists, SettingsOptions, saying_what_is_read, settings_options
from napari_cmrir.errors import InputError
from napari_cmrir.search.settings import PairingSettings

if TYPE_CHECKING:
    from napari_cmrir.pairing.pair_files import FoundPair
    from napari_cmrir.settings import ReadingSettings

__all__ = ["pair", "pair_command"]

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
