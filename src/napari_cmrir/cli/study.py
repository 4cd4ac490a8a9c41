"""``napari-cmrir study``: the paper's replacement study as a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from napari_cmrir.cli.options import READING, Device, Lists, Preset, SettingsOptions, settings_options
from napari_cmrir.evaluation.settings import EvaluationSettings

__all__ = ["study", "study_command"]

study_command = Lists.of("--representations", "--descriptors", "--rerankers")


PROTOCOL = SettingsOptions(
    EvaluationSettings,
    "What is asked",
    fields=("field_size", "query", "patch_size", "max_rotation", "max_shift", "seed"),
)


@settings_options(protocol=PROTOCOL, reading=READING)
def study(
    model: Annotated[Path, typer.Argument(help="Model file that 'train' wrote.")],
    pairs: Annotated[
        list[Path],
        typer.Argument(help="Folder of <identifier>_<MODALITY>.<ext> files, or two of equal file names."),
    ],
    modalities: Annotated[tuple[str, str], typer.Option(help="The two modalities, such as SHG BF.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the study: a run that was broken off goes on.")
    ],
    representations: Annotated[list[str] | None, typer.Option(help="original comir")] = None,
    descriptors: Annotated[list[str] | None, typer.Option(help="sift surf")] = None,
    rerankers: Annotated[list[str] | None, typer.Option(help="none bow-15 bow registration")] = None,
    within: Annotated[bool, typer.Option(help="Also search each modality with itself.")] = True,
    rerank_within: Annotated[
        bool,
        typer.Option("--rerank-within", help="Re-rank within a modality, too, as the paper does not."),
    ] = False,
    untransformed: Annotated[bool, typer.Option(help="Also ask untransformed queries.")] = True,
    preset: Annotated[
        Preset,
        typer.Option(help="Vocabulary and weights: the default, or the published ones (20,000 words)."),
    ] = Preset.fast,
    new_vocabulary: Annotated[
        bool,
        typer.Option(help="Let 'bow' learn new words from each shortlist (paper), or take the repository's."),
    ] = True,
    device: Annotated[Device, typer.Option(help="Where CoMIRs are computed.")] = Device.auto,
    *,
    protocol: dict[str, Any],
    reading: dict[str, Any],
) -> None:
    """Evaluate representations x descriptors x re-rankings, beside the paper's Tables 1 to 3."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.evaluation.report.tables import study_tables
    from napari_cmrir.evaluation.study import StudySettings
    from napari_cmrir.evaluation.study import study as run_study
    from napari_cmrir.files import atomic_write
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.representations.base import load_model
    from napari_cmrir.search.settings import SearchSettings

    read_as = READING.settings(reading)
    repository = RepositorySettings.paper() if preset is Preset.paper else RepositorySettings()
    evaluation = PROTOCOL.settings(protocol).model_copy(
        update={
            "kinds": ("cross", "within") if within else ("cross",),
            "poses": ("transformed", "untransformed") if untransformed else ("transformed",),
            "hits": 1,
            "repository": repository.model_copy(update={"reading": read_as}),
            "search": SearchSettings(bow_vocabulary="new" if new_vocabulary else "repository"),
        }
    )
    chosen = {"representations": representations, "descriptors": descriptors, "rerankings": rerankers}
    settings = StudySettings(
        evaluation=evaluation,
        rerank_within=rerank_within,
        **{name: tuple(names) for name, names in chosen.items() if names},
    )
    found = find_pairs(pairs, modalities, read_as)
    report = draw(
        run_study(load_model(model), found, modalities, settings, output=output, device=device.value)
    )
    tables = study_tables(report)
    typer.echo(tables)
    atomic_write(output / "study.md", (tables + "\n").encode())
