"""2DKD: local moment invariants of Krawtchouk polynomials, and the nearest of all points of all images.

Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, "Stage II alternatives"; frame, spacing, test of
variance and search as the toolkit of DeVille et al. 2020, experiment II. `krawtchouk_invariants` computes the
invariants.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import Retriever
from napari_cmrir.evaluation.retrievers.krawtchouk_invariants import (
    INVARIANTS,
    local_invariants,
    points_of_interest,
)
from napari_cmrir.evaluation.retrievers.scaling import PixelScaling, grey
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import cut
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.representations.original import read_images
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.representations.base import Representation

__all__ = ["Krawtchouk", "KrawtchoukSettings", "Place"]


class KrawtchoukSettings(Settings):
    """The settings of 2DKD; the defaults are the toolkit's experiment II with the paper's spacing.

    Examples
    --------
    >>> KrawtchoukSettings().frame
    40
    """

    frame: int = Field(
        40, ge=8, le=1024, multiple_of=2, description="Side of the frame around a point, px (toolkit)."
    )
    spacing: int = Field(5, ge=1, le=256, description="Distance of neighbouring points, px (paper).")
    nearest: int = Field(
        2000, ge=1, description="Rows of the index, nearest first, that places are taken from (toolkit)."
    )
    separation: int = Field(
        10,
        ge=0,
        description="A row within this distance, px, in both axes of a better row of its image is no place of"
        " its own (toolkit).",
    )
    places: int = Field(15, ge=1, description="Places that a search gives (toolkit).")
    query_points: Literal["centre", "votes"] = Field(
        "centre",
        description="centre: the point in the middle of the query, as the toolkit's examples; votes: every"
        " point of the query votes for the image of its nearest row, an extension that is not published.",
    )
    transform: Literal["linear", "log"] = Field(
        "linear", description="Mapping of dark grey modalities; the paper does not state its own."
    )


@dataclass(frozen=True)
class Place:
    """A place that a search finds.

    Parameters
    ----------
    image : str
    y, x : int
        Its point, px.
    distance : float
        Squared Euclidean distance of the descriptors.
    """

    image: str
    y: int
    x: int
    distance: float


class Krawtchouk(Retriever):
    """2DKD: six invariants of every point of interest, and the nearest rows.

    Parameters
    ----------
    folder : path-like
        Unused: the rows stay in memory, 72 bytes each.
    device : str
        Where CoMIRs are computed, if there is a model.
    settings : KrawtchoukSettings, optional
    model : Representation, optional
        Images are represented by it first, as in the paper's rows of 2DKD on CoMIRs; by default they are
        described as they are.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        settings: KrawtchoukSettings | None = None,
        model: Representation | None = None,
    ) -> None:
        super().__init__(folder, device)
        self.settings = settings or KrawtchoukSettings()
        self.model = model
        self.scaling = PixelScaling(self.settings.transform)
        self._names: list[str] = []
        self._images = np.empty(0, np.intp)
        self._points = np.empty((0, 2), np.intp)
        self._rows = np.empty((0, len(INVARIANTS)))

    def fit(self, pairs: Sequence[Pair], modalities: tuple[str, str]) -> Job[None]:
        """Choose the range of each modality's values; there is nothing to learn."""
        if pairs and self.model is None:
            images = yield from read_images(pairs, modalities)
            for modality in modalities:
                self.scaling.choose(images[modality], modality)

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Describe all points of interest of all images."""
        self._names = list(images)
        if self.model is None:
            self.scaling.choose(images.values(), modality)
        numbers, points, rows = [self._images[:0]], [self._points[:0]], [self._rows[:0]]
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", f"Describing {name}")
            values = yield from step_of(self._values(pixels, modality), done, len(images), "images")
            where, described = self._describe(values)
            numbers.append(np.full(len(where), done))
            points.append(where)
            rows.append(described)
        self._images, self._points = np.concatenate(numbers), np.concatenate(points)
        self._rows = np.concatenate(rows)

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score images by their best place, minus the squared distance; or by votes.

        Images without a row among the `nearest` are left out. The mask changes nothing.

        Raises
        ------
        InputError
            The query is smaller than the frame.
        """
        if self.settings.query_points == "votes":
            return (yield from self._votes(pixels, modality, region))
        nearest, distances = yield from self._nearest(pixels, modality, region)
        best: dict[str, float] = {}
        for row, distance in zip(nearest, distances, strict=True):
            best.setdefault(self._names[self._images[row]], -float(distance))
        return best

    def find_places(
        self, pixels: NDArray[Any], modality: str, *, region: Region | None = None
    ) -> Job[list[Place]]:
        """Search as the toolkit does, which gives places, several of one image among them.

        Returns
        -------
        list of Place
            Nearest first.
        """
        nearest, distances = yield from self._nearest(pixels, modality, region)
        places: list[Place] = []
        taken: dict[int, NDArray[np.intp]] = {}
        for row, distance in zip(nearest, distances, strict=True):
            image, point = int(self._images[row]), self._points[row]
            better = taken.get(image, self._points[:0])
            taken[image] = np.vstack([better, point])
            if not (np.abs(better - point) <= self.settings.separation).all(1).any():
                places.append(Place(self._names[image], int(point[0]), int(point[1]), float(distance)))
            if len(places) == self.settings.places:
                break
        return places

    def _nearest(
        self, pixels: NDArray[Any], modality: str, region: Region | None
    ) -> Job[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Find the nearest rows of the query's middle, and their squared distances."""
        values = yield from self._query_values(pixels, modality, region)
        y, x = (np.array([side // 2]) for side in values.shape)
        asked, _ = local_invariants(values, y, x, self.settings.frame)
        if not np.isfinite(asked).all():  # nothing but black
            return self._images[:0], np.empty(0)
        distances = np.square(self._rows - asked[0, 0]).sum(1)
        nearest = np.argsort(distances, kind="stable")[: self.settings.nearest]
        return nearest, distances[nearest]

    def _votes(self, pixels: NDArray[Any], modality: str, region: Region | None) -> Job[dict[str, float]]:
        from scipy.spatial import KDTree

        values = yield from self._query_values(pixels, modality, region)
        _, asked = self._describe(values)
        if len(self._rows) == 0 or len(asked) == 0:
            return {}
        _, nearest = KDTree(self._rows).query(asked)
        votes = np.bincount(self._images[nearest], minlength=len(self._names))
        return {name: float(count) for name, count in zip(self._names, votes, strict=True) if count}

    def _describe(self, values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Describe the points of interest: (n, 2) points and (n, 6) invariants."""
        rows, columns, varied = points_of_interest(values, self.settings.frame, self.settings.spacing)
        if varied.size == 0:
            return self._points[:0], self._rows[:0]
        described, _ = local_invariants(values, rows, columns, self.settings.frame)
        kept = varied & np.isfinite(described).all(-1)
        y, x = np.nonzero(kept)
        return np.stack([rows[y], columns[x]], 1), described[kept]

    def _query_values(
        self, pixels: NDArray[Any], modality: str, region: Region | None
    ) -> Job[NDArray[np.float64]]:
        if region is not None:
            pixels, _ = cut(pixels, region)
        if min(pixels.shape[:2]) < self.settings.frame:
            raise InputError(
                f"A query of {pixels.shape[0]} x {pixels.shape[1]} px is smaller than the frame of 2DKD;"
                f" give one of at least {self.settings.frame} px a side."
            )
        return (yield from self._values(pixels, modality))

    def _values(self, pixels: NDArray[Any], modality: str) -> Job[NDArray[np.float64]]:
        """Give an image, or its CoMIR, as grey values in [0, 1]."""
        if self.model is None:
            return grey(self.scaling.apply(pixels, modality))
        comir = yield from self.model.represent(pixels, modality, device=self.device)
        return grey(comir.astype(np.float64) / 255)
