"""The base class of retrievers, their registry, and their comparison on the same queries."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.discovery import Pair
from napari_cmrir.jobs import Job, Progress, portion, run
from napari_cmrir.registry import Registry

if TYPE_CHECKING:
    from napari_cmrir.evaluation.protocol import EvaluationQuery, EvaluationRun
    from napari_cmrir.evaluation.results import Condition
    from napari_cmrir.images.geometry import Region

__all__ = ["RETRIEVERS", "Retriever", "compare_retrievers", "rank_of"]


class Retriever(ABC):
    """A complete system that ranks images for a query; a subclass implements `index` and `rank`.

    Parameters
    ----------
    folder : path-like
        Folder for learnt and indexed files; created when it is needed.
    device : {"auto", "cpu", "cuda", "mps"}
        Device to compute on.
    """

    def __init__(self, folder: str | os.PathLike[str], device: str = "auto") -> None:
        self.folder, self.device = Path(folder), device

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
        "ours": "napari_cmrir.evaluation.retrievers.ours:Ours",
        "mutual-information": "napari_cmrir.evaluation.retrievers.mutual_information:MutualInformation",
        "2dkd": "napari_cmrir.evaluation.retrievers.krawtchouk:Krawtchouk",
        "imtdf": "napari_cmrir.evaluation.retrievers.imtdf:Imtdf",
        "tcnet": "napari_cmrir.evaluation.retrievers.tcnet:TcNet",
    },
)
"""Retrievers by name; other packages add theirs as entry points of ``napari_cmrir.retrievers``."""


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
