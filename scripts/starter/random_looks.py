"""Random looks: how an invented instrument shows a scene, and endless pairs of two looks of one scene."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.intensity import choose_intensity
from random_scenes import Scene, draw_scene, noise

__all__ = ["draw_look", "draw_pair"]

Map = NDArray[np.float32]

_PAIRS_OF_A_SECTION = 32  # pairs in a row that share a section: one takes as long as ten scenes of others
_STAINS = np.array([(0.1, 0.7), (0, 0.6), (-0.2, 0.5), (0.1, 0.9), (0.4, 1.8), (-0.1, 0.1)])
"""Least and most absorbance of `PARTS` in a stained section; chosen by eye."""


def draw_pair(seed: Sequence[int], side: int, pictures: Sequence[NDArray[np.uint8]] = ()) -> tuple[Map, Map]:
    """Draw one scene in two independent looks.

    Parameters
    ----------
    seed : sequence of int
        The same gives the same pixels.
    side : int
        Height and width in px.
    pictures : sequence of (y, x, 3) uint8 array
        Photographs that some scenes are cut from.

    Returns
    -------
    first, second : (1, y, x) float32 arrays
        Aligned; scaled as `choose_intensity` scales an image by its own values.

    Examples
    --------
    >>> first, second = draw_pair([0, 7], 128)
    >>> first.shape, bool(np.array_equal(first, draw_pair([0, 7], 128)[0]))
    ((1, 128, 128), True)
    """
    rng = np.random.default_rng(seed)
    section = [*seed[:-1], seed[-1] // _PAIRS_OF_A_SECTION]
    scene = draw_scene(rng, side, pictures, section)
    first, second = draw_look(rng, scene), draw_look(rng, scene)
    if rng.random() < 0.7:
        second = _shaken(rng, second)
    return _scaled(first), _scaled(second)


def draw_look(rng: np.random.Generator, scene: Scene) -> Map:
    """Show a scene as a random instrument would.

    Parameters
    ----------
    rng : numpy.random.Generator
    scene : Scene

    Returns
    -------
    (y, x) float32 array
        Of any range.
    """
    if scene.picture is not None and rng.random() < 0.75:
        image = _of_picture(rng, scene)
    elif scene.fibrous.any() and rng.random() < 0.4:
        image = _of_fibres(rng, scene)
    elif scene.parts is not None and rng.random() < 0.75:
        image = _of_parts(rng, scene.parts, scene.detail)
    else:
        image = _of_labels(rng, scene)
    return _instrument(rng, image)


def _of_labels(rng: np.random.Generator, scene: Scene) -> Map:
    """A value and a texture a label; labels merge, stain absorbs, borders show."""
    labels, shape = scene.labels, scene.labels.shape
    count = int(labels.max()) + 1
    values = rng.random(count).astype(np.float32)
    if count > 2 and rng.random() < 0.5:  # some labels are one to this instrument
        merged = rng.random(count) < rng.uniform(0.1, 0.6)
        values[merged] = values[rng.integers(count)]
    if rng.random() < 0.25:  # few things shine on a dark ground
        values *= rng.random(count) < 0.35
    image = values[labels]
    if rng.random() < 0.3:  # bodies are shaded towards their borders
        depth = cv2.distanceTransform(_inside(labels), cv2.DIST_L2, 3)
        image = image + rng.uniform(-0.5, 0.5) * np.minimum(depth / rng.uniform(3, 15), 1).astype(np.float32)
    shared = rng.normal(0, rng.choice([0.02, 0.08, 0.25]), (len(scene.detail), count)).astype(np.float32)
    for field, strength in zip(scene.detail, shared, strict=True):
        image = image + field * strength[labels]
    own = np.abs(rng.normal(0, rng.choice([0.02, 0.05, 0.1]), count)).astype(np.float32)
    image = image + noise(rng, shape, float(np.exp(rng.uniform(-0.4, 2)))) * own[labels]
    if rng.random() < 0.25:
        rim = cv2.GaussianBlur(1 - _inside(labels).astype(np.float32), (0, 0), rng.uniform(0.5, 2))
        image = image + rng.choice([-1, 1]) * rng.uniform(0.3, 1.5) * rim
    if rng.random() < 0.25:
        image = np.exp(-rng.uniform(0.7, 2.5) * np.maximum(image, 0))
    return image.astype(np.float32)


def _inside(labels: NDArray[np.int32]) -> NDArray[np.uint8]:
    """1 inside of labels, 0 at their borders."""
    inside = np.ones(labels.shape, np.uint8)
    inside[:-1][labels[1:] != labels[:-1]] = 0
    inside[:, :-1][labels[:, 1:] != labels[:, :-1]] = 0
    return inside


def _of_fibres(rng: np.random.Generator, scene: Scene) -> Map:
    """Fibres alone, as second harmonic generation shows collagen: streaks on a dark ground, few photons."""
    signal = scene.fibrous ** rng.uniform(0.7, 2) * np.exp(rng.uniform(0, 0.7) * scene.detail[0])
    signal *= 1 + rng.uniform(0, 0.9) * np.tanh(noise(rng, scene.fibrous.shape, 20))
    signal += rng.uniform(0, 0.15) * (scene.labels % 3 == 1)
    if rng.random() < 0.5:  # a detector's offset hides what is weak
        signal -= np.quantile(signal, rng.uniform(0.2, 0.8))
    photons = rng.uniform(4, 60)
    counted: Map = (rng.poisson(photons * signal.clip(0, 8)) / photons).astype(np.float32)
    return counted


def _of_parts(rng: np.random.Generator, parts: Map, detail: Map) -> Map:
    """Tissue of which each part gives its share: as stains absorb, or in any mixture."""
    rough = rng.choice([0.05, 0.2, 0.5])
    if rng.random() < 0.6:
        least, most = _STAINS[:, :1], _STAINS[:, 1:]
        shares = rng.uniform(least, most)[:, 0]
    else:
        shares = rng.normal(0, 1, len(parts)) * (rng.random(len(parts)) < 0.7)
    image = np.zeros_like(parts[0])
    for part, share in zip(parts, shares.astype(np.float32), strict=True):
        texture = 1 + rough * rng.uniform(-1, 1) * detail[rng.integers(len(detail))]
        image += share * part * texture
    if rng.random() < 0.5:
        image = np.exp(-rng.uniform(0.5, 1.5) * np.maximum(image, -1))
    tissue: Map = image.astype(np.float32)
    return tissue


def _of_picture(rng: np.random.Generator, scene: Scene) -> Map:
    """A photograph under a filter: one colour or stain of it, its edges, or its roughness."""
    assert scene.picture is not None
    kind = rng.random()
    mixture = (
        rng.dirichlet((0.5, 0.5, 0.5)) if kind < 0.6 else rng.normal(0, 1, 3)
    )  # else: differences of colours
    image = scene.picture @ mixture.astype(np.float32)
    low, high = np.percentile(image, (1, 99))
    image = ((image - low) / max(high - low, 1e-3)).clip(0, 1).astype(np.float32)
    if rng.random() < 0.6:
        image = _tone(rng, image)
    if rng.random() < 0.15:
        image = image + rng.normal(0, 0.5, scene.labels.max() + 1).astype(np.float32)[scene.labels]
    return image


def _tone(rng: np.random.Generator, image: Map) -> Map:
    """A random curve over the values 0 to 1; it may fall as well as rise."""
    knots = int(rng.integers(3, 7))
    heights = rng.random(knots)
    if rng.random() < 0.4:
        heights = np.sort(heights)[:: rng.choice([-1, 1])]
    table = np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, knots), heights)
    table = cv2.GaussianBlur(table[None].astype(np.float32), (0, 0), 10)[0]
    toned: Map = table[(image.clip(0, 1) * 255).astype(np.uint8)]
    return toned


def _instrument(rng: np.random.Generator, image: Map) -> Map:
    """Focus, light, edges, response, noise and failures of an instrument, each now and then."""
    shape = (image.shape[0], image.shape[1])
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(np.exp(rng.uniform(-0.7, 1.15))))
    contrast = float(image.std()) + 1e-3
    kind = rng.random()
    if kind < 0.1:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
        x, y = (cv2.Sobel(image, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
        image = np.sqrt(x * x + y * y) if rng.random() < 0.7 else x * rng.normal() + y * rng.normal()
    elif kind < 0.18:
        image = _deviation(image, rng.uniform(1, 4))
    elif kind < 0.35:  # relief: without what is coarse
        image = image - cv2.GaussianBlur(image, (0, 0), rng.uniform(4, 25))
    elif kind < 0.42:
        image = cv2.morphologyEx(image, rng.choice([cv2.MORPH_ERODE, cv2.MORPH_DILATE]), np.ones((3, 3)))
    elif kind < 0.52:
        image = _sparse(rng, image)
    low, high = float(image.min()), float(image.max())
    image = (image - low) / max(high - low, 1e-3 * contrast)
    if rng.random() < 0.3:
        image = _tone(rng, image)
    if rng.random() < 0.4:
        image = image.clip(0, None) ** np.float32(np.exp(rng.normal(0, 0.6)))
    if rng.random() < 0.4:
        image = 1 - image
    if rng.random() < 0.5:
        field = noise(rng, shape, rng.uniform(25, 90)) * rng.uniform(0.05, 0.5)
        image = image * np.exp(field) if rng.random() < 0.7 else image + 0.5 * field
    if rng.random() < 0.15:
        reduced = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        image = cv2.resize(reduced, shape[::-1], interpolation=cv2.INTER_LINEAR)
    image = image + noise(rng, shape, rng.choice([0.3, 0.3, 0.8])) * abs(rng.normal(0, 0.04))
    if rng.random() < 0.12:  # nothing was seen there
        for _ in range(rng.integers(1, 4)):
            (y, x), (h, w) = rng.integers(0, shape[0], 2), rng.integers(10, shape[0] // 3, 2)
            image[y : y + h, x : x + w] = rng.uniform(0, 1)
    return image.astype(np.float32)


def _sparse(rng: np.random.Generator, image: Map) -> Map:
    """What exceeds a level, in few photons: most of such an image is dark."""
    level, top = np.quantile(image, (rng.uniform(0.3, 0.85), 0.999))
    signal = ((image - level) / max(top - level, 1e-6)).clip(0, 1.5) ** rng.uniform(0.7, 2)
    photons = rng.uniform(5, 100)
    counted: Map = (rng.poisson(photons * signal + rng.uniform(0, 1)) / photons).astype(np.float32)
    return counted


def _deviation(image: Map, reach: float) -> Map:
    """Local standard deviation."""
    mean = cv2.GaussianBlur(image, (0, 0), reach)
    variance = cv2.GaussianBlur(image * image, (0, 0), reach) - mean * mean
    deviation: Map = np.sqrt(np.maximum(variance, 0))
    return deviation


def _shaken(rng: np.random.Generator, image: Map) -> Map:
    """Move pixels smoothly by up to a few: published pairs are aligned no better."""
    shape = (image.shape[0], image.shape[1])
    rows, columns = np.indices(shape, np.float32)
    strength, grain = rng.uniform(0, 1.5), rng.uniform(20, 60)
    x, y = (grid + strength * noise(rng, shape, grain) for grid in (columns, rows))
    shaken: Map = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return shaken


def _scaled(image: Map) -> Map:
    return choose_intensity([image]).apply(image)
