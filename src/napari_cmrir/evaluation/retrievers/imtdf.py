"""IMTDF: one vector an image, of invariant moments, textures and deep features; ReliefF ranks them.

The competitor of Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, "Competing methods": Putzu, Loddo and
Di Ruberto 2021 (CAIP). No code of theirs is public; that of their group for the same features decides here.

Sources of the features: Mukundan, Ong and Lee 2001, doi:10.1109/83.941859 (Tchebichef moments); Haralick,
Shanmugam and Dinstein 1973, doi:10.1109/TSMC.1973.4309314 (textures); Kononenko 1994,
doi:10.1007/3-540-57868-4_57 (ReliefF).
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

from napari_cmrir.bag_of_words.descriptors.resnet import MEAN, STANDARD_DEVIATION, imagenet_network
from napari_cmrir.errors import InputError, MissingError
from napari_cmrir.evaluation.retrievers.base import PixelScaling, Retriever, grey
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.devices import choose_device
from napari_cmrir.representations.original import read_images
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Imtdf",
    "ImtdfSettings",
    "co_occurrence",
    "haralick",
    "relieff",
    "rotation_invariant",
    "tchebichef",
    "tchebichef_moments",
    "textures",
]

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

    backbone = "resnet50"

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
        MissingError
            There are fewer than two pairs, or the weights of ResNet50 are missing.
        """
        if len(pairs) < 2:
            raise MissingError("IMTDF selects its features on training pairs; give at least two.")
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
        """Score by minus the distance.

        The published system sees whole images only, so that a polygon or an ellipse is searched as its box,
        and the mask changes nothing.
        """
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


OFFSETS = ((0, 1), (-1, 1), (-1, 0), (-1, -1))
"""Row and column of the neighbour: 0, 45, 90 and 135 degrees at distance 1."""
LEVELS = 256
TINY = 1e-12
"""Added within logarithms, so that 0 ln 0 is 0."""


def tchebichef(order: int, length: int) -> NDArray[np.float64]:
    """Evaluate the orthonormal Tchebichef polynomials by their recurrence over the orders.

    Parameters
    ----------
    order : int
        Highest order, below ``length``; precise to about 60 for some hundred points.
    length : int
        Points 0, ..., length - 1.

    Returns
    -------
    ndarray, (order + 1, length)

    Examples
    --------
    >>> tchebichef(3, 40)[1:, 0].round(6).tolist()
    [-0.267098, 0.327991, -0.359992]
    """
    n, x = float(length), np.arange(length, dtype=np.float64)
    rows = np.empty((order + 1, length))
    rows[0] = 1 / np.sqrt(n)
    if order > 0:
        rows[1] = (2 * x + 1 - n) * np.sqrt(3 / (n * (n * n - 1)))
    for k in range(2, order + 1):
        step = np.sqrt((4 * k * k - 1) / (n * n - k * k)) / k
        back = (k - 1) / k * np.sqrt((2 * k + 1) / (2 * k - 3) * (n * n - (k - 1) ** 2) / (n * n - k * k))
        rows[k] = step * (2 * x + 1 - n) * rows[k - 1] - back * rows[k - 2]
    return rows


