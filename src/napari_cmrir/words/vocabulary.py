"""The vocabulary of visual words: k-means over descriptors, naming by the nearest word, one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job
from napari_cmrir.words.cells import Cells, make_cells, nearest_in_cells
from napari_cmrir.words.kmeans import kmeans
from napari_cmrir.words.nearest import Found, Piece, nearest_exact, nearest_several, prepare
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
    centres : (c, d) float32 array, optional
        Centres of cells of words, for the quick search; none where there are few words.
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
    def _cells(self) -> Cells | None:
        if self.centres is None or len(self.centres) == 0:
            return None
        return make_cells(torch.from_numpy(self.words), torch.from_numpy(self.centres))

    def assign(
        self,
        descriptors: NDArray[np.float32],
        *,
        nearest: int = 1,
        exact: bool = False,
        device: str | torch.device = "cpu",
    ) -> NDArray[np.int32]:
        """Return the nearest word of each descriptor.

        From some thousand words on, the search is in two levels (module `cells`): many times faster, and the
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
        cells = None if exact else self._cells
        return nearest_exact(values, self._pieces) if cells is None else nearest_in_cells(values, cells)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as one safetensors file, its settings as JSON in the header."""
        from safetensors.numpy import save_file

        about = {
            "settings": self.settings.model_dump(mode="json"),
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
    settings = VocabularySettings.model_validate(about["settings"])
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
    something = np.flatnonzero(values.any(axis=1))
    if len(something) == 0:
        raise InputError("There is nothing to learn words from: every descriptor is empty; check the images.")
    if len(something) > settings.samples:
        something = np.sort(generator.choice(something, settings.samples, replace=False))
    points = torch.from_numpy(np.ascontiguousarray(values[something])).to(device)
    clusters = yield from kmeans(points, settings.words_for(len(points)), settings)
    return Vocabulary(clusters.words, settings, clusters.inertia, len(points), clusters.centres)
