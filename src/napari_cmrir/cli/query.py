"""``napari-cmrir query``: search with an image or a region of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_cmrir.cli.jobs import Failures, list_images, output_names
from napari_cmrir.cli.options import READING, Preset, SettingsOptions, settings_options
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.errors import InputError
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.jobs import Progress
    from napari_cmrir.search.hits import SearchResult

__all__ = ["SEARCH", "doubts", "print_hits", "query", "require_plugins", "write_transforms"]


SEARCH = SettingsOptions(SearchSettings, "Search settings", flags={"hits": ("-k", "--hits")})


@settings_options(search=SEARCH, reading=READING)
def query(
    repository: Annotated[Path, typer.Argument(help="Repository (.cmrir).")],
    images: Annotated[list[Path], typer.Argument(help="Query images.")],
    modality: Annotated[str, typer.Option(help="Modality of the query images.")],
    region: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option(help="Part of the images to find, in pixels.", metavar="Y X HEIGHT WIDTH"),
    ] = None,
    turned: Annotated[
        float, typer.Option(help="Rotation of the region about its centre, degrees counter-clockwise.")
    ] = 0.0,
    polygon: Annotated[
        str | None,
        typer.Option(help="Corners of a polygon to find, instead of --region.", metavar='"Y,X Y,X Y,X ..."'),
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="Settings: the defaults, or the published search.")
    ] = Preset.fast,
    output: Annotated[
        Path | None, typer.Option("--json", help="Write the hits to this file; - is standard output.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Write the hits to this table; - is standard output.")
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Write the boxes of the hits to this file, for QuPath.")
    ] = None,
    transforms: Annotated[
        Path | None,
        typer.Option(help="Write the transform to each hit to this folder: affine matrix, ITK and elastix."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Search with so many images at once, each in a process of one thread; for many images.",
        ),
    ] = None,
    timings: Annotated[bool, typer.Option("--timings", help="Print the seconds of every stage.")] = False,
    *,
    search: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Find the tissue of images, or of a region of them, in a repository."""
    from contextlib import closing

    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.errors import InputError
    from napari_cmrir.files import atomic_write, is_standard_output
    from napari_cmrir.images.readers import open_image
    from napari_cmrir.jobs import changed
    from napari_cmrir.repository.repository import open_repository
    from napari_cmrir.representations.model_input import other_modality
    from napari_cmrir.search.hits import as_csv, as_geojson, as_json
    from napari_cmrir.search.query import Answer, search_many

    settings = SEARCH.settings(search, SearchSettings.paper() if preset is Preset.paper else None)
    require_plugins(settings)
    read_as = READING.settings(reading)
    opened = open_repository(repository)
    opened.model.require_modality(modality)
    part, corners = _part(region, turned, polygon)
    failures = Failures()
    found = list_images(images, modality, other_modality(opened.model, modality), failures)
    n_given = len(found) + len(failures.reasons)
    to_stderr = any(path is not None and is_standard_output(path) for path in (output, table, geojson))
    answers: list[tuple[str, SearchResult | InputError]] = [
        (path, InputError(reason)) for path, reason in failures.reasons.items()
    ]
    stems = output_names(found, (path.stem for path in found))

    def show(progress: Progress) -> Progress:
        answer = progress.preview
        if not isinstance(answer, Answer) or isinstance(answer.result, InputError):
            return progress
        path, result = found[answer.number], answer.result
        print_hits(path.name, result, settings, to_stderr=to_stderr)
        if transforms is not None:
            with closing(open_image(path, read_as)) as image:
                shape = image.shape
            name = f"{answer.number + 1:0{len(str(len(found)))}d}-{stems[answer.number].name}"
            write_transforms(transforms, name, shape, result)
        if timings:
            stages = (f"{stage} {seconds:.3f} s" for stage, seconds in result.timings.items())
            typer.echo("  ".join(stages), err=to_stderr)
        return progress

    job = search_many(
        opened,
        found,
        modality,
        region=part,
        polygon=corners,
        reading=read_as,
        settings=settings,
        workers=workers,
    )
    for path, result in zip(found, draw(changed(job, show), found[0].name), strict=True):
        if isinstance(result, InputError):
            failures.add(path, str(result))
            result = InputError(failures.reasons[str(path)])
        answers.append((str(path), result))
    hits_of = [(name, result.hits) for name, result in answers if not isinstance(result, InputError)]
    if hits_of:  # of failures only, nothing is written over what there may be
        if output is not None:
            atomic_write(output, as_json(answers).encode())
        if table is not None:
            atomic_write(table, as_csv(hits_of).encode())
        if geojson is not None:
            atomic_write(geojson, as_geojson(hits_of).encode())
    failures.end(n_given)


