"""Sub-pixel refinement of poses by Gauss-Newton steps, and the scores of fine structures under a pose."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.registration.correlation import high_pass
from napari_cmrir.settings import SCORE_WEIGHTS, ScoreWeights, fitted_values

__all__ = [
    "POINTS_STEPPED",
    "FineScores",
    "Points",
    "gradient_agreement",
    "pose_scores",
    "refine_poses",
    "with_gradients",
]

_POINTS_SCORED = 20_000  # pixels of the query that a final score samples; more cost time, not measured
POINTS_STEPPED = 5_000
"""Pixels of the query that a Gauss-Newton step samples.

A query took a third of the time after steps sampled 5,000 pixels and OpenCV filtered (commit 7ea2752).
"""

_BAND_PX = fitted_values("fine_scores").values["band"]
# Added to the product of two gradients' lengths (grey levels of 255 per pixel, squared), so that gradients
# of rounding noise have no direction. Not measured.
_GRADIENT_FLOOR = 0.05
_FINE_SCORE_POINTS = 20_000  # pixels of the query that the fine scores sample; more cost time, not measured

# Share of the diagonal added to the normal equations (Levenberg-Marquardt): it keeps a flat query's step
# finite and slows convergence little. Not measured.
_DAMPING = 1e-3
_LONGEST_STEP = 2.0  # degrees and pixels a step: the linear model holds no further; not measured


def pose_scores(
    query: Tensor,
    mask: Tensor,
    fields: Tensor,
    poses: Tensor,
    min_overlap: float,
    *,
    most_points: int = _POINTS_SCORED,
    sizes: Tensor | None = None,
) -> Tensor:
    """Score a query's pose in each field: zero-normalised correlation times the overlap.

    Parameters
    ----------
    query : (channel, h, w) float tensor
    mask : (h, w) float tensor
        1 where the query counts.
    fields : (n, channel, y, x) float tensor
    poses : (n, 3) tensor
        Rotation in degrees, and the query's centre (y, x) in the field's pixels.
    min_overlap : float
        Smallest share of the mask that must lie on the field; a smaller overlap scores -inf.
    most_points : int
        About the number of the query's pixels to sample, on a regular grid.
    sizes : (n, 2) tensor, optional
        Height and width of each field, if they are padded to one size.

    Returns
    -------
    (n,) tensor
        In [-1, 1], or -inf.

    Examples
    --------
    >>> field = torch.rand(1, 1, 24, 24, generator=torch.manual_seed(0))
    >>> query = field[0, :, 4:14, 6:18]
    >>> pose = torch.tensor([[0.0, 8.5, 11.5]])
    >>> round(pose_scores(query, torch.ones(10, 12), field, pose, 0.5).item(), 4)
    1.0
    """
    points = Points(query, mask, most_points)
    seen, weight, _ = points.sample(fields, poses, sizes)
    return points.score(seen, weight, min_overlap)


def refine_poses(
    query: Tensor,
    mask: Tensor,
    fields: Tensor,
    poses: Tensor,
    min_overlap: float,
    *,
    iterations: int = 6,
    gradients: Tensor | None = None,
    sizes: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Move each pose to the nearest peak of the correlation.

    Gauss-Newton steps, forward-additive, on the zero-normalised residual (Evangelidis & Psarakis, "Parametric
    image alignment using enhanced correlation coefficient maximization", IEEE TPAMI 30, 2008,
    doi:10.1109/TPAMI.2008.113). All poses are refined at once.

    Parameters
    ----------
    query, mask, fields, poses, min_overlap
        As for `pose_scores`.
    iterations : int
        Number of steps. The default 6 is not measured.
    gradients : (n, 3 * channel, y, x) tensor, optional
        `with_gradients` of the fields; computed if not given.
    sizes : (n, 2) tensor, optional
        As for `pose_scores`.

    Returns
    -------
    poses : (n, 3) tensor
        The best pose of all steps, scored on `POINTS_STEPPED` pixels.
    scores : (n,) tensor
        `pose_scores` of these poses.
    """
    points = Points(query, mask, POINTS_STEPPED)
    if gradients is None:
        gradients = with_gradients(fields)
    best_poses, best_scores = poses.clone(), torch.full_like(poses[:, 0], -torch.inf)
    for iteration in range(iterations + 1):
        sampled, weight, (dy, dx) = points.sample(gradients, poses, sizes)
        channels = fields.shape[1]
        seen, along_y, along_x = sampled.view(len(poses), 3, channels, -1).unbind(1)
        scores = points.score(seen, weight, min_overlap)
        better = scores > best_scores
        best_poses = torch.where(better[:, None], poses, best_poses)
        best_scores = torch.where(better, scores, best_scores)
        if iteration == iterations:
            break
        by_angle = along_y * dy[:, None] + along_x * dx[:, None]  # derivative, per radian
        poses = poses + points.step(seen, (by_angle, along_y, along_x), weight)
    return best_poses, pose_scores(query, mask, fields, best_poses, min_overlap, sizes=sizes)


