"""Short descriptions of a model file, a repository, images, or the doubt about hits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError, in_words
from napari_cmrir.search.settings import untried

if TYPE_CHECKING:
    from napari_cmrir.search.hits import SearchResult
    from napari_cmrir.search.settings import SearchSettings

__all__ = [
    "FoundImages",
    "KnownModalities",
    "RepositorySummary",
    "as_table",
    "describe_images",
    "doubt_of",
    "look_at_images",
    "model_rows",
    "read_modalities",
    "read_repository_summary",
]


@dataclass(frozen=True)
class KnownModalities:
    """The modalities that a model represents.

    Parameters
    ----------
    names : tuple of str
        Its two.
    any_other : bool
        Whether it represents any other as well, as the starter model does; the names are then proposals.
    channels : mapping of str to int
        How many channels images of a modality have, where the model says it.
    """

    names: tuple[str, ...]
    any_other: bool = False
    channels: Mapping[str, int] = field(default_factory=dict)

    def guess(self, name: str, channels: int) -> str | None:
        """Guess the modality of an image by a word of its name, else by its number of channels.

        Parameters
        ----------
        name : str
            Of the layer or file.
        channels : int
            3 for RGB.

        Examples
        --------
        >>> known = KnownModalities(("SHG", "BF"), channels={"SHG": 1, "BF": 3})
        >>> known.guess("1B_A1_SHG", 1), known.guess("bf, left", 1), known.guess("slide", 3)
        ('SHG', 'BF', 'BF')
        """
        words = [word.lower() for word in re.split(r"[\W_]+", name)]
        named = [modality for modality in self.names if modality.lower() in words]
        fitting = [modality for modality, count in self.channels.items() if count == channels]
        for found in (named, fitting):
            if len(found) == 1:
                return found[0]
        return None


@dataclass(frozen=True)
class RepositorySummary:
    """What a search needs to know about a repository before it starts.

    Parameters
    ----------
    modality : str
        Modality of its images.
    modalities : KnownModalities
        Modalities that its model represents.
    images, fields : int
        Number of searched images and fields.
    pixel_size : float or None
        That queries are brought to, in micrometres, as `search.checks.searched_pixel_size`.
    """

    modality: str
    modalities: KnownModalities
    images: int
    fields: int
    pixel_size: float | None = None

    @property
    def other_modality(self) -> str:
        """The usual modality of a query."""
        return next((name for name in self.modalities.names if name != self.modality), self.modality)


def read_modalities(model: Path) -> KnownModalities:
    """Read which modalities a model represents.

    Parameters
    ----------
    model : Path
        The model file.

    Raises
    ------
    InputError
        As `representations.model_file.read_header`.
    """
    from napari_cmrir.representations.model_file import read_header

    header = read_header(model)
    channels = {name: len(one["low"]) for name, one in (header.get("intensities") or {}).items()}
    return KnownModalities(tuple(header["modalities"]), header.get("any_modality", False), channels)


def model_rows(model: Path) -> list[tuple[str, str]]:
    """Describe a model file.

    Parameters
    ----------
    model : Path
        The model file.

    Returns
    -------
    list of (str, str)
        What, and its value.

    Raises
    ------
    InputError
        As `representations.model_file.read_header`.
    """
    from napari_cmrir.representations.model_file import read_header

    header = read_header(model)
    settings, provenance, history = header.get("settings", {}), header["provenance"], header["history"]
    trained_on = provenance.get("trained_on", "")
    loss = f", last loss {history[-1]['loss']:.3f}" if history else ""
    rows = [
        ("Model", model.name),
        ("Modalities", "any two" if header.get("any_modality") else " + ".join(header["modalities"])),
    ]
    if "network" in settings:
        rows += [
            ("Network", f"{settings['network']}, CoMIRs of {_counted(settings['channels'], 'channel')}"),
            ("Steps", f"{_steps(settings, provenance)}{loss}"),
        ]
    else:
        rows.append(("Representation", header["representation"]))
        rows += [("Compared in", header["target"])] if "target" in header else []
        rows += [("Steps", f"{_steps(settings, provenance)}{loss}")] if "steps" in settings else []
    score, pixel_size = header.get("score") or {}, header.get("pixel_size")
    if "retrieval" in score:
        rows.append(("Retrieves", f"{score['retrieval']:.0%} of the validation regions first"))
    if pixel_size:
        rows.append(("Pixel size", f"{pixel_size:g} µm"))
    if trained_on:
        on = trained_on if isinstance(trained_on, str) else _counted(len(trained_on), "pair")
        rows.append(("Trained on", f"{on}, {provenance.get('created', '')[:10]}"))
    return rows


def read_repository_summary(folder: Path) -> RepositorySummary:
    """Read a short description of a repository.

    Parameters
    ----------
    folder : Path
        The repository.

    Raises
    ------
    InputError
        As `repository.store.open_repository`, or `representations.model_file.read_header` of its model.
    """
    import numpy as np

    from napari_cmrir.repository.catalogue import MODEL_NAME
    from napari_cmrir.repository.repository import open_repository
    from napari_cmrir.representations.model_file import read_header

    with open_repository(folder) as repository:
        images = len(np.unique(repository.fields["image"]))
        header = read_header(folder / MODEL_NAME)
        known = read_modalities(folder / MODEL_NAME)
        if known.any_other and repository.modality not in known.names:
            known = replace(known, names=(*known.names, repository.modality))
        size = header.get("pixel_size")
        return RepositorySummary(
            repository.modality,
            known,
            images,
            len(repository),
            repository.common_pixel_size if size is None else size,
        )


def as_table(rows: Iterable[tuple[str, str]]) -> str:
    """Format rows as rich text for a label.

    Parameters
    ----------
    rows : iterable of (str, str)
        What, and its value.

    Examples
    --------
    >>> as_table([("Network", "unet")])
    '<table><tr><td>Network&nbsp;&nbsp;</td><td><b>unet</b></td></tr></table>'
    """
    cells = (f"<tr><td>{escape(a)}&nbsp;&nbsp;</td><td><b>{escape(b)}</b></td></tr>" for a, b in rows)
    return f"<table>{''.join(cells)}</table>"


def _steps(settings: dict[str, Any], provenance: dict[str, Any]) -> str:
    done, steps = provenance.get("steps_done", settings["steps"]), settings["steps"]
    return f"{steps}" if done == steps else f"{done} of {steps}, then stopped"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class FoundImages:
    """Description of images before they are indexed.

    Parameters
    ----------
    sentence : str
        How many there are and what they are, or why there are none.
    repository : Path
        Where to write by default: beside the folder that holds them.
    """

    sentence: str
    repository: Path


def look_at_images(paths: Sequence[Path], modality: str | None) -> FoundImages:
    """Describe images as `describe_images` does, and propose a path for their repository.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders, at least one.
    modality : str or None
        Selects the images of a folder with several modalities.
    """
    first = paths[0]
    base = first.parent if len(paths) > 1 or first.is_file() else first
    try:
        sentence = describe_images(paths, modality)
    except (InputError, OSError) as error:
        refusal = error if isinstance(error, InputError) else in_words(error)
        if refusal is None:
            raise
        sentence = str(refusal)
    name = base.resolve().name  # of "." that of the folder; the top of a drive has none
    beside = base.with_name(f"{name}.cmrir") if base.name else Path.home() / f"{name or 'images'}.cmrir"
    return FoundImages(sentence, beside)


def describe_images(paths: Sequence[Path], modality: str | None) -> str:
    """Count images, and describe how the first one is read.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders.
    modality : str or None
        Selects the images of a folder with several modalities.

    Raises
    ------
    InputError
        As `images.readers.find_images`.
    """
    from napari_cmrir.images.readers import find_images, open_image

    found = find_images(paths, modality)
    count = f"{len(found)} image{'' if len(found) == 1 else 's'} found"
    try:
        with closing(open_image(found[0])) as first:
            height, width, channels = first.shape
            parts = [f"{height} x {width} px", f"{channels} channel{'' if channels == 1 else 's'}"]
            parts += [f"{first.pixel_size:g} µm a pixel"] if first.pixel_size else []
            parts += [first.reading_note] if first.reading_note else []
    except InputError as error:
        return f"{count}; {error}"
    which = "it has" if len(found) == 1 else "the first has"
    return f"{count}; {which} {', '.join(parts)}"


def doubt_of(result: SearchResult, settings: SearchSettings) -> str:
    """Say why no hit is reliable, and what was not tried; empty if the first hit is.

    Parameters
    ----------
    result : SearchResult
    settings : SearchSettings
        Of the search.
    """
    hits = result.hits
    if hits and result.reliable:
        return ""
    if not hits:
        return f"there is no hit.{untried(settings)}"
    if hits[0].confidence >= settings.reliable_from:
        return "the region has so little contrast that it matches anything; draw it over tissue."
    return f"the confidence of the best hit is {hits[0].confidence:.0%}.{untried(settings)}"
