"""Retrievers: their protocol, their registry, and our own system as one of them."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.intensity import LUMINANCE, Intensity, choose_intensity
from napari_cmrir.jobs import Job, Progress, portion, run
from napari_cmrir.registry import Registry
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    from napari_cmrir.evaluation.protocol import EvaluationQuery, EvaluationRun
    from napari_cmrir.evaluation.records import Condition
    from napari_cmrir.repository.repository import Repository
    from napari_cmrir.repository.settings import RepositorySettings
    from napari_cmrir.representations.base import Representation

__all__ = [
    "RETRIEVERS",
    "Ours",
    "PixelScaling",
    "Retriever",
    "Transform",
    "compare_retrievers",
    "cut_region",
    "grey",
    "rank_of",
]


class Retriever(ABC):
    """A complete system that ranks images for a query; a subclass implements `index` and `rank`.

    Parameters
    ----------
    folder : path-like
        Folder for learnt and indexed files; created when it is needed.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on.
    """

    caveat: str = ""
    """What must be said wherever its figures are shown; empty if nothing."""
    backbone: str = ""
    """Its network of ImageNet, a key of `IMAGENET`; empty if it has none."""

    def __init__(self, folder: str | os.PathLike[str], device: str = "auto") -> None:
        self.folder, self.device = Path(folder), device

    @classmethod
    def quick(cls, folder: str | os.PathLike[str], device: str = "auto") -> Self:
        """Make the system for a quick study: as it is, unless its training takes long."""
        return cls(folder, device)

    def card(self, training_pairs: int) -> dict[str, Any]:
        """Tell what it was made with: preset, steps or epochs, seed, pairs, weights and caveat.

        Parameters
        ----------
        training_pairs : int
            That it was fitted to, if it learns.
        """
        from napari_cmrir.bag_of_words.descriptors.resnet import IMAGENET

        settings = getattr(self, "settings", None)
        is_published = settings is not None and settings == type(settings)()
        learns = type(self).fit is not Retriever.fit
        return {
            "preset": "fast" if self.caveat else "paper" if is_published else "own" if settings else "-",
            "steps": getattr(settings, "epochs", None),
            "seed": getattr(settings, "seed", None),
            "trained_on": training_pairs if learns else None,
            "weights": IMAGENET[self.backbone].digits if self.backbone else "-",
            "caveat": self.caveat,
        }

    def fit(self, pairs: Sequence[Pair], modalities: tuple[str, str]) -> Job[None]:
        """Learn from aligned pairs, if the system learns; by default it does not.

        Parameters
        ----------
        pairs : sequence of Pair
            None of them is searched or queried afterwards.
        modalities : (str, str)
            In the order of the pairs' paths.
        """
        yield from ()

    @abstractmethod
    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Index the images to search, instead of earlier ones.

        Parameters
        ----------
        images : mapping of str to ndarray, (y, x, channel)
            By name.
        modality : str
            Of all of them.
        """

    @abstractmethod
    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score every indexed image for a query.

        Parameters
        ----------
        pixels : (y, x, channel) array
            The image that the query lies in.
        modality : str
            Its modality, not that of the indexed images, as a rule.
        region : Region, optional
            The part of the image to find; by default all of it.
        mask : (y, x) bool array, optional
            Where the image counts.

        Returns
        -------
        dict of str to float
            By image; higher is more alike. An image that is left out was not found.
        """


RETRIEVERS: Registry[type[Retriever]] = Registry(
    "retriever",
    "napari_cmrir.retrievers",
    {
        "ours": "napari_cmrir.evaluation.retrievers.base:Ours",
        "mutual-information": "napari_cmrir.evaluation.retrievers.untrained:MutualInformation",
        "gradient-sift": "napari_cmrir.evaluation.retrievers.untrained:GradientSift",
        "2dkd": "napari_cmrir.evaluation.retrievers.krawtchouk:Krawtchouk",
        "imtdf": "napari_cmrir.evaluation.retrievers.imtdf:Imtdf",
        "tcnet": "napari_cmrir.evaluation.retrievers.tcnet:TcNet",
    },
)
"""Retrievers by name; other packages add theirs as entry points of ``napari_cmrir.retrievers``."""


def cut_region(
    pixels: NDArray[Any], region: Region | None, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Cut the part of an image that a query asks for, and where it counts; without a region, both as given.

    Examples
    --------
    >>> part, counts = cut_region(np.zeros((8, 8, 1)), Region.from_rectangle(0, 4, 8, 8), None)
    >>> part.shape, float(counts.mean())
    ((8, 8, 1), 0.5)
    """
    if region is None:
        return pixels, mask
    given = np.ones(pixels.shape[:2], bool) if mask is None else mask
    counts, _ = cut(given[..., np.newaxis].astype(np.float32), region)
    part, within = cut(pixels, region)
    return part, within & (counts[..., 0] > 0.5)


def rank_of(right: str, scores: Mapping[str, float]) -> int | None:
    """Rank the right image, from 1; images of equal score count as better.

    Examples
    --------
    >>> rank_of("b", {"a": 0.5, "b": 0.5, "c": 0.1}), rank_of("d", {"a": 0.5})
    (2, None)
    """
    if right not in scores:
        return None
    return sum(bool(score >= scores[right]) for score in scores.values())


