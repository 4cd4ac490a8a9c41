"""Sub-pixel, sub-degree refinement of poses by Gauss-Newton steps on the correlation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["POINTS_STEPPED", "Points", "pose_scores", "refine_poses", "with_gradients"]

_POINTS_SCORED = 20_000  # pixels of the query that a final score samples; more cost time, not measured
POINTS_STEPPED = 5_000
"""Pixels of the query that a Gauss-Newton step samples.

A query took a third of the time after steps sampled 5,000 pixels and OpenCV filtered (commit 7ea2752).
"""

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
