"""Sub-pixel, sub-degree refinement of poses by Gauss-Newton steps on the correlation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["POINTS_STEPPED", "Points", "pose_scores", "refine_poses", "with_gradients"]

_POINTS_SCORED, POINTS_STEPPED = 20_000, 5_000  # of the query, for a score and for each step
_DAMPING = 1e-3


def pose_scores(
    query: Tensor,
    mask: Tensor,
    fields: Tensor,
    poses: Tensor,
    min_overlap: float,
    *,
    most_points: int = _POINTS_SCORED,
) -> Tensor:
    """Zero-normalised correlation of a query with fields, each under its own pose, times the overlap.

    Parameters
    ----------
    query : (channel, h, w) float tensor
    mask : (h, w) float tensor
        1 where the query counts.
    fields : (n, channel, y, x) float tensor
    poses : (n, 3) tensor
        Rotation in degrees, and (y, x) in the field of the query's centre.
    min_overlap : float
        Share of the mask that has to lie on the field; less scores -inf.
    most_points : int
        The query's pixels are thinned on a grid to no more than these.

    Returns
    -------
    (n,) tensor
        In [-1, 1].

    Examples
    --------
    >>> field = torch.rand(1, 1, 24, 24, generator=torch.manual_seed(0))
    >>> query = field[0, :, 4:14, 6:18]
    >>> pose = torch.tensor([[0.0, 8.5, 11.5]])
    >>> round(pose_scores(query, torch.ones(10, 12), field, pose, 0.5).item(), 4)
    1.0
    """
    points = Points(query, mask, most_points)
    seen, weight, _ = points.sample(fields, poses)
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
) -> tuple[Tensor, Tensor]:
    """Move poses uphill to the nearest peak of the correlation.

    Forward-additive Gauss-Newton on the zero-normalised residual (Evangelidis & Psarakis, "Parametric image
    alignment using enhanced correlation coefficient maximization", IEEE TPAMI 30, 2008,
    doi:10.1109/TPAMI.2008.113), for all poses at once.

    Parameters
    ----------
    query, mask, fields, poses, min_overlap
        As for `pose_scores`.
    iterations : int
        Steps.
    gradients : (n, 3 * channel, y, x) tensor, optional
        `with_gradients` of the fields, if known.

    Returns
    -------
    poses : (n, 3) tensor
        The best pose met on the way, judged by a part of the query's pixels.
    scores : (n,) tensor
        Its correlation.
    """
    points = Points(query, mask, POINTS_STEPPED)
    if gradients is None:
        gradients = with_gradients(fields)
    best_poses, best_scores = poses.clone(), torch.full_like(poses[:, 0], -torch.inf)
    for iteration in range(iterations + 1):
        sampled, weight, (dy, dx) = points.sample(gradients, poses)
        channels = fields.shape[1]
        seen, along_y, along_x = sampled.view(len(poses), 3, channels, -1).unbind(1)
        scores = points.score(seen, weight, min_overlap)
        better = scores > best_scores
        best_poses = torch.where(better[:, None], poses, best_poses)
        best_scores = torch.where(better, scores, best_scores)
        if iteration == iterations:
            break
        turn = along_y * dy[:, None] + along_x * dx[:, None]  # d seen / d angle, per radian
        step = points.step(seen, (turn, along_y, along_x), weight)
        poses = poses + step
    return best_poses, pose_scores(query, mask, fields, best_poses, min_overlap)


class Points:
    """The query's pixels that count, thinned to a bearable number, as offsets from its centre.

    Parameters
    ----------
    query : (channel, h, w) tensor
    mask : (h, w) tensor
        1 where the query counts.
    most : int
        Pixels to keep at most, about.

    Attributes
    ----------
    values : (channel, point) tensor
    """

    def __init__(self, query: Tensor, mask: Tensor, most: int) -> None:
        stride = max(1, math.ceil(math.sqrt(float(mask.sum()) / most)))
        rows, columns = torch.nonzero(mask[::stride, ::stride] > 0.5, as_tuple=True)
        rows, columns = rows * stride, columns * stride
        self.values = query[:, rows, columns]  # (channel, point)
        self.y = rows - (mask.shape[0] - 1) / 2
        self.x = columns - (mask.shape[1] - 1) / 2

    def sample(self, images: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Images (n, c, y, x) at the posed points (n, c, point); whether inside; derivative of the place."""
        height, width = images.shape[-2:]
        angle = torch.deg2rad(poses[:, :1])
        cos, sin = angle.cos(), angle.sin()
        dx, dy = cos * self.y - sin * self.x, -(sin * self.y + cos * self.x)
        y = poses[:, 1:2] + cos * self.y - sin * self.x
        x = poses[:, 2:3] + sin * self.y + cos * self.x
        grid = torch.stack(((x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1), -1)
        sampled = F.grid_sample(images, grid[:, None], align_corners=False, padding_mode="border")[:, :, 0]
        inside = (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)
        return sampled, inside.to(images.dtype)[:, None], (dy, dx)

    def _normalised(self, values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Values without their weighted mean, (n, channel, point), to unit length; and that length (n,)."""
        total = weight.sum(-1, keepdim=True).clamp_min(1)
        centred = (values - (values * weight).sum(-1, keepdim=True) / total) * weight
        length = centred.square().sum((1, 2)).sqrt().clamp_min(1e-6)
        return centred / length[:, None, None], length

    def score(self, seen: Tensor, weight: Tensor, min_overlap: float) -> Tensor:
        """Correlation of the query with what is seen under each pose, times the overlap, (n,)."""
        ours, _ = self._normalised(self.values[None], weight)
        theirs, _ = self._normalised(seen, weight)
        overlap = weight.sum((1, 2)) / max(1, self.values.shape[1])
        scores = (ours * theirs).sum((1, 2)) * overlap
        return scores.masked_fill(overlap < min_overlap, -torch.inf)

    def step(self, seen: Tensor, derivatives: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Tensor:
        """Gauss-Newton step (n, 3) in degrees and pixels, held to 2 degrees and 2 pixels."""
        ours, _ = self._normalised(self.values[None], weight)
        theirs, length = self._normalised(seen, weight)
        residual = (ours - theirs).flatten(1)  # (n, channel * point)
        total = weight.sum(-1, keepdim=True).clamp_min(1)
        columns = []
        for derivative in derivatives:
            centred = (derivative - (derivative * weight).sum(-1, keepdim=True) / total) * weight
            along = (centred * theirs).sum((1, 2))[:, None, None]
            columns.append(((centred - along * theirs) / length[:, None, None]).flatten(1))
        jacobian = torch.stack(columns, -1)  # (n, channel * point, 3)
        normal = jacobian.mT @ jacobian
        normal = (
            normal
            + _DAMPING * torch.diag_embed(normal.diagonal(dim1=1, dim2=2))
            + 1e-9 * torch.eye(3, device=normal.device)
        )
        step = torch.linalg.solve(normal, jacobian.mT @ residual[..., None])[..., 0]
        return torch.cat((torch.rad2deg(step[:, :1]), step[:, 1:]), 1).nan_to_num().clamp(-2, 2)


def with_gradients(fields: Tensor) -> Tensor:
    """Fields and their central differences along y and x, (n, 3 * channel, y, x)."""
    padded = F.pad(fields, (1, 1, 1, 1), mode="replicate")
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return torch.cat((fields, along_y, along_x), 1)