def _part(
    region: tuple[float, float, float, float] | None, turned: float, polygon: str | None
) -> tuple[Region | None, list[tuple[float, ...]] | None]:
    """Return the region to find, or the corners of a polygon."""
    from dataclasses import replace

    from napari_cmrir.errors import InputError
    from napari_cmrir.images.geometry import Region

    if polygon is not None:
        if region is not None or turned:
            raise InputError("A polygon replaces a region; leave out --region and --turned.")
        try:
            return None, [tuple(map(float, point.split(","))) for point in polygon.split()]
        except ValueError:
            raise InputError(f'{polygon} is no polygon; give corners as "Y,X Y,X Y,X".') from None
    if region is None:
        if turned:
            raise InputError("--turned rotates a region; give --region as well.")
        return None, None
    return replace(Region.from_rectangle(*region), rotation_degrees=turned), None


def require_plugins(settings: SearchSettings) -> None:
    """Refuse an unknown ``--rerank`` or ``--matcher`` before anything is opened; packages may add both.

    Raises
    ------
    typer.BadParameter
        Names the known ones.
    """
    from napari_cmrir.errors import InputError
    from napari_cmrir.search.matchers import matcher_named
    from napari_cmrir.search.rerankers import RERANKERS

    option = "--rerank"
    try:
        RERANKERS[settings.rerank]
        option = "--matcher"
        if settings.matcher:
            matcher_named(settings.matcher, settings.device)
    except InputError as error:
        raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None


def write_transforms(folder: Path, name: str, shape: tuple[int, ...], result: SearchResult) -> None:
    """Write, for each hit that has a pose, ``<name>-hit<rank>`` as ``.txt``, ``.tfm`` and ``.elastix.txt``.

    Parameters
    ----------
    folder : Path
        Made if need be.
    name : str
        Of the query.
    shape : tuple of int
        (y, x, ...) of the query's image.
    result : SearchResult
    """
    import numpy as np

    from napari_cmrir.files import atomic_write
    from napari_cmrir.search.hits import affine_matrix, as_elastix, as_itk, as_matrix

    assert result.region is not None
    for hit in result.hits:
        if not np.isfinite(hit.scores["registration"]):
            continue
        matrix = affine_matrix(result.region, hit)
        stem = f"{name}-hit{hit.rank:0{len(str(len(result.hits)))}d}"
        atomic_write(folder / f"{stem}.txt", as_matrix(matrix).encode())
        atomic_write(folder / f"{stem}.tfm", as_itk(matrix).encode())
        atomic_write(folder / f"{stem}.elastix.txt", as_elastix(matrix, shape).encode())


def print_hits(
    title: str, result: SearchResult, settings: SearchSettings, *, to_stderr: bool = False
) -> None:
    """Print the hits of one query as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}, {result.seconds:.2f} s", title_justify="left")
    matched = ["matcher"] if settings.matcher else []
    for name in ("rank", "score", *matched, "confidence", "rotation", "box centre (y, x)"):
        table.add_column(name, justify="right")
    table.add_column("image", overflow="fold")
    for hit in result.hits:
        y, x = hit.box.mean(0)
        table.add_row(
            str(hit.rank),
            f"{hit.score:.3f}",
            *(f"{hit.scores[name]:.4g}" if name in hit.scores else "-" for name in matched),
            f"{hit.confidence:.2f}",
            f"{hit.rotation_degrees:.1f}°",
            f"{y:.0f}, {x:.0f}",
            Path(hit.image).name,
        )
    Console(stderr=to_stderr).print(table)
    for sentence in doubts(result, settings):
        typer.echo(sentence, err=to_stderr)


def doubts(result: SearchResult, settings: SearchSettings) -> list[str]:
    """List sentences on doubtful hits: no reliable match, options that were not tried, and warnings."""
    from napari_cmrir.search.settings import untried

    first = f" (confidence of the first hit {result.hits[0].confidence:.2f})" if result.hits else ""
    none = f"No reliable match{first}.{untried(settings)}"
    return ([] if result.reliable else [none]) + list(result.warnings)
