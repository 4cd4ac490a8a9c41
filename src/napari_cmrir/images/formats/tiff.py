"""TIFF, OME-TIFF, BigTIFF and the whole-slide files that are TIFFs (.svs, .ndpi, .scn)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images import metadata as pixel_sizes
from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.intensity import from_palette, inverted, rgb_from_cmyk, without_alpha
from napari_cmrir.images.series import Level, Series, Stored

if TYPE_CHECKING:
    import tifffile

__all__ = ["TIFF", "open_tiff"]

WHOLE_BYTES = 2**27
"""Levels up to this size are decoded at once when they are first read, larger ones by region."""


def open_tiff(path: Path) -> Stored:
    """Open a TIFF without decoding its pixels.

    Raises
    ------
    Exception
        Whatever tifffile raises for what is not a whole TIFF.
    """
    import tifffile

    tiff = tifffile.TiffFile(path)
    try:
        described = pixel_sizes.ome_images(tiff.ome_metadata)
        series = [
            _series(tiff, each, described[at] if at < len(described) else (None, ()))
            for at, each in enumerate(tiff.series)
        ]
        if not series:
            raise ValueError("it has no page")
    except BaseException:
        tiff.close()
        raise
    return Stored(str(path), series, tiff.close)


def _series(tiff: tifffile.TiffFile, series: Any, described: tuple[float | None, tuple[str, ...]]) -> Series:
    pixel_size, names = described
    pixel_size = pixel_size or _pixel_size(tiff, series)
    levels = [Level(_pixels(tiff, series, at), level.axes) for at, level in enumerate(series.levels)]
    levels[0] = Level(levels[0].pixels, levels[0].axes, pixel_size)
    colours, is_rgb = _colours(series)
    return Series(levels, names, colours, is_rgb)


def _pixel_size(tiff: tifffile.TiffFile, series: Any) -> float | None:
    page = series.keyframe
    if tiff.is_svs:
        return pixel_sizes.of_slide_description(page.description)
    x, y = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", ""))
    else:
        units = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
        unit = units.get(int(page.tags.valueof("ResolutionUnit", default=2)), "")
    return pixel_sizes.of_resolution(x, y, unit)


def _colours(series: Any) -> tuple[Callable[[NDArray[Any]], NDArray[Any]] | None, bool]:
    """Return what turns the stored samples into grey or RGB, and whether that is colours."""
    import tifffile

    page = series.keyframe
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return partial(from_palette, colormap=page.colormap), True
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED and page.samplesperpixel == 4:
        return rgb_from_cmyk, True
    has_samples = "S" in series.axes
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        return (lambda pixels: without_alpha(inverted(pixels))) if has_samples else inverted, has_samples
    return (without_alpha if has_samples else None), has_samples


def _pixels(tiff: tifffile.TiffFile, series: Any, at: int) -> Any:
    level = series.levels[at]
    if math.prod(level.shape) * level.dtype.itemsize <= WHOLE_BYTES:
        return _Decoded(level)
    _refuse_cut_off(tiff, level)
    if level.dataoffset is not None and level.keyframe.is_memmappable:
        dtype = np.dtype(level.dtype).newbyteorder(tiff.byteorder)
        return _Mapped(tiff.filehandle.path, dtype, level.dataoffset, level.shape)
    return _Chunked(series, at)


def _refuse_cut_off(tiff: tifffile.TiffFile, level: Any) -> None:
    """Decoding by region would fill with black what lies beyond the end."""
    n_bytes = tiff.filehandle.size
    for page in level.pages:
        if page is None:
            continue
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > n_bytes:
                raise ValueError("the file is cut off")


class _Decoded:
    """A level that is decoded whole when it is first sliced."""

    def __init__(self, level: Any) -> None:
        self.shape = level.shape
        self._level = level

    @cached_property
    def _all(self) -> NDArray[Any]:
        pixels: NDArray[Any] = self._level.asarray()
        return pixels

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = self._all[key]
        return part


class _Mapped:
    """An uncompressed level, mapped anew at each slice, so that what was read does not stay in memory."""

    def __init__(self, path: str, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._where: dict[str, Any] = {"dtype": dtype, "offset": offset, "shape": shape}
        self._path = path

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part = np.memmap(self._path, mode="r", **self._where)[key]
        return np.array(part, dtype=part.dtype.newbyteorder("="))


class _Chunked:
    """A compressed level; of strips, the band last read is kept for the regions beside."""

    def __init__(self, series: Any, at: int) -> None:
        self.shape = series.levels[at].shape
        axes = series.levels[at].axes
        self._x = axes.index("X") if "X" in axes else 0
        self._open = partial(series.aszarr, level=at)
        self._band: tuple[Any, NDArray[Any] | None] = None, None

    @cached_property
    def _array(self) -> Any:
        import zarr

        return zarr.open(self._open(), mode="r")

    def __getitem__(self, key: Any) -> NDArray[Any]:
        if self._array.chunks[self._x] < self.shape[self._x]:
            return np.asarray(self._array[key])
        whole = (*key[: self._x], slice(None), *key[self._x + 1 :])
        if self._band[0] != whole:
            self._band = None, None
            self._band = whole, np.asarray(self._array[whole])
        band = self._band[1]
        assert band is not None
        kept = [
            part if axis == self._x else slice(None)
            for axis, part in enumerate(key)
            if isinstance(part, slice)  # a plane's number has left no axis
        ]
        return band[tuple(kept)]


TIFF = ImageFormat(open_tiff, magics=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))  # the last two are BigTIFF
