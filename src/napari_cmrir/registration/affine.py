"""Affine maps between two images: what they do, and their refinement on the correlation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.registration.refinement import with_gradients

__all__ = [
    "Matrix",
    "Motion",
    "Refined",
    "apply",
    "box_difference",
    "box_of",
    "decompose",
    "matrix_between",
    "refine_affine",
]

Matrix = NDArray[np.float64]
"""(3, 3): takes (y, x, 1) in pixels of one image to (y, x, 1) in pixels of another."""

Motion = Literal["similarity", "affine"]

_POINTS = 20_000  # pixels of the first image that are compared, as many as for a pose
_DAMPING = 1e-3
_LONGEST_STEP = 3.0  # px that the farthest corner moves in a step
_STILL = 0.01  # px; a shorter step ends the refinement


def apply(matrix: ArrayLike, points: ArrayLike) -> NDArray[np.float64]:
    """Map points by a matrix.

    Parameters
    ----------
    matrix : array_like, (3, 3)
    points : array_like, (n, 2)
        (y, x).

    Returns
    -------
    (n, 2) array

    Examples
    --------
    >>> apply([[2, 0, 1], [0, 2, 0], [0, 0, 1]], [[3, 4]]).tolist()
    [[7.0, 8.0]]
    """
    taken = np.asarray(matrix, np.float64)
    mapped: NDArray[np.float64] = np.asarray(points, np.float64) @ taken[:2, :2].T + taken[:2, 2]
    return mapped


def box_of(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Corners (4, 2) of an image (y, x, ...): the outer borders of its corner pixels."""
    height, width = shape[:2]
    return np.array([[0, 0], [0, width], [height, width], [height, 0]], np.float64) - 0.5


def box_difference(one: ArrayLike, other: ArrayLike, shape: tuple[int, ...]) -> float:
    """Measure how far two maps of an image lie apart.

    Parameters
    ----------
    one, other : array_like, (3, 3)
    shape : tuple of int
        (y, x, ...) of the image that they map.

    Returns
    -------
    float
        Mean distance of the four mapped corners, as a share of the diagonal of the first mapped image.

    Examples
    --------
    >>> moved = [[1, 0, 5], [0, 1, 0], [0, 0, 1]]
    >>> box_difference(np.eye(3), moved, (30, 40))
    0.1
    """
    corners = box_of(shape)
    first, second = apply(one, corners), apply(other, corners)
    diagonal = float(np.linalg.norm(first[2] - first[0]))
    return float(np.linalg.norm(first - second, axis=1).mean()) / max(diagonal, 1e-9)


@dataclass(frozen=True)
class _Parts:
    """What a matrix does.

    Parameters
    ----------
    rotation_degrees : float
        Counter-clockwise, as seen on the screen, in (-180, 180]; after the mirroring.
    mirrored : bool
        Left to right.
    scale : float
        Square root of the change of areas.
    stretch : float
        Largest over smallest change of length, 1 for a similarity.
    """

    rotation_degrees: float
    mirrored: bool
    scale: float
    stretch: float


def decompose(matrix: ArrayLike) -> _Parts:
    """Say what a map does: rotation, mirroring, scale and stretch.

    Parameters
    ----------
    matrix : array_like, (3, 3)

    Returns
    -------
    parts
        With ``rotation_degrees``, ``mirrored``, ``scale`` and ``stretch``.

    Examples
    --------
    >>> parts = decompose([[0, -2, 0], [2, 0, 0], [0, 0, 1]])
    >>> parts.rotation_degrees, parts.mirrored, parts.scale
    (90.0, False, 2.0)
    >>> decompose([[1, 0, 0], [0, -1, 0], [0, 0, 1]]).mirrored
    True
    """
    linear = np.asarray(matrix, np.float64)[:2, :2]
    determinant = float(np.linalg.det(linear))
    side = -1.0 if determinant < 0 else 1.0
    cos, sin = linear[0, 0] + side * linear[1, 1], linear[1, 0] - side * linear[0, 1]
    lengths = np.linalg.svd(linear, compute_uv=False)
    return _Parts(
        math.degrees(math.atan2(sin, cos)),
        determinant < 0,
        math.sqrt(abs(determinant)),
        float(lengths[0] / max(lengths[1], 1e-12)),
    )


@dataclass(frozen=True)
class Refined:
    """A map after its refinement.

    Parameters
    ----------
    matrix : (3, 3) array
        From pixels of the first image to pixels of the second.
    correlation : float
        Zero-normalised, of what overlaps, in [-1, 1].
    overlap : float
        Share of the first image's pixels that lie on the second, 0 to 1.
    """

    matrix: Matrix
    correlation: float
    overlap: float