def compare_retrievers(
    retrievers: Mapping[str, Retriever], evaluation: EvaluationRun
) -> Job[dict[str, dict[Condition, list[int | None]]]]:
    """Send the same queries of an evaluation to every retriever.

    Parameters
    ----------
    retrievers : mapping of str to Retriever
        Fitted, by the name to report.
    evaluation : EvaluationRun
        The evaluation, with its pairs added, from which searched images and queries are cut.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    dict of dict
        By retriever and condition, the rank of the right image of every query, ``None`` where it was not
        found. Success among the first k is the share of ranks of at most k.
    """
    conditions = evaluation.conditions()
    searched = list(dict.fromkeys(condition.repository for condition in conditions))
    ranks: dict[str, dict[Condition, list[int | None]]] = {name: {} for name in retrievers}
    steps = [(name, modality) for name in retrievers for modality in searched]
    for done, (name, modality) in enumerate(steps):
        start, stop = 100 * done / len(steps), 100 * (done + 1) / len(steps)
        middle = (start + stop) / 2
        images = {
            field.name: field.crop(evaluation.images[modality][field.identifier])
            for field in evaluation.fields
        }
        yield from portion(retrievers[name].index(images, modality), start, middle)
        for condition in (condition for condition in conditions if condition.repository == modality):
            answers = ranks[name].setdefault(condition, [])
            for query in evaluation.queries(condition):
                answers.append(_ask(retrievers[name], query))
                yield Progress(middle, 100, "%", f"{name}: {condition}, {len(answers)} queries")
    return ranks


def _ask(retriever: Retriever, query: EvaluationQuery) -> int | None:
    """Rank the right image of a query."""
    scores = run(retriever.rank(query.image.pixels, query.condition.query, mask=query.image.mask))
    right = next((image for image in scores if query.is_right(image)), None)
    return None if right is None else rank_of(right, scores)


Transform = Literal["linear", "log"]


class PixelScaling:
    """Scales the images of each modality by one mapping, for training, indexing and queries alike.

    8-bit pixels are divided by 255, as the published systems do. Pixels of other types, which those do not
    read, are scaled by the 0.1 and 99.9 percentiles of the modality's images.

    Parameters
    ----------
    transform : {"linear", "log"}
        log: a grey modality that is mostly dark, as SHG is, then takes log2(1 + x), which is the paper's
        log(1 + x) brought back to [0, 1] ("Dataset"). The paper applies it for CoMIR and the translated
        images, and does not say what it did for its competitors.

    Examples
    --------
    >>> scaling = PixelScaling()
    >>> scaling.choose([np.array([[[0], [51]]], np.uint8)], "SHG")
    >>> scaling.apply(np.array([[[0], [255]]], np.uint8), "SHG").tolist()
    [[[0.0, 1.0]]]
    """

    def __init__(self, transform: Transform = "linear") -> None:
        self.transform = transform
        self.ranges: dict[str, Intensity] = {}

    def choose(self, images: Iterable[NDArray[Any]], modality: str) -> None:
        """Choose the mapping of a modality, unless it has one.

        Parameters
        ----------
        images : iterable of ndarray, (y, x, channel)
        modality : str
        """
        images = list(images)
        if modality not in self.ranges and images:
            self.ranges[modality] = self._chosen(images)

    def apply(self, pixels: NDArray[Any], modality: str) -> NDArray[np.float32]:
        """Scale an image.

        Parameters
        ----------
        pixels : ndarray, (y, x, channel)
        modality : str
            One that has no mapping yet is scaled by the image itself.

        Returns
        -------
        ndarray, (channel, y, x)
            In [0, 1].

        Raises
        ------
        InputError
            The image has other channels than those that the mapping was chosen for.
        """
        intensity = self.ranges.get(modality) or self._chosen([pixels])
        scaled: NDArray[np.float32] = intensity.apply(pixels).clip(0, 1)
        return scaled

    def _chosen(self, images: Sequence[NDArray[Any]]) -> Intensity:
        chosen = choose_intensity(images)
        changes: dict[str, Any] = {} if self.transform == "log" else {"transform": "linear"}
        if all(image.dtype == np.uint8 for image in images):
            changes |= {"low": (0.0,) * chosen.channels, "high": (255.0,) * chosen.channels}
        return chosen.model_copy(update=changes)


def grey(planes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Make (y, x) of (channel, y, x): the luminance of three channels, the mean of any other number.

    The luminance is that of MATLAB's rgb2gray; 2DKD and IMTDF are MATLAB.

    Examples
    --------
    >>> grey(np.array([[[1.0]], [[0.0]], [[0.0]]])).tolist()
    [[0.299]]
    """
    weights = LUMINANCE if len(planes) == 3 else (1 / len(planes),) * len(planes)
    mixed: NDArray[np.float64] = np.tensordot(weights, planes.astype(np.float64), 1)
    return mixed


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
        from napari_cmrir.representations.base import train

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
        from napari_cmrir.repository.build import Source, build_repository

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
        from napari_cmrir.search.query import search

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
