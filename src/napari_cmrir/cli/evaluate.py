"""Commands that measure retrieval (``evaluate``, ``study``) and fetch data (``datasets``)."""

from __future__ import annotations

from collections.abc import Sequence
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
    settings_options,
)
from napari_cmrir.cli.query import require_plugins
from napari_cmrir.evaluation.records import EvaluationSettings, StudySettings
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import PAIR_PATTERN

if TYPE_CHECKING:
    from napari_cmrir.representations.base import Representation

__all__ = [
    "PROTOCOL",
    "STUDY",
    "STUDY_PROTOCOL",
    "datasets",
    "evaluate",
    "evaluate_command",
    "study",
    "study_command",
]

evaluate_command = Lists.of("--k", "--distractor-images")


PROTOCOL = SettingsOptions(
    EvaluationSettings,
    "Queries",
    fields=(
        "field_size",
        "query",
        "patch_size",
        "patches",
        "max_rotation",
        "max_shift",
        "ranks",
        "hits",
        "report_shortlist",
        "distractors",
        "seed",
    ),
    flags={"ranks": ("--k",)},
)
SEARCH = SettingsOptions(
    SearchSettings,
    "Search settings",
    # the protocol sets rotation, hits and device, and every query searches for images
    fields=tuple(
        name
        for name in SearchSettings.model_fields
        if name not in ("max_rotation", "hits", "device", "per_field", "reliable_from")
    ),
)


@settings_options(protocol=PROTOCOL, search=SEARCH, reading=READING)
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file that 'train' wrote, or starter.")],
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Folder of <identifier>_<MODALITY>.<ext> files, or two of equal file names."),
    ],
    modalities: Annotated[tuple[str, str], typer.Option(help="The two modalities, such as SHG BF.")],
    queries: Annotated[
        Path | None,
        typer.Option(help="Folder of transformed images <identifier>_<MODALITY>.<ext> to use as queries."),
    ] = None,
    within: Annotated[bool, typer.Option(help="Also search each modality with itself, as a control.")] = True,
    untransformed: Annotated[bool, typer.Option(help="Also ask untransformed queries.")] = True,
    descriptor: Annotated[str, typer.Option(help="Features for the visual words: surf or sift.")] = "surf",
    preset: Annotated[
        Preset,
        typer.Option(help="Vocabulary and weights: the default, or the published ones (20,000 words)."),
    ] = Preset.fast,
    distractor_images: Annotated[
        list[Path] | None,
        typer.Option(help="Folders of other images of both modalities to cut every second distractor from."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(help="Folder of another evaluation of the same queries, for McNemar's test."),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL_OR_REPOSITORY",
            help="Fit the confidence of hits to these queries; store it in a model or a repository.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for report.html, JSON, CSV, repositories.")
    ] = None,
    pattern: Pattern = PAIR_PATTERN,
    device: Annotated[Device, typer.Option(help="Where CoMIRs are computed.")] = Device.auto,
    *,
    protocol: dict[str, Any],
    search: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Measure how often a query finds the right image of another modality, and how accurately."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.evaluation.metrics import calibrate_on
    from napari_cmrir.evaluation.protocol import evaluate as measure
    from napari_cmrir.evaluation.report.comparison import compare_evaluations, read_evaluation
    from napari_cmrir.evaluation.report.page import write_report
    from napari_cmrir.evaluation.report.tables import as_markdown, evaluation_tables
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.search.calibration import store_calibration

    other = None if compare is None else read_evaluation(compare)
    repository = RepositorySettings.paper() if preset is Preset.paper else RepositorySettings()
    read_as = READING.settings(reading)
    described = repository.descriptor.model_copy(update={"name": descriptor})
    asked: EvaluationSettings = PROTOCOL.settings(protocol)
    searched = SEARCH.settings(
        search, SearchSettings(max_rotation=max(SearchSettings().max_rotation, asked.max_rotation))
    )
    require_plugins(searched)
    settings = asked.model_copy(
        update={
            "kinds": ("cross", "within") if within else ("cross",),
            "poses": ("transformed", "untransformed") if untransformed else ("transformed",),
            "ranks": tuple(sorted(set(asked.ranks))),
            "repository": repository.model_copy(update={"descriptor": described, "reading": read_as}),
            "search": searched,
        }
    )
    found = find_pairs(pairs, modalities, read_as, pattern)
    loaded = load_model(model)
    job = measure(
        loaded,
        found,
        modalities,
        settings,
        output=output,
        queries=queries,
        distractors=distractor_images or (),
        device=device.value,
    )
    report = draw(job)
    if loaded.caveat:
        typer.echo(f"Note: {loaded.caveat}.\n")
    for title, rows in evaluation_tables(report.summaries()).items():
        typer.echo(f"{title}\n\n{as_markdown(rows)}\n")
    if other is not None:
        rows = compare_evaluations(report.as_dict(), other)
        typer.echo(f"Against {compare}\n\n{as_markdown(rows)}\n")
    if calibrate is not None:
        fitted = calibrate_on(report)
        store_calibration(calibrate, fitted.calibration)
        typer.echo(f"{fitted}\nKept with {calibrate}")
    if output is not None:
        files = draw(write_report(report, output))
        typer.echo("\n".join(str(path) for path in files.values()))
    failures = Failures()
    for identifier, reason in report.failed_pairs.items():
        failures.add(identifier, reason)
    failures.end(len(found))


study_command = Lists.of(
    "--representations", "--descriptors", "--rerankers", "--retrievers", "--reranked", "--models"
)


STUDY = SettingsOptions(
    StudySettings,
    "Variants to compare",
    fields=("representations", "descriptors", "rerankings", "retrievers", "reranked", "rerank_within"),
    flags={"rerankings": ("--rerankers",)},
)
STUDY_PROTOCOL = SettingsOptions(
    EvaluationSettings,
    "Queries",
    fields=("field_size", "query", "patch_size", "patches", "max_rotation", "max_shift", "seed"),
)


