"""2DKD: local moment invariants of Krawtchouk polynomials, and the nearest of all points of all images.

Breznik et al. 2024, doi:10.1038/s41598-024-68800-1, "Stage II alternatives"; frame, spacing, test of
variance and search as the toolkit of DeVille et al. 2020, experiment II. Sources of the invariants: Yap,
Paramesran and Ong 2003, doi:10.1109/TIP.2003.818019 (the polynomials); Sit and Kihara 2014,
doi:10.1109/TIP.2014.2315923 (the invariants).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import gammaln

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import PixelScaling, Retriever, grey
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.geometry import cut
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.representations.original import read_images
from napari_cmrir.settings import Settings

if TYPE_CHECKING:
    from napari_cmrir.images.geometry import Region
    from napari_cmrir.representations.base import Representation

__all__ = [
    "INVARIANTS",
    "Krawtchouk",
    "KrawtchoukSettings",
    "Place",
    "invariants",
    "local_invariants",
    "points_of_interest",
    "polynomial_coefficients",
    "weighted_polynomials",
]


class KrawtchoukSettings(Settings):
    """The settings of 2DKD; the defaults are the toolkit's experiment II with the paper's spacing.

    Examples
    --------
    >>> KrawtchoukSettings().frame
    40
    """

    frame: int = Field(
        40, ge=8, le=1024, multiple_of=2, description="Side of the frame around a point, px (toolkit)."
    )
    spacing: int = Field(5, ge=1, le=256, description="Distance of neighbouring points, px (paper).")
    nearest: int = Field(
        2000, ge=1, description="Rows of the index, nearest first, that places are taken from (toolkit)."
    )
    separation: int = Field(
        10,
        ge=0,
        description="A row within this distance, px, in both axes of a better row of its image is no place of"
        " its own (toolkit).",
    )
    places: int = Field(15, ge=1, description="Places that a search gives (toolkit).")
    query_points: Literal["centre", "votes"] = Field(
        "centre",
        description="centre: the point in the middle of the query, as the toolkit's examples; votes: every"
        " point of the query votes for the image of its nearest row, an extension that is not published.",
    )
    transform: Literal["linear", "log"] = Field(
        "linear", description="Mapping of dark grey modalities; the paper does not state its own."
    )


@dataclass(frozen=True)
class Place:
    """A place that a search finds.

    Parameters
    ----------
    image : str
    y, x : int
        Its point, px.
    distance : float
        Squared Euclidean distance of the descriptors.
    """

    image: str
    y: int
    x: int
    distance: float


class Krawtchouk(Retriever):
    """2DKD: six invariants of every point of interest, and the nearest rows.

    Parameters
    ----------
    folder : path-like
        Unused: the rows stay in memory, 72 bytes each.
    device : str
        Where CoMIRs are computed, if there is a model.
    settings : KrawtchoukSettings, optional
    model : Representation, optional
        Images are represented by it first, as in the paper's rows of 2DKD on CoMIRs; by default they are
        described as they are.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str = "auto",
        *,
        settings: KrawtchoukSettings | None = None,
        model: Representation | None = None,
    ) -> None:
        super().__init__(folder, device)
        self.settings = settings or KrawtchoukSettings()
        self.model = model
        self.scaling = PixelScaling(self.settings.transform)
        self._names: list[str] = []
        self._images = np.empty(0, np.intp)
        self._points = np.empty((0, 2), np.intp)
        self._rows = np.empty((0, len(INVARIANTS)))

    def fit(self, pairs: Sequence[Pair], modalities: tuple[str, str]) -> Job[None]:
        """Choose the range of each modality's values; there is nothing to learn."""
        if pairs and self.model is None:
            images = yield from read_images(pairs, modalities)
            for modality in modalities:
                self.scaling.choose(images[modality], modality)

    def index(self, images: Mapping[str, NDArray[Any]], modality: str) -> Job[None]:
        """Describe all points of interest of all images."""
        self._names = list(images)
        if self.model is None:
            self.scaling.choose(images.values(), modality)
        numbers, points, rows = [self._images[:0]], [self._points[:0]], [self._rows[:0]]
        for done, (name, pixels) in enumerate(images.items()):
            yield Progress(done, len(images), "images", f"Describing {name}")
            values = yield from step_of(self._values(pixels, modality), done, len(images), "images")
            where, described = self._describe(values)
            numbers.append(np.full(len(where), done))
            points.append(where)
            rows.append(described)
        self._images, self._points = np.concatenate(numbers), np.concatenate(points)
        self._rows = np.concatenate(rows)

    def rank(
        self,
        pixels: NDArray[Any],
        modality: str,
        *,
        region: Region | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Job[dict[str, float]]:
        """Score images by their best place, minus the squared distance; or by votes.

        Images without a row among the `nearest` are left out. The published code sees whole images only, so
        that a polygon or an ellipse is searched as its box, and the mask changes nothing.

        Raises
        ------
        InputError
            The query is smaller than the frame.
        """
        if self.settings.query_points == "votes":
            return (yield from self._votes(pixels, modality, region))
        nearest, distances = yield from self._nearest(pixels, modality, region)
        best: dict[str, float] = {}
        for row, distance in zip(nearest, distances, strict=True):
            best.setdefault(self._names[self._images[row]], -float(distance))
        return best

    def find_places(
        self, pixels: NDArray[Any], modality: str, *, region: Region | None = None
    ) -> Job[list[Place]]:
        """Search as the toolkit does, which gives places, several of one image among them.

        Returns
        -------
        list of Place
            Nearest first.
        """
        nearest, distances = yield from self._nearest(pixels, modality, region)
        places: list[Place] = []
        taken: dict[int, NDArray[np.intp]] = {}
        for row, distance in zip(nearest, distances, strict=True):
            image, point = int(self._images[row]), self._points[row]
            better = taken.get(image, self._points[:0])
            taken[image] = np.vstack([better, point])
            if not (np.abs(better - point) <= self.settings.separation).all(1).any():
                places.append(Place(self._names[image], int(point[0]), int(point[1]), float(distance)))
            if len(places) == self.settings.places:
                break
        return places

    def _nearest(
        self, pixels: NDArray[Any], modality: str, region: Region | None
    ) -> Job[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Find the nearest rows of the query's middle, and their squared distances."""
        values = yield from self._query_values(pixels, modality, region)
        y, x = (np.array([side // 2]) for side in values.shape)
        asked, _ = local_invariants(values, y, x, self.settings.frame)
        if not np.isfinite(asked).all():  # nothing but black
            return self._images[:0], np.empty(0)
        distances = np.square(self._rows - asked[0, 0]).sum(1)
        nearest = np.argsort(distances, kind="stable")[: self.settings.nearest]
        return nearest, distances[nearest]

    def _votes(self, pixels: NDArray[Any], modality: str, region: Region | None) -> Job[dict[str, float]]:
        from scipy.spatial import KDTree

        values = yield from self._query_values(pixels, modality, region)
        _, asked = self._describe(values)
        if len(self._rows) == 0 or len(asked) == 0:
            return {}
        _, nearest = KDTree(self._rows).query(asked)
        votes = np.bincount(self._images[nearest], minlength=len(self._names))
        return {name: float(count) for name, count in zip(self._names, votes, strict=True) if count}

    def _describe(self, values: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Describe the points of interest: (n, 2) points and (n, 6) invariants."""
        rows, columns, varied = points_of_interest(values, self.settings.frame, self.settings.spacing)
        if varied.size == 0:
            return self._points[:0], self._rows[:0]
        described, _ = local_invariants(values, rows, columns, self.settings.frame)
        kept = varied & np.isfinite(described).all(-1)
        y, x = np.nonzero(kept)
        return np.stack([rows[y], columns[x]], 1), described[kept]

    def _query_values(
        self, pixels: NDArray[Any], modality: str, region: Region | None
    ) -> Job[NDArray[np.float64]]:
        if region is not None:
            pixels, _ = cut(pixels, region)
        if min(pixels.shape[:2]) < self.settings.frame:
            raise InputError(
                f"A query of {pixels.shape[0]} x {pixels.shape[1]} px is smaller than the frame of 2DKD;"
                f" give one of at least {self.settings.frame} px a side."
            )
        return (yield from self._values(pixels, modality))

    def _values(self, pixels: NDArray[Any], modality: str) -> Job[NDArray[np.float64]]:
        """Give an image, or its CoMIR, as grey values in [0, 1]."""
        if self.model is None:
            return grey(self.scaling.apply(pixels, modality))
        comir = yield from self.model.represent(pixels, modality, device=self.device)
        return grey(comir.astype(np.float64) / 255)


ORDER = 3
"""Highest order of the invariants; the polynomials are written out for this order."""
INVARIANTS = ((2, 0), (0, 2), (1, 2), (2, 1), (3, 0), (0, 3))
"""The orders (n, m) of the six descriptors, in the toolkit's order; lower ones are 0 or 1 by construction."""


def weighted_polynomials(order: int, degree: int, p: float = 0.5) -> NDArray[np.float64]:
    """Evaluate the weighted, orthonormal Krawtchouk polynomials by their stable recurrence.

    Parameters
    ----------
    order : int
        Highest order.
    degree : int
        N of the polynomials, at least ``order``: they live on 0, ..., N.
    p : float
        Parameter in (0, 1): where along 0, ..., N the weight lies.

    Returns
    -------
    ndarray, (order + 1, degree + 1)
        K_n(x; p, N) sqrt(w(x) / rho_n), with w the binomial weight and rho_n the squared norm.

    Examples
    --------
    >>> rows = weighted_polynomials(3, 39)
    >>> bool(np.allclose(rows @ rows.T, np.eye(4)))
    True
    """
    x = np.arange(degree + 1, dtype=np.float64)
    log_weight = gammaln(degree + 1) - gammaln(x + 1) - gammaln(degree - x + 1)
    log_weight += x * np.log(p) + (degree - x) * np.log1p(-p)
    spread = p * (1 - p)
    rows = np.empty((order + 1, degree + 1))
    rows[0] = np.exp(log_weight / 2)
    if order > 0:
        rows[1] = (degree * p - x) / np.sqrt(degree * spread) * rows[0]
    for n in range(1, order):
        ahead = (degree * p - 2 * n * p + n - x) / np.sqrt(spread * (n + 1) * (degree - n))
        back = np.sqrt(n * (degree - n + 1) / ((n + 1) * (degree - n)))
        rows[n + 1] = ahead * rows[n] - back * rows[n - 1]
    return rows


def polynomial_coefficients(degree: int) -> NDArray[np.float64]:
    """Give the coefficients of K_n(x; 1/2, N) = sum_k a_kn x^k up to the third order.

    Parameters
    ----------
    degree : int
        N.

    Returns
    -------
    ndarray, (4, 4)
        ``[n, k]``: a_kn.

    Examples
    --------
    >>> polynomial_coefficients(4)[:2].tolist()
    [[1.0, 0.0, 0.0, 0.0], [1.0, -0.5, 0.0, 0.0]]
    """
    table = np.zeros((ORDER + 1, ORDER + 1))
    for n in range(ORDER + 1):
        rising = np.polynomial.Polynomial([1.0])  # (-x)(1 - x)...(k - 1 - x)
        factor = 1.0
        for k in range(n + 1):
            table[n, : k + 1] += factor * rising.coef.astype(np.float64)
            rising = rising * np.polynomial.Polynomial([k, -1.0])
            factor *= 2.0 * (k - n) / ((k - degree) * (k + 1))
    return table


def local_invariants(
    image: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp], frame: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Describe an image at all points of a grid.

    The window is a product of one factor an axis, and an invariant a polynomial of the windowed moments:
    two matrix products give those of all points.

    Parameters
    ----------
    image : ndarray, (y, x)
        Values in [0, 1].
    rows, columns : (r,) and (c,) int arrays
        Of the grid, each at least half a frame from the border.
    frame : int
        Side S of the frame, px, even. The toolkit takes the rows ``p - S/2 ... p + S/2 - 1``.

    Returns
    -------
    values : ndarray, (r, c, 6)
        (Q20, Q02, Q12, Q21, Q30, Q03); not a number where the window holds nothing but 0.
    theta : ndarray, (r, c)
        Direction of the window's content, radians, from the y axis; known up to half a turn.
    """
    down = np.tensordot(_window_powers(rows, image.shape[0], frame), image, 1)  # (4, r, x)
    moments = np.tensordot(down, _window_powers(columns, image.shape[1], frame), (2, 2))  # (4, r, 4, c)
    return invariants(moments.transpose(0, 2, 1, 3), frame)


def _window_powers(points: NDArray[np.intp], length: int, frame: int) -> NDArray[np.float64]:
    """Give the window about each point times its centred coordinate to the powers 0 to 3, (4, n, length)."""
    half = frame // 2
    window = np.zeros(frame)
    # The window's centre (S - 1) / 2 moves to the point, S/2: by half a pixel, which MATLAB rounds up to one.
    window[1:] = weighted_polynomials(0, frame - 1)[0][:-1]
    away = np.arange(-half, half, dtype=np.float64)  # from the point, so that no large numbers cancel
    powers = away ** np.arange(ORDER + 1)[:, None]
    bands = np.zeros((ORDER + 1, len(points), length))
    for number, point in enumerate(points):
        bands[:, number, point - half : point + half] = window * powers
    return bands


def invariants(moments: NDArray[np.float64], frame: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Make the six invariants of windowed moments.

    Sit and Kihara 2014, section III: the content is moved to its centroid, turned to its direction, scaled by
    the root of its sum, and put into the middle of the frame, where Krawtchouk moments are taken.

    Parameters
    ----------
    moments : ndarray, (4, 4, ...)
        ``[i, j]``: sum of f W y^i x^j, about any origin; used up to i + j = 3.
    frame : int
        Side of the frame, px.

    Returns
    -------
    values : ndarray, (..., 6)
        (Q20, Q02, Q12, Q21, Q30, Q03).
    theta : ndarray, (...)
        Radians.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return _invariants(moments, frame)


def _invariants(moments: NDArray[np.float64], frame: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total = np.where(moments[0, 0] > 0, moments[0, 0], np.nan)
    centroid = moments[1, 0] / total, moments[0, 1] / total
    orders = [(i, j) for i in range(ORDER + 1) for j in range(ORDER + 1 - i)]
    central = {
        (i, j): sum(
            comb(i, a) * comb(j, b) * (-centroid[0]) ** (i - a) * (-centroid[1]) ** (j - b) * moments[a, b]
            for a in range(i + 1)
            for b in range(j + 1)
        )
        for i, j in orders
    }
    theta = np.arctan2(2 * central[1, 1], central[2, 0] - central[0, 2]) / 2
    cos, sin = np.cos(theta), np.sin(theta)
    turned = {
        (i, j): sum(
            comb(i, a)
            * comb(j, b)
            * cos ** (a + j - b)
            * sin ** (i - a + b)
            * (-1) ** b
            # a of the i factors and b of the j ones give y: (y cos + x sin)^i (-y sin + x cos)^j
            * central[a + b, i + j - a - b]
            for a in range(i + 1)
            for b in range(j + 1)
        )
        / total ** ((i + j) / 2 + 1)
        for i, j in orders
    }
    middle = (frame - 1) / 2
    placed = {
        (i, j): sum(
            comb(i, a) * comb(j, b) * middle ** (i - a + j - b) * turned[a, b]
            for a in range(i + 1)
            for b in range(j + 1)
        )
        for i, j in orders
    }
    coefficients = polynomial_coefficients(frame - 1)
    norms = [1 / comb(frame - 1, n) for n in range(ORDER + 1)]
    values = [
        sum(
            coefficients[n, i] * coefficients[m, j] * placed[i, j] for i in range(n + 1) for j in range(m + 1)
        )
        / np.sqrt(norms[n] * norms[m])
        for n, m in INVARIANTS
    ]
    return np.stack(np.broadcast_arrays(*values), -1), theta


def points_of_interest(
    image: NDArray[np.float64], frame: int, spacing: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Find the points of an image whose frame varies at least as much as the whole image.

    Parameters
    ----------
    image : ndarray, (y, x)
    frame, spacing : int
        Side of the frame and distance of the points, px.

    Returns
    -------
    rows, columns : (r,) and (c,) int arrays
        The grid: half a frame from the border on, to half a frame from the other one; empty in an image
        smaller than the frame.
    varied : ndarray of bool, (r, c)
        Where the sample variance of the frame is not below that of the image.

    Examples
    --------
    >>> rows, columns, _ = points_of_interest(np.zeros((834, 256)), 40, 5)
    >>> len(rows), len(columns)
    (159, 44)
    """
    half = frame // 2
    rows, columns = (np.arange(half, side - half + 1, spacing) for side in image.shape)
    if min(len(rows), len(columns)) == 0:
        return rows, columns, np.zeros((len(rows), len(columns)), bool)
    centred = image - image.mean()  # sums of squares that do not cancel
    sums = [_frame_sums(values, rows, columns, frame) for values in (centred, centred**2)]
    n = frame * frame
    local = (sums[1] - sums[0] ** 2 / n) / (n - 1)
    return rows, columns, local >= centred.ravel() @ centred.ravel() / (image.size - 1)


def _frame_sums(
    values: NDArray[np.float64], rows: NDArray[np.intp], columns: NDArray[np.intp], frame: int
) -> NDArray[np.float64]:
    """Sum the values of every frame."""
    half = frame // 2
    down = np.pad(values.cumsum(0), ((1, 0), (0, 0)))
    strips = down[rows + half] - down[rows - half]
    across = np.pad(strips.cumsum(1), ((0, 0), (1, 0)))
    sums: NDArray[np.float64] = across[:, columns + half] - across[:, columns - half]
    return sums
