"""The vocabulary of visual words: sampling, k-means, and the file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.bag_of_words.descriptors.features import Features
from napari_cmrir.bag_of_words.nearest_words import (
    Found,
    InvertedLists,
    Piece,
    list_centres,
    make_inverted_lists,
    means,
    nearest_by_inverted_lists,
    nearest_exact,
    nearest_several,
    prepare,
)
from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.settings import dump_settings, load_settings
from napari_cmrir.threads import on_one_thread

__all__ = [
    "TWO_LEVELS_FROM",
    "Clusters",
    "Vocabulary",
    "keep_strongest",
    "kmeans",
    "load_vocabulary",
    "sample_field",
    "train_vocabulary",
]


def sample_field(features: Features, fields: int, settings: VocabularySettings, seed: int = 0) -> Features:
    """Draw one field's share of the training features, in random order and without its empty ones.

    Parameters
    ----------
    features : Features
        All features of the field.
    fields : int
        Number of fields that are drawn from.
    settings : VocabularySettings
        Its `samples` in all, after the weakest are left out.
    seed : int
        Changes from field to field, e.g. the field's number; drawn with the settings' seed.

    Examples
    --------
    >>> unit = np.ones((100, 4), np.float32) / 2
    >>> field = Features(np.zeros((100, 3), np.float32), unit, np.ones(100, np.float32))
    >>> len(sample_field(field, 10, VocabularySettings(samples=80, strongest_share=0.8)))
    10
    """
    nonzero = np.flatnonzero(features.descriptors.any(axis=1))
    number = min(settings.samples_a_field(fields), len(nonzero))
    chosen = np.random.default_rng([settings.seed, seed]).choice(nonzero, number, replace=False)
    return Features(features.points[chosen], features.descriptors[chosen], features.strengths[chosen])


def keep_strongest(samples: Sequence[Features], settings: VocabularySettings) -> NDArray[np.float32]:
    """Pool samples of fields and keep the strongest share of them, (n, d), in their order.

    Examples
    --------
    >>> weak, strong = (Features(np.zeros((2, 3), np.float32), np.full((2, 4), v, np.float32),
    ...     np.full(2, v, np.float32)) for v in (1, 2))
    >>> keep_strongest([strong, weak, strong], VocabularySettings(strongest_share=0.5))[:, 0].tolist()
    [2.0, 2.0, 2.0]
    """
    descriptors = np.concatenate([sample.descriptors for sample in samples])
    strengths = np.concatenate([sample.strengths for sample in samples])
    number = int(np.ceil(len(descriptors) * settings.strongest_share))
    order = np.argsort(-strengths, kind="stable")[: min(number, settings.samples)]
    return descriptors[np.sort(order)]


TWO_LEVELS_FROM = 2048
"""Words from which two levels are faster than the exact search."""
REPORT_EVERY = 0.2
"""Seconds between reports of progress."""
POINTS_AT_ONCE = 100_000
"""Points that are sorted into lists before the next report."""
REPAIRS = 5
"""Rounds more, at most, until no word is empty."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """What k-means found.

    Parameters
    ----------
    words : (k, d) float32 array
        Centres of the clusters.
    centres : (c, d) float32 array
        Centres of lists of words, for the two-level search; none (c = 0) where there are few words.
    inertia : float
        Mean squared distance of the points to their words.
    """

    words: NDArray[np.float32]
    centres: NDArray[np.float32]
    inertia: float


def kmeans(points: torch.Tensor, size: int, settings: VocabularySettings) -> Job[Clusters]:
    """Cluster points.

    Starts from random points. A word without points is set on the point that is farthest from its word; at
    the end no word is empty unless there are fewer distinct points than words.

    Parameters
    ----------
    points : (n, d) float32 tensor
        Computed on its device; in two levels on the CPU only.
    size : int
        Words, n at most.
    settings : VocabularySettings
        Its rounds, tolerance and seed.

    Returns
    -------
    Clusters
        The same for the same points, settings and device.
    """
    generator = np.random.default_rng([settings.seed, 1])
    words = points[torch.from_numpy(generator.choice(len(points), size, replace=False)).to(points.device)]
    two_levels = size >= TWO_LEVELS_FROM and points.device.type == "cpu"
    centres = list_centres(words) if two_levels else words[:0]
    squares = on_one_thread(lambda: points.square().sum(1).cpu().numpy())()
    before, repairs, round_ = np.inf, 0, 0
    while True:
        names, distances = yield from _assign(points, squares, words, centres, round_, settings)
        inertia = float(distances.mean(dtype=np.float64))
        empty = np.flatnonzero(np.bincount(names, minlength=size) == 0)
        done = round_ >= settings.iterations or before - inertia <= settings.tolerance * inertia
        if done and (len(empty) == 0 or repairs == REPAIRS):
            break
        if done:
            repairs += 1
        else:
            round_ += 1
            words, _ = means(points, names, words)
            if two_levels:
                centres = list_centres(words, centres, rounds=1)
        before = min(before, inertia)
        if len(empty):
            words = words.clone()
            taken = torch.from_numpy(_badly_served(names, distances, len(empty))).to(points.device)
            words[torch.from_numpy(empty[: len(taken)]).to(points.device)] = points[taken]
    return Clusters(words.cpu().numpy(), centres.cpu().numpy(), inertia)


def _assign(
    points: torch.Tensor,
    squares: NDArray[np.float32],
    words: torch.Tensor,
    centres: torch.Tensor,
    round_: int,
    settings: VocabularySettings,
) -> Job[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Return each point's word and squared distance to it."""
    names = np.empty(len(points), dtype=np.int64)
    distances = np.empty(len(points), dtype=np.float32)
    yield _progress(round_, words, settings)
    finished, reported = 0, time.monotonic()
    for which, here, halves in _found(points, words, centres):
        names[which], distances[which] = here, np.maximum(2 * halves + squares[which], 0)
        finished += len(which)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            yield _progress(round_ + finished / len(points), words, settings)
    return names, distances


