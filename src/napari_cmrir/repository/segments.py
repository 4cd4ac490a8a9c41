"""Segments: immutable files that hold the fields and the bags of words of a batch of images.

A segment is a safetensors file. Of the ``n`` fields it holds

- ``fields``, (n, 5) int64: the image's number in the catalogue, y, x, height, width in pixels;
- ``indptr``, (n + 1,) int64: where each field's bag starts in the two arrays below (compressed sparse rows);
- ``words``, (m,) uint32: the words of each bag, ascending;
- ``counts``, (m,) uint16: how often each occurs;
- ``thumbnails``, (b,) uint8: the thumbnail (channel, y, x) of each field, one after the other. Segments of
  repository format 1 have none; compacting adds them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path
from napari_cmrir.repository.fields import FIELD_DTYPE
from napari_cmrir.repository.thumbnails import thumbnail_shape

if TYPE_CHECKING:
    from napari_cmrir.bag_of_words.bags import Bag, BagIndex
    from napari_cmrir.bag_of_words.settings import BagSettings

__all__ = [
    "Joined",
    "Segment",
    "bags_of",
    "join_bags",
    "map_segment",
    "thumbnails_of",
    "write_segment",
]


@dataclass(frozen=True)
class Segment:
    """The fields of a batch of images and their bags of words, mapped from the disk.

    Parameters
    ----------
    fields : ndarray, (n,) of `FIELD_DTYPE`
    indptr : ndarray, (n + 1,) int64
    words : ndarray, (m,) uint32
    counts : ndarray, (m,) uint16
    thumbnails : ndarray, (b,) uint8, or None
        See `thumbnails_of`.
    """

    fields: npt.NDArray[np.void]
    indptr: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint16]
    thumbnails: npt.NDArray[np.uint8] | None = None


def write_segment(
    path: Path,
    fields: npt.ArrayLike,
    bags: Sequence[Bag],
    thumbnails: Sequence[npt.NDArray[np.uint8]] | None = None,
) -> None:
    """Write a segment; it appears whole or not at all.

    Parameters
    ----------
    path : Path
        The file to write.
    fields : array_like, (n, 5)
        Image number, y, x, height and width of each field.
    bags : sequence of Bag, n
        The bag of words of each field.
    thumbnails : sequence of ndarray (channel, height // 4, width // 4) uint8, n, optional
        See `thumbnails.read_thumbnail`.
    """
    from safetensors.numpy import save_file

    tensors = {
        "fields": np.asarray(fields, dtype=np.int64).reshape(-1, 5),
        "indptr": np.cumsum([0, *(len(bag.words) for bag in bags)], dtype=np.int64),
        "words": np.concatenate([np.empty(0, np.uint32), *(bag.words for bag in bags)]),
        "counts": np.concatenate([np.empty(0, np.uint16), *(bag.counts for bag in bags)]),
    }
    if thumbnails is not None:
        tensors["thumbnails"] = np.concatenate([np.empty(0, np.uint8), *(one.ravel() for one in thumbnails)])
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"format": "napari-cmrir segment", "version": "2"})


def map_segment(path: Path) -> Segment:
    """Map a segment into memory without reading it.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    try:
        tensors = _map_tensors(path)
        fields = tensors["fields"].view(FIELD_DTYPE).reshape(-1)
        thumbnails = tensors.get("thumbnails")
        return Segment(fields, tensors["indptr"], tensors["words"], tensors["counts"], thumbnails)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is missing or damaged; restore it from a copy, or learn the words anew"
            " ('index --rebuild-vocabulary', or Learn words in napari)."
        ) from error


def bags_of(segment: Segment) -> Iterator[Bag]:
    """Yield the bag of words of each field of a segment, in memory."""
    from napari_cmrir.bag_of_words.bags import Bag

    for start, stop in itertools.pairwise(segment.indptr.tolist()):
        yield Bag(np.array(segment.words[start:stop]), np.array(segment.counts[start:stop]))


