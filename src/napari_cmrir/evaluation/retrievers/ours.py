"""The search of this package as a retriever: CoMIRs, a repository, and registration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import Retriever
from napari_cmrir.images.discovery import Pair
from napari_cmrir.jobs import Job
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.base import Representation, train
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.repository.repository import Repository

__all__ = ["Ours"]


class Ours(Retriever):
    """Train a representation, index, search.

    Parameters
    ----------
    folder : path-like
        Holds the repository, ``searched.cmrir``.
    device : str
        Device to compute on.
    model : Representation, optional
        A trained model; `fit` then learns nothing.
    training : optional
        Settings of the training, by default those of the representation.
    representation : str
        Representation that `fit` trains, a name in `REPRESENTATIONS`.
    indexing : RepositorySettings
    searching : SearchSettings
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        model: Representation | None = None,
        training: Any = None,
        representation: str = "comir",
        indexing: RepositorySettings | None = None,
        searching: SearchSettings | None = None,
    ) -> None:
        super().__init__(folder, device)
        self.model, self.training, self.representation = model, training, representation
        self.indexing, self.searching = indexing, searching or SearchSettings()
        self._repository: Repository | None = None

    def fit(self, pairs: Sequence[Pair], modalities: tuple[str, str]) -> Job[None]:
        """Train the representation, unless a trained one was given."""
        if self.model is None:
            self.model = yield from train(
                pairs, modalities, self.training, representation=self.representation, device=self.device
            )

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Build a new repository.

        Raises
        ------
        InputError
            Nothing was fitted, or no image can be indexed.
        """
        if self.model is None:
            raise InputError("The retriever has no model; fit it on pairs first, or give it a model.")
        self.close()
        path = self.folder / "searched.cmrir"
        if path.exists():
            shutil.rmtree(path)
        sources = [Source(name, pixels) for name, pixels in images.items()]
        job = build_repository(sources, self.model, modality, path, self.indexing, device=self.device)
        self._repository = yield from job

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Search; an image's score is 1 / rank, because scores of different stages are not comparable."""
        if self._repository is None:
            raise InputError("The retriever has no images; index some first.")
        settings = self.searching.model_copy(update={"device": self.device})
        result = yield from search(
            self._repository, pixels, modality, region=region, mask=mask, settings=settings
        )
        names = (self._repository.image_name(int(field)) for field in result.ranking)
        return {name: 1 / rank for rank, name in enumerate(names, 1)}

    def close(self) -> None:
        """Close the repository, so that its folder can be removed."""
        if self._repository is not None:
            self._repository.close()
            self._repository = None