@settings_options(compared=STUDY, protocol=STUDY_PROTOCOL, reading=READING)
def study(
    model: Annotated[Path, typer.Argument(help="Model file that 'train' wrote, or starter.")],
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Folder of <identifier>_<MODALITY>.<ext> files, or two of equal file names."),
    ],
    modalities: Annotated[tuple[str, str], typer.Option(help="The two modalities, such as SHG BF.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the study; an interrupted study continues.")
    ],
    training_pairs: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of the pairs that the retrievers learn from. Repeat the option for two folders."
        ),
    ] = None,
    models: Annotated[
        list[Path] | None,
        typer.Option(help="Model files of the other representations that are trained, such as pix2pix."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="All systems of the paper, unless others are named; what has no model is trained by its"
            " preset fast on the training pairs. Such figures are not comparable with the paper's.",
        ),
    ] = False,
    within: Annotated[bool, typer.Option(help="Also search each modality with itself.")] = True,
    untransformed: Annotated[bool, typer.Option(help="Also ask untransformed queries.")] = True,
    preset: Annotated[
        Preset,
        typer.Option(help="Vocabulary and weights: the default, or the published ones (20,000 words)."),
    ] = Preset.fast,
    new_vocabulary: Annotated[
        bool,
        typer.Option(help="Words of 'bow': learnt from each shortlist (paper), or the repository's."),
    ] = True,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="File of ImageNet weights, such as resnet152's, to take into torch's folder."),
    ] = None,
    pattern: Pattern = PAIR_PATTERN,
    device: Annotated[Device, typer.Option(help="Where CoMIRs are computed.")] = Device.auto,
    *,
    compared: dict[str, Any],
    protocol: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Evaluate representations x descriptors x re-rankings, beside the paper's Tables 1 to 3."""
    from napari_cmrir.bag_of_words.descriptors.resnet import install_weights
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.evaluation.report.tables import study_tables
    from napari_cmrir.evaluation.study import study as run_study
    from napari_cmrir.files import atomic_write
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.search.settings import SearchSettings

    for file in weights or ():
        install_weights(file)
    read_as = READING.settings(reading)
    repository = RepositorySettings.paper() if preset is Preset.paper else RepositorySettings()
    evaluation = STUDY_PROTOCOL.settings(protocol).model_copy(
        update={
            "kinds": ("cross", "within") if within else ("cross",),
            "poses": ("transformed", "untransformed") if untransformed else ("transformed",),
            "hits": 1,
            "repository": repository.model_copy(update={"reading": read_as}),
            "search": SearchSettings(bow_vocabulary="new" if new_vocabulary else "repository"),
        }
    )
    loaded = load_model(model)
    base = StudySettings.quick() if quick else StudySettings()
    others = [load_model(file) for file in models or ()]
    settings = STUDY.settings(compared, base.model_copy(update={"evaluation": evaluation}))
    settings = _named_by_models(settings, [loaded, *others])
    found = find_pairs(pairs, modalities, read_as, pattern)
    learned = find_pairs(training_pairs, modalities, read_as, pattern) if training_pairs else ()
    job = run_study(
        loaded,
        found,
        modalities,
        settings,
        output=output,
        training_pairs=learned,
        models=others,
        quick=quick,
        device=device.value,
    )
    report = draw(job)
    tables = study_tables(report)
    typer.echo(tables)
    atomic_write(output / "study.md", (tables + "\n").encode())
    if report.failed:
        for reason in dict.fromkeys(report.failed.values()):
            typer.echo(f"napari-cmrir: {reason}", err=True)
        typer.echo(f"Failed: {', '.join(report.failed)}; the others are evaluated.", err=True)
        raise typer.Exit(1)


def _named_by_models(settings: StudySettings, models: Sequence[Representation]) -> StudySettings:
    """Call the starter's representation by its name, where users say ``starter`` or mean it by ``comir``."""
    names = {"starter": "comir-any"}
    if "comir" not in [model.name for model in models] and models[0].name == "comir-any":
        names["comir"] = "comir-any"
    called = {
        field: tuple(dict.fromkeys(names.get(name, name) for name in getattr(settings, field)))
        for field in ("representations", "reranked")
    }
    return settings.model_copy(update=called)


datasets = typer.Typer(name="datasets", help="Fetch published data.", no_args_is_help=True)


@datasets.callback()
def _verbs() -> None:
    """Fetch published data."""


@datasets.command(name="list")
def list_datasets() -> None:
    """List the public data that can be fetched: name, modalities, DOI, authors and title."""
    from napari_cmrir.evaluation.datasets import DATASETS

    for name, data in DATASETS.items():
        typer.echo(f"{name}: {' and '.join(data.modalities)}, https://doi.org/{data.doi}\n    {data.about}")


@datasets.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Name of the data; see 'datasets list'.")] = "shg_bf",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the data; by default its name.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Address of a mirror with Zenodo's interface, to use instead.")
    ] = None,
) -> None:
    """Fetch public image pairs, by default the paper's: SHG and brightfield images of tissue cores."""
    from napari_cmrir.cli.jobs import draw
    from napari_cmrir.evaluation.datasets import SOURCE, fetch_dataset

    dataset = draw(fetch_dataset(output or Path(name), name, server=server))
    for part, count in dataset.parts.items():
        typer.echo(f"{dataset.folder / part}: {count} images")
    for path in dataset.unplaced:
        typer.echo(f"{path}: contains no image of the data set", err=True)
    typer.echo(f"Licence, as the record states it: {dataset.licence or 'none'}; authors in {SOURCE}.")