def tchebichef_moments(image: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Compute the moments of a grey image up to a total order; they change with a shift or a turn.

    Parameters
    ----------
    image : ndarray, (y, x)
        Cut to odd sides and stretched to [0, 1].
    order : int

    Returns
    -------
    ndarray, ((order + 1) (order + 2) / 2,)
        21 at order 5.

    Examples
    --------
    >>> tchebichef_moments(np.eye(9), 5).shape
    (21,)
    """
    odd = stretched(image[: (image.shape[0] - 1) // 2 * 2 + 1, : (image.shape[1] - 1) // 2 * 2 + 1])
    moments = tchebichef(order, odd.shape[0]) @ odd @ tchebichef(order, odd.shape[1]).T
    i, j = np.indices(moments.shape)
    kept: NDArray[np.float64] = moments[i + j <= order]
    return kept


def stretched(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretch an image to [0, 1]; a constant one becomes 0."""
    low, high = image.min(), image.max()
    answer: NDArray[np.float64] = (image - low) / (high - low if high > low else 1.0)
    return answer


def co_occurrence(levels: NDArray[np.uint8], offset: tuple[int, int]) -> NDArray[np.float64]:
    """Count how often two grey levels are neighbours, both ways.

    Parameters
    ----------
    levels : ndarray, (y, x)
    offset : (int, int)
        Row, 0 or below, and column of the neighbour.

    Returns
    -------
    ndarray, (256, 256)
        Symmetric; the sum is 1.

    Examples
    --------
    >>> co_occurrence(np.array([[0, 1]], np.uint8), (0, 1))[:2, :2].tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    height, width = levels.shape
    up, right = -offset[0], offset[1]
    own = levels[up:, max(0, -right) : width - max(0, right)].astype(np.intp)
    other = levels[: height - up, max(0, right) : width + min(0, right)]
    counts = np.bincount((own * LEVELS + other).ravel(), minlength=LEVELS**2).reshape(LEVELS, LEVELS)
    both = (counts + counts.T).astype(np.float64)
    normalised: NDArray[np.float64] = both / max(both.sum(), 1)
    return normalised


def haralick(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the first thirteen textures of a co-occurrence matrix, in Haralick's order.

    Grey levels are counted from 1; logarithms are natural; the sum variance is about the sum average.

    Parameters
    ----------
    p : ndarray, (256, 256)

    Returns
    -------
    ndarray, (13,)
        Angular second moment, contrast, correlation, variance, inverse difference moment, sum average, sum
        variance, sum entropy, entropy, difference variance, difference entropy, and the two information
        measures of correlation. 0 where a measure is not defined.
    """
    n = len(p)
    level = np.arange(1, n + 1, dtype=np.float64)
    px = p.sum(1)
    mean = level @ px
    variance = (level - mean) ** 2 @ px
    i, j = np.indices(p.shape)
    apart = np.bincount(np.abs(i - j).ravel(), p.ravel(), n)
    summed = np.bincount((i + j).ravel(), p.ravel(), 2 * n - 1)
    distance, total = np.arange(n, dtype=np.float64), np.arange(2, 2 * n + 1, dtype=np.float64)
    correlation = (level @ p @ level - mean**2) / variance if variance > TINY else 0.0
    product = np.outer(px, px)
    entropy, entropy_x = _entropy(p), _entropy(px)
    crossed = -(p * np.log(product + TINY)).sum()
    independent = _entropy(product)
    return np.array(
        [
            (p**2).sum(),
            distance**2 @ apart,
            correlation,
            variance,
            apart @ (1 / (1 + distance**2)),
            total @ summed,
            (total - total @ summed) ** 2 @ summed,
            _entropy(summed),
            entropy,
            distance**2 @ apart - (distance @ apart) ** 2,
            _entropy(apart),
            (entropy - crossed) / entropy_x if entropy_x > TINY else 0.0,
            np.sqrt(max(0.0, 1 - np.exp(-2 * (independent - entropy)))),
        ]
    )


def _entropy(shares: NDArray[Any]) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def rotation_invariant(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make two numbers of a texture in four directions that a turn by 45 degrees leaves as they are.

    The second largest eigenvalue of the circulant matrix of the four values, and a quarter of the largest.

    Parameters
    ----------
    directions : ndarray, (4, n)
        Values at 0, 45, 90 and 135 degrees.

    Returns
    -------
    ndarray, (2, n)

    Examples
    --------
    >>> rotation_invariant(np.array([[3.0], [1.0], [4.0], [2.0]])).ravel().tolist()
    [4.0, 2.5]
    """
    v0, v1, v2, v3 = directions
    turning = np.hypot(v0 - v2, v1 - v3)
    eigenvalues = np.sort([v0 + v1 + v2 + v3, v0 - v1 + v2 - v3, turning, -turning], axis=0)
    return np.stack([eigenvalues[2], eigenvalues[3] / 4])


def textures(image: NDArray[np.float64], form: str = "invariant") -> NDArray[np.float64]:
    """Compute the rotation-invariant textures of a grey image, stretched to 256 levels.

    Parameters
    ----------
    image : ndarray, (y, x)
    form : {"invariant", "mean"}
        26 values by `rotation_invariant`, or the 13 means of the four directions.

    Returns
    -------
    ndarray, (26,) or (13,)
    """
    levels = np.rint(255 * stretched(image)).astype(np.uint8)
    directions = np.array([haralick(co_occurrence(levels, offset)) for offset in OFFSETS])
    answer: NDArray[np.float64] = (
        directions.mean(0) if form == "mean" else rotation_invariant(directions).ravel()
    )
    return answer


def relieff(features: NDArray[np.float64], labels: NDArray[np.intp], k: int = 10) -> NDArray[np.float64]:
    """Weigh features by how well they tell near instances of other classes apart.

    Parameters
    ----------
    features : ndarray, (n, f)
        Scaled to [0, 1] here, feature by feature.
    labels : int array, (n,)
        Classes; any number of them.
    k : int
        Nearest hits, and nearest misses of each other class; fewer where a class has fewer.

    Returns
    -------
    ndarray, (f,)
        Higher is better.

    Examples
    --------
    >>> relieff(np.array([[0, 0.3], [0, 0.9], [1, 0.4], [1, 0.8]]), np.array([0, 0, 1, 1])).round(2).tolist()
    [1.0, -0.33]
    """
    low, reach = features.min(0), np.ptp(features, axis=0)
    scaled = (features - low) / np.where(reach > 0, reach, 1)
    classes, counts = np.unique(labels, return_counts=True)
    shares = dict(zip(classes.tolist(), (counts / len(labels)).tolist(), strict=True))
    members = {label: np.flatnonzero(labels == label) for label in shares}
    weights = np.zeros(features.shape[1])
    for number, own in enumerate(labels.tolist()):
        apart = np.abs(scaled - scaled[number])
        distances = apart.sum(1)
        for label, rows in members.items():
            others = rows[rows != number]
            nearest = others[np.argsort(distances[others], kind="stable")[:k]]
            if len(nearest):
                share = -1.0 if label == own else shares[label] / (1 - shares[own])
                weights += share * apart[nearest].mean(0) / len(labels)
    return weights
