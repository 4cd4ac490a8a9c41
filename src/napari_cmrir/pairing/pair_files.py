"""Aligned pairs on the disk: the cut images, and the table of what was found."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path, atomic_write, explain_disk_errors
from napari_cmrir.images.discovery import image_stem
from napari_cmrir.images.geometry import averaged, sample
from napari_cmrir.images.intensity import plain_type
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.readers import open_image
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.registration.affine import Matrix, apply, box_of, decompose
from napari_cmrir.settings import ReadingSettings

__all__ = [
    "TABLE",
    "FoundPair",
    "accepted_names",
    "common_area",
    "cut_pair",
    "name_pairs",
    "pair_paths",
    "publish_pairs",
    "read_table",
    "write_pair",
    "write_table",
]

TABLE = "pairs.csv"
"""Name of the table in a folder of pairs."""

_NUMBERS = ("m00", "m01", "m02", "m10", "m11", "m12")
_COLUMNS = (
    *("first", "second", "accepted", "confidence", "rotation_degrees", "mirrored", "reason"),
    *_NUMBERS,
)
_GRID = 512  # px a side at most of the mask in which a common area is looked for


@dataclass(frozen=True, eq=False)
class FoundPair:
    """Two images, and what was found of them: a row of the table.

    Parameters
    ----------
    first, second : Path
        The images; an empty path where there is no partner.
    accepted : bool
    confidence : float
        Probability in [0, 1] that both show the same tissue in this pose.
    matrix : (3, 3) array or None
        Takes (y, x, 1) in pixels of the first to (y, x, 1) in pixels of the second; pixel centres are
        integers.
    reason : str
        Why it was accepted or not, in words.
    """

    first: Path
    second: Path
    accepted: bool
    confidence: float
    matrix: Matrix | None
    reason: str

    @property
    def rotation_degrees(self) -> float:
        """How far the first is turned counter-clockwise to lie on the second, after any mirroring."""
        return math.nan if self.matrix is None else decompose(self.matrix).rotation_degrees

    @property
    def mirrored(self) -> bool:
        """Whether the first is mirrored left to right before it is turned."""
        return self.matrix is not None and decompose(self.matrix).mirrored


def common_area(
    first: tuple[int, ...], second: tuple[int, ...], matrix: Matrix, border: float = 0.0
) -> tuple[int, int, int, int]:
    """Find the largest rectangle of an image of which another image shows every pixel.

    Parameters
    ----------
    first, second : tuple of int
        (y, x, ...) of the two images, px.
    matrix : (3, 3) array
        From pixels of the first to pixels of the second.
    border : float
        A pixel that lies this far outside of the other image, in its pixels, counts as shown by it.

    Returns
    -------
    y, x, height, width : int
        In pixels of the first; empty where they do not overlap.

    Examples
    --------
    >>> moved = np.array([[1, 0, -10.0], [0, 1, 5.0], [0, 0, 1]])
    >>> common_area((100, 100), (100, 100), moved)
    (10, 0, 90, 95)
    """
    height, width = first[:2]
    cell = max(1, math.ceil(max(height, width) / _GRID))
    rows, columns = np.arange(0, height, cell), np.arange(0, width, cell)
    corners = []
    for down in (0, cell - 1):
        for right in (0, cell - 1):
            grid = np.stack(np.meshgrid(rows + down, columns + right, indexing="ij"), -1)
            places = apply(matrix, grid.reshape(-1, 2))
            outside = np.maximum(-0.5 - places, places - (np.array(second[:2]) - 0.5)).max(1)
            fits = outside < border + 1e-6
            in_first = (grid.reshape(-1, 2) < (height, width)).all(1)
            corners.append((fits & in_first).reshape(len(rows), len(columns)))
    y, x, tall, wide = _largest_rectangle(np.logical_and.reduce(corners))
    return y * cell, x * cell, tall * cell, wide * cell


def _largest_rectangle(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Row, column, height and width of the largest rectangle of a mask that is all True."""
    best, area = (0, 0, 0, 0), 0
    heights = np.zeros(mask.shape[1] + 1, np.int64)
    for row in range(mask.shape[0]):
        heights[:-1] = np.where(mask[row], heights[:-1] + 1, 0)
        open_bars: list[tuple[int, int]] = []  # first column and height, of growing height
        for column, height in enumerate(heights.tolist()):
            start = column
            while open_bars and open_bars[-1][1] >= height:
                start, tall = open_bars.pop()
                if tall * (column - start) > area:
                    area = tall * (column - start)
                    best = (row - tall + 1, start, tall, column - start)
            open_bars.append((start, height))
    return best


