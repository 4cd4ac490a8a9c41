"""``napari-cmrir evaluate``: measure retrieval on aligned pairs, by the paper's protocol."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from napari_cmrir.cli.lists import Lists
from napari_cmrir.cli.query import Rerank
from napari_cmrir.cli.train import Device, Preset

__all__ = ["QuerySize", "evaluate", "evaluate_command"]

evaluate_command = Lists.of("--k", "--distractor-images")


class QuerySize(StrEnum):
    """What is asked with."""

    full = "full"
    patch = "patch"
    both = "both"


def evaluate(
    model: Annotated[Path, typer.Argument(help="Model file that 'train' wrote.")],
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Folder of <identifier>_<MODALITY>.<ext> files, or two of equal file names."),
    ],
    modalities: Annotated[tuple[str, str], typer.Option(help="The two modalities, such as SHG BF.")],
    field_size: Annotated[
        int, typer.Option(min=64, help="Side of the fields that larger pairs are cut into, px.")
    ] = 256,
    query: Annotated[
        QuerySize, typer.Option(help="Ask with whole fields, patches or both.")
    ] = QuerySize.both,
    patch_size: Annotated[
        int | None, typer.Option(min=32, help="Side of the central patch, px; 3/8 of the field if not given.")
    ] = None,
    max_rotation: Annotated[
        float, typer.Option(min=0, max=180, help="Transformed queries are turned by up to this, degrees.")
    ] = 30.0,
    max_shift: Annotated[
        float, typer.Option(min=0, max=0.5, help="They are shifted by up to this share of the field's side.")
    ] = 0.12,
    queries: Annotated[
        Path | None,
        typer.Option(help="Folder of ready transformed images <identifier>_<MODALITY>.<ext> to ask instead."),
    ] = None,
    within: Annotated[bool, typer.Option(help="Also search each modality with itself, as a control.")] = True,
    untransformed: Annotated[bool, typer.Option(help="Also ask untransformed queries.")] = True,
    descriptor: Annotated[str, typer.Option(help="Features that are counted: surf or sift.")] = "surf",
    rerank: Annotated[Rerank, typer.Option(help="How the shortlist is ordered.")] = Rerank.registration,
    shortlist: Annotated[int, typer.Option(min=1, help="Fields that are re-ranked.")] = 30,
    preset: Annotated[
        Preset,
        typer.Option(help="Vocabulary and weights: the default, or the published ones (20,000 words)."),
    ] = Preset.fast,
    k: Annotated[
        list[int] | None, typer.Option("--k", min=1, help="Success among the first K (1 5 10 15).")
    ] = None,
    report_shortlist: Annotated[
        bool,
        typer.Option(
            "--report-shortlist",
            help="Also report screening and bags of words alone, and registration of every field.",
        ),
    ] = False,
    distractors: Annotated[
        int, typer.Option(min=0, help="Fields to search beside those of the pairs: no query's answer.")
    ] = 0,
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
            help="Fit the confidence of hits to these queries; keep it with a model or a repository.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the transforms.")] = 0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for report.html, JSON, CSV, repositories.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where CoMIRs are computed.")] = Device.auto,
) -> None:
    """Measure how often, and how well located, the right image is found by one of another modality."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.evaluation.protocol import evaluate as measure
    from napari_cmrir.evaluation.reliability import calibrate_on
    from napari_cmrir.evaluation.report.comparison import compare_evaluations, read_evaluation
    from napari_cmrir.evaluation.report.page import write_report
    from napari_cmrir.evaluation.report.tables import as_markdown, evaluation_tables
    from napari_cmrir.evaluation.settings import EvaluationSettings
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.search.calibration import store_calibration
    from napari_cmrir.search.settings import SearchSettings

    other = None if compare is None else read_evaluation(compare)
    repository = RepositorySettings.paper() if preset is Preset.paper else RepositorySettings()
    described = repository.descriptor.model_copy(update={"name": descriptor})
    settings = EvaluationSettings(
        field_size=field_size,
        query=query.value,
        patch_size=patch_size,
        max_rotation=max_rotation,
        max_shift=max_shift,
        kinds=("cross", "within") if within else ("cross",),
        poses=("transformed", "untransformed") if untransformed else ("transformed",),
        ranks=tuple(sorted(set(k or (1, 5, 10, 15)))),
        report_shortlist=report_shortlist,
        distractors=distractors,
        seed=seed,
        repository=repository.model_copy(update={"descriptor": described}),
        search=SearchSettings(rerank=rerank.value, shortlist=shortlist, max_rotation=max(30.0, max_rotation)),
    )
    found = find_pairs(pairs, modalities)
    job = measure(
        load_model(model),
        found,
        modalities,
        settings,
        output=output,
        queries=queries,
        distractors=distractor_images or (),
        device=device.value,
    )
    report = draw(job)
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