def refine_affine(
    first: Tensor, second: Tensor, matrix: Matrix, motion: Motion, *, iterations: int = 25
) -> Refined:
    """Move a map uphill to the nearest peak of the correlation.

    Gauss-Newton steps on the zero-normalised residual, as `refine_poses` (Evangelidis & Psarakis, IEEE TPAMI
    30, 2008, doi:10.1109/TPAMI.2008.113). Each step is a small similarity or affine map of the second image's
    plane, so that a mirrored or enlarged start stays so.

    Parameters
    ----------
    first : (channel, h, w) float tensor
        High-passed, as for a registration.
    second : (channel, y, x) float tensor
    matrix : (3, 3) array
        The start: from pixels of the first to pixels of the second.
    motion : {"similarity", "affine"}
    iterations : int
        Steps at most.

    Returns
    -------
    Refined
        The best map met on the way.

    Examples
    --------
    >>> image = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 70, 70), 7, 1)[0]
    >>> start = np.array([[1, 0, -3.0], [0, 1, -5.0], [0, 0, 1]])
    >>> found = refine_affine(image[:, 4:50, 6:60], image, np.linalg.inv(start), "similarity")
    >>> found.matrix.round(1)[:2, 2].tolist()
    [4.0, 6.0]
    """
    _, height, width = first.shape
    stride = max(1, math.ceil(math.sqrt(height * width / _POINTS)))
    rows, columns = torch.meshgrid(
        torch.arange(stride // 2, height, stride), torch.arange(stride // 2, width, stride), indexing="ij"
    )
    rows, columns = rows.flatten().to(first.device), columns.flatten().to(first.device)
    ours = first[:, rows, columns]
    points = torch.stack((rows, columns), 1).to(torch.float64).cpu().numpy()
    gradients = with_gradients(second[None])[0]
    current = np.asarray(matrix, np.float64)
    best = Refined(current, -1.0, 0.0)
    for iteration in range(iterations + 1):
        places = torch.from_numpy(apply(current, points)).to(first)
        seen, inside = _sampled(gradients, places)
        values, along_y, along_x = seen.view(3, len(first), -1).unbind(0)
        one, _ = _normalised(ours, inside)
        other, length = _normalised(values, inside)
        correlation = float((one * other).sum())
        if correlation > best.correlation:
            best = Refined(current, correlation, float(inside.mean()))
        if iteration == iterations or inside.sum() < 32:
            break
        step, moved = _step(one, other, length, (along_y, along_x), inside, places, motion)
        current = step @ current
        if moved < _STILL:
            iterations = min(iterations, iteration + 1)
    return best


def _sampled(images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Images (c, y, x) at places (point, 2): (c, point); and 1 where a place lies inside."""
    height, width = images.shape[-2:]
    y, x = places.unbind(1)
    grid = torch.stack(((x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1), -1)
    seen = F.grid_sample(images[None], grid[None, None], align_corners=False, padding_mode="border")[0, :, 0]
    inside = (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)
    return seen, inside.to(images.dtype)


def _normalised(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Values (c, point) without each channel's mean inside, to unit length; and that length."""
    mean = (values * inside).sum(1, keepdim=True) / inside.sum().clamp_min(1)
    centred = (values - mean) * inside
    length = centred.norm().clamp_min(1e-6)
    return centred / length, length


def _step(
    ours: Tensor,
    theirs: Tensor,
    length: Tensor,
    gradients: tuple[Tensor, Tensor],
    inside: Tensor,
    places: Tensor,
    motion: Motion,
) -> tuple[Matrix, float]:
    """The next step, a map of the second image's plane, and how far it moves the farthest place, in px."""
    centre = places.mean(0)
    off_y, off_x = (places - centre).unbind(1)
    reach = float(torch.hypot(off_y, off_x).max().clamp_min(1.0))
    y, x = off_y / reach, off_x / reach
    along_y, along_x = gradients
    if motion == "similarity":  # enlarged, turned
        columns = [along_y * y + along_x * x, along_x * y - along_y * x]
    else:
        columns = [along_y * y, along_y * x, along_x * y, along_x * x]
    columns += [along_y, along_x]  # moved down, moved right
    total = inside.sum().clamp_min(1)
    jacobian = []
    for column in columns:
        centred = (column - (column * inside).sum(1, keepdim=True) / total) * inside
        jacobian.append(((centred - (centred * theirs).sum() * theirs) / length).flatten())
    design = torch.stack(jacobian, 1).double()
    normal = design.T @ design
    normal = normal + _DAMPING * torch.diag(normal.diagonal()) + 1e-12 * torch.eye(len(normal)).to(normal)
    solved = torch.linalg.solve(normal, design.T @ (ours - theirs).flatten().double())
    values = np.nan_to_num(solved.cpu().numpy())
    if motion == "similarity":
        grow, turn = values[:2] / reach
        linear = np.array([[grow, -turn], [turn, grow]])
    else:
        linear = values[:4].reshape(2, 2) / reach
    shift = values[-2:]
    moved = float(np.linalg.norm(linear, 2) * reach + np.linalg.norm(shift))
    if moved > _LONGEST_STEP:
        linear, shift = linear * (_LONGEST_STEP / moved), shift * (_LONGEST_STEP / moved)
    step = np.eye(3)
    step[:2, :2] += linear
    middle = centre.double().cpu().numpy()
    step[:2, 2] = shift - linear @ middle
    return step, moved


def matrix_between(box: ArrayLike, other: ArrayLike) -> Matrix:
    """Give the map that takes a box to another.

    Parameters
    ----------
    box, other : array_like, (4, 2)
        Corners (y, x): top-left, top-right, bottom-right, bottom-left. Both are parallelograms.

    Returns
    -------
    (3, 3) array

    Examples
    --------
    >>> matrix_between([[0, 0], [0, 2], [2, 2], [2, 0]], [[1, 0], [1, 4], [5, 4], [5, 0]]).tolist()
    [[2.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]
    """
    frames = []
    for corners in (np.asarray(box, np.float64), np.asarray(other, np.float64)):
        frame = np.eye(3)
        frame[:2] = np.stack((corners[3] - corners[0], corners[1] - corners[0], corners[0]), 1)
        frames.append(frame)
    matrix: Matrix = frames[1] @ np.linalg.inv(frames[0])
    return matrix
