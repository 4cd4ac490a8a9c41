"""The vocabulary of visual words: k-means over descriptors, naming by the nearest word, one file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.words.nearest import nearest_blocks
from napari_cmrir.words.settings import VocabularySettings

__all__ = ["Vocabulary", "load_vocabulary", "train_vocabulary"]

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
    """

    words: NDArray[np.float32]
    settings: VocabularySettings = field(default_factory=VocabularySettings)
    inertia: float = float("nan")
    trained_on: int = 0

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def _tensor(self) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.words, dtype=np.float32))

    def assign(
        self, descriptors: NDArray[np.float32], *, nearest: int = 1, device: str | torch.device = "cpu"
    ) -> NDArray[np.int32]:
        """Return the nearest word of each descriptor.

        Parameters
        ----------
        descriptors : (n, d) float32 array
            All-zero rows are named by no word.
        nearest : int
            Words a descriptor.
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
        nearest = min(nearest, len(self))
        words = self._tensor.to(device)
        values = torch.from_numpy(np.ascontiguousarray(descriptors, dtype=np.float32)).to(device)
        names = torch.empty((len(values), nearest), dtype=torch.int32, device=device)
        for block, index, _ in nearest_blocks(values, words, nearest):
            names[block] = index.int()
        names[~values.any(dim=1)] = -1
        found = names.cpu().numpy()
        return found[:, 0] if nearest == 1 else found

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as one safetensors file, its settings as JSON in the header."""
        from safetensors.numpy import save_file

        about = {
            "settings": self.settings.model_dump(mode="json"),
            "inertia": self.inertia,
            "trained_on": self.trained_on,
        }
        words = np.ascontiguousarray(self.words, dtype=np.float32)
        save_file({"words": words}, str(path), {"format": FORMAT, "vocabulary": json.dumps(about)})


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
            words = file.get_tensor("words")
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as a vocabulary ({error}); build it anew.") from error
    settings = VocabularySettings.model_validate(about["settings"])
    return Vocabulary(words, settings, about["inertia"], about["trained_on"])


def train_vocabulary(
    descriptors: NDArray[np.float32],
    settings: VocabularySettings | None = None,
    *,
    device: str | torch.device = "cpu",
) -> Job[Vocabulary]:
    """Learn visual words by k-means.

    Lloyd's rounds from a random start; a word without descriptors is set on the descriptor that is farthest
    from its word. The same descriptors, settings and device give the same words.

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
    something = np.flatnonzero(values.any(axis=1))
    if len(something) == 0:
        raise InputError("There is nothing to learn words from: every descriptor is empty; check the images.")
    if len(something) > settings.samples:
        something = np.sort(generator.choice(something, settings.samples, replace=False))
    points = torch.from_numpy(np.ascontiguousarray(values[something])).to(device)
    size = settings.words_for(len(points))
    first = generator.choice(len(points), size, replace=False)
    words = points[torch.from_numpy(first).to(device)].clone()
    squares = (points * points).sum(1)
    before = float("inf")
    for round_ in range(settings.iterations + 1):
        names = torch.empty(len(points), dtype=torch.int64, device=device)
        distances = torch.empty(len(points), device=device)
        for block, index, half in nearest_blocks(points, words):
            names[block], distances[block] = index[:, 0], (2 * half[:, 0] + squares[block]).clamp(min=0)
            share = (block.stop / len(points) + round_) / (settings.iterations + 1)
            yield Progress(
                share * settings.iterations, settings.iterations, "rounds", f"learning {size} words"
            )
        inertia = float(distances.double().mean())
        if round_ == settings.iterations or before - inertia <= settings.tolerance * inertia:
            break
        before = inertia
        words = _move(words, points, names, distances)
    return Vocabulary(words.cpu().numpy(), settings, inertia, len(points))


def _move(
    words: torch.Tensor, points: torch.Tensor, names: torch.Tensor, distances: torch.Tensor
) -> torch.Tensor:
    """Return the means of the words' points; words without any go where points are worst served."""
    number = torch.bincount(names, minlength=len(words))
    sums = torch.zeros_like(words).index_add_(0, names, points)
    moved = sums / number.clamp(min=1)[:, None]
    empty = torch.nonzero(number == 0)[:, 0]
    if len(empty):
        worst = torch.sort(distances, descending=True, stable=True).indices[: len(empty)]
        moved[empty] = points[worst]
    return moved
