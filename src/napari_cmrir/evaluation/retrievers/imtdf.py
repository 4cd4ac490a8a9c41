"""IMTDF: one vector an image, of invariant moments, textures and deep features.

The competitor of Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, "Competing methods": Putzu, Loddo and
Di Ruberto 2021 (CAIP). No code of theirs is public; that of their group for the same features decides here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import Retriever
from napari_cmrir.evaluation.retrievers.image_features import relieff, tchebichef_moments, textures
from napari_cmrir.evaluation.retrievers.scaling import PixelScaling, grey
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.devices import choose_device
from napari_cmrir.representations.imagenet import MEAN, STANDARD_DEVIATION, imagenet_network
from napari_cmrir.representations.original import read_images
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Imtdf", "ImtdfSettings"]

Blocks = list[NDArray[np.float64]]
"""Moments, textures and deep features of an image."""

HANDCRAFTED_SIDE = 512
"""Side, px, that images are resized to for moments and textures (the group's code)."""
DEEP_SIDE = 224
"""Side, px, that images are resized to for ResNet50."""


class ImtdfSettings(Settings):
    """The settings of IMTDF; where the publication leaves a choice open, the default is this package's.

    Examples
    --------
    >>> ImtdfSettings().order
    5
    """

    order: int = Field(
        5, ge=1, le=40, description="Highest order of the moments: 21 at 5. The publication's is not known."
    )
    textures: Literal["invariant", "mean"] = Field(
        "invariant", description="26 values by eigenvalues over the directions (the group's), or 13 means."
    )
    kept_share: float = Field(
        0.2, gt=0, le=1, description="Share of textures and of deep features that ReliefF keeps (paper)."
    )
    neighbours: int = Field(
        10, ge=1, description="ReliefF's nearest hits, and misses of each class; 10 is customary."
    )
    copies: int = Field(
        4,
        ge=0,
        description="Turned and shifted copies of each training image: classes are pairs, whose members"
        " ReliefF needs several of.",
    )
    distance: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="Of z-scores, each block over the root of its size; not published."
    )
    transform: Literal["linear", "log"] = Field(
        "linear", description="Mapping of dark grey modalities; the paper does not state its own."
    )
    weights: str = Field("", description="File of ResNet50's weights; by default that in torch's folder.")
    seed: int = Field(0, ge=0, description="Seed of the copies.")


