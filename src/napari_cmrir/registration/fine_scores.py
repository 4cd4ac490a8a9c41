"""Fine scores of a registered hit: agreement of its finest structures with those of the query."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.fitted_values import fitted_values
from napari_cmrir.registration.correlation import high_pass
from napari_cmrir.registration.refinement import Points, with_gradients

__all__ = ["FineScores", "gradient_agreement"]

_FITTED = fitted_values("fine_scores").values
_LEAST = 0.05  # product of two gradients' lengths, squared steps of 8 bits, that is hardly a direction
_POINTS = 20_000


class FineScores:
    """Scores the fine structures of a query and of fields under poses that are already found.

    Registration finds a pose by blobs of some ten pixels, which agree by chance more often than edges do. Two
    scores of edges are added: the zero-normalised correlation of the band of 2 px, and the agreement of
    gradient directions (after Pluim et al., "Image registration by maximization of
    combined mutual information and gradient information", IEEE TMI 19, 2000, doi:10.1109/42.876307).

    Parameters
    ----------
    query : (channel, h, w) float tensor
        Detail of its CoMIR.
    mask : (h, w) float tensor
        1 where the query counts.
    fields : (n, channel, y, x) float tensor
        Detail of theirs.
    gradients : (n, 3 * channel, y, x) tensor
        `with_gradients` of the fields.
    side : int
        Side of a pixel, in pixels of the full resolution.
    """

    def __init__(self, query: Tensor, mask: Tensor, fields: Tensor, gradients: Tensor, side: int) -> None:
        self._channels = channels = len(query)
        deviation = _FITTED["band"] / side
        band = high_pass(query[None], mask, deviation)
        inner = 1 - F.max_pool2d(
            1 - mask[None], 3, stride=1, padding=1
        )  # whose gradients are the query's own
        ours = torch.cat((band[0], with_gradients(query[None])[0, channels:], inner))
        self._points = Points(ours, mask, _POINTS)
        self._fields = torch.cat((high_pass(fields, None, deviation), gradients[:, channels:]), 1)

    def add_to(self, scores: Tensor, poses: Tensor) -> Tensor:
        """Average the correlations of the CoMIRs with the fine scores.

        Parameters
        ----------
        scores : (n,) tensor
            The correlations, times the overlap.
        poses : (n, 3) tensor
            The pose in each field: degrees, and (y, x) of the query's centre.

        Returns
        -------
        (n,) tensor
            Weighted mean of the three, in [-1, 1]; -inf where the score is.
        """
        seen, weight, _ = self._points.sample(self._fields, poses)
        ours, inner = self._points.values[:-1], self._points.values[-1]
        c = self._channels
        overlap = weight.sum((1, 2)) / max(1, weight.shape[-1])
        fine = _correlation(ours[:c], seen[:, :c], weight)
        angle = torch.deg2rad(poses[:, 0])[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        down, right = seen[:, c : 2 * c], seen[:, 2 * c :]  # as the field's axes lie
        theirs = (cos * down + sin * right, cos * right - sin * down)
        steps = gradient_agreement((ours[c : 2 * c], ours[2 * c :]), theirs, weight * inner)
        weights = (_FITTED["correlation_weight"], _FITTED["band_weight"], _FITTED["gradient_weight"])
        fine_scores = weights[1] * fine + weights[2] * steps
        return (weights[0] * scores + fine_scores * overlap) / sum(weights)


def gradient_agreement(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """Compare gradients by their directions, each as much as the weaker of the two is strong.

    Parameters
    ----------
    ours : two (channel, point) tensors
        Gradients along y and x.
    theirs : two (n, channel, point) tensors
        Those of the fields at the same points and along the same axes.
    weight : (n, 1, point) tensor
        1 where they count.

    Returns
    -------
    (n,) tensor
        Sum of the cosines of twice the angles between them, times the weaker length, over the sum of the
        stronger lengths: 1 where they are equal, -1 where they are perpendicular and of equal length, about
        0 by chance.

    Examples
    --------
    >>> along_y = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    >>> across = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 4.0]]])
    >>> round(gradient_agreement(along_y, across, torch.ones(1, 1, 2)).item(), 2)
    -0.6
    """
    lengths = torch.hypot(*ours), torch.hypot(*theirs)
    cosine = (ours[0] * theirs[0] + ours[1] * theirs[1]) / (lengths[0] * lengths[1] + _LEAST)
    weaker, stronger = torch.minimum(*lengths), torch.maximum(*lengths)
    agreement = ((2 * cosine.square() - 1) * weaker * weight).sum((1, 2))
    return agreement / (stronger * weight).sum((1, 2)).clamp_min(1e-6)


def _correlation(ours: Tensor, theirs: Tensor, weight: Tensor) -> Tensor:
    """Zero-normalised correlation (n,) of (channel, point) with (n, channel, point)."""
    total = weight.sum(-1, keepdim=True).clamp_min(1)

    def centred(values: Tensor) -> Tensor:
        return (values - (values * weight).sum(-1, keepdim=True) / total) * weight

    one, other = centred(ours[None]), centred(theirs)
    lengths = one.square().sum((1, 2)) * other.square().sum((1, 2))
    return (one * other).sum((1, 2)) / lengths.sqrt().clamp_min(1e-6)
