"""The settings of a repository: one value that it is built with and keeps."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from napari_cmrir.bag_of_words.settings import BagSettings, DescriptorSettings, VocabularySettings
from napari_cmrir.errors import InputError
from napari_cmrir.images.settings import ReadingSettings
from napari_cmrir.repository.catalogue import Catalogue
from napari_cmrir.repository.layout import CATALOGUE_NAME
from napari_cmrir.settings import Settings, load_settings

__all__ = [
    "WORD_SETTINGS",
    "RepositorySettings",
    "changed_settings",
    "load_repository_settings",
    "modality_of",
    "own_settings",
]

WORD_SETTINGS = frozenset({"vocabulary_fields", "descriptor", "vocabulary", "bags"})
"""Those that nothing depends on before the words are learned."""


class RepositorySettings(Settings):
    """How images are cut, described and counted; all that is added later follows the same.

    A default that names no source is this package's own; `paper` returns the published configuration.

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
        description="Longest side of a field, the unit that is ranked, px: a larger image is cut into"
        " overlapping fields. The paper's images (834 px) are a field each.",
    )
    field_overlap: float = Field(
        0.25, ge=0, le=0.75, description="Smallest overlap of neighbouring fields, as a share of field_size."
    )
    reading: ReadingSettings = Field(
        ReadingSettings(), description="What is read of files that hold more than one plain image."
    )
    least_tissue: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Smallest share of a field of a larger image that shows tissue; fields with less are"
        " empty glass and left out. 0 keeps all. An image of one field is always kept.",
    )
    vocabulary_fields: int = Field(
        512,
        ge=1,
        description="Fields that the vocabulary is learned from at most, spread evenly over the collection.",
    )
    descriptor: DescriptorSettings = Field(
        DescriptorSettings(), description="Where a CoMIR is described, and how."
    )
    vocabulary: VocabularySettings = Field(
        VocabularySettings(), description="How the visual words are learned from the repository's own CoMIRs."
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
    """Read the settings that a repository keeps."""
    return load_settings(RepositorySettings, catalogue.about("settings"), str(catalogue.folder))


def modality_of(path: Path) -> str:
    """Read the modality of a repository, also of one that cannot be opened to search.

    Parameters
    ----------
    path : Path
        The repository's folder.

    Raises
    ------
    InputError
        If it is no repository, or nothing was indexed into it yet.
    """
    with closing(Catalogue(path)) as catalogue:
        modality: str | None = catalogue.about("modality")
    if modality is None:
        raise InputError(f"{path} has no modality yet; give the modality of the images.")
    return modality


def own_settings(path: Path) -> RepositorySettings:
    """Return the settings that a repository keeps, or the defaults where it keeps none.

    Parameters
    ----------
    path : Path
        The repository's folder, which need not exist.

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
        except InputError:  # nothing is noted yet
            pass
    return RepositorySettings()


def changed_settings(path: Path, *, keep_glass: bool = False, **reading: Any) -> RepositorySettings | None:
    """Change the settings that what is added to a repository follows: its own, or the default ones.

    Parameters
    ----------
    path : Path
        The repository's folder, which need not be there yet.
    keep_glass : bool
        Whether fields that show no tissue are searched too.
    **reading
        `ReadingSettings` by name; ``None`` leaves one as it is.

    Returns
    -------
    RepositorySettings or None
        ``None`` where nothing is to be changed, as `build_repository` takes it.

    Raises
    ------
    pydantic.ValidationError
        If a value is out of its bounds.

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
