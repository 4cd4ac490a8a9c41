"""Copying an action as a command line or as Python code."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QApplication, QMenu, QPushButton

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import PairFiles
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.region_query import LabelOutline
from napari_cmrir.settings import PAIR_PATTERN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_cmrir.napari.coordinates import ImageSnapshot
    from napari_cmrir.napari.region_query import Query

__all__ = [
    "CopyButton",
    "Language",
    "file_of",
    "import_text",
    "index_text",
    "kept_folder",
    "pairs_of",
    "query_text",
    "represent_text",
    "train_text",
]


def file_of(image: ImageSnapshot, folder: Path, name: str = "image") -> Path:
    """Return the file that holds an image layer's pixels, or write one.

    Parameters
    ----------
    image : ImageSnapshot
        The layer's plane. Where its file reads as other pixels, as a plane of a stack does, they are written.
    folder : Path
        Where to write.
    name : str
        What a written file's name begins with.

    Returns
    -------
    Path
        `images.readers.read_image` reads the plane from it.

    Raises
    ------
    InputError
        The plane cannot be written so that it reads the same.
    """
    if image.path is not None and image.is_read:  # and may be too large to be compared
        return Path(image.path)
    pixels = image.read()
    if image.path is not None and _reads_as(Path(image.path), pixels):
        return Path(image.path)
    return _written(pixels, folder, name)


def pairs_of(
    first: ImageSnapshot, second: ImageSnapshot, modalities: tuple[str, str], folder: Path
) -> PairFiles:
    """Write two layers as a folder with one pair.

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
    return PairFiles((own,))


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
            f"An image of {pixels.dtype} would change in a TIFF file; convert it to 8 or 16 bit."
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


def query_text(language: Language, query: Query, image: Path) -> str:
    """Write a query as a command that saves the hits in ``hits.json``, or as Python code with ``result``.

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
        As `Query.region_and_polygon`.
    """
    region, _ = query.region_and_polygon()
    if isinstance(query.outline, LabelOutline):
        raise InputError(
            f"A label is no region of a command; draw a shape, or in Python give query the mask of"
            f" {query.outline.name}."
        )
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
        for name, value in query.preferences.items():
            words += [f"--{name.replace('_', '-')}", value]
        return _line(*words, *(["--mirror"] if query.mirror else []), "--json", "hits.json")
    if polygon is None:
        centre = tuple(float(value) for value in region.centre)
        size = f"{float(region.height)!r}, {float(region.width)!r}"
        part = f"region = Region({centre!r}, {size}, {float(region.rotation_degrees)!r})"
    else:
        points = [tuple(float(value) for value in point) for point in polygon]
        part = f"polygon = {points!r}"
    return _script(
        *(["from napari_cmrir.images.geometry import Region"] if polygon is None else []),
        "from napari_cmrir.search.settings import SearchSettings",
        "",
        part,
        f"settings = SearchSettings(hits={query.hits}, max_rotation={query.settings.max_rotation!r},"
        f" mirror={query.mirror}{''.join(f', {n}={v!r}' for n, v in query.preferences.items())})",
        f"with cmrir.open_repository({str(query.repository)!r}) as repository:",
        f"    job = cmrir.query(repository, {str(image)!r}, {query.modality!r},"
        f" {'region=region' if polygon is None else 'polygon=polygon'},",
        f"                      pixel_size={query.pixel_size!r}, settings=settings)",
        "    result = cmrir.run(job)",
        "for hit in result.hits:",
        "    print(hit.rank, hit.image, hit.score, hit.confidence, hit.rotation_degrees, hit.box.tolist())",
    )