def thumbnails_of(segment: Segment) -> list[npt.NDArray[np.uint8]] | None:
    """List the thumbnail (channel, y, x) of each field of a segment, as views; ``None`` where it has none."""
    if segment.thumbnails is None:
        return None
    pixels = np.asarray(segment.thumbnails)  # a slice of a memmap is slow to make
    shapes = [thumbnail_shape(*sides) for sides in segment.fields[["height", "width"]].tolist()]
    sizes = [height * width for height, width in shapes]
    n_channels = len(pixels) // max(1, sum(sizes))
    ends = np.cumsum(sizes) * n_channels
    return [
        pixels[end - size * n_channels : end].reshape(n_channels, *shape)
        for end, size, shape in zip(ends.tolist(), sizes, shapes, strict=True)
    ]


def join_bags(
    segments: Sequence[Segment], keep: npt.NDArray[np.bool_], vocabulary_size: int, settings: BagSettings
) -> BagIndex:
    """Put the bags of segments one behind the other to rank them, without reading them.

    Parameters
    ----------
    segments : sequence of Segment
    keep : ndarray, (n,) bool
        Which of all their fields are ranked.
    vocabulary_size : int
    settings : BagSettings

    Returns
    -------
    BagIndex
        Of the fields kept, in their order.
    """
    from napari_cmrir.bag_of_words.bags import BagIndex

    words, counts, lengths = [], [], []
    for segment, kept in zip(segments, _split(keep, segments), strict=True):
        lengths.append(np.diff(segment.indptr)[kept])
        for first, last in _runs(kept):
            entries = slice(int(segment.indptr[first]), int(segment.indptr[last]))
            words.append(segment.words[entries])
            counts.append(segment.counts[entries])
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return BagIndex(indptr, _joined(words), _joined(counts), vocabulary_size, settings)


class Joined:
    """Mapped arrays, one behind the other, read where sliced: as much of an array as a `BagIndex` uses.

    Parameters
    ----------
    parts : sequence of ndarray, (m,)

    Examples
    --------
    >>> joined = Joined([np.arange(3), np.arange(10, 13)])
    >>> joined[2:5]
    array([ 2, 10, 11])
    """

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, entries: slice) -> npt.NDArray[Any]:
        start, stop, _ = entries.indices(len(self))
        first = int(np.searchsorted(self._ends, start, side="right")) - 1
        last = int(np.searchsorted(self._ends, stop))
        pieces = [
            part[max(start - begin, 0) : stop - begin]
            for part, begin in zip(self._parts[first:last], self._ends[first:last].tolist(), strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate([self._parts[0][:0], *pieces])


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return parts[0] if len(parts) == 1 else cast("npt.NDArray[Any]", Joined(parts))


def _split(keep: npt.NDArray[np.bool_], segments: Sequence[Segment]) -> list[npt.NDArray[np.bool_]]:
    return np.split(keep, np.cumsum([len(segment.fields) for segment in segments])[:-1])


def _runs(kept: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """List the first and the one past the last of each run of kept fields."""
    edges = np.flatnonzero(np.diff(kept.astype(np.int8), prepend=0, append=0))
    return [(first, last) for first, last in edges.reshape(-1, 2).tolist()]


def _map_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    # safetensors' own reader copies into numpy arrays; its layout is a length, a JSON header, the arrays.
    dtypes = {"I64": np.int64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8}
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        if header_size > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        header = json.loads(file.read(header_size))
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = dtypes[tensor["dtype"]], tuple(tensor["shape"])
        if 0 in shape:  # nothing can be mapped onto no bytes
            tensors[name] = np.empty(shape, dtype)
            continue
        offset = 8 + header_size + tensor["data_offsets"][0]
        tensors[name] = np.memmap(path, dtype, mode="r", offset=offset, shape=shape)
    return tensors
