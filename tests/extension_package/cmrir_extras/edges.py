"""A representation: the edge strength of the grey image, which is similar in both modalities."""

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_gradient_magnitude

from napari_cmrir.images.intensity import Intensity
from napari_cmrir.representations.base import Representation, RepresentationKind
from napari_cmrir.representations.original import fit_original, read_images


@dataclass
class Edges(Representation):
    """The gradient of the grey image, smoothed over 2 px."""

    name = "edges"
    halo = 8  # a Gaussian of 2 px ends after 4 standard deviations

    modalities: tuple[str, str]
    intensities: dict[str, Intensity]
    history: list = field(default_factory=list)
    provenance: dict = field(default_factory=dict)
    score: dict = field(default_factory=dict)
    pixel_size: float | None = None

    @property
    def channels(self):
        """Number of channels: 1."""
        return 1

    def represent_tile(self, pixels, modality):
        """Compute the edges of a tile, (1, y, x) uint8."""
        grey = self.intensities[modality].apply(pixels).mean(axis=0)
        edges = gaussian_gradient_magnitude(grey, 2)
        return np.rint(255 * (4 * edges).clip(0, 1)).astype(np.uint8)[None]

    def decisive(self):
        """Everything that decides the edges."""
        ranges = {name: value.model_dump(mode="json") for name, value in self.intensities.items()}
        return {"modalities": self.modalities, "intensities": ranges}

    @classmethod
    def from_file(cls, header, tensors):
        """Make the representation that `decisive` describes."""
        ranges = {name: Intensity.model_validate(value) for name, value in header["intensities"].items()}
        return cls(tuple(header["modalities"]), ranges)


def train_edges(pairs, modalities, settings=None, *, output=None, pixel_size=None, **others):
    """Choose the range of values of each modality; nothing else is learnt."""
    images = yield from read_images(pairs, modalities)
    model = Edges(modalities, fit_original(images, modalities).intensities, pixel_size=pixel_size)
    if output is not None:
        model.save(output)
    return model


EDGES = RepresentationKind(Edges.from_file, train_edges)
