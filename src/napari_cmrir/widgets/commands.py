"""The actions of the widgets in other words: as a command, and as Python, with the same result."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_cmrir.comir.settings import TrainingSettings
    from napari_cmrir.widgets.copying import Language
    from napari_cmrir.widgets.query import Query

__all__ = ["import_text", "index_text", "query_text", "represent_text", "train_text"]


def query_text(language: Language, query: Query, image: Path) -> str:
    """Write a query as a command that leaves the hits in ``hits.json``, or in Python in ``result``.

    Parameters
    ----------
    language : {"command", "python"}
        As what.
    query : Query
        The query.
    image : Path
        The file that holds its image, see `layer_files.file_of`.

    Returns
    -------
    str
        A line for a terminal, or a script.

    Raises
    ------
    InputError
        As `Query.region_and_mask`.
    """
    region, _ = query.region_and_mask()
    polygon = None if query.outline is None else query.outline.polygon()
    if language == "command":
        words: list[Any] = ["query", query.repository, image, "--modality", query.modality]
        if polygon is not None:
            words += ["--polygon", " ".join(f"{float(y)!r},{float(x)!r}" for y, x in polygon)]
        elif query.outline is not None:
            words += ["--region", *map(float, region.rectangle)]
            words += ["--turned", float(region.rotation_degrees)] if region.rotation_degrees else []
        words += ["--pixel-size", query.pixel_size] if query.pixel_size is not None else []
        words += ["-k", query.hits, "--max-rotation", query.settings.max_rotation]
        return _line(*words, *(["--mirror"] if query.mirror else []), "--json", "hits.json")
    if polygon is None:
        source = "images.geometry import Region"
        centre = tuple(float(value) for value in region.centre)
        size = f"{float(region.height)!r}, {float(region.width)!r}"
        part = f"Region({centre!r}, {size}, {float(region.rotation_degrees)!r}), None"
    else:
        source = "images.polygons import polygon_region"
        points = [tuple(float(value) for value in point) for point in polygon]
        part = f"polygon_region({points!r}, pixels.shape)"
    return _script(
        f"from napari_cmrir.{source}",
        "from napari_cmrir.search.settings import SearchSettings",
        "",
        f"pixels = cmrir.read_image({str(image)!r})",
        f"region, mask = {part}",
        f"settings = SearchSettings(hits={query.hits}, max_rotation={query.settings.max_rotation!r},"
        f" mirror={query.mirror})",
        f"with cmrir.open_repository({str(query.repository)!r}) as repository:",
        f"    job = cmrir.query(repository, pixels, {query.modality!r}, region=region, mask=mask,",
        f"                      pixel_size={query.pixel_size!r}, settings=settings)",
        "    result = cmrir.run(job)",
        "for hit in result.hits:",
        "    print(hit.rank, hit.image, hit.score, hit.confidence, hit.rotation_degrees, hit.box.tolist())",
    )


def train_text(
    language: Language,
    pairs: Path,
    modalities: tuple[str, str],
    settings: TrainingSettings,
    preset: str,
    output: Path,
    resume: bool,
) -> str:
    """Write a training, as `query_text` writes a query.

    Parameters
    ----------
    language : {"command", "python"}
        As what.
    pairs : Path
        Folder of pairs.
    modalities : tuple of two str
        Their names.
    settings : TrainingSettings
        Those of the preset with other steps and another seed.
    preset : str
        Its name.
    output : Path
        The model file.
    resume : bool
        Whether to go on with an interrupted training.
    """
    if language == "command":
        words = ["train", pairs, "--modalities", *modalities, "--output", output, "--preset", preset]
        numbers = ["--steps", settings.steps, "--seed", settings.seed]
        return _line(*words, *numbers, *(["--resume"] if resume else []))
    return _script(
        "from napari_cmrir.comir.settings import PRESETS",
        "",
        f"modalities = {modalities!r}",
        f"pairs = cmrir.find_pairs({str(pairs)!r}, modalities)",
        f'changes = {{"steps": {settings.steps}, "seed": {settings.seed}}}',
        f"settings = PRESETS[{preset!r}].model_copy(update=changes)",
        f"job = cmrir.train(pairs, modalities, settings, output={str(output)!r}, resume={resume})",
        "model = cmrir.run(job)",
    )


def index_text(
    language: Language,
    images: Sequence[Path],
    model: Path,
    modality: str,
    output: Path,
    keep_glass: bool = False,
    pixel_size: float | None = None,
) -> str:
    """Write an indexing, as `query_text` writes a query.

    Parameters
    ----------
    language : {"command", "python"}
        As what.
    images : sequence of Path
        Files and folders.
    model : Path
        The model file.
    modality : str
        Of the images.
    output : Path
        The repository.
    keep_glass : bool
        Whether fields that show no tissue are searched too.
    pixel_size : float, optional
        Side of the images' pixels in micrometres, where it is not to be as the files say.
    """
    if language == "command":
        words = ["index", *images, "--model", model, "--modality", modality, "--output", output]
        more = ["--keep-glass"] if keep_glass else []
        return _line(*words, *more, *([] if pixel_size is None else ["--pixel-size", pixel_size]))
    imports, settings, given = [], [], ""
    if keep_glass or pixel_size is not None:
        imports = ["from pathlib import Path", "from napari_cmrir.repository.store import changed_settings"]
        changes = f"keep_glass={keep_glass}, pixel_size={pixel_size!r}"
        settings = [f"settings = changed_settings(Path({str(output)!r}), {changes})"]
        given = ", settings"
    return _script(
        *imports,
        "",
        f"images = cmrir.find_images({[str(path) for path in images]!r}, {modality!r})",
        f"model = cmrir.load_model({str(model)!r})",
        *settings,
        f"job = cmrir.build_repository(images, model, {modality!r}, {str(output)!r}{given})",
        "repository = cmrir.run(job)",
    )


def represent_text(language: Language, model: Path, image: Path, modality: str, folder: Path) -> str:
    """Write the making of a CoMIR, as `query_text` writes a query.

    Parameters
    ----------
    language : {"command", "python"}
        As what.
    model : Path
        The model file.
    image : Path
        The file that holds the image.
    modality : str
        Of the image.
    folder : Path
        Where the command is to write.
    """
    if language == "command":
        return _line("represent", model, image, "--modality", modality, "-o", folder)
    return _script(
        "",
        f"model = cmrir.load_model({str(model)!r})",
        f"pixels = cmrir.read_image({str(image)!r})",
        f"comir = cmrir.run(cmrir.represent(model, pixels, {modality!r}))",
    )


def import_text(language: Language, checkpoint: Path, modalities: tuple[str, str], output: Path) -> str:
    """Write the import of a released checkpoint, as `query_text` writes a query.

    Parameters
    ----------
    language : {"command", "python"}
        As what.
    checkpoint : Path
        The ``.pt`` file.
    modalities : tuple of two str
        What its two networks are called.
    output : Path
        The model file.
    """
    if language == "command":
        return _line("import-checkpoint", checkpoint, "--modalities", *modalities, "--output", output)
    return _script(
        "from napari_cmrir.comir.checkpoint_import import import_checkpoint",
        "",
        f"import_checkpoint({str(checkpoint)!r}, {modalities!r}).save({str(output)!r})",
    )


def _line(*words: Any) -> str:
    texts = ["napari-cmrir", *(str(word) for word in words)]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def _script(*lines: str) -> str:
    return "\n".join(["import napari_cmrir as cmrir", *lines]) + "\n"
