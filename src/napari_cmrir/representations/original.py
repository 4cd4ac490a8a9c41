"""The originals: an image represented by itself, grey (Breznik et al. 2024, Table 1, "Originals")."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.intensity import Intensity, choose_intensity
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.base import Representation, RepresentationKind
from napari_cmrir.representations.model_file import require_writable

__all__ = ["ORIGINAL", "OriginalImages", "fit_original", "read_images", "train_original"]

ArrayPair = tuple[NDArray[Any], NDArray[Any]]


@dataclass
class OriginalImages(Representation):
    """Represents an image by the mean of its channels, brought to 8 bits by its modality's range.

    Parameters
    ----------
    modalities : (str, str)
        Names of the two modalities.
    intensities : dict
        `Intensity` of each modality.
    history, provenance, score, pixel_size
        As of `Representation`.

    Examples
    --------
    >>> from napari_cmrir.jobs import run
    >>> wide = Intensity(low=(0.0,), high=(510.0,))
    >>> model = OriginalImages(("A", "B"), {"A": wide, "B": wide})
    >>> run(model.represent(np.array([[0, 102], [510, 900]]), "A"))[0].tolist()
    [[0, 51], [255, 255]]
    """

    name: ClassVar[str] = "original"

    modalities: tuple[str, str]
    intensities: dict[str, Intensity]
    history: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)
    pixel_size: float | None = None

    @property
    def channels(self) -> int:
        """One: grey."""
        return 1

    def represent_tile(self, pixels: NDArray[Any], modality: str) -> NDArray[np.uint8]:
        """Give the grey values, (1, y, x)."""
        grey = self.intensities[modality].apply(pixels).mean(axis=0, keepdims=True)
        answer: NDArray[np.uint8] = np.rint(255 * grey.clip(0, 1)).astype(np.uint8)
        return answer

    def decisive(self) -> dict[str, Any]:
        """Give the modalities and their ranges."""
        ranges = {name: value.model_dump(mode="json") for name, value in self.intensities.items()}
        return {"modalities": self.modalities, "intensities": ranges}

    @classmethod
    def from_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> OriginalImages:
        """Make the representation of a file."""
        first, second = header["modalities"]
        ranges = {name: Intensity.model_validate(header["intensities"][name]) for name in (first, second)}
        return cls((first, second), ranges)


def fit_original(images: Mapping[str, Sequence[NDArray[Any]]], modalities: tuple[str, str]) -> OriginalImages:
    """Choose each modality's range of grey values, linear.

    Parameters
    ----------
    images : mapping of str to sequence of ndarray, (y, x, channel)
        Those of each modality.
    modalities : (str, str)

    Raises
    ------
    InputError
        The images of a modality differ in their channels.
    """
    ranges = {name: choose_intensity(images[name]) for name in modalities}
    linear = {name: value.model_copy(update={"transform": "linear"}) for name, value in ranges.items()}
    return OriginalImages(modalities, linear)


def train_original(
    pairs: Sequence[Pair | ArrayPair],
    modalities: tuple[str, str],
    settings: None = None,
    *,
    output: str | os.PathLike[str] | None = None,
    device: str = "auto",
    resume: bool = False,
    pixel_size: float | None = None,
) -> Job[OriginalImages]:
    """Fit the ranges of grey values to pairs; `settings`, `device` and `resume` change nothing.

    Parameters
    ----------
    pairs, modalities, settings, output, device, resume, pixel_size
        As of `napari_cmrir.train`.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    OriginalImages

    Raises
    ------
    InputError
        There is no pair, or an image cannot be read.
    """
    if output is not None:
        require_writable(Path(output))
    images = yield from read_images(pairs, modalities)
    model = fit_original(images, modalities)
    model.pixel_size = pixel_size
    model.provenance = {"trained_on": [_name(pair, number) for number, pair in enumerate(pairs, 1)]}
    if output is not None:
        model.save(output)
    return model


def read_images(
    pairs: Sequence[Pair | ArrayPair], modalities: tuple[str, str]
) -> Job[dict[str, list[NDArray[Any]]]]:
    """Read all images of some pairs, to fit ranges or statistics to them.

    Parameters
    ----------
    pairs : sequence of Pair or of (first, second) arrays
    modalities : (str, str)
        In the order of the pairs.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    dict of str to list of ndarray, (y, x, channel)
        By modality.

    Raises
    ------
    InputError
        There is no pair, or an image cannot be read.
    """
    if not pairs:
        raise InputError("Training needs at least one pair of images; give a folder that holds pairs.")
    images: dict[str, list[NDArray[Any]]] = {name: [] for name in modalities}
    for done, pair in enumerate(pairs):
        yield Progress(done, len(pairs), "pairs", "Reading the pairs")
        pixels = read_pair(pair) if isinstance(pair, Pair) else pair
        for name, image in zip(modalities, pixels, strict=True):
            images[name].append(image[..., None] if image.ndim == 2 else image)
    return images


def _name(pair: Pair | ArrayPair, number: int) -> str:
    """Name a pair in a model's provenance."""
    return pair.identifier if isinstance(pair, Pair) else f"pair {number}"


ORIGINAL = RepresentationKind(OriginalImages.from_file, train_original)
