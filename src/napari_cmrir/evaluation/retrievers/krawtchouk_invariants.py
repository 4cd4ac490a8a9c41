"""Moment invariants of Krawtchouk polynomials around all points of a grid.

Sources: Yap, Paramesran and Ong 2003, doi:10.1109/TIP.2003.818019 (the polynomials); Sit and Kihara 2014,
doi:10.1109/TIP.2014.2315923 (the invariants).
"""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

__all__ = [
    "INVARIANTS",
    "invariants",
    "local_invariants",
    "points_of_interest",
    "polynomial_coefficients",
    "weighted_polynomials",
]

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
