"""Landmark files: plain tables, BigWarp's, and points exported by QuPath."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import image_stem
from napari_cmrir.images.readers import open_image
from napari_cmrir.settings import ReadingSettings

__all__ = ["LandmarkSet", "read_landmarks"]

_PLAIN = ("first_y", "first_x", "second_y", "second_x")
_SHORT = ("y1", "x1", "y2", "x2")
_BIGWARP = {6: (2, 2), 7: (3, 2), 8: (2, 3), 9: (3, 3)}
"""Column of the first coordinate and number of dimensions, by the number of columns; some versions of BigWarp
write a number after the name and whether the point is active."""

_QUPATH_CENTRE = 0.5  # QuPath's origin is the outer corner of the first pixel, ours is its centre


@dataclass(frozen=True, eq=False)
class LandmarkSet:
    """Landmarks on two images.

    Parameters
    ----------
    first, second : Path
        The images.
    first_points, second_points : (n, 2) array
        (y, x) in pixels of each, in the same order, pixel centres at integers.
    """

    first: Path
    second: Path
    first_points: NDArray[np.float64]
    second_points: NDArray[np.float64]


def read_landmarks(
    files: Sequence[str | os.PathLike[str]],
    first: Sequence[Path],
    second: Sequence[Path],
    reading: ReadingSettings | None = None,
) -> list[LandmarkSet]:
    """Read landmark files.

    One plain CSV file with the columns ``first_y``, ``first_x``, ``second_y`` and ``second_x`` (or ``y1``,
    ``x1``, ``y2``, ``x2``), in pixels, and ``first`` and ``second`` with the names of the images where there
    are several; one CSV file of BigWarp (moving image first, fixed image second); or two files of points that
    QuPath exported (TSV or GeoJSON), of the first and of the second image. QuPath's points are matched by
    their names where these agree, else by their order.

    Parameters
    ----------
    files : sequence of path-like
        One or two.
    first, second : sequence of Path
        The images of each modality.
    reading : ReadingSettings, optional
        How the images are read. BigWarp counts in the unit of the image's pixel size.

    Returns
    -------
    list of LandmarkSet
        One for each two images.

    Raises
    ------
    InputError
        If a file cannot be read, names no images where there are several, or names unknown ones.
    """
    if len(files) == 2:
        points = _matched(*(_qupath(Path(file)) for file in files))
        return [LandmarkSet(*_only(first, second, files[0]), *points)]
    if len(files) != 1:
        raise InputError(f"Give one landmark file, or two of QuPath, not {len(files)}.")
    path = Path(files[0])
    if path.suffix.lower() in (".json", ".geojson", ".tsv"):
        raise InputError(f"{path} holds the points of one image; give the file of the other image as well.")
    text = _text(path)
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if not rows:
        raise InputError(f"{path} is empty; give a file of landmarks.")
    names = [cell.strip().lower() for cell in rows[0]]
    for columns in (_PLAIN, _SHORT):
        if set(columns) <= set(names):
            return _plain(path, names, columns, rows[1:], first, second)
    if len(rows[0]) in _BIGWARP and rows[0][1].strip().lower() in ("true", "false"):
        images = _only(first, second, path)
        return [LandmarkSet(*images, *_bigwarp(path, rows, images, reading))]
    raise InputError(
        f"{path} is no landmark file; give a CSV with the columns {', '.join(_PLAIN)}, a file of BigWarp, or"
        " two files of QuPath."
    )


def _text(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"There is no landmark file {path}; check the path.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file of landmarks.") from None


def _only(first: Sequence[Path], second: Sequence[Path], file: str | os.PathLike[str]) -> tuple[Path, Path]:
    if len(first) != 1 or len(second) != 1:
        raise InputError(
            f"{file} does not say which images it is of; give one image file of each modality instead of"
            " folders."
        )
    return first[0], second[0]


def _plain(
    path: Path,
    names: list[str],
    columns: tuple[str, ...],
    rows: Sequence[Sequence[str]],
    first: Sequence[Path],
    second: Sequence[Path],
) -> list[LandmarkSet]:
    places = [names.index(column) for column in columns]
    named = "first" in names and "second" in names
    sets: dict[tuple[Path, Path], list[list[float]]] = defaultdict(list)
    for number, row in enumerate(rows, 2):
        try:
            values = [float(row[place]) for place in places]
            own = (row[names.index("first")], row[names.index("second")]) if named else None
        except (ValueError, IndexError):
            raise InputError(f"Line {number} of {path} holds no landmark; give four numbers.") from None
        images = (
            _only(first, second, path)
            if own is None
            else (_named(first, own[0], path), _named(second, own[1], path))
        )
        sets[images].append(values)
    return [
        LandmarkSet(*images, np.array(values)[:, :2], np.array(values)[:, 2:])
        for images, values in sets.items()
    ]


def _named(images: Sequence[Path], name: str, file: Path) -> Path:
    """The image of a name: its path, its file name, or that without its ending."""
    for known in (
        [image for image in images if str(image) == name or image.name == Path(name).name],
        [image for image in images if image_stem(image) == name],
    ):
        if len(known) == 1:
            return known[0]
    raise InputError(f"{file} names {name}, which is not one of the images; check the name.")


def _bigwarp(
    path: Path,
    rows: Sequence[Sequence[str]],
    images: tuple[Path, Path],
    reading: ReadingSettings | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    start, dimensions = _BIGWARP[len(rows[0])]
    both: list[list[list[float]]] = [[], []]
    for number, row in enumerate(rows, 1):
        try:
            values = [float(cell) for cell in row[start : start + 2 * dimensions]]
            moving, fixed = values[:2], values[dimensions : dimensions + 2]
        except ValueError:
            raise InputError(f"Line {number} of {path} holds no landmark of BigWarp.") from None
        if row[1].strip().lower() == "true" and np.isfinite([*moving, *fixed]).all() and len(fixed) == 2:
            both[0].append(moving[::-1])
            both[1].append(fixed[::-1])
    if not both[0]:
        raise InputError(f"{path} holds no active landmark that is set in both images.")
    first, second = (
        _in_pixels(np.array(points), image, reading) for points, image in zip(both, images, strict=True)
    )
    return first, second


def _in_pixels(
    points: NDArray[np.float64], image: Path, reading: ReadingSettings | None
) -> NDArray[np.float64]:
    """Points in the unit of the image's pixel size, where they lie on the image so, else in pixels."""
    with closing(open_image(image, reading)) as opened:
        pixel_size, shape = opened.pixel_size, np.array(opened.shape[:2])
    if pixel_size is None:
        return points
    scaled: NDArray[np.float64] = points / pixel_size
    is_inside = ((scaled > -0.1 * shape) & (scaled < 1.1 * shape)).all()
    return scaled if is_inside else points


