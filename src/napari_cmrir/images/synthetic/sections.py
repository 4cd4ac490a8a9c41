"""Anatomy of a generated tissue section: random fields, fibres, glands, fat and nuclei.

The constants and ranges of the draws are sizes of structures in px, and strengths. They were chosen by eye,
so that the images look like tissue; none is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

__all__ = ["Fibres", "Map", "Tissue", "grow_tissue", "lay_fibres", "noise", "smoothstep"]


Map = NDArray[np.float32]
"""A (y, x) field."""


@dataclass(frozen=True, eq=False)
class Fibres:
    """Direction and textures of a field of fibres, each (y, x).

    Parameters
    ----------
    direction : Map
        Radians, counter-clockwise from the x axis as seen on the screen.
    bundles : Map
        High inside bundles; about standard normal.
    fibrils : Map
        Fine streaks, 0 to 1.
    coherence : Map
        Longer and softer streaks, 0 to 1.
    gaps : Map
        High where fibres part; standard normal.
    """

    direction: Map
    bundles: Map
    fibrils: Map
    coherence: Map
    gaps: Map


def noise(rng: np.random.Generator, shape: tuple[int, int], grain: float) -> Map:
    """Draw a smooth random field.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shape : tuple of int
        (y, x) in px.
    grain : float
        Standard deviation of the Gaussian that smooths white noise, in px.

    Returns
    -------
    ndarray, (y, x), float32
        About mean 0 and standard deviation 1.

    Examples
    --------
    >>> bool(0.8 < noise(np.random.default_rng(1), (99, 99), 2.0).std() < 1.2)
    True
    """
    coarse = max(1.0, grain / 4)  # draw few values and enlarge them
    height, width = (int(np.ceil(side / coarse)) + 8 for side in shape)
    sigma = grain / coarse
    field = gaussian_filter(rng.standard_normal((height, width), np.float32), sigma, mode="wrap")
    field *= 2 * np.sqrt(np.pi) * sigma if sigma > 0.5 else 1.0
    if coarse > 1.0:
        scale = np.array([[1 / coarse, 0, 3.0], [0, 1 / coarse, 3.0]])
        field = cv2.warpAffine(field, scale, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.ascontiguousarray(field[: shape[0], : shape[1]])


def smoothstep(values: Map, low: float, high: float) -> Map:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``.

    Parameters
    ----------
    values : ndarray
        Any values.
    low, high : float
        Values at which the rise begins and ends.

    Returns
    -------
    ndarray, float32
        0 to 1, in the shape of ``values``.

    Examples
    --------
    >>> smoothstep(np.array([0.0, 1.0, 2.0, 9.0]), 0, 2).tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    t = np.clip((np.asarray(values, np.float32) - low) / (high - low), 0, 1)
    result: Map = t * t * (3 - 2 * t)
    return result


def lay_fibres(rng: np.random.Generator, bodies: Map) -> Fibres:
    """Lay wavy fibres that part around bodies, by line integral convolution.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of course, bends, crimp and thickness.
    bodies : Map
        1 inside obstacles, else 0.

    Returns
    -------
    Fibres
        Maps in the shape of ``bodies``.

    References
    ----------
    Cabral & Leedom, "Imaging vector fields using line integral convolution", SIGGRAPH 1993.

    Examples
    --------
    >>> fibres = lay_fibres(np.random.default_rng(1), np.zeros((64, 80), np.float32))
    >>> fibres.bundles.shape
    (64, 80)
    """
    shape = (bodies.shape[0], bodies.shape[1])
    direction = _along_borders(_course(rng, shape), bodies)
    grain = rng.uniform(1.7, 4.0)
    fine = np.dstack([noise(rng, shape, 0.6), noise(rng, shape, grain)])
    coarse = np.dstack([noise(rng, shape, 4.0), noise(rng, shape, 2.2)])
    short, long = _smeared(fine, direction, 4), _smeared(np.dstack([fine, coarse]), direction, 5)
    return Fibres(
        direction=direction,
        bundles=0.8 * long[..., 1] + 0.45 * long[..., 0],
        fibrils=smoothstep(short[..., 0], -1.3, 1.6),
        coherence=smoothstep(long[..., 2] + 0.5 * noise(rng, shape, 25), -0.9, 0.7),
        gaps=long[..., 3],
    )


def _course(rng: np.random.Generator, shape: tuple[int, int]) -> Map:
    """Draw the direction of the fibres in radians: a course, bends and crimp."""
    bend, crimp = rng.uniform(0.2, 1.2), rng.uniform(0.1, 0.45)
    course = np.float32(rng.uniform(0, np.pi))
    return course + bend * noise(rng, shape, 75) + crimp * noise(rng, shape, 11)


def _along_borders(direction: Map, bodies: Map) -> Map:
    """Turn the direction of fibres near a body along its border."""
    soft = gaussian_filter(bodies, 5.0)
    y, x = np.gradient(soft)
    steepness = np.hypot(y, x)
    weight = np.clip(steepness / 0.04, 0, 1)
    across = np.cos(direction) * y + np.sin(direction) * x
    border = np.where(across > 0, 1, -1) / (steepness + 1e-6)  # of the two ways along the border, the nearer
    vx = (1 - weight) * np.cos(direction) + weight * border * y
    vy = (1 - weight) * -np.sin(direction) - weight * border * x
    turned: Map = np.arctan2(-vy, vx).astype(np.float32)
    return turned


def _smeared(image: Map, direction: Map, doublings: int) -> Map:
    """Average along the streamlines over 2 ** doublings px each way, scaled to unit variance."""
    rows, columns = np.indices(direction.shape, np.float32)
    sums = np.zeros_like(image)
    for sign in (1, -1):
        shift = np.dstack([sign * np.cos(direction), -sign * np.sin(direction)])  # x, y
        way = image
        for _ in range(doublings):
            at = columns + shift[..., 0], rows + shift[..., 1]
            way = (way + cv2.remap(way, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)) / 2
            shift = shift + cv2.remap(shift, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        sums += way
    result: Map = sums / sums.std(axis=(0, 1))
    return result


Points = NDArray[np.float64]  # (n, 2) x, y

_GLAND_SPACING = 74.0  # px
_FAT_SPACING = 36.0
_DISC = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (21, 21))  # rounds vacuoles


@dataclass(frozen=True, eq=False)
class Tissue:
    """The composition of a section; every map is (y, x) float32 from 0 to 1.

    Parameters
    ----------
    collagen : Map
        Fibrous collagen.
    fibrils : Map
        Fine streaks along the collagen's direction.
    coherence : Map
        Strength of the collagen's second harmonic generation.
    cytoplasm : Map
        Epithelial cell bodies.
    matrix : Map
        All other material.
    nuclei : Map
        Chromatin.
    empty : Map
        Fat, lumina and clefts, which light passes.
    """

    collagen: Map
    fibrils: Map
    coherence: Map
    cytoplasm: Map
    matrix: Map
    nuclei: Map
    empty: Map


@dataclass(frozen=True, eq=False)
class _Gland:
    outline: Points
    lumen: Points
    centre: Points


def grow_tissue(rng: np.random.Generator, shape: tuple[int, int]) -> Tissue:
    """Grow a section of stroma with glands, cell nests and fat.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides on everything: how much of what, where, and how it is oriented.
    shape : tuple of int
        (y, x) in px, at a scale of about 1 to 2 micrometres a px.

    Returns
    -------
    Tissue
        Maps of the given shape.

    Examples
    --------
    >>> grow_tissue(np.random.default_rng(1), (64, 80)).collagen.shape
    (64, 80)
    """
    much_glands, much_nests, much_fat = rng.dirichlet((0.5, 0.5, 0.25)) * rng.uniform(0.4, 1.2)
    vacuoles, septa, fat = _fat(rng, shape, much_fat)
    glands = _place_glands(rng, shape, much_glands, fat)
    gland = _filled(shape, [gland.outline for gland in glands])
    lumen = _filled(shape, [gland.lumen for gland in glands])
    nests = _nests(rng, shape, much_nests) * (1 - gland) * (1 - fat)
    epithelium = np.maximum(gland, nests)
    fibres = lay_fibres(rng, np.maximum(epithelium, fat))

    rim = np.clip(gaussian_filter(epithelium, 3.0) * 2, 0, 1) * (1 - epithelium)  # around glands and nests
    stroma = (1 - epithelium) * (1 - fat)
    density = noise(rng, shape, 60) * rng.uniform(0.3, 0.7) + rng.uniform(-0.35, 0.8)
    collagen = smoothstep(fibres.bundles + density + 1.2 * rim, -0.1, 1.1) * stroma
    collagen = np.maximum(collagen, 0.8 * septa * smoothstep(fibres.coherence, 0.2, 0.7))
    parting = fibres.gaps - 0.5 * fibres.bundles - 0.4 * density
    tightness = rng.uniform(1.1, 2.3)
    clefts = smoothstep(parting, tightness, tightness + 0.6) * stroma * (1 - rim)
    empty = np.maximum.reduce([vacuoles, lumen, clefts])
    nuclei = _nuclei(rng, fibres.direction, glands, nests, stroma * (1 - empty) * (1 - rim), septa)
    return Tissue(
        collagen=collagen * (1 - empty),
        fibrils=fibres.fibrils,
        coherence=fibres.coherence,
        cytoplasm=epithelium * (1 - empty),
        matrix=np.maximum(stroma, septa) * (1 - empty),
        nuclei=nuclei * (1 - np.maximum(vacuoles, lumen)),
        empty=empty,
    )


def _jittered(rng: np.random.Generator, shape: tuple[int, int], spacing: float, jitter: float) -> Points:
    """Draw points (x, y) on a staggered grid, each moved by at most ``jitter`` spacings."""
    rows, columns = np.mgrid[-1 : shape[0] / spacing + 1, -1 : shape[1] / spacing + 1]
    points = np.dstack([columns + 0.5 * (rows % 2), rows]).reshape(-1, 2)
    return (points + rng.uniform(-jitter, jitter, points.shape)) * spacing


def _at(field: Map, points: Points) -> Map:
    x, y = np.rint(points).astype(int).T
    values: Map = field[y.clip(0, field.shape[0] - 1), x.clip(0, field.shape[1] - 1)]
    return values


def _fat(rng: np.random.Generator, shape: tuple[int, int], want: float) -> tuple[Map, Map, Map]:
    """Draw vacuoles, the septa between them, and the area of fat tissue."""
    centres = _jittered(rng, shape, _FAT_SPACING, 0.32)
    lobes = noise(rng, shape, 45)
    chosen = _at(lobes, centres) > 1.9 - 2.2 * want
    chosen |= rng.random(len(centres)) < 0.03 * rng.random()
    pad = int(2 * _FAT_SPACING)
    seeds = np.ones((shape[0] + 2 * pad, shape[1] + 2 * pad), np.uint8)
    x, y = np.rint(centres + pad).astype(int).T
    within = (x >= 0) & (y >= 0) & (x < seeds.shape[1]) & (y < seeds.shape[0])
    seeds[y[within], x[within]] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    fatty = np.zeros(cells.max() + 1, bool)
    fatty[cells[y[within], x[within]]] = chosen[within]
    walls = (cv2.morphologyEx(cells.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((2, 2))) == 0).astype(
        np.uint8
    )
    depth = cv2.distanceTransform(walls, cv2.DIST_L2, 5)
    crop = slice(pad, pad + shape[0]), slice(pad, pad + shape[1])
    rounded = cv2.morphologyEx((fatty[cells] & (depth > 1.3)).astype(np.uint8), cv2.MORPH_OPEN, _DISC)
    vacuoles = gaussian_filter(rounded[crop].astype(np.float32), 0.8)
    fat = smoothstep(gaussian_filter(fatty[cells][crop].astype(np.float32), 1.5), 0.2, 0.6)
    return vacuoles, fat * (1 - vacuoles), fat


def _wobbly(rng: np.random.Generator, radius: float, stretch: float, turn: float) -> Points:
    """Draw the outline (n, 2) x, y of a rounded body about the origin."""
    phi = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    r = np.full_like(phi, radius)
    for k in (2, 3, 4, 5, 7):
        r += radius * rng.normal(0, 0.16 / k) * np.cos(k * phi + rng.uniform(0, 2 * np.pi))
    x, y = r * np.cos(phi) * stretch, r * np.sin(phi) / stretch
    c, s = np.cos(turn), np.sin(turn)
    return np.column_stack([c * x - s * y, s * x + c * y])


def _place_glands(rng: np.random.Generator, shape: tuple[int, int], want: float, fat: Map) -> list[_Gland]:
    """Place glands in groups on a jittered grid, outside fat."""
    centres = _jittered(rng, shape, _GLAND_SPACING, 0.2)
    groups = _at(noise(rng, shape, 60), centres)
    mean = rng.uniform(18, 27)
    glands = []
    for centre, group in zip(centres, groups, strict=True):
        if group < 1.6 - 3.0 * want or _at(fat, centre[np.newaxis])[0] > 0.1:
            continue
        stretch, turn = rng.uniform(1.0, 1.35), rng.uniform(0, np.pi)
        outline = _wobbly(rng, mean * rng.uniform(0.7, 1.35), stretch, turn)
        inner = rng.uniform(0.25, 0.6)
        lumen = outline * inner * (1 + 0.08 * rng.standard_normal((len(outline), 1)))
        glands.append(_Gland(outline + centre, lumen + centre, centre))
    return glands


def _filled(shape: tuple[int, int], outlines: list[Points]) -> Map:
    canvas = np.zeros(shape, np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    filled: Map = gaussian_filter(canvas.astype(np.float32) / 255, 0.7)
    return filled


def _nests(rng: np.random.Generator, shape: tuple[int, int], want: float) -> Map:
    """Draw solid islands of cells."""
    islands = (
        noise(rng, shape, rng.uniform(13, 26)) + 0.6 * noise(rng, shape, 70) + 0.12 * noise(rng, shape, 3)
    )
    return smoothstep(islands, 1.7 - 1.9 * want, 1.85 - 1.9 * want)


def _nuclei(
    rng: np.random.Generator, direction: Map, glands: list[_Gland], nests: Map, stroma: Map, septa: Map
) -> Map:
    """Draw the chromatin: palisades in glands, round nuclei in nests, spindles and lymphocytes in stroma."""
    shape = (direction.shape[0], direction.shape[1])
    canvas = np.zeros(shape, np.uint8)
    _draw(rng, canvas, *_palisade(rng, glands), size=(3.6, 2.4), dark=(150, 215))
    cell = rng.uniform(7.6, 11.5)
    points = _kept(_jittered(rng, shape, cell, 0.42), nests, 0.6)
    _draw(
        rng,
        canvas,
        points,
        rng.uniform(0, np.pi, len(points)),
        size=(0.36 * cell, 0.28 * cell),
        dark=(110, 210),
    )
    points = _kept(_jittered(rng, shape, 13, 0.5), stroma, 0.5)
    points = points[rng.random(len(points)) < rng.uniform(0.15, 0.5)]
    _draw(rng, canvas, points, -_at(direction, points).astype(float), size=(4.6, 1.5), dark=(140, 220))
    infiltrate = smoothstep(noise(rng, shape, 28), 1.0, 2.2) * rng.uniform(0.2, 1.0) + 0.04
    points = _kept(_jittered(rng, shape, 6.5, 0.4), stroma + septa, 0.4)
    points = points[rng.random(len(points)) < _at(infiltrate, points)]
    _draw(rng, canvas, points, np.zeros(len(points)), size=(2.7, 2.5), dark=(185, 240))
    chromatin = 1 + 0.22 * noise(rng, shape, 0.8)
    return np.clip(canvas.astype(np.float32) / 255 * chromatin, 0, 1)


def _palisade(rng: np.random.Generator, glands: list[_Gland]) -> tuple[Points, NDArray[np.float64]]:
    """Place nuclei at the base of the glands' cells; give points and radial directions."""
    points, turns = [np.zeros((0, 2))], [np.zeros(0)]
    for gland in glands:
        ring = gland.lumen + (gland.outline - gland.lumen) * rng.uniform(0.55, 0.78)
        length = np.linalg.norm(np.diff(ring, axis=0, append=ring[:1]), axis=1)
        along = np.concatenate([[0], np.cumsum(length)])
        at = np.arange(0, along[-1] - 3, 5.6)
        at = at + rng.uniform(-1, 1, len(at))
        closed = np.vstack([ring, ring[:1]])
        nuclei = np.column_stack([np.interp(at, along, closed[:, i]) for i in (0, 1)])
        nuclei += rng.normal(0, 0.9, nuclei.shape)
        points.append(nuclei)
        turns.append(np.arctan2(*(nuclei - gland.centre).T[::-1]))
    return np.concatenate(points), np.concatenate(turns)


def _kept(points: Points, where: Map, least: float) -> Points:
    return points[_at(where, points) > least]


def _draw(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    points: Points,
    turns: NDArray[np.float64],
    *,
    size: tuple[float, float],
    dark: tuple[float, float],
) -> None:
    """Draw ellipses with the first axis turned to the given directions (radians, clockwise on the screen)."""
    sizes = np.array(size) * rng.uniform(0.75, 1.25, (len(points), 2))
    shades = rng.uniform(*dark, len(points))
    degrees = np.degrees(turns) + rng.normal(0, 8, len(points))
    centres, axes = np.rint(points * 16).astype(int).tolist(), np.rint(sizes * 16).astype(int).tolist()
    for centre, axis, turn, shade in zip(centres, axes, degrees.tolist(), shades.tolist(), strict=True):
        cv2.ellipse(canvas, centre, axis, turn, 0, 360, shade, -1, cv2.LINE_AA, 4)