def cut_pair(
    first: LazyImage, second: LazyImage, matrix: Matrix, border: float = 0.0
) -> tuple[NDArray[Any], NDArray[Any], tuple[int, int]]:
    """Cut two images to their common area, aligned pixel by pixel on the grid of the first.

    The first is copied. The second is sampled bilinearly at the pixels of the first; where its pixels are
    smaller, the samples between are averaged. Both keep their channels and their type.

    Parameters
    ----------
    first, second : LazyImage
        Read only where they overlap.
    matrix : (3, 3) array
        From pixels of the first to pixels of the second.
    border : float
        See `common_area`; the second is mirrored there.

    Returns
    -------
    first, second : ndarray, (y, x, channel)
    origin : (int, int)
        (y, x) in the first of the first pixel.

    Raises
    ------
    InputError
        If they do not overlap.
    """
    y, x, height, width = common_area(first.shape, second.shape, matrix, border)
    if not height:
        raise InputError(f"{first.name} and {second.name} do not overlap in this pose.")
    ours = plain_type(np.ascontiguousarray(first[y : y + height, x : x + width]))
    steps = np.asarray(matrix)[:2, :2]
    start = apply(matrix, [[y, x]])[0]
    ends = apply(matrix, box_of((height, width)) + np.array([y, x]))
    low = np.floor(np.maximum(ends.min(0) - 2, 0)).astype(int).tolist()
    high = np.ceil(np.minimum(ends.max(0) + 3, second.shape[:2])).astype(int).tolist()
    window = plain_type(np.ascontiguousarray(second[low[0] : high[0], low[1] : high[1]]))
    finer = max(1, math.floor(decompose(matrix).scale + 0.25))
    fine_start = start - low - steps @ np.full(2, (1 - 1 / finer) / 2)
    theirs = sample(window, fine_start, steps / finer, height * finer, width * finer)
    return ours, averaged(theirs, finer) if finer > 1 else theirs, (y, x)


def write_pair(
    folder: Path,
    identifier: str,
    paths: tuple[Path, Path],
    matrix: Matrix,
    modalities: tuple[str, str],
    reading: ReadingSettings | None = None,
    border: float = 0.0,
) -> tuple[Path, Path]:
    """Write two images, cut to their common area, as ``<identifier>_<MODALITY>.tif``.

    Parameters
    ----------
    folder : Path
        Made if need be.
    identifier : str
    paths : two Path
        The images.
    matrix : (3, 3) array
        From pixels of the first to pixels of the second.
    modalities : (str, str)
    reading : ReadingSettings, optional
        How both are read.
    border : float
        See `cut_pair`.

    Returns
    -------
    two Path
        The files.

    Raises
    ------
    InputError
        If an image cannot be read, or they do not overlap.
    """
    import tifffile

    with closing(open_image(paths[0], reading)) as first, closing(open_image(paths[1], reading)) as second:
        ours, theirs, _ = cut_pair(first, second, matrix, border)
        pixel_size = first.pixel_size
    size: dict[str, Any] = {}
    if pixel_size is not None:
        size = {"resolution": (1e4 / pixel_size, 1e4 / pixel_size), "resolutionunit": "CENTIMETER"}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for pixels, modality in zip((ours, theirs), modalities, strict=True):
        target = folder / f"{identifier}_{modality}.tif"
        colour = pixels.shape[2] == 3
        planes = pixels if colour else np.moveaxis(pixels, 2, 0)
        with atomic_path(target) as partial:
            tifffile.imwrite(
                partial,
                planes[0] if len(planes) == 1 and not colour else planes,
                photometric="rgb" if colour else "minisblack",
                compression="zlib",
                predictor=True,
                **size,
            )
        written.append(target)
    return written[0], written[1]


def name_pairs(pairs: Sequence[FoundPair], modalities: tuple[str, str]) -> list[str]:
    """Give every pair an identifier: the name of its first image, and of the second where that is not enough.

    Parameters
    ----------
    pairs : sequence of FoundPair
    modalities : (str, str)
        An ending such as ``_SHG`` is left out.

    Returns
    -------
    list of str
        Different from each other.

    Examples
    --------
    >>> found = [FoundPair(Path("a_SHG.tif"), Path(name), True, 1, None, "") for name in ("b.tif", "c.tif")]
    >>> name_pairs(found[:1], ("SHG", "BF")), name_pairs(found, ("SHG", "BF"))
    (['a'], ['a-b', 'a-c'])
    """
    stems = [
        [_without(image_stem(path), modality) for path, modality in zip(both, modalities, strict=True)]
        for both in ((pair.first, pair.second) for pair in pairs)
    ]
    counts = Counter(first for first, _ in stems)
    names = [first if counts[first] == 1 else f"{first}-{second}" for first, second in stems]
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return unique