def _progress(rounds: float, words: torch.Tensor, settings: VocabularySettings) -> Progress:
    done = min(rounds, settings.iterations)
    return Progress(done, settings.iterations, "rounds", f"learning {len(words)} words")


def _found(points: torch.Tensor, words: torch.Tensor, centres: torch.Tensor) -> Iterator[Found]:
    if len(centres) == 0:
        yield from nearest_exact(points, prepare(words))
        return
    lists = make_inverted_lists(words, centres)
    for start in range(0, len(points), POINTS_AT_ONCE):
        for which, names, halves in nearest_by_inverted_lists(points[start : start + POINTS_AT_ONCE], lists):
            yield start + which, names, halves


def _badly_served(names: NDArray[np.int64], distances: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """Return at most ``number`` points, farthest from their words; each word keeps one point or more."""
    order = np.lexsort((-distances, names))
    sorted_names = names[order]
    last_of_word = np.append(sorted_names[1:] != sorted_names[:-1], True)
    candidates = order[~last_of_word]
    candidates = candidates[distances[candidates] > 0]
    worst = candidates[np.argsort(-distances[candidates], kind="stable")]
    return np.asarray(worst[:number])


FORMAT = "napari-cmrir vocabulary 1"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Visual words, and what they were learned from.

    Parameters
    ----------
    words : (k, d) float32 array
        The words.
    settings : VocabularySettings
        How they were learned.
    inertia : float
        Mean squared distance of the training descriptors to their words.
    trained_on : int
        Number of training descriptors.
    centres : (c, d) float32 array, optional
        Centres of lists of words, for the quick search; none where there are few words.
    """

    words: NDArray[np.float32]
    settings: VocabularySettings = field(default_factory=VocabularySettings)
    inertia: float = float("nan")
    trained_on: int = 0
    centres: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _pieces(self) -> list[Piece]:
        return prepare(torch.from_numpy(np.ascontiguousarray(self.words, dtype=np.float32)))

    @cached_property
    def _inverted_lists(self) -> InvertedLists | None:
        if self.centres is None or len(self.centres) == 0:
            return None
        return make_inverted_lists(torch.from_numpy(self.words), torch.from_numpy(self.centres))

    def assign(
        self,
        descriptors: NDArray[np.float32],
        *,
        nearest: int = 1,
        exact: bool = False,
        device: str | torch.device = "cpu",
    ) -> NDArray[np.int32]:
        """Return the nearest word of each descriptor.

        From some thousand words on, the search is in two levels (module `lists`): many times faster, and the
        word is the nearest one for about 97 descriptors of 100, else one hardly farther. It does not depend
        on the other descriptors.

        Parameters
        ----------
        descriptors : (n, d) float32 array
            All-zero rows are named by no word.
        nearest : int
            Words a descriptor; several are always searched exactly.
        exact : bool
            Whether to search exactly, as on a GPU anyway.
        device : str or torch.device
            Where to compute.

        Returns
        -------
        (n,) int32 array, or (n, nearest), nearest first, if more than one is wanted
            Indices of words; -1 for no word.

        Raises
        ------
        InputError
            If the descriptors are of another length than the words.

        Examples
        --------
        >>> vocabulary = Vocabulary(np.eye(3, dtype=np.float32))
        >>> vocabulary.assign(np.array([[0, 0.9, 0.1], [0, 0, 0]], dtype=np.float32)).tolist()
        [1, -1]
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self.words.shape[1]:
            raise InputError(
                f"Descriptors of shape {descriptors.shape} do not fit words of {self.words.shape[1]} values; "
                "describe with the settings that the vocabulary was learned with."
            )
        values = torch.from_numpy(np.ascontiguousarray(descriptors, dtype=np.float32)).to(device)
        nearest = min(nearest, len(self))
        if nearest > 1:
            names = nearest_several(values, torch.from_numpy(self.words).to(device), nearest)
        else:
            names = np.empty(len(values), dtype=np.int32)
            for which, found, _ in self._nearest(values, exact):
                names[which] = found
        names[~np.any(descriptors, axis=1)] = -1
        return names

    def _nearest(self, values: torch.Tensor, exact: bool) -> Iterator[Found]:
        if values.device.type != "cpu":
            return nearest_exact(values, prepare(torch.from_numpy(self.words).to(values.device)))
        lists = None if exact else self._inverted_lists
        return (
            nearest_exact(values, self._pieces) if lists is None else nearest_by_inverted_lists(values, lists)
        )

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as one safetensors file, its settings as JSON in the header."""
        from safetensors.numpy import save_file

        about = {
            "settings": dump_settings(self.settings),
            "inertia": self.inertia,
            "trained_on": self.trained_on,
        }
        centres = self.words[:0] if self.centres is None else self.centres
        tensors = {"words": np.ascontiguousarray(self.words), "centres": np.ascontiguousarray(centres)}
        save_file(tensors, str(path), {"format": FORMAT, "vocabulary": json.dumps(about)})


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Read a vocabulary that `Vocabulary.save` wrote.

    Raises
    ------
    InputError
        If the file is no vocabulary.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise InputError(f"{path} is not a vocabulary of this program; build the repository anew.")
            about = json.loads(header["vocabulary"])
            words, centres = file.get_tensor("words"), file.get_tensor("centres")
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a vocabulary ({error}); build it anew.") from error
    settings = load_settings(VocabularySettings, about["settings"], str(path))
    return Vocabulary(words, settings, about["inertia"], about["trained_on"], centres)


def train_vocabulary(
    descriptors: NDArray[np.float32],
    settings: VocabularySettings | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Job[Vocabulary]:
    """Learn visual words by k-means.

    The same descriptors, settings and device give the same words (`kmeans.kmeans`).

    Parameters
    ----------
    descriptors : (n, d) float32 array
        From `sampling.keep_strongest`; all-zero rows are left out, and of more than `samples` a random part
        is used.
    settings : VocabularySettings, optional
        Number of words, rounds and seed.
    device : str or torch.device
        Where to compute.

    Returns
    -------
    Vocabulary
        With `settings.words_for(n)` words; none is empty on the training descriptors unless there are fewer
        distinct descriptors than words.

    Raises
    ------
    InputError
        If there is no descriptor to learn from.

    Examples
    --------
    >>> from napari_cmrir import jobs
    >>> corners = np.repeat(np.eye(4, dtype=np.float32), 20, axis=0)
    >>> vocabulary = jobs.run(train_vocabulary(corners, VocabularySettings(size=4)))
    >>> vocabulary.inertia, len(vocabulary)
    (0.0, 4)
    """
    settings = settings or VocabularySettings()
    generator = np.random.default_rng(settings.seed)
    values = np.asarray(descriptors, dtype=np.float32)
    nonzero = np.flatnonzero(values.any(axis=1))
    if len(nonzero) == 0:
        raise InputError("There is nothing to learn words from: every descriptor is empty; check the images.")
    if len(nonzero) > settings.samples:
        nonzero = np.sort(generator.choice(nonzero, settings.samples, replace=False))
    points = torch.from_numpy(np.ascontiguousarray(values[nonzero])).to(device)
    clusters = yield from kmeans(points, settings.words_for(len(points)), settings)
    return Vocabulary(clusters.words, settings, clusters.inertia, len(points), clusters.centres)
