"""The vocabulary of visual words: sampling of descriptors, k-means, and the vocabulary file."""

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
from napari_cmrir.representations.devices import on_one_thread
from napari_cmrir.settings import dump_settings, load_settings

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
    """Draw one field's share of the training features, in random order, without empty descriptors.

    Parameters
    ----------
    features : Features
        All features of the field.
    fields : int
        Number of fields from which features are drawn.
    settings : VocabularySettings
        `samples`, `strongest_share` and `seed` are used.
    seed : int
        Combined with the settings' seed. It differs between fields, such as the field's number.

    Returns
    -------
    Features

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
    """Pool samples of fields and keep the descriptors of the strongest share, (n, d), in their order.

    Parameters
    ----------
    samples : sequence of Features
        From `sample_field`.
    settings : VocabularySettings
        `strongest_share` and `samples` are used.

    Returns
    -------
    (n, d) float32 array

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
"""Number of words from which k-means uses inverted lists.

Inverted lists are faster for many words: 5.6 times for 20,000 (docs/words.md). The threshold is not measured.
"""
REPORT_EVERY = 0.2
"""Seconds between reports of progress; cancelling takes effect at a report."""
POINTS_AT_ONCE = 100_000
"""Points assigned to cells before the next report; not measured."""
REPAIRS = 5
"""Largest number of additional rounds to fill empty words; not measured."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """The result of k-means.

    Parameters
    ----------
    words : (k, d) float32 array
        Centres of the clusters.
    centres : (c, d) float32 array
        Centres of the cells of inverted lists; none (c = 0) for fewer than `TWO_LEVELS_FROM` words.
    inertia : float
        Mean squared distance of the points to their words.
    """

    words: NDArray[np.float32]
    centres: NDArray[np.float32]
    inertia: float


def kmeans(points: torch.Tensor, size: int, settings: VocabularySettings) -> Job[Clusters]:
    """Cluster points by Lloyd's k-means.

    The words start at random points. A word without points moves to the point that is farthest from its own
    word. At the end no word is empty unless there are fewer distinct points than words.

    Parameters
    ----------
    points : (n, d) float32 tensor
        The device of the points computes. Inverted lists are used on the CPU only.
    size : int
        Number of words, at most n.
    settings : VocabularySettings
        `iterations`, `tolerance` and `seed` are used.

    Yields
    ------
    Progress
        In rounds.

    Returns
    -------
    Clusters
        Equal points, settings and devices give equal clusters.
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
    """Assign each point to its nearest word; give words and squared distances, (n,) each."""
    names = np.empty(len(points), dtype=np.int64)
    distances = np.empty(len(points), dtype=np.float32)
    yield _progress(round_, words, settings)
    finished, reported = 0, time.monotonic()
    for which, found, halves in _found(points, words, centres):
        names[which], distances[which] = found, np.maximum(2 * halves + squares[which], 0)
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
    """Choose at most ``number`` points that are farthest from their words; each word keeps a point."""
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
    """Visual words, and how they were learned.

    Parameters
    ----------
    words : (k, d) float32 array
    settings : VocabularySettings
        Settings of the training.
    inertia : float
        Mean squared distance of the training descriptors to their words.
    trained_on : int
        Number of training descriptors.
    centres : (c, d) float32 array, optional
        Centres of the cells of inverted lists; none for few words.
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
        """Find the nearest word of each descriptor.

        A vocabulary with `centres` is searched by inverted lists, which is many times faster. About 97 of 100
        descriptors then get their nearest word, the others a word that is hardly farther. The result of a
        descriptor does not depend on the other descriptors.

        Parameters
        ----------
        descriptors : (n, d) float32 array
            All-zero rows get no word.
        nearest : int
            Number of words per descriptor; more than one are always searched exactly.
        exact : bool
            Search exactly on the CPU, too; a GPU always does.
        device : str or torch.device
            Device to compute on.

        Returns
        -------
        (n,) int32 array, or (n, nearest) if `nearest` is above 1, nearest first
            Indexes of words; -1 for no word.

        Raises
        ------
        InputError
            If the descriptors have another length than the words.

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
        """Write the vocabulary as a safetensors file with its settings as JSON in the header."""
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

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Vocabulary

    Raises
    ------
    InputError
        If the file is not a vocabulary, or of another format.
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
    """Learn visual words by `kmeans`.

    Equal descriptors, settings and devices give equal words.

    Parameters
    ----------
    descriptors : (n, d) float32 array
        From `keep_strongest`. All-zero rows are left out. If there are more than `samples`, a random part is
        used.
    settings : VocabularySettings, optional
        Number of words, rounds and seed.
    device : str or torch.device
        Device to compute on.

    Yields
    ------
    Progress
        In rounds.

    Returns
    -------
    Vocabulary
        With `settings.words_for(n)` words. No word is empty on the training descriptors unless there are
        fewer distinct descriptors than words.

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
