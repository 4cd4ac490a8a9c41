"""A query prepared for registration (mirrored, scaled, in levels, rotated), and the `Pose` of a hit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.registration.correlation import RotatedTemplates, high_pass, turn
from napari_cmrir.settings import Comparison, RegistrationSettings

__all__ = ["Pose", "PreparedQuery", "resized", "rotations", "scales"]

# Pyramid levels of the coarse and the fine registration: quarter and half resolution. A finer level costs
# four times the time; other levels are not measured.
_COARSE, _FINE = 2, 1
# Pixels that the query's smaller side keeps at the coarse level, else the level is made finer. Fewer pixels
# correlate by chance; not measured.
_SMALLEST_SIDE = 20
_DEFAULT = Comparison()
_ALIGNMENT = 2**_COARSE  # padded sides divide by it, so that every level has whole pixels


@dataclass(frozen=True)
class Pose:
    """Where and how a query lies on a field.

    Parameters
    ----------
    score : float
        Correlation (with the fine scores, if they are on) times the share of the query that lies on the
        field, in [-1, 1]; -inf if there is no pose.
    rotation_degrees : float
        Counter-clockwise rotation of the query.
    centre : (float, float)
        Centre (y, x) of the query's frame, in the field's pixels.
    runner_up : float
        Score of the second best pose in the same field; -inf if there is none.
    mirrored : bool
        Whether the query was mirrored left to right before it was turned.
    scale : float
        Factor by which the query was enlarged.
    """

    score: float
    rotation_degrees: float
    centre: tuple[float, float]
    runner_up: float
    mirrored: bool = False
    scale: float = 1.0


class PreparedQuery:
    """A query's CoMIR and mask, padded to whole pixels of every level.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
    mask : (y, x) bool array
        True where the query counts.
    device : torch.device
        Device of the registration.
    mirrored : bool
        Mirror the query left to right.
    scale : float
        Enlarge the query by this factor.
    comparison : Comparison
        How the model's images are compared.

    Examples
    --------
    >>> query = PreparedQuery(np.zeros((1, 90, 101), np.uint8), np.ones((90, 101), bool), torch.device("cpu"))
    >>> query.coarse, query.fine, query.level(2)[0].shape
    (2, 1, torch.Size([1, 23, 26]))
    """

    def __init__(
        self,
        comir: NDArray[np.uint8],
        mask: NDArray[np.bool_],
        device: torch.device,
        *,
        mirrored: bool = False,
        scale: float = 1.0,
        comparison: Comparison = _DEFAULT,
    ) -> None:
        self.mirrored, self.scale = mirrored, scale
        self.high_pass_px, self.score_weights = comparison
        comir, mask = resized(comir, mask, scale)
        if mirrored:
            comir, mask = comir[..., ::-1].copy(), mask[..., ::-1].copy()
        self.height, self.width = mask.shape
        padding = (0, -self.width % _ALIGNMENT, 0, -self.height % _ALIGNMENT)
        self._comir = F.pad(torch.from_numpy(comir).to(device).float(), padding)
        self._mask = F.pad(torch.from_numpy(mask).to(device).float(), padding)
        self.coarse = _COARSE
        while self.coarse > 0 and min(self.height, self.width) / 2**self.coarse < _SMALLEST_SIDE:
            self.coarse -= 1
        self.fine = min(_FINE, self.coarse)
        self._levels: dict[int, tuple[Tensor, Tensor]] = {}
        self._turned: list[tuple[Tensor, Tensor]] = []
        self._templates: dict[tuple[tuple[int, int], bool], RotatedTemplates] = {}

    @property
    def device(self) -> torch.device:
        """Device of the query's tensors."""
        return self._comir.device

    def level(self, level: int) -> tuple[Tensor, Tensor]:
        """Give the high-passed CoMIR (channel, y, x) and mask (y, x), averaged over ``2**level`` px."""
        if level in self._levels:
            return self._levels[level]
        side = 2**level
        weight = F.avg_pool2d(self._mask[None], side)[0]
        comir = F.avg_pool2d(self._comir * self._mask, side) / weight.clamp_min(1e-6)
        mask = (weight > 0.5).float()
        self._levels[level] = high_pass(comir[None], mask, self.high_pass_px / side)[0], mask
        return self._levels[level]

    def rotated_templates(
        self, shape: tuple[int, int], settings: RegistrationSettings, *, padded: bool = False
    ) -> RotatedTemplates:
        """Give the query at the coarse level under every rotation, for fields of a shape; cached.

        ``padded``: the shape is that of a padding, which holds fields of several sizes.
        """
        if (shape, padded) not in self._templates:
            if not self._turned:
                comir, mask = self.level(self.coarse)
                self._turned = [turn(comir, mask, angle) for angle in rotations(settings)]
            # A high-passed field has a mean of about 0 everywhere; an unfiltered field must be centred.
            self._templates[shape, padded] = RotatedTemplates(
                self._turned,
                shape,
                min_overlap=settings.min_overlap,
                centred=not self.high_pass_px,
                padded=padded,
            )
        return self._templates[shape, padded]

    def corners(self, pose: Pose) -> NDArray[np.float64]:
        """Give the corners (4, 2) of the query, without its padding, in the field's pixels."""
        top, left = (-(side + (-side % _ALIGNMENT)) / 2 for side in (self.height, self.width))
        bottom, right = top + self.height, left + self.width
        if self.mirrored:
            left, right = right, left
        corners = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
        angle = math.radians(pose.rotation_degrees)
        matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        posed: NDArray[np.float64] = corners @ matrix.T + np.array(pose.centre)
        return posed