_Named = list[tuple[str, tuple[float, float]]]


def _qupath(path: Path) -> _Named:
    """Name and (y, x) of each point that QuPath exported."""
    text = _text(path)
    if text.lstrip()[:1] in ("{", "["):
        return _geojson(path, text)
    rows = list(csv.reader(io.StringIO(text), delimiter="\t"))
    names = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not {"x", "y"} <= set(names):
        raise InputError(f"{path} holds no points of QuPath: a TSV with the columns x and y, or GeoJSON.")
    label = next((names.index(column) for column in ("name", "class") if column in names), None)
    points: _Named = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        try:
            y, x = (float(row[names.index(axis)]) - _QUPATH_CENTRE for axis in ("y", "x"))
        except (ValueError, IndexError):
            raise InputError(f"Line {number} of {path} holds no point.") from None
        points.append((row[label].strip() if label is not None and label < len(row) else "", (y, x)))
    return points


def _geojson(path: Path, text: str) -> _Named:
    try:
        content: Any = json.loads(text)
        features = content.get("features", [content]) if isinstance(content, dict) else content
        points: _Named = []
        for feature in features:
            geometry = feature["geometry"]
            about = feature.get("properties") or {}
            name = str(about.get("name") or (about.get("classification") or {}).get("name") or "")
            if geometry["type"] not in ("Point", "MultiPoint"):
                continue
            places = geometry["coordinates"]
            for x, y, *_ in [places] if geometry["type"] == "Point" else places:
                points.append((name, (float(y) - _QUPATH_CENTRE, float(x) - _QUPATH_CENTRE)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no GeoJSON of points; export the points from QuPath again.") from None
    if not points:
        raise InputError(f"{path} holds no points; export point annotations.")
    return points


def _matched(first: _Named, second: _Named) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of two images in the same order: by name where the names agree, else as they stand."""
    if len(first) != len(second):
        raise InputError(
            f"{len(first)} points in the first image and {len(second)} in the second; give as many in both."
        )
    if sorted(name for name, _ in first) == sorted(name for name, _ in second):
        first, second = (sorted(points, key=lambda point: point[0]) for points in (first, second))
    one, other = (np.array([place for _, place in points]) for points in (first, second))
    return one, other
