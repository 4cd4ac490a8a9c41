"""The settings of a repository: one value that it is built with and keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from napari_cmrir.bag_of_words.settings import BagSettings, DescriptorSettings, VocabularySettings
from napari_cmrir.images.settings import ReadingSettings
from napari_cmrir.settings import Settings, load_settings

if TYPE_CHECKING:
    from napari_cmrir.repository.catalogue import Catalogue

__all__ = ["WORD_SETTINGS", "RepositorySettings", "load_repository_settings"]

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
