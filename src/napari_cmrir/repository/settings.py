"""The settings of a repository, which it keeps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from napari_cmrir.bag_of_words.settings import BagSettings, DescriptorSettings, VocabularySettings
from napari_cmrir.errors import InputError
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, Catalogue
from napari_cmrir.settings import ReadingSettings, Settings, load_settings

__all__ = [
    "WORD_SETTINGS",
    "RepositorySettings",
    "changed_settings",
    "load_repository_settings",
    "modality_of",
    "own_settings",
]

WORD_SETTINGS = frozenset({"vocabulary_fields", "descriptor", "vocabulary", "bags"})
"""Settings that may change until the words are learned, because nothing else depends on them."""


class RepositorySettings(Settings):
    """How images are read, cut into fields, described and counted. Images added later use the same settings.

    A default whose description names no source is this package's own. `paper` returns the published
    configuration.

    Examples
    --------
    >>> RepositorySettings().field_size
    1024
    >>> RepositorySettings.paper().vocabulary.size
    20000
    """

    field_size: int = Field(
        1024,
        ge=256,
        le=16384,
        multiple_of=64,
        description="Longest side of a field, the unit that is ranked, px; larger images are cut into"
        " overlapping fields. Each of the paper's images (834 px) is one field.",
    )
    field_overlap: float = Field(
        0.25, ge=0, le=0.75, description="Smallest overlap of neighbouring fields, as a share of field_size."
    )
    reading: ReadingSettings = Field(
        ReadingSettings(), description="Series, level, planes and channels to read from files."
    )
    least_tissue: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Smallest share of tissue in a field of an image of several fields; fields with less are"
        " empty glass and left out. 0 keeps all fields. An image of one field is always kept.",
    )
    vocabulary_fields: int = Field(
        512,
        ge=1,
        description="Largest number of fields from which the vocabulary is learned, evenly spaced over the"
        " collection.",
    )
    descriptor: DescriptorSettings = Field(
        DescriptorSettings(), description="Points at which a CoMIR is described, and the descriptor."
    )
    vocabulary: VocabularySettings = Field(
        VocabularySettings(), description="How visual words are learned from the repository's own CoMIRs."
    )
    bags: BagSettings = Field(BagSettings(), description="How words are weighted and bags compared.")

    @classmethod
    def paper(cls) -> Self:
        """Return the published configuration."""
        return cls(
            descriptor=DescriptorSettings.paper(),
            vocabulary=VocabularySettings.paper(),
            bags=BagSettings.paper(),
        )


def load_repository_settings(catalogue: Catalogue) -> RepositorySettings:
    """Read the settings of a repository from its catalogue."""
    return load_settings(RepositorySettings, catalogue.about("settings"), str(catalogue.folder))


def modality_of(path: Path) -> str:
    """Read the modality of a repository, also of an unfinished one.

    Parameters
    ----------
    path : Path
        The repository's folder.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If the folder is not a repository, or no image was indexed into it.
    """
    with closing(Catalogue(path)) as catalogue:
        modality: str | None = catalogue.about("modality")
    if modality is None:
        raise InputError(f"{path} has no modality yet; give the modality of the images.")
    return modality


def own_settings(path: Path) -> RepositorySettings:
    """Return the settings of a repository, or the defaults if it has none.

    Parameters
    ----------
    path : Path
        The repository's folder; it need not exist.

    Returns
    -------
    RepositorySettings

    Examples
    --------
    >>> own_settings(Path("nothing.cmrir")) == RepositorySettings()
    True
    """
    if (path / CATALOGUE_NAME).is_file():
        try:
            with closing(Catalogue(path)) as catalogue:
                if catalogue.about("settings") is not None:
                    return load_repository_settings(catalogue)
        except InputError:  # the catalogue is unfinished: it has no settings
            pass
    return RepositorySettings()


def changed_settings(path: Path, *, keep_glass: bool = False, **reading: Any) -> RepositorySettings | None:
    """Change some of a repository's settings, or of the defaults if it has none.

    Parameters
    ----------
    path : Path
        The repository's folder; it need not exist.
    keep_glass : bool
        Keep fields that show no tissue.
    **reading
        Fields of `ReadingSettings`; ``None`` leaves a field unchanged.

    Returns
    -------
    RepositorySettings or None
        For `build_repository`; ``None`` if nothing changes.

    Raises
    ------
    pydantic.ValidationError
        If a value is out of bounds.

    Examples
    --------
    >>> changed_settings(Path("nothing.cmrir"), pixel_size=None) is None
    True
    >>> changed_settings(Path("nothing.cmrir"), keep_glass=True, pixel_size=0.5).reading.pixel_size
    0.5
    """
    given = {name: value for name, value in reading.items() if value is not None}
    if not given and not keep_glass:
        return None
    settings = own_settings(path)
    update: dict[str, Any] = {"reading": ReadingSettings(**(settings.reading.model_dump() | given))}
    return settings.model_copy(update=update | ({"least_tissue": 0.0} if keep_glass else {}))