def resized(
    comir: NDArray[np.uint8], mask: NDArray[np.bool_], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Enlarge a CoMIR (channel, y, x) and its mask (y, x) by a factor, to whole pixels.

    Parameters
    ----------
    comir : (channel, y, x) uint8 array
    mask : (y, x) bool array
    scale : float
        Factor of the side lengths, above 0.

    Returns
    -------
    comir : (channel, y', x') uint8 array
    mask : (y', x') bool array

    Examples
    --------
    >>> comir, mask = resized(np.zeros((1, 10, 20), np.uint8), np.ones((10, 20), bool), 1.5)
    >>> comir.shape, mask.shape
    ((1, 15, 30), (15, 30))
    """
    if scale == 1:
        return comir, mask
    import cv2

    height, width = (max(1, round(side * scale)) for side in mask.shape)
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    planes = [cv2.resize(plane, (width, height), interpolation=how) for plane in comir]
    counts = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.stack(planes), counts > 0


def rotations(settings: RegistrationSettings) -> list[float]:
    """List the angles of the coarse search, in degrees, symmetric about 0.

    Parameters
    ----------
    settings : RegistrationSettings
        `max_rotation` and `rotation_step` are used.

    Returns
    -------
    list of float

    Examples
    --------
    >>> rotations(RegistrationSettings(max_rotation=12, rotation_step=6))
    [-12.0, -6.0, 0.0, 6.0, 12.0]
    >>> len(rotations(RegistrationSettings(max_rotation=180, rotation_step=6)))
    60
    """
    if settings.max_rotation >= 180:
        count = math.ceil(360 / settings.rotation_step)
        return [round(i * 360 / count - 180, 6) for i in range(count)]
    each_side = math.ceil(settings.max_rotation / settings.rotation_step)
    return [i * settings.rotation_step for i in range(-each_side, each_side + 1)]


def scales(settings: RegistrationSettings) -> list[float]:
    """List the factors by which the query is enlarged, the query's own size (1) first.

    Parameters
    ----------
    settings : RegistrationSettings
        `max_scale` and `scale_step` are used.

    Returns
    -------
    list of float

    Examples
    --------
    >>> scales(RegistrationSettings())
    [1.0]
    >>> [round(scale, 3) for scale in scales(RegistrationSettings(max_scale=1.1, scale_step=1.05))]
    [1.0, 0.953, 1.049, 0.909, 1.1]
    """
    count = math.ceil(math.log(settings.max_scale) / math.log(settings.scale_step) - 1e-9)
    each = [settings.max_scale ** (i / count) for i in range(1, count + 1)]
    return [1.0] + [factor for scale in each for factor in (1 / scale, scale)]
