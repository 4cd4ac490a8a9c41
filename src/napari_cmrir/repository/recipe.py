"""What a worker has to know of a repository to index images for it, and what it loads to do so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_cmrir.repository.memory import give_back
from napari_cmrir.repository.pyramids import open_level
from napari_cmrir.repository.schema import ImageRow
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.repository.store import MODEL_NAME, VOCABULARY_NAME

if TYPE_CHECKING:
    from napari_cmrir.comir.model import ComirModel
    from napari_cmrir.words.features import Features
    from napari_cmrir.words.vocabulary import Vocabulary

__all__ = ["Recipe", "Tools", "token"]

REMEMBERED_BYTES = 2**29
"""Descriptors kept in memory from the vocabulary to the words, so that they are not computed twice."""

GIVE_BACK_EVERY = 16
"""Fields after which freed memory is given back to the system."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker has to know of the repository that it works for.

    Parameters
    ----------
    folder : Path
        The repository, where every worker sees it.
    fingerprint : str
        Of its model.
    modality : str
    settings : RepositorySettings
    device : str
        Where CoMIRs are computed.
    vocabulary_file : str
        Below the folder.
    vocabulary_sha256 : str or None
        ``None`` while it is not learned.
    """

    folder: Path
    fingerprint: str
    modality: str
    settings: RepositorySettings
    device: str = "auto"
    vocabulary_file: str = VOCABULARY_NAME
    vocabulary_sha256: str | None = None


class Tools:
    """A recipe with what is needed to follow it, loaded from the repository when first used.

    Parameters
    ----------
    recipe : Recipe
    model : ComirModel, optional
        By default the repository's copy.
    remembers : bool
        Keep features of fields, up to `REMEMBERED_BYTES`, from `sample_batch` to `count_batch`.
    """

    def __init__(self, recipe: Recipe, model: ComirModel | None = None, *, remembers: bool = False) -> None:
        self.recipe = recipe
        self._model = model
        self._remembers = remembers
        self._remembered: dict[tuple[int, ...], Features] = {}
        self._described = 0

    @cached_property
    def model(self) -> ComirModel:
        """The model that represents images."""
        from napari_cmrir.comir.model import load_model

        return self._model or load_model(self.recipe.folder / MODEL_NAME)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The visual words."""
        from napari_cmrir.words.vocabulary import load_vocabulary

        return load_vocabulary(self.recipe.folder / self.recipe.vocabulary_file)

    def follow(self, recipe: Recipe) -> Tools:
        """Return the same tools, and what they remember, for another recipe of the same repository."""
        tools = Tools(recipe, self._model, remembers=self._remembers)
        tools._remembered = self._remembered
        return tools

    def describe(self, row: ImageRow, rectangle: npt.NDArray[np.int64], *, again: bool = False) -> Features:
        """Describe a field (y, x, height, width) of a stored CoMIR; remember it if asked for ``again``."""
        from napari_cmrir.words.descriptors import describe

        y, x, height, width = rectangle.tolist()
        features = self._remembered.pop((row.id, y, x), None)
        if features is None:
            assert row.comir is not None
            comir = open_level(self.recipe.folder / row.comir)[:, y : y + height, x : x + width]
            features = describe(np.asarray(comir), self.recipe.settings.descriptor)
        self._described += 1
        if self._described % GIVE_BACK_EVERY == 0:
            give_back()
        held = sum(other.descriptors.nbytes for other in self._remembered.values())
        if again and self._remembers and held + features.descriptors.nbytes <= REMEMBERED_BYTES:
            self._remembered[row.id, y, x] = features
        return features


def token(*inputs: object) -> str:
    """Name what is computed from these inputs: 12 hexadecimal digits.

    Examples
    --------
    >>> token("a", 1) == token("a", 1), token("a", 1) == token("a", 2)
    (True, False)
    """
    return hashlib.sha256("\n".join(map(str, inputs)).encode()).hexdigest()[:12]
