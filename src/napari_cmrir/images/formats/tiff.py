"""TIFF, OME-TIFF, BigTIFF and the slides and stacks of microscopes that are TIFFs (.svs, .ndpi, .lsm)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.formats.jpeg_data import JPEG_COMPRESSIONS, checked_decoder
from napari_cmrir.images.formats.photometry import colours_of
from napari_cmrir.images.formats.tiff_series import (
    MissingPages,
    OmeImage,
    is_secondary,
    open_series,
    own_pages,
)
from napari_cmrir.images.metadata import (
    PixelSize,
    sizes_of_instrument,
    sizes_of_resolution,
    sizes_of_slide,
)
from napari_cmrir.images.series import Level, Series, Stored

if TYPE_CHECKING:
    import tifffile

__all__ = ["TIFF", "open_tiff"]

WHOLE_BYTES = 2**27
"""Levels up to this size are decoded at once when they are first read, larger ones by region."""

MOST_COMPRESSED = {1: 1.01, 5: 2_000, 8: 2_000, 32946: 2_000, 34933: 2_000, 32773: 130}
"""Bytes that a stored byte can stand for: none, LZW, deflate and PNG (1,032 at most), PackBits."""

MOST_COMPRESSED_BY_OTHERS = 20_000
"""Of zstandard, LZMA, CCITT and the codecs of images; an empty page of a fax has about 10,000."""


def open_tiff(path: Path) -> Stored:
    """Open a TIFF without decoding its pixels.

    Raises
    ------
    Exception
        Whatever tifffile raises for what is not a whole TIFF.
    """
    tiff, found, described = open_series(path)
    try:
        series = [_series(tiff, each, image) for each, image in zip(found, described, strict=True)]
        if not series:
            raise ValueError("it has no page")
    except BaseException:
        tiff.close()
        raise
    return Stored(str(path), series, tiff.close)


def _series(tiff: tifffile.TiffFile, series: Any, image: OmeImage | None) -> Series:
    page = series.keyframe
    size = (image.pixel_size if image else None) or _pixel_size(tiff, page)
    levels = []
    for at, level in enumerate(series.levels):
        missing = MissingPages.of(tiff, level, image)
        pixels = _pixels(tiff, series, at)
        axes = level.axes
        if missing is not None:
            pixels = _Incomplete(pixels, missing)
        if "R" in axes:  # the positions of a multi-file stack, of which the file holds its own
            pixels, axes = _own_position(tiff, series, level, pixels)
        levels.append(Level(pixels, axes, size if at == 0 else None))
    try:
        colours, is_rgb = colours_of(page, imagej=bool(tiff.is_imagej))
        refusal = ""
    except ValueError as error:  # another series may be readable
        colours, is_rgb, refusal = None, False, str(error)
    bits = page.bitspersample if isinstance(page.bitspersample, int) and page.dtype.kind in "ui" else None
    return Series(
        levels,
        image.channel_names if image else (),
        colours,
        is_rgb,
        name=str((image.name if image else "") or series.name or ""),
        is_main=not is_secondary(series) and bool(own_pages(tiff, series)),
        orientation=_orientation(page),
        bits=None if colours is not None and is_rgb and page.colormap is not None else bits,
        refusal=refusal,
    )


def _orientation(page: Any) -> int:
    try:
        orientation = int(page.tags.valueof("Orientation", default=1))
    except (TypeError, ValueError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _pixel_size(tiff: tifffile.TiffFile, page: Any) -> PixelSize | None:
    if tiff.is_svs:
        slide = sizes_of_slide(str(page.description))
        if slide is not None:
            return slide
    instrument = sizes_of_instrument(tiff)
    if instrument is not None:
        return instrument
    x, y = (page.tags.valueof(name, default=None) for name in ("XResolution", "YResolution"))
    if tiff.is_imagej:
        unit = str((tiff.imagej_metadata or {}).get("unit", ""))
    else:
        units = {2: "inch", 3: "cm", 4: "mm", 5: "um"}
        try:
            unit = units.get(int(page.tags.valueof("ResolutionUnit", default=2)), "")
        except (TypeError, ValueError):
            unit = ""
    return sizes_of_resolution(x, y, unit)


def _pixels(tiff: tifffile.TiffFile, series: Any, at: int) -> Any:
    level = series.levels[at]
    _check_jpeg(level)
    _refuse_impossible(level)
    if math.prod(level.shape) * level.dtype.itemsize <= WHOLE_BYTES:
        return _Decoded(level)
    _refuse_cut_off(tiff, level)
    if level.dataoffset is not None and level.keyframe.is_memmappable:
        dtype = np.dtype(level.dtype).newbyteorder(tiff.byteorder)
        return _Mapped(tiff.filehandle.path, dtype, level.dataoffset, level.shape)
    return _Chunked(series, at)


def _check_jpeg(level: Any) -> None:
    """Have the damaged tiles and strips of a JPEG-compressed level refused."""
    keyframes = {id(page.keyframe): page.keyframe for page in level.pages if page is not None}
    for keyframe in (level.keyframe, *keyframes.values()):
        if int(keyframe.compression) in JPEG_COMPRESSIONS and not hasattr(keyframe, "_is_checked"):
            keyframe.__dict__["decode"] = checked_decoder(keyframe.decode)
            keyframe.__dict__["_is_checked"] = True


def _refuse_impossible(level: Any) -> None:
    """Refuse sizes that the stored bytes cannot fill: decoders would fill the rest with black."""
    page = level.keyframe
    stored = [count for count in page.databytecounts if count]
    n_segments = math.prod(page.chunked)
    if not stored:
        raise ValueError("it holds no data")
    if len(page.dataoffsets) < n_segments and int(page.compression) != 1:  # contiguous ones are listed as one
        raise ValueError("tiles or strips are missing; the file is damaged")
    n_bytes = page.size * (page.bitspersample if isinstance(page.bitspersample, int) else 8) / 8
    present = sum(stored) if len(stored) == len(page.databytecounts) else max(stored) * n_segments
    ratio = MOST_COMPRESSED.get(int(page.compression), MOST_COMPRESSED_BY_OTHERS)
    if n_bytes > WHOLE_BYTES // 2 and n_bytes > ratio * present:
        raise ValueError(f"{present} bytes cannot hold its {n_bytes:.0f}; the file is damaged")


def _own_position(tiff: tifffile.TiffFile, series: Any, level: Any, pixels: Any) -> tuple[Any, str]:
    at = level.axes.index("R")
    own = own_pages(tiff, series)
    lead = level.shape[: len(level.shape) - len(level.keyframe.shape)]
    position = int(np.unravel_index(own[0], lead)[at]) if own and len(series.pages) == math.prod(lead) else 0
    return _Fixed(pixels, at, position), level.axes.replace("R", "")


def _refuse_cut_off(tiff: tifffile.TiffFile, level: Any) -> None:
    """Decoding by region would fill with black what lies beyond the end."""
    n_bytes = tiff.filehandle.size
    for page in level.pages:
        if page is None:
            continue
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if offset + count > n_bytes:
                raise ValueError("the file is cut off")


class _Incomplete:
    """A level some of whose planes are missing: a slice that needs one is refused."""

    def __init__(self, pixels: Any, missing: MissingPages) -> None:
        self.shape, self.dtype = pixels.shape, pixels.dtype
        self._pixels, self._missing = pixels, missing

    def __getitem__(self, key: Any) -> NDArray[Any]:
        self._missing.refuse(key)
        part: NDArray[Any] = self._pixels[key]
        return part


class _Fixed:
    """A level at one place of one of its axes."""

    def __init__(self, pixels: Any, axis: int, place: int) -> None:
        self.shape = (*pixels.shape[:axis], *pixels.shape[axis + 1 :])
        self.dtype = pixels.dtype
        self._pixels, self._axis, self._place = pixels, axis, place

    def __getitem__(self, key: Sequence[Any]) -> NDArray[Any]:
        part: NDArray[Any] = self._pixels[(*key[: self._axis], self._place, *key[self._axis :])]
        return part


class _Decoded:
    """A level that is decoded whole when it is first sliced."""

    def __init__(self, level: Any) -> None:
        self.shape, self.dtype = level.shape, np.dtype(level.dtype)
        self._level = level

    @cached_property
    def _all(self) -> NDArray[Any]:
        try:
            pixels: NDArray[Any] = self._level.asarray()
        except MemoryError as error:  # a codec whose own header is damaged: the level itself is small
            raise ValueError("its tiles or strips are damaged") from error
        return pixels

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part: NDArray[Any] = self._all[key]
        return part


class _Mapped:
    """An uncompressed level, mapped anew at each slice, so that what was read does not stay in memory."""

    def __init__(self, path: str, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype = shape, dtype.newbyteorder("=")
        self._where: dict[str, Any] = {"dtype": dtype, "offset": offset, "shape": shape}
        self._path = path

    def __getitem__(self, key: Any) -> NDArray[Any]:
        part = np.memmap(self._path, mode="r", **self._where)[key]
        return np.array(part, dtype=part.dtype.newbyteorder("="))


class _Chunked:
    """A compressed level; of strips, the band last read is kept for the regions beside."""

    def __init__(self, series: Any, at: int) -> None:
        self.shape, self.dtype = series.levels[at].shape, np.dtype(series.levels[at].dtype)
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
