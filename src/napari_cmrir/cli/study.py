"""``napari-cmrir study``: the paper's replacement study as a loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from napari_cmrir.cli.lists import Lists

__all__ = ["study", "study_command"]

study_command = Lists.of("--representations", "--descriptors", "--rerankers")


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
    field_size: Annotated[int, typer.Option(help="Side of the fields, px.")] = 256,
    query: Annotated[
        Literal["full", "patch", "both"], typer.Option(help="Ask with whole fields, patches or both.")
    ] = "both",
    patch_size: Annotated[int | None, typer.Option(help="Side of the central patch, px.")] = None,
    within: Annotated[bool, typer.Option(help="Also search each modality with itself.")] = True,
    untransformed: Annotated[bool, typer.Option(help="Also ask untransformed queries.")] = True,
    preset: Annotated[
        Literal["fast", "paper"],
        typer.Option(help="Vocabulary and weights: the default, or the published ones (20,000 words)."),
    ] = "fast",
    bow_vocabulary: Annotated[
        Literal["new", "repository"],
        typer.Option(help="Words that 'bow' counts: new ones of the shortlist (paper), or the repository's."),
    ] = "new",
    seed: Annotated[int, typer.Option(help="Seed of the transforms.")] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where CoMIRs are computed.")
    ] = "auto",
) -> None:
    """Evaluate representations x descriptors x re-rankings, beside the paper's Tables 1 to 3."""
    from napari_cmrir.cli.progress import draw
    from napari_cmrir.comir.model import load_model, write_whole
    from napari_cmrir.evaluation.settings import EvaluationSettings
    from napari_cmrir.evaluation.study import StudySettings
    from napari_cmrir.evaluation.study import study as run_study
    from napari_cmrir.evaluation.tables import study_tables
    from napari_cmrir.images.pairs import find_pairs
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.search.settings import SearchSettings

    evaluation = EvaluationSettings(
        field_size=field_size,
        query=query,
        patch_size=patch_size,
        kinds=("cross", "within") if within else ("cross",),
        poses=("transformed", "untransformed") if untransformed else ("transformed",),
        hits=1,
        seed=seed,
        repository=RepositorySettings.paper() if preset == "paper" else RepositorySettings(),
        search=SearchSettings(bow_vocabulary=bow_vocabulary),
    )
    chosen = {"representations": representations, "descriptors": descriptors, "rerankings": rerankers}
    settings = StudySettings(
        evaluation=evaluation, **{name: tuple(names) for name, names in chosen.items() if names}
    )
    found = find_pairs(pairs, modalities)
    report = draw(run_study(load_model(model), found, modalities, settings, output=output, device=device))
    tables = study_tables(report)
    typer.echo(tables)
    write_whole(output / "study.md", (tables + "\n").encode())
