"""Mutual information at every shift and rotation as a retriever: the classical comparison of modalities."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import Retriever, cut_region
from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registration.correlation import turn
from napari_cmrir.representations.devices import choose_device

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MutualInformation", "mutual_information", "quantised"]

_AT_ONCE = 16  # images: 64 level pairs of 128 x 128 shifts take 4 MiB an image


def quantised(grey: Tensor, counts: Tensor, levels: int) -> Tensor:
    """Divide an image into levels that equally many pixels have, one map each.

    Parameters
    ----------
    grey : (y, x) tensor
    counts : (y, x) tensor
        1 where a pixel counts, else 0.
    levels : int

    Returns
    -------
    (levels, y, x) tensor
        1 where a pixel counts and has the level.

    Examples
    --------
    >>> quantised(torch.arange(4.0).reshape(2, 2), torch.ones(2, 2), 2).tolist()
    [[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]
    """
    known = grey[counts > 0.5]
    ends = torch.quantile(known, torch.linspace(0, 1, levels + 1)[1:-1]) if len(known) else torch.zeros(0)
    level = torch.bucketize(grey.contiguous(), ends, right=True)
    return torch.stack([(level == k) * (counts > 0.5) for k in range(levels)]).float()


def mutual_information(template: Tensor, images: Tensor, least_overlap: float = 0.5) -> Tensor:
    """Compute the mutual information of a template and images at every shift, by Fourier transforms.

    Öfverstedt, Lindblad & Sladoje, Fast computation of mutual information in the frequency domain with
    applications to global multimodal image alignment, Pattern Recognition Letters 2022,
    doi:10.1016/j.patrec.2022.05.022.

    Parameters
    ----------
    template : (a, y, x) tensor
        `quantised`.
    images : (n, b, y, x) tensor
        `quantised`.
    least_overlap : float
        Share of the template's counting pixels that must lie on counting pixels of the image.

    Returns
    -------
    (n, shifts down, shifts right) tensor
        In nats; -inf where the overlap is smaller.

    Examples
    --------
    >>> grey = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    >>> image = quantised(grey, torch.ones(24, 24), 4)
    >>> inverted = quantised(1 - grey[4:20, 6:22], torch.ones(16, 16), 4)
    >>> found = mutual_information(inverted, image[None])[0]
    >>> divmod(int(found.argmax()), found.shape[1])  # of a template that begins 16 px above and left
    (19, 21)
    """
    (height, width), (rows, columns) = template.shape[-2:], images.shape[-2:]
    shape = height + rows - 1, width + columns - 1
    ours = torch.fft.rfft2(template, s=shape).conj()
    theirs = torch.fft.rfft2(images, s=shape)
    joint = torch.fft.irfft2(ours[:, None] * theirs[:, None], s=shape).round().clamp_min(0)
    joint = torch.roll(joint, (height - 1, width - 1), (-2, -1))  # the smallest shift first
    first, second = joint.sum(2), joint.sum(1)
    overlap = first.sum(1)
    sums = _entropic(joint).sum((1, 2)) - _entropic(first).sum(1) - _entropic(second).sum(1)
    information = sums / overlap.clamp_min(1) + overlap.clamp_min(1).log()
    least = least_overlap * float(template.sum())
    return torch.where(overlap >= max(1.0, least), information, -torch.inf)


def _entropic(counted: Tensor) -> Tensor:
    return torch.xlogy(counted, counted)


class MutualInformation(Retriever):
    """Score images by the highest mutual information over all shifts and rotations; it learns nothing.

    Parameters
    ----------
    folder : path-like
        Nothing is kept in it.
    device : str
        Where it computes.
    levels : int
        Grey levels.
    step : int
        Images are averaged over squares of this many pixels a side first.
    max_rotation : float
        Queries are turned by up to this many degrees either way.
    rotation_step : float
        Degrees from one rotation to the next.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        levels: int = 8,
        step: int = 4,
        max_rotation: float = 30.0,
        rotation_step: float = 5.0,
    ) -> None:
        super().__init__(folder, device)
        self.levels, self.step = levels, step
        turns = np.arange(0, max_rotation + 1e-6, rotation_step)
        self._degrees: Sequence[float] = [*(-turns[:0:-1]).tolist(), *turns.tolist()]
        self._device = choose_device(device)
        self._images: dict[str, Tensor] = {}

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Keep the levels of the images, in place of those before."""
        self._images = {}
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", "Dividing images into grey levels")
            grey, counts = self._reduced(pixels, np.ones(pixels.shape[:2], bool))
            self._images[name] = quantised(grey, counts, self.levels).to(self._device)

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score every image by the highest mutual information with the query, in nats.

        Raises
        ------
        InputError
            Nothing is indexed.
        """
        if not self._images:
            raise InputError("The retriever has no images; index some first.")
        pixels, mask = cut_region(pixels, region, mask)
        counts = np.ones(pixels.shape[:2], bool) if mask is None else mask
        grey, seen = self._reduced(pixels, counts)
        scores = dict.fromkeys(self._images, -np.inf)
        for done, degrees in enumerate(self._degrees):
            yield Progress(done, len(self._degrees), "rotations", "Computing mutual information")
            turned, turned_seen = turn(grey[None], seen, degrees)
            template = quantised(turned[0], (turned_seen > 0.99).float(), self.levels).to(self._device)
            for names in self._groups():
                stacked = torch.stack([self._images[name] for name in names])
                best = mutual_information(template, stacked).flatten(1).amax(1).tolist()
                for name, score in zip(names, best, strict=True):
                    scores[name] = max(scores[name], score)
        return {name: score for name, score in scores.items() if np.isfinite(score)}

    def _reduced(self, pixels: NDArray[Any], counts: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Grey values and what counts, (y, x) each, averaged over squares."""
        grey = torch.from_numpy(pixels.astype(np.float32).mean(2))
        counting = torch.from_numpy(counts.astype(np.float32))
        both = torch.nn.functional.avg_pool2d(torch.stack((grey, counting)), self.step)
        return both[0], (both[1] > 0.99).float()

    def _groups(self) -> list[list[str]]:
        """Names of images of equal size, not too many at once."""
        sizes: dict[tuple[int, ...], list[str]] = {}
        for name, image in self._images.items():
            sizes.setdefault(tuple(image.shape), []).append(name)
        return [names[i : i + _AT_ONCE] for names in sizes.values() for i in range(0, len(names), _AT_ONCE)]