def _without(stem: str, modality: str) -> str:
    ending = f"_{modality}".lower()
    return stem[: -len(ending)] if stem.lower().endswith(ending) and len(stem) > len(ending) else stem


def write_table(folder: Path, pairs: Sequence[FoundPair]) -> Path:
    """Write the table of a folder of pairs, whole or not at all.

    Parameters
    ----------
    folder : Path
    pairs : sequence of FoundPair
        A row each; those that were rejected too.

    Returns
    -------
    Path
        ``pairs.csv`` in the folder.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for pair in pairs:
        posed = pair.matrix is not None
        writer.writerow(
            [
                os.fspath(pair.first) if pair.first.name else "",
                os.fspath(pair.second) if pair.second.name else "",
                "yes" if pair.accepted else "no",
                f"{pair.confidence:.4f}",
                f"{pair.rotation_degrees:.3f}" if posed else "",
                ("yes" if pair.mirrored else "no") if posed else "",
                pair.reason,
                *(f"{value:.9g}" for value in (pair.matrix[:2].ravel() if pair.matrix is not None else ())),
            ]
        )
    path = folder / TABLE
    atomic_write(path, buffer.getvalue().encode())
    return path


def accepted_names(pairs: Sequence[FoundPair], modalities: tuple[str, str]) -> dict[int, str]:
    """Return the identifier of every accepted pair by its position in the table."""
    rows = [row for row, pair in enumerate(pairs) if pair.accepted]
    return dict(zip(rows, name_pairs([pairs[row] for row in rows], modalities), strict=True))


def publish_pairs(
    folder: Path,
    pairs: Sequence[FoundPair],
    modalities: tuple[str, str],
    reading: ReadingSettings | None = None,
    kept: Collection[str] = (),
) -> Job[None]:
    """Write the accepted pairs and the table, then remove the files of pairs that are no longer accepted.

    Parameters
    ----------
    folder : Path
        The folder of pairs.
    pairs : sequence of FoundPair
        All rows of the table.
    modalities : (str, str)
    reading : ReadingSettings, optional
        How the images are read.
    kept : collection of str
        Identifiers whose files are there already and stay.

    Yields
    ------
    Progress
        In pairs.
    """
    before = accepted_names(read_table(folder), modalities) if (folder / TABLE).exists() else {}
    names = accepted_names(pairs, modalities)
    with explain_disk_errors(folder):
        for done, (row, name) in enumerate(names.items()):
            yield Progress(done, len(names), "pairs", f"Cutting {name}")
            if name not in kept:
                pair = pairs[row]
                assert pair.matrix is not None
                write_pair(folder, name, (pair.first, pair.second), pair.matrix, modalities, reading)
        write_table(folder, pairs)
        for name in set(before.values()) - set(names.values()):
            for path in pair_paths(folder, name, modalities):
                path.unlink(missing_ok=True)


def pair_paths(folder: Path, name: str, modalities: tuple[str, str]) -> tuple[Path, Path]:
    """Return the two files of a pair in a folder of pairs."""
    first, second = (folder / f"{name}_{modality}.tif" for modality in modalities)
    return first, second


def read_table(path: str | os.PathLike[str]) -> list[FoundPair]:
    """Read the table of a folder of pairs.

    Parameters
    ----------
    path : path-like
        The folder, or its ``pairs.csv``.

    Returns
    -------
    list of FoundPair

    Raises
    ------
    InputError
        If there is no table, or a row of it cannot be read.
    """
    file = Path(path) / TABLE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"There is no {file}; give a folder that 'pair' wrote.")
    pairs = []
    with file.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), 2):
            try:
                values = [row[name] for name in _NUMBERS]
                matrix = None
                if all(values):
                    matrix = np.vstack((np.array(values, np.float64).reshape(2, 3), [0.0, 0.0, 1.0]))
                pairs.append(
                    FoundPair(
                        Path(row["first"]),
                        Path(row["second"]),
                        row["accepted"] == "yes",
                        float(row["confidence"]),
                        matrix,
                        row["reason"] or "",
                    )
                )
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"Line {number} of {file} is no row of a table of pairs; write it again."
                ) from None
    return pairs