class Imtdf(Retriever):
    """Compare vectors of Tchebichef moments, Haralick textures and ResNet50.

    Parameters
    ----------
    folder : path-like
        Unused: the vectors stay in memory.
    device : str
        Where ResNet50 computes.
    settings : ImtdfSettings, optional
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        settings: ImtdfSettings | None = None,
    ) -> None:
        super().__init__(folder, device)
        self.settings = settings or ImtdfSettings()
        self.scaling = PixelScaling(self.settings.transform)
        self.kept: list[NDArray[np.intp]] | None = None
        self._vectors: dict[str, NDArray[np.float64]] = {}
        self._mean = self._deviation = self._weights = np.empty(0)

    @cached_property
    def network(self) -> nn.Module:
        """ResNet50 without its classifier."""
        network = imagenet_network("resnet50", self.settings.weights or None)
        network.fc = torch.nn.Identity()
        return network.to(choose_device(self.device))

    def fit(self, pairs: Sequence[Pair], modalities: tuple[str, str]) -> Job[None]:
        """Let ReliefF choose textures and deep features.

        A class is a pair: its two images, and copies turned by up to 30 degrees and shifted by up to an
        eighth of their side.

        Raises
        ------
        InputError
            There are fewer than two pairs, or the weights of ResNet50 are missing.
        """
        if len(pairs) < 2:
            raise InputError("IMTDF selects its features on training pairs; give at least two.")
        images = yield from read_images(pairs, modalities)
        for modality in modalities:
            self.scaling.choose(images[modality], modality)
        rng = np.random.default_rng(self.settings.seed)
        found: list[Blocks] = []
        labels: list[int] = []
        for label in range(len(pairs)):
            yield Progress(label, len(pairs), "pairs", "Describing the training pairs")
            for modality in modalities:
                image = images[modality][label]
                for copy in range(1 + self.settings.copies):
                    found.append(self._blocks(image if copy == 0 else _moved(image, rng), modality))
                    labels.append(label)
        moments, *others = (np.array(block) for block in zip(*found, strict=True))
        self.kept = [np.arange(moments.shape[1])]
        for values in others:
            weights = relieff(values, np.array(labels), self.settings.neighbours)
            count = max(1, round(self.settings.kept_share * len(weights)))
            self.kept.append(np.sort(np.argsort(-weights, kind="stable")[:count]))

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Describe all images; their statistics scale the features.

        Raises
        ------
        InputError
            Nothing was fitted.
        """
        if self.kept is None:
            raise InputError("IMTDF has chosen no features; fit it on training pairs first.")
        vectors = {}
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", f"Describing {name}")
            vectors[name] = self._chosen(pixels, modality)
        values = np.array(list(vectors.values()))
        self._mean, deviation = values.mean(0), values.std(0)
        self._deviation = np.where(deviation > 0, deviation, 1)
        self._weights = np.concatenate([np.full(len(kept), 1 / np.sqrt(len(kept))) for kept in self.kept])
        self._vectors = {name: self._scaled(vector) for name, vector in vectors.items()}

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score by minus the distance; the mask changes nothing."""
        yield from ()
        if region is not None:
            pixels, _ = cut(pixels, region)
        asked = self._scaled(self._chosen(pixels, modality))
        if self.settings.distance == "euclidean":
            return {name: -float(np.linalg.norm(own - asked)) for name, own in self._vectors.items()}
        return {
            name: float(own @ asked) / max(float(np.linalg.norm(own) * np.linalg.norm(asked)), 1e-12)
            for name, own in self._vectors.items()
        }

    def _scaled(self, vector: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (vector - self._mean) / self._deviation * self._weights
        return scaled

    def _chosen(self, pixels: NDArray[Any], modality: str) -> NDArray[np.float64]:
        blocks = self._blocks(pixels, modality)
        return np.concatenate([block[kept] for block, kept in zip(blocks, self.kept or (), strict=True)])

    def _blocks(self, pixels: NDArray[Any], modality: str) -> Blocks:
        planes = torch.from_numpy(self.scaling.apply(pixels, modality))
        image = grey(_resized(planes, HANDCRAFTED_SIDE).numpy())
        return [
            tchebichef_moments(image, self.settings.order),
            textures(image, self.settings.textures),
            self._deep(planes),
        ]

    @torch.inference_mode()
    def _deep(self, planes: torch.Tensor) -> NDArray[np.float64]:
        """Compute the 2,048 values of ResNet50's average pool."""
        colour = planes if len(planes) == 3 else planes.mean(0, keepdim=True).expand(3, -1, -1)
        mean, deviation = (colour.new_tensor(values)[:, None, None] for values in (MEAN, STANDARD_DEVIATION))
        scaled = (_resized(colour, DEEP_SIDE) - mean) / deviation
        values = self.network(scaled[None].to(choose_device(self.device)))[0]
        answer: NDArray[np.float64] = values.cpu().numpy().astype(np.float64)
        return answer


def _resized(planes: torch.Tensor, side: int) -> torch.Tensor:
    """Resize (channel, y, x) to a square, averaging where it shrinks."""
    return torch.nn.functional.interpolate(
        planes[None], (side, side), mode="bilinear", align_corners=False, antialias=True
    )[0]


def _moved(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Turn and shift an image at random, mirrored beyond its border."""
    height, width = image.shape[:2]
    dy, dx = rng.uniform(-1 / 8, 1 / 8, 2) * (height, width)
    centre = ((height - 1) / 2 + float(dy), (width - 1) / 2 + float(dx))
    return cut(image, Region(centre, height, width, float(rng.uniform(-30, 30))))[0]
