"""Random scenes: label maps of invented structures, and the detail that every look of a scene shares.

The structures are those that images of different instruments have in common: outlines, branches, cells,
fibres, streets. After Hoffmann et al., SynthMorph, IEEE TMI 2022, doi:10.1109/TMI.2021.3116879, who learn
registration from label maps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.synthetic.sections import grow_tissue

__all__ = ["SCENES", "Scene", "draw_scene", "noise", "scene_of_picture"]

Map = NDArray[np.float32]
Labels = NDArray[np.int32]
Shape = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """What is where, before any instrument looks at it.

    Parameters
    ----------
    labels : (y, x) int32 array
        Which structure a pixel belongs to, from 0.
    detail : (k, y, x) float32 array
        Fine structure inside the labels, of about mean 0 and standard deviation 1.
    fibrous : (y, x) float32 array
        0 to 1: where a fibre is; what an instrument for fibres sees alone.
    picture : (y, x, channel) float32 array or None
        Values of 0 to 1, where the scene is a photograph.
    parts : (k, y, x) float32 array or None
        How much of each `PARTS` is where, 0 to 1, where the scene is generated tissue.
    """

    labels: Labels
    detail: Map
    fibrous: Map
    picture: Map | None = None
    parts: Map | None = None


PARTS = ("matrix", "collagen", "fibrils", "cytoplasm", "nuclei", "empty")
"""What generated tissue consists of; fibrils are the fine streaks of the collagen."""


def noise(rng: np.random.Generator, shape: Shape, grain: float) -> Map:
    """Draw a smooth random field, as `napari_cmrir.images.synthetic.sections.noise`, in a fifth of its time.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int)
    grain : float
        Standard deviation in px of the Gaussian that smooths white noise.

    Returns
    -------
    (y, x) float32 array
        Of mean 0 and standard deviation 1.
    """
    coarse = max(1.0, grain / 2)  # few values are drawn, and enlarged
    height, width = (int(np.ceil(length / coarse)) + 4 for length in shape)
    field = rng.standard_normal((height, width), np.float32)
    if grain > 0.4:
        field = cv2.GaussianBlur(field, (0, 0), grain / coarse, borderType=cv2.BORDER_REFLECT_101)
    if coarse > 1:
        size = (int(np.ceil(width * coarse)), int(np.ceil(height * coarse)))
        field = cv2.resize(field, size, interpolation=cv2.INTER_CUBIC)
    field = field[: shape[0], : shape[1]]
    field -= field.mean()
    field /= max(float(field.std()), 1e-6)
    drawn: Map = np.ascontiguousarray(field)
    return drawn


def draw_scene(
    rng: np.random.Generator,
    side: int,
    pictures: Sequence[NDArray[np.uint8]] = (),
    section: Sequence[int] | None = None,
) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    rng : numpy.random.Generator
        Decides on everything.
    side : int
        Height and width in px.
    pictures : sequence of (y, x, 3) uint8 array
        Photographs of which a third of the scenes is cut.
    section : sequence of int, optional
        Seed of the generated section that tissue is cut from, so that several scenes share one; by default
        each has its own.

    Returns
    -------
    Scene

    Examples
    --------
    >>> scene = draw_scene(np.random.default_rng(0), 128)
    >>> scene.labels.shape, scene.detail.shape[1:], scene.fibrous.shape
    ((128, 128), (128, 128), (128, 128))
    """
    if pictures and rng.random() < 1 / 3:
        return scene_of_picture(rng, side, pictures[int(rng.integers(len(pictures)))])
    shape = (side, side)
    if rng.random() < _TISSUE_SHARE:
        seed = tuple(rng.integers(2**32, size=2)) if section is None else section
        return _scene_of_tissue(rng, shape, _section(tuple(int(part) for part in seed)))
    labels, fibrous = SCENES[_NAMES[rng.integers(len(_NAMES))]](rng, shape)
    if rng.random() < 0.5:  # another structure inside some of the labels
        inner, more = SCENES[_NAMES[rng.integers(len(_NAMES))]](rng, shape)
        where = (rng.random(labels.max() + 1) < rng.uniform(0.3, 1))[labels]
        labels = np.where(where, labels.max() + 1 + inner, labels)
        fibrous = np.maximum(fibrous, more * where)
    return Scene(labels.astype(np.int32), _detail(rng, shape, labels), fibrous.astype(np.float32))


