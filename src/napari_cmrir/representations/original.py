"""The representation "original": the grey image itself (Breznik et al. 2024, Table 1, "Originals")."""

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
from napari_cmrir.images.discovery import ArrayPair, Pair, pair_identifier
from napari_cmrir.images.intensity import Intensity, choose_intensity
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.representations.base import Representation, RepresentationKind
from napari_cmrir.representations.model_file import require_writable
from napari_cmrir.representations.model_input import PixelSizes, at_one_range, read_at, survey_sizes

__all__ = ["ORIGINAL", "OriginalImages", "fit_original", "read_images", "train_original"]


@dataclass
class OriginalImages(Representation):
    """Represents an image by the mean of its channels, scaled to 8 bits by its modality's value range.

    Parameters
    ----------
    modalities : (str, str)
        Names of the two modalities.
    intensities : dict
        `Intensity` of each modality.
    history, provenance, score, pixel_size
        See `Representation`.

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
        """Number of channels: 1."""
        return 1

    def represent_tile(self, pixels: NDArray[Any], modality: str) -> NDArray[np.uint8]:
        """Convert a tile (y, x, channel) to grey values (1, y, x)."""
        grey = self.intensities[modality].apply(pixels).mean(axis=0, keepdims=True)
        answer: NDArray[np.uint8] = np.rint(255 * grey.clip(0, 1)).astype(np.uint8)
        return answer

    def decisive(self) -> dict[str, Any]:
        """Give the modalities and their value ranges."""
        ranges = {name: value.model_dump(mode="json") for name, value in self.intensities.items()}
        return {"modalities": self.modalities, "intensities": ranges}

    @classmethod
    def from_file(cls, header: dict[str, Any], tensors: dict[str, Tensor]) -> OriginalImages:
        """Build the representation from a file's header; it has no tensors."""
        first, second = header["modalities"]
        ranges = {name: Intensity.model_validate(header["intensities"][name]) for name in (first, second)}
        return cls((first, second), ranges)


def fit_original(images: Mapping[str, Sequence[NDArray[Any]]], modalities: tuple[str, str]) -> OriginalImages:
    """Choose each modality's value range; the transform is linear.

    Parameters
    ----------
    images : mapping of str to sequence of ndarray, (y, x, channel)
        Images by modality.
    modalities : (str, str)

    Returns
    -------
    OriginalImages

    Raises
    ------
    InputError
        If the images of a modality differ in their number of channels.
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
    """Fit the value ranges to pairs. `settings`, `device` and `resume` have no effect.

    Parameters
    ----------
    pairs, modalities, settings, output, device, resume, pixel_size
        See `napari_cmrir.train`.

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
        If there is no pair, or an image cannot be read.
    """
    if output is not None:
        require_writable(Path(output))
    sizes = survey_sizes(pairs)
    images = yield from read_images(pairs, modalities, sizes)
    aligned, ranges, _ = at_one_range(
        list(zip(*(images[name] for name in modalities), strict=True)),
        [(pair_identifier(pair, number),) * 2 for number, pair in enumerate(pairs)],
    )
    images = {name: [pair[side] for pair in aligned] for side, name in enumerate(modalities)}
    model = fit_original(images, modalities)
    model.pixel_size = sizes.common if pixel_size is None else pixel_size
    model.provenance = {"value_ranges": dict(zip(modalities, ranges, strict=True))}
    model.provenance |= {"trained_on": [pair_identifier(pair, number) for number, pair in enumerate(pairs)]}
    if output is not None:
        model.save(output)
    return model


def read_images(
    pairs: Sequence[Pair | ArrayPair], modalities: tuple[str, str], sizes: PixelSizes | None = None
) -> Job[dict[str, list[NDArray[Any]]]]:
    """Read the images of all pairs.

    Parameters
    ----------
    pairs : sequence of Pair or of (first, second) arrays
    modalities : (str, str)
        Names of the first and the second image of each pair.
    sizes : PixelSizes, optional
        Their pixel sizes, to bring the images to the common one.

    Yields
    ------
    Progress
        In pairs.

    Returns
    -------
    dict of str to list of ndarray, (y, x, channel)
        Images by modality.

    Raises
    ------
    InputError
        If there is no pair, or an image cannot be read.
    """
    if not pairs:
        raise InputError("Training needs at least one pair of images; give a folder that holds pairs.")
    images: dict[str, list[NDArray[Any]]] = {name: [] for name in modalities}
    for done, pair in enumerate(pairs):
        yield Progress(done, len(pairs), "pairs", "Reading the pairs")
        pixels = _read(pair, done, sizes) if isinstance(pair, Pair) else pair
        for name, image in zip(modalities, pixels, strict=True):
            images[name].append(image[..., None] if image.ndim == 2 else image)
    return images


def _read(pair: Pair, number: int, sizes: PixelSizes | None) -> ArrayPair:
    """Read a pair at the common pixel size; images that need no change are read as they are."""
    if sizes is None or sizes.common is None:
        return read_pair(pair)
    return read_at(pair, sizes.of_pair[number], sizes.common)[0]


ORIGINAL = RepresentationKind(OriginalImages.from_file, train_original)