class Points:
    """A regular sample of the query's pixels that count, as offsets from the query's centre.

    Parameters
    ----------
    query : (channel, h, w) tensor
    mask : (h, w) tensor
        1 where the query counts.
    most : int
        About the largest number of pixels to keep.

    Attributes
    ----------
    values : (channel, point) tensor
        The query at the pixels.
    y, x : (point,) tensor
        Offsets from the centre, in pixels.
    """

    def __init__(self, query: Tensor, mask: Tensor, most: int) -> None:
        stride = max(1, math.ceil(math.sqrt(float(mask.sum()) / most)))
        rows, columns = torch.nonzero(mask[::stride, ::stride] > 0.5, as_tuple=True)
        rows, columns = rows * stride, columns * stride
        self.values = query[:, rows, columns]  # (channel, point)
        self.y = rows - (mask.shape[0] - 1) / 2
        self.x = columns - (mask.shape[1] - 1) / 2

    def sample(
        self, images: Tensor, poses: Tensor, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Sample images at the points under one pose per image.

        Parameters
        ----------
        images : (n, c, y, x) tensor
        poses : (n, 3) tensor
            Degrees, and the query's centre (y, x).
        sizes : (n, 2) tensor, optional
            Height and width of each image, if they are padded to one size.

        Returns
        -------
        sampled : (n, c, point) tensor
        weight : (n, 1, point) tensor
            1 for points inside the image, 0 outside.
        derivatives : (n, point) tensor, (n, point) tensor
            Derivatives of a point's y and x by the angle, in pixels per radian.
        """
        height, width = images.shape[-2:]
        angle = torch.deg2rad(poses[:, :1])
        cos, sin = angle.cos(), angle.sin()
        dx, dy = cos * self.y - sin * self.x, -(sin * self.y + cos * self.x)
        y = poses[:, 1:2] + cos * self.y - sin * self.x
        x = poses[:, 2:3] + sin * self.y + cos * self.x
        tall, wide = (height, width) if sizes is None else sizes[:, :, None].unbind(1)
        inside = (y > -0.5) & (y < tall - 0.5) & (x > -0.5) & (x < wide - 0.5)
        if sizes is not None:  # the border of each image, as of images that are not padded
            y = y.clamp(min=0).minimum(sizes[:, :1] - 1)
            x = x.clamp(min=0).minimum(sizes[:, 1:] - 1)
        grid = torch.stack(((x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1), -1)
        sampled = F.grid_sample(images, grid[:, None], align_corners=False, padding_mode="border")[:, :, 0]
        return sampled, inside.to(images.dtype)[:, None], (dy, dx)

    def _normalised(self, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Centre values (n, channel, point) by their weighted mean and scale them to unit length.

        The second result is the length before scaling, (n,).
        """
        total = weight.sum(-1, keepdim=True).clamp_min(1)
        centred = (values - (values * weight).sum(-1, keepdim=True) / total) * weight
        length = centred.square().sum((1, 2)).sqrt().clamp_min(1e-6)
        return centred / length[:, None, None], length

    def score(self, seen: Tensor, weight: Tensor, min_overlap: float) -> Tensor:
        """Correlate the query with the sampled fields (n, channel, point), times the overlap: (n,)."""
        query, _ = self._normalised(self.values[None], weight)
        field, _ = self._normalised(seen, weight)
        overlap = weight.sum((1, 2)) / max(1, self.values.shape[1])
        scores = (query * field).sum((1, 2)) * overlap
        return scores.masked_fill(overlap < min_overlap, -torch.inf)

    def step(self, seen: Tensor, derivatives: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor:
        """Compute the Gauss-Newton step (n, 3) in degrees and pixels, each at most `_LONGEST_STEP`."""
        query, _ = self._normalised(self.values[None], weight)
        field, length = self._normalised(seen, weight)
        residual = (query - field).flatten(1)  # (n, channel * point)
        total = weight.sum(-1, keepdim=True).clamp_min(1)
        columns = []
        for derivative in derivatives:
            centred = (derivative - (derivative * weight).sum(-1, keepdim=True) / total) * weight
            # Derivative of the normalised field: a change along the field itself alters its length only.
            along = (centred * field).sum((1, 2))[:, None, None]
            columns.append(((centred - along * field) / length[:, None, None]).flatten(1))
        jacobian = torch.stack(columns, -1)  # (n, channel * point, 3)
        normal = jacobian.mT @ jacobian
        normal = (
            normal
            + _DAMPING * torch.diag_embed(normal.diagonal(dim1=1, dim2=2))
            + 1e-9 * torch.eye(3, device=normal.device)
        )
        step = torch.linalg.solve(normal, jacobian.mT @ residual[..., None])[..., 0]
        step = torch.cat((torch.rad2deg(step[:, :1]), step[:, 1:]), 1).nan_to_num()
        return step.clamp(-_LONGEST_STEP, _LONGEST_STEP)


def with_gradients(fields: Tensor) -> Tensor:
    """Stack fields (n, channel, y, x) and their central differences along y and x: (n, 3 * channel, y, x).

    Parameters
    ----------
    fields : (n, channel, y, x) tensor

    Returns
    -------
    (n, 3 * channel, y, x) tensor

    Examples
    --------
    >>> with_gradients(torch.arange(4.0).view(1, 1, 1, 4))[0, 2].tolist()  # along x
    [[0.5, 1.0, 1.0, 0.5]]
    """
    padded = F.pad(fields, (1, 1, 1, 1), mode="replicate")
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return torch.cat((fields, along_y, along_x), 1)


class FineScores:
    """Scores the fine structures of a query and of fields under known poses.

    Registration finds a pose by blobs of some ten pixels. Blobs agree by chance more often than edges do, so
    two scores of edges join the correlation: the zero-normalised correlation of the 2 px band, and the
    agreement of gradient directions (after Pluim et al., "Image registration by maximization of combined
    mutual information and gradient information", IEEE TMI 19, 2000, doi:10.1109/42.876307).
    `benchmarks/fine_scores.py` compares them with other scores; docs/searching.md holds the table.

    Parameters
    ----------
    query : (channel, h, w) float tensor
        The query's high-passed CoMIR.
    mask : (h, w) float tensor
        1 where the query counts.
    side : int
        Side of a pixel, in pixels of the full resolution.
    weights : ScoreWeights
        Of the terms of a score.
    """

    def __init__(self, query: Tensor, mask: Tensor, side: int, weights: ScoreWeights = SCORE_WEIGHTS) -> None:
        self._weights = torch.tensor(weights, device=query.device) / sum(weights)
        self._has_band = weights.band > 0
        self._channels = channels = len(query)
        self._deviation = _BAND_PX / side
        band = high_pass(query[None], mask, self._deviation)
        # Pixels whose central differences see no pixel outside the mask.
        inner = 1 - F.max_pool2d(1 - mask[None], 3, stride=1, padding=1)
        features = torch.cat((band[0], with_gradients(query[None])[0, channels:], inner))
        self._points = Points(features, mask, _FINE_SCORE_POINTS)

    def of_fields(self, fields: Tensor, gradients: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Compute what the scores compare of fields.

        Parameters
        ----------
        fields : (n, channel, y, x) float tensor
            The fields' high-passed CoMIRs.
        gradients : (n, 3 * channel, y, x) tensor
            `with_gradients` of the fields.
        sizes : (n, 2) tensor, optional
            Height and width of each field, if they are padded to one size.

        Returns
        -------
        (n, 3 * channel, y, x) tensor
        """
        if not self._has_band:
            return gradients
        features = gradients.clone()
        if sizes is None:
            features[:, : self._channels] = high_pass(fields, None, self._deviation)
        else:
            for feature, field, (height, width) in zip(features, fields, sizes.tolist(), strict=True):
                own = (slice(None), slice(height), slice(width))
                feature[: self._channels][own] = high_pass(field[own][None], None, self._deviation)[0]
        return features

    def add_to(self, scores: Tensor, poses: Tensor, features: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Average correlations with the two fine scores.

        Parameters
        ----------
        scores, poses, features, sizes
            As for `terms`.

        Returns
        -------
        (n,) tensor
            Weighted mean of the terms, in [-1, 1]; -inf where the correlation is -inf.
        """
        return (self.terms(scores, poses, features, sizes) * self._weights).sum(1)

    def terms(self, scores: Tensor, poses: Tensor, features: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Give the terms of scores.

        Parameters
        ----------
        scores : (n,) tensor
            Correlation times overlap of each field.
        poses : (n, 3) tensor
            The pose in each field: degrees, and (y, x) of the query's centre.
        features : (n, 3 * channel, y, x) tensor
            See `of_fields`.
        sizes : (n, 2) tensor, optional
            As for `of_fields`.

        Returns
        -------
        (n, 3) tensor
            Correlation, correlation of the band (0 if it has no weight), agreement of directions, each times
            the overlap.
        """
        seen, weight, _ = self._points.sample(features, poses, sizes)
        query, inner = self._points.values[:-1], self._points.values[-1]
        c = self._channels
        overlap = weight.sum((1, 2)) / max(1, weight.shape[-1])
        band = _correlation(query[:c], seen[:, :c], weight) if self._has_band else torch.zeros_like(overlap)
        angle = torch.deg2rad(poses[:, 0])[:, None, None]
        cos, sin = angle.cos(), angle.sin()
        down, right = seen[:, c : 2 * c], seen[:, 2 * c :]  # along the field's axes
        turned = (cos * down + sin * right, cos * right - sin * down)  # along the query's axes
        directions = gradient_agreement((query[c : 2 * c], query[2 * c :]), turned, weight * inner)
        return torch.stack((scores, band * overlap, directions * overlap), 1)


def gradient_agreement(query: tuple[Tensor, Tensor], fields: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """Compare the directions of gradients, each pair weighted by the shorter of its two gradients.

    Parameters
    ----------
    query : two (channel, point) tensors
        The query's gradients along y and x.
    fields : two (n, channel, point) tensors
        The fields' gradients at the same points and along the same axes.
    weight : (n, 1, point) tensor
        1 for points that count.

    Returns
    -------
    (n,) tensor
        Sum over the points of cos(2 * angle) times the shorter length, divided by the sum of the longer
        lengths. It is 1 for equal gradients, -1 for perpendicular gradients of equal length, and about 0 by
        chance. Opposite gradients agree, because contrast may differ between modalities.

    Examples
    --------
    >>> along_y = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)
    >>> across = torch.zeros(1, 1, 2), torch.tensor([[[1.0, 4.0]]])
    >>> round(gradient_agreement(along_y, across, torch.ones(1, 1, 2)).item(), 2)
    -0.6
    """
    lengths = torch.hypot(*query), torch.hypot(*fields)
    cosine = (query[0] * fields[0] + query[1] * fields[1]) / (lengths[0] * lengths[1] + _GRADIENT_FLOOR)
    shorter, longer = torch.minimum(*lengths), torch.maximum(*lengths)
    agreement = ((2 * cosine.square() - 1) * shorter * weight).sum((1, 2))  # cos(2a) = 2 cos(a)^2 - 1
    return agreement / (longer * weight).sum((1, 2)).clamp_min(1e-6)


def _correlation(query: Tensor, fields: Tensor, weight: Tensor) -> Tensor:
    """Correlate (channel, point) with (n, channel, point), zero-normalised: (n,)."""
    total = weight.sum(-1, keepdim=True).clamp_min(1)

    def centred(values: Tensor) -> Tensor:
        return (values - (values * weight).sum(-1, keepdim=True) / total) * weight

    query, fields = centred(query[None]), centred(fields)
    lengths = query.square().sum((1, 2)) * fields.square().sum((1, 2))
    return (query * fields).sum((1, 2)) / lengths.sqrt().clamp_min(1e-6)