def scene_of_picture(rng: np.random.Generator, side: int, picture: NDArray[np.uint8]) -> Scene:
    """Cut a photograph at a random place, size and rotation; its grey steps are the labels.

    Parameters
    ----------
    rng : numpy.random.Generator
    side : int
        Height and width of the scene in px.
    picture : (y, x, 3) uint8 array

    Returns
    -------
    Scene
    """
    cut = _cut(rng, picture, side, (0.6, 1.8))
    grey = cv2.GaussianBlur(cut @ _mixture(rng), (0, 0), rng.uniform(0.7, 3))
    steps = np.quantile(grey, np.sort(rng.random(rng.integers(2, 8))))
    labels = np.digitize(grey, steps).astype(np.int32)
    values = cut.astype(np.float32) / np.float32(255)
    return Scene(labels, _detail(rng, (side, side), labels), np.zeros((side, side), np.float32), values)


def _mixture(rng: np.random.Generator) -> Map:
    return rng.dirichlet((0.7, 0.7, 0.7)).astype(np.float32)


def _grain(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _nothing(labels: NDArray[np.integer]) -> tuple[Labels, Map]:
    return labels.astype(np.int32), np.zeros(labels.shape, np.float32)


def _blobs(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """Of several smooth fields, which is the highest: borders that meet in threes."""
    grain = _grain(rng, 5, 40)
    fields = np.stack([noise(rng, shape, grain * rng.uniform(0.6, 1.4)) for _ in range(rng.integers(3, 8))])
    return _nothing(fields.argmax(0))


def _contours(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """Steps of one rough height: borders that lie inside each other."""
    height = noise(rng, shape, _grain(rng, 12, 60)) + rng.uniform(0, 0.5) * noise(
        rng, shape, _grain(rng, 2, 9)
    )
    return _nothing(np.digitize(height, np.sort(rng.normal(0, 1, rng.integers(2, 9)))))


def _cells(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """Cells of a random mosaic, with walls and some with nuclei."""
    spacing = _grain(rng, 9, 60)
    points = _scattered(rng, shape, spacing)
    seeds = np.ones(shape, np.uint8)
    seeds[points[:, 1], points[:, 0]] = 0
    _, mosaic = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    kinds = rng.integers(2, 7)
    labels = rng.integers(0, kinds, mosaic.max() + 1)[mosaic]
    if rng.random() < 0.7:
        walls = cv2.morphologyEx(mosaic.astype(np.float32), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
        if rng.random() < 0.5:
            walls = (
                cv2.dilate(walls.astype(np.uint8), np.ones((3, 3)), iterations=int(rng.integers(1, 3))) > 0
            )
        labels = np.where(walls, kinds, labels)
    if rng.random() < 0.6:
        radius = spacing * rng.uniform(0.12, 0.3)
        labels = _with_ellipses(rng, labels, points[rng.random(len(points)) < 0.8], radius, int(kinds + 1))
    return _nothing(labels)


def _discs(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """Rounded bodies on a ground of few parts, each with a rim or a core now and then."""
    labels, _ = _contours(rng, shape) if rng.random() < 0.5 else _nothing(np.zeros(shape, np.int32))
    for _ in range(rng.integers(1, 4)):
        radius = _grain(rng, 2.5, 35)
        points = _scattered(rng, shape, radius * rng.uniform(2.2, 6))
        kind = int(labels.max()) + 1
        labels = _with_ellipses(rng, labels, points, radius, kind)
        if radius > 6 and rng.random() < 0.6:
            labels = _with_ellipses(rng, labels, points, radius * rng.uniform(0.3, 0.7), kind + 1)
    return _nothing(labels)


def _with_ellipses(
    rng: np.random.Generator, labels: NDArray[np.integer], points: NDArray[np.int64], radius: float, kind: int
) -> Labels:
    canvas = np.ascontiguousarray(labels, np.int32)
    stretch, course, spread = rng.uniform(1, 2.2), rng.uniform(0, 180), rng.uniform(5, 90)
    sizes = radius * rng.uniform(0.6, 1.4, len(points))
    for (x, y), size in zip(points.tolist(), sizes.tolist(), strict=True):
        axes = (max(1, round(size * stretch**0.5)), max(1, round(size / stretch**0.5)))
        cv2.ellipse(canvas, (x, y), axes, course + rng.normal(0, spread), 0, 360, kind, -1)
    return canvas


def _scattered(rng: np.random.Generator, shape: Shape, spacing: float) -> NDArray[np.int64]:
    """Points (n, 2), x and y, on a grid that was shaken."""
    rows, columns = np.mgrid[0 : shape[0] : spacing, 0 : shape[1] : spacing]
    points = np.column_stack([columns.ravel(), rows.ravel()]) + rng.uniform(0, spacing, (rows.size, 2))
    points = points[rng.random(len(points)) < rng.uniform(0.5, 1)]
    whole: NDArray[np.int64] = points.clip(0, np.array(shape[::-1]) - 1).astype(np.int64)
    return whole if len(whole) else np.array([[shape[1] // 2, shape[0] // 2]])


def _fibres(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """Wavy fibres in bundles that follow a course, over a ground of few parts."""
    ground, _ = _contours(rng, shape) if rng.random() < 0.5 else _nothing(np.zeros(shape, np.int32))
    canvas = np.zeros(shape, np.uint8)
    course = rng.uniform(0, np.pi) + rng.uniform(0.1, 1.2) * noise(rng, shape, _grain(rng, 20, 70))
    dense = noise(rng, shape, _grain(rng, 15, 50)) + rng.uniform(-0.5, 1.2)
    length, step = int(rng.integers(12, 60)), 3.0
    at = rng.uniform(0, shape[0], (int(rng.integers(60, 400)), 2))  # x, y
    at = at[dense[at[:, 1].astype(int), at[:, 0].astype(int)] > 0]
    crimp, phase = rng.uniform(0, 0.7), rng.uniform(0, 2 * np.pi, len(at))
    wander = rng.normal(0, rng.uniform(0.05, 0.6), len(at))
    tracks = [at]
    for k in range(length):
        x, y = (at[:, i].astype(int).clip(0, shape[1 - i] - 1) for i in (0, 1))
        angle = course[y, x] + wander + crimp * np.sin(0.7 * k + phase)
        at = at + step * np.column_stack([np.cos(angle), np.sin(angle)])
        tracks.append(at)
    thickness = rng.integers(1, 4)
    paths = np.rint(np.stack(tracks, 1) * 8).astype(np.int32)
    for path in paths:
        cv2.polylines(canvas, [path], False, 255, int(thickness + rng.integers(0, 2)), cv2.LINE_AA, 3)
    fibrous = canvas.astype(np.float32) / np.float32(255)
    return np.where(fibrous > 0.5, ground.max() + 1, ground).astype(np.int32), fibrous


def _vessels(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """Branching vessels that grow thinner, over a ground of few parts."""
    ground, _ = _blobs(rng, shape) if rng.random() < 0.5 else _nothing(np.zeros(shape, np.int32))
    canvas = np.zeros(shape, np.uint8)
    open_ends = [
        (*rng.uniform(0, shape[0], 2), rng.uniform(0, 2 * np.pi), rng.uniform(2, 9))
        for _ in range(rng.integers(2, 6))
    ]
    for _ in range(220):
        if not open_ends:
            break
        x, y, angle, width = open_ends.pop(0)
        to_x, to_y = x + 9 * np.cos(angle), y + 9 * np.sin(angle)
        thickness = max(1, round(width))
        cv2.line(canvas, _whole(x, y), _whole(to_x, to_y), 255, thickness, cv2.LINE_AA)
        if width < 0.7 or not (-20 < to_x < shape[1] + 20 and -20 < to_y < shape[0] + 20):
            continue
        if rng.random() < 0.16:
            open_ends.append((to_x, to_y, angle + rng.uniform(0.4, 1.1), width * 0.75))
            open_ends.append((to_x, to_y, angle - rng.uniform(0.4, 1.1), width * 0.75))
        else:
            open_ends.append((to_x, to_y, angle + rng.normal(0, 0.25), width * 0.985))
    return _nothing(np.where(canvas > 127, ground.max() + 1, ground))


def _streets(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """A town from above: straight streets, and buildings along them."""
    course = rng.uniform(0, np.pi / 2)
    along = np.array([np.cos(course), np.sin(course)])
    across = np.array([-along[1], along[0]])
    labels = np.zeros(shape, np.int32)
    middle = np.array(shape[::-1]) / 2
    if rng.random() < 0.7:
        labels = _contours(rng, shape)[0]
    kind = int(labels.max()) + 1
    block = _grain(rng, 14, 50)
    n = int(np.hypot(*shape) / block) + 1
    axes = np.array([along, across])
    for _ in range(int(rng.uniform(0.3, 0.9) * n * n)):
        place = middle + (rng.integers(-n, n + 1, 2) / 2 + rng.normal(0, 0.08, 2)) @ axes * block
        half = block * rng.uniform(0.12, 0.45, 2)
        corners = place + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half @ axes
        _fill(labels, corners, int(kind + rng.integers(0, 3)))
    width, reach = max(1, round(block * rng.uniform(0.05, 0.22))), np.hypot(*shape)
    for direction, other in ((along, across), (across, along)):
        for offset in np.arange(-n, n + 1)[rng.random(2 * n + 1) < rng.uniform(0.2, 0.8)]:
            bent = direction + rng.normal(0, 0.05, 2)
            start = middle + other * (offset + 0.5 * rng.random()) * block
            ends = [tuple((start + sign * reach * bent).tolist()) for sign in (-1, 1)]
            _line(labels, ends[0], ends[1], kind + 3, width)
    return _nothing(labels)


def _views(rng: np.random.Generator, shape: Shape) -> tuple[Labels, Map]:
    """What a camera on a street sees: sky, ground, houses with windows, trees, poles, cars."""
    height, width = shape
    horizon, vanishing = rng.uniform(0.2, 0.8) * height, rng.uniform(-0.2, 1.2) * width
    labels = np.zeros(shape, np.int32)
    profile = horizon + 0.1 * height * noise(rng, (1, width), _grain(rng, 4, 30))[0]
    labels[np.arange(height)[:, None] > profile] = 1
    for _ in range(rng.integers(0, 5)):  # lanes, verges
        near, far = (rng.uniform(-1, 2, 2) * width).tolist()
        low = 1.1 * height
        lane = [(vanishing, horizon), (near, low), (near + 0.3 * (far - near), low)]
        _fill(labels, lane, int(rng.integers(2, 5)))
    for _ in range(rng.integers(0, 5)):
        _house(rng, labels, horizon)
    for _ in range(rng.integers(0, 6)):
        _tree(rng, labels, horizon)
    for _ in range(rng.integers(0, 7)):  # poles and wires
        x, top = rng.uniform(0, width), rng.uniform(0, 0.8) * height
        _line(labels, (x, top), (x, horizon + 0.2 * height), 12, int(rng.integers(1, 5)))
        if rng.random() < 0.4:
            _line(labels, (0, top), (width, top + rng.normal(0, 30)), 12, 1)
    for _ in range(rng.integers(0, 7)):  # cars and people
        x, y = rng.uniform(0, width), horizon + rng.uniform(0, 0.5) * (height - horizon)
        w, h = ((4 + 0.2 * (y - horizon)) * rng.uniform(0.5, 2, 2) + 2).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(labels, _whole(x, y), _whole(w, h), 0, 0, 360, int(rng.integers(13, 16)), -1)
        else:
            far_corner = _whole(x + 2 * w, y + 2 * h)
            cv2.rectangle(labels, _whole(x, y), far_corner, int(rng.integers(13, 16)), -1)
    return _nothing(labels)


def _house(rng: np.random.Generator, labels: Labels, horizon: float) -> None:
    height, width = labels.shape
    x, w, h = rng.uniform(-0.1, 1) * width, rng.uniform(0.1, 0.5) * width, rng.uniform(0.1, 0.6) * height
    top, slant = horizon - h, rng.normal(0, 0.15) * h
    walls = [(x, top), (x + w, top + slant), (x + w, horizon + 0.1 * h), (x, horizon + 0.2 * h)]
    _fill(labels, walls, int(rng.integers(5, 8)))
    pitch = rng.uniform(8, 26)
    for wx in np.arange(x + pitch / 2, x + w - pitch / 2, pitch).tolist():
        rows = np.arange(top + pitch / 2, horizon - pitch / 2, pitch * rng.uniform(0.9, 1.1)).tolist()
        for wy in rows:
            low, high = (_whole(wx + sign * 0.3 * pitch, wy + sign * 0.4 * pitch) for sign in (-0.7, 0.7))
            cv2.rectangle(labels, low, high, 8, -1)


def _tree(rng: np.random.Generator, labels: Labels, horizon: float) -> None:
    width = labels.shape[1]
    x, radius = rng.uniform(0, width), rng.uniform(0.05, 0.22) * width
    reach = radius * (1 + 0.25 * noise(rng, (1, 64), 2.0)[0])
    phi = np.linspace(0, 2 * np.pi, 64)
    crown = np.column_stack([x + reach * np.cos(phi), horizon - radius + reach * np.sin(phi)])
    _fill(labels, crown, int(rng.integers(9, 11)))
    _line(labels, (x, horizon - radius), (x, horizon + 0.3 * radius), 11, max(1, round(radius / 6)))


def _whole(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)


def _line(
    canvas: NDArray[Any], start: tuple[float, float], end: tuple[float, float], value: int, width: int
) -> None:
    cv2.line(canvas, _whole(*start), _whole(*end), value, width)


def _fill(canvas: NDArray[Any], outline: Any, value: int) -> None:
    cv2.fillPoly(canvas, [np.rint(outline).astype(np.int32)], value)


@lru_cache(maxsize=2)
def _section(seed: tuple[int, ...]) -> Map:
    """Generate a section of tissue as (y, x, k): `PARTS`, and what emits a second harmonic."""
    tissue = grow_tissue(np.random.default_rng(seed), (_SECTION_SIDE, _SECTION_SIDE))
    streaks = tissue.collagen * tissue.fibrils
    emitting = tissue.collagen * (0.3 + 0.7 * tissue.fibrils) * (0.2 + 0.8 * tissue.coherence)
    parts = (tissue.matrix, tissue.collagen, streaks, tissue.cytoplasm, tissue.nuclei, tissue.empty)
    return np.dstack([*parts, emitting]).astype(np.float32)


def _scene_of_tissue(rng: np.random.Generator, shape: Shape, section: Map) -> Scene:
    """Cut tissue at a random place, size and rotation: nuclei of 4 to 12 px."""
    cut = _cut(rng, section, shape[0], (0.7, 2.2)).clip(0, 1).astype(np.float32)
    parts, fibrous = np.moveaxis(cut[..., :-1], -1, 0), np.ascontiguousarray(cut[..., -1])
    matrix, collagen, _, cytoplasm, nuclei, empty = parts
    labels = np.stack([0.45 * matrix, collagen, cytoplasm, nuclei, empty]).argmax(0).astype(np.int32)
    return Scene(labels, _detail(rng, shape, labels), fibrous, parts=parts)


def _cut(
    rng: np.random.Generator, image: NDArray[Any], side: int, sizes: tuple[float, float]
) -> NDArray[Any]:
    """Cut a square, turned and mirrored at random; ``sizes``: least and most px of the image in one of it."""
    height, width = image.shape[:2]
    scale = min(rng.uniform(*sizes), min(height, width) / (1.1 * side))
    turn = cv2.getRotationMatrix2D((0, 0), rng.uniform(0, 360), scale)[:, :2].astype(np.float64)
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    margin = 0.5 * scale * side
    centre = rng.uniform(
        (margin, margin), (max(width - margin, margin + 1), max(height - margin, margin + 1))
    )
    matrix = np.column_stack([turn, centre - turn @ np.full(2, side / 2)])
    source = cv2.GaussianBlur(image, (0, 0), 0.5 * scale) if scale > 1.2 else image
    flags = cv2.WARP_INVERSE_MAP | cv2.INTER_LINEAR
    cut: NDArray[Any] = cv2.warpAffine(
        source, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return cut


SCENES: dict[str, Callable[[np.random.Generator, Shape], tuple[Labels, Map]]] = {
    "blobs": _blobs,
    "contours": _contours,
    "cells": _cells,
    "discs": _discs,
    "fibres": _fibres,
    "vessels": _vessels,
    "streets": _streets,
    "views": _views,
}
"""Structures by name: each gives labels and where fibres are."""

_NAMES = list(SCENES)
_TISSUE_SHARE = 0.45  # of the scenes that are no photographs; the rest is shared by eight structures
_SECTION_SIDE = 704  # px


def _detail(rng: np.random.Generator, shape: Shape, labels: NDArray[np.integer]) -> Map:
    """Fine, medium and coarse fields, each as strong as the label says: leaves are rougher than sky."""
    strength = rng.uniform(0, 1.5, (3, labels.max() + 1)).astype(np.float32)
    fields = [noise(rng, shape, _grain(rng, *grains)) for grains in ((0.8, 2), (2, 5), (5, 16))]
    if rng.random() < 0.4:  # fine streaks
        length = int(rng.integers(5, 15))
        kernel = np.zeros((length, length), np.float32)
        angle = rng.uniform(0, np.pi)
        arm = 0.5 * length * np.array([np.cos(angle), np.sin(angle)])
        ends = [np.rint(length // 2 + sign * arm).astype(int).tolist() for sign in (-1, 1)]
        cv2.line(kernel, ends[0], ends[1], 1.0, 1)
        streaks = cv2.filter2D(fields[0], -1, kernel)
        fields[0] = streaks / max(float(streaks.std()), 1e-6)
    return np.stack([field * s[labels] for field, s in zip(fields, strength, strict=True)])