def train_text(
    language: Language,
    pairs: PairFiles,
    modalities: tuple[str, str],
    method: str,
    preset: str,
    changes: Mapping[str, Any],
    output: Path,
    resume: bool,
) -> str:
    """Write a training as a command or as Python code; see `query_text`.

    Parameters
    ----------
    language : {"command", "python"}
        As what.
    pairs : PairFiles
        The pairs.
    modalities : tuple of two str
        Their names.
    method : str
        The representation that is trained.
    preset : str
        Name of its preset.
    changes : mapping of str to value
        Settings that are not those of the preset, steps and seed among them.
    output : Path
        The model file.
    resume : bool
        Whether to continue an interrupted training.
    """
    if language == "command":
        words = ["train", *pairs.folders, "--modalities", *modalities, "--output", output, "--preset", preset]
        words += ["--representation", method] if method != "comir" else []
        words += ["--pattern", pairs.pattern] if pairs.pattern != PAIR_PATTERN else []
        for name, value in changes.items():
            flag = name.replace("_", "-")
            words += ([f"--{flag}"] if value else [f"--no-{flag}"]) if isinstance(value, bool) else []
            words += [f"--{flag}", value] if not isinstance(value, bool) else []
        return _line(*words, *(["--resume"] if resume else []))
    return _script(
        f"modalities = {modalities!r}",
        f"pairs = cmrir.find_pairs({[str(folder) for folder in pairs.folders]!r}, modalities"
        + (")" if pairs.pattern == PAIR_PATTERN else f", pattern={pairs.pattern!r})"),
        f"preset = cmrir.REPRESENTATIONS[{method!r}].presets[{preset!r}]",
        f"settings = preset.model_copy(update={dict(changes)!r})",
        f"job = cmrir.train(pairs, modalities, settings, representation={method!r},",
        f"                  output={str(output)!r}, resume={resume})",
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
    """Write an indexing as a command or as Python code; see `query_text`.

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
        imports = [
            "from pathlib import Path",
            "from napari_cmrir.repository.settings import changed_settings",
        ]
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
    """Write the computation of a CoMIR as a command or as Python code; see `query_text`.

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
    """Write the import of a released checkpoint as a command or as Python code; see `query_text`.

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
        "from napari_cmrir.representations.comir.model import import_checkpoint",
        "",
        f"import_checkpoint({str(checkpoint)!r}, {modalities!r}).save({str(output)!r})",
    )


def _line(*words: Any) -> str:
    texts = ["napari-cmrir", *(str(word) for word in words)]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def _script(*lines: str) -> str:
    return "\n".join(["import napari_cmrir as cmrir", *lines]) + "\n"


Language = Literal["command", "python"]


class CopyButton(QPushButton):
    """A button that copies an action, with its current settings, as a command or as Python code.

    Parameters
    ----------
    action : str
        What is copied, for the tooltip: ``"this search"``.
    write : callable
        Takes ``"command"`` or ``"python"`` in the window's thread, and returns what writes the text in
        another. Either may raise `InputError`.
    """

    copied = Signal(str)
    """Signal: the text was copied to the clipboard."""

    def __init__(self, action: str, write: Callable[[Language], Callable[[], str]]) -> None:
        super().__init__()
        self._write = write
        self.setText("Copy")
        self.setToolTip(f"Copy {action} as a command or as Python that gives the same result")
        self._menu = QMenu(self)
        self._menu.addAction("Copy as command", partial(self.copy, "command"))
        self._menu.addAction("Copy as Python", partial(self.copy, "python"))
        self.setMenu(self._menu)
        self._inquiry = DebouncedQuery(self, 0)
        self._inquiry.answered.connect(self._take)
        self._inquiry.refused.connect(show_error)

    def copy(self, language: Language) -> None:
        """Copy the action.

        Parameters
        ----------
        language : {"command", "python"}
            As what.
        """
        try:
            write = self._write(language)
        except InputError as error:
            show_error(str(error))
        else:
            self._inquiry.ask(write)

    def _take(self, text: str) -> None:
        QApplication.clipboard().setText(text)
        self.copied.emit(text)


def kept_folder() -> Path:
    """Return the folder for copies of layers that have no file."""
    import pooch

    return Path(pooch.os_cache("napari-cmrir")) / "copied"
