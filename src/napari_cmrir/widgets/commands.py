"""The actions of the widgets in other words: as a command, and as Python, with the same result."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_cmrir.comir.settings import TrainingSettings
    from napari_cmrir.widgets.query import Query
    from napari_cmrir.widgets.snapshot import ImageSnapshot

__all__ = [
    "file_of",
    "import_command",
    "import_python",
    "index_command",
    "index_python",
    "pairs_of",
    "query_command",
    "query_python",
    "represent_command",
    "represent_python",
    "train_command",
    "train_python",
]


def query_command(query: Query, image: Path) -> str:
    """Write a query as a command.

    Parameters
    ----------
    query : Query
        The query.
    image : Path
        The file that holds its image, see `file_of`.

    Returns
    -------
    str
        One line for a terminal.

    Raises
    ------
    InputError
        As `Query.region_and_mask`.
    """
    region, _ = query.region_and_mask()
    words: list[Any] = ["query", query.repository, image, "--modality", query.modality]
    polygon = None if query.outline is None else query.outline.polygon()
    if polygon is not None:
        words += ["--polygon", " ".join(f"{float(y)!r},{float(x)!r}" for y, x in polygon)]
    elif query.outline is not None:
        words += ["--region", *map(float, region.rectangle)]
        if region.rotation_degrees:
            words += ["--turned", float(region.rotation_degrees)]
    if query.pixel_size is not None:
        words += ["--pixel-size", query.pixel_size]
    words += ["-k", query.hits, "--max-rotation", query.settings.max_rotation, "--json", "hits.json"]
    return _line(words)


def query_python(query: Query, image: Path) -> str:
    """Write a query in Python.

    Parameters
    ----------
    query : Query
        The query.
    image : Path
        The file that holds its image, see `file_of`.

    Returns
    -------
    str
        A script that leaves the hits in ``result``.

    Raises
    ------
    InputError
        As `Query.region_and_mask`.
    """
    region, _ = query.region_and_mask()
    polygon = None if query.outline is None else query.outline.polygon()
    lines = ["import napari_cmrir as cmrir"]
    if polygon is None:
        lines += ["from napari_cmrir.images.geometry import Region"]
    else:
        lines += ["from napari_cmrir.images.polygons import polygon_region"]
    lines += [
        "from napari_cmrir.search.settings import SearchSettings",
        "",
        f"pixels = cmrir.read_image({str(image)!r})",
    ]
    if polygon is None:
        centre = tuple(float(value) for value in region.centre)
        size = f"{float(region.height)!r}, {float(region.width)!r}"
        lines += [f"region, mask = Region({centre!r}, {size}, {float(region.rotation_degrees)!r}), None"]
    else:
        points = [tuple(float(value) for value in point) for point in polygon]
        lines += [f"region, mask = polygon_region({points!r}, pixels.shape)"]
    lines += [
        f"settings = SearchSettings(hits={query.hits}, max_rotation={query.settings.max_rotation!r})",
        f"with cmrir.open_repository({str(query.repository)!r}) as repository:",
        f"    job = cmrir.query(repository, pixels, {query.modality!r}, region=region, mask=mask,",
        f"                      pixel_size={query.pixel_size!r}, settings=settings)",
        "    result = cmrir.run(job)",
        "for hit in result.hits:",
        "    print(hit.rank, hit.image, hit.score, hit.confidence, hit.rotation_degrees, hit.box.tolist())",
    ]
    return _script(lines)


def train_command(
    pairs: Path,
    modalities: tuple[str, str],
    settings: TrainingSettings,
    preset: str,
    output: Path,
    resume: bool,
) -> str:
    """Write a training as a command.

    Parameters
    ----------
    pairs : Path
        Folder of pairs.
    modalities : tuple of two str
        Their names.
    settings : TrainingSettings
        Those of the preset with other steps.
    preset : str
        Its name.
    output : Path
        The model file.
    resume : bool
        Whether to go on with an interrupted training.
    """
    words: list[Any] = ["train", pairs, "--modalities", *modalities, "--output", output, "--preset", preset]
    return _line(
        [*words, "--steps", settings.steps, "--seed", settings.seed, *(["--resume"] if resume else [])]
    )


def train_python(
    pairs: Path,
    modalities: tuple[str, str],
    settings: TrainingSettings,
    preset: str,
    output: Path,
    resume: bool,
) -> str:
    """Write a training in Python; the parameters are those of `train_command`."""
    return _script(
        [
            "import napari_cmrir as cmrir",
            "from napari_cmrir.comir.settings import PRESETS",
            "",
            f"modalities = {modalities!r}",
            f"pairs = cmrir.find_pairs({str(pairs)!r}, modalities)",
            f'changes = {{"steps": {settings.steps}, "seed": {settings.seed}}}',
            f"settings = PRESETS[{preset!r}].model_copy(update=changes)",
            f"job = cmrir.train(pairs, modalities, settings, output={str(output)!r}, resume={resume})",
            "model = cmrir.run(job)",
        ]
    )


def index_command(images: Sequence[Path], model: Path, modality: str, output: Path) -> str:
    """Write an indexing as a command.

    Parameters
    ----------
    images : sequence of Path
        Files and folders.
    model : Path
        The model file.
    modality : str
        Of the images.
    output : Path
        The repository.
    """
    return _line(["index", *images, "--model", model, "--modality", modality, "--output", output])


def index_python(images: Sequence[Path], model: Path, modality: str, output: Path) -> str:
    """Write an indexing in Python; the parameters are those of `index_command`."""
    return _script(
        [
            "import napari_cmrir as cmrir",
            "",
            f"images = cmrir.find_images({[str(path) for path in images]!r}, {modality!r})",
            f"model = cmrir.load_model({str(model)!r})",
            f"repository = cmrir.run(cmrir.build_repository(images, model, {modality!r}, {str(output)!r}))",
        ]
    )


def represent_command(model: Path, image: Path, modality: str, folder: Path) -> str:
    """Write the making of a CoMIR as a command.

    Parameters
    ----------
    model : Path
        The model file.
    image : Path
        The file that holds the image.
    modality : str
        Of the image.
    folder : Path
        Where the command is to write.
    """
    return _line(["represent", model, image, "--modality", modality, "-o", folder])


def represent_python(model: Path, image: Path, modality: str, folder: Path) -> str:
    """Write the making of a CoMIR in Python; the parameters are those of `represent_command`."""
    return _script(
        [
            "import napari_cmrir as cmrir",
            "",
            f"model = cmrir.load_model({str(model)!r})",
            f"pixels = cmrir.read_image({str(image)!r})",
            f"comir = cmrir.run(cmrir.represent(model, pixels, {modality!r}))",
        ]
    )


def import_command(checkpoint: Path, modalities: tuple[str, str], output: Path) -> str:
    """Write the import of a released checkpoint as a command.

    Parameters
    ----------
    checkpoint : Path
        The ``.pt`` file.
    modalities : tuple of two str
        What its two networks are called.
    output : Path
        The model file.
    """
    return _line(["import-checkpoint", checkpoint, "--modalities", *modalities, "--output", output])


def import_python(checkpoint: Path, modalities: tuple[str, str], output: Path) -> str:
    """Write the import of a released checkpoint in Python; the parameters are those of `import_command`."""
    return _script(
        [
            "from napari_cmrir.comir.checkpoint_import import import_checkpoint",
            "",
            f"import_checkpoint({str(checkpoint)!r}, {modalities!r}).save({str(output)!r})",
        ]
    )


def file_of(image: ImageSnapshot, folder: Path) -> Path:
    """Find the file that holds an image layer's pixels, or write one.

    Parameters
    ----------
    image : ImageSnapshot
        The layer's plane. Where its file reads as other pixels, as a plane of a stack does, they are written.
    folder : Path
        Where to write.

    Returns
    -------
    Path
        `images.readers.read_image` reads the plane from it.

    Raises
    ------
    InputError
        The plane cannot be written so that it reads the same.
    """
    pixels = image.read()
    if image.path is not None and _reads_as(Path(image.path), pixels):
        return Path(image.path)
    return _written(pixels, folder, "image")


def pairs_of(first: ImageSnapshot, second: ImageSnapshot, modalities: tuple[str, str], folder: Path) -> Path:
    """Write two layers as a folder that holds one pair.

    Parameters
    ----------
    first, second : ImageSnapshot
        The layers.
    modalities : tuple of two str
        Their names.
    folder : Path
        Where to make the folder.

    Raises
    ------
    InputError
        As `file_of`.
    """
    pixels = [first.read(), second.read()]
    own = folder / f"pair-{_digest(*pixels)}"
    for one, modality in zip(pixels, modalities, strict=True):
        _write(one, own / f"layers_{modality}.tif")
    return own


def _written(pixels: NDArray[Any], folder: Path, name: str) -> Path:
    path = folder / f"{name}-{_digest(pixels)}.tif"
    _write(pixels, path)
    return path


def _write(pixels: NDArray[Any], path: Path) -> None:
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        colour = pixels.shape[2] == 3
        shown = pixels if colour else pixels.squeeze(axis=2)
        tifffile.imwrite(path, shown, photometric="rgb" if colour else "minisblack", compression="zlib")
    if not _reads_as(path, pixels):
        path.unlink()
        raise InputError(
            f"An image of {pixels.dtype} does not read back from a TIFF file as it is; make it 8 or 16 bit."
        )


def _reads_as(path: Path, pixels: NDArray[Any]) -> bool:
    import numpy as np

    from napari_cmrir.images.readers import read_image

    try:
        read = read_image(path)
    except InputError:
        return False
    return read.dtype == pixels.dtype and np.array_equal(read, pixels)


def _digest(*arrays: NDArray[Any]) -> str:
    import hashlib

    import numpy as np

    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def _line(words: Sequence[Any]) -> str:
    texts = ["napari-cmrir", *(str(word) for word in words)]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def _script(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
