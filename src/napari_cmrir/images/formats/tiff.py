"""TIFF, OME-TIFF, BigTIFF and the slides and stacks of microscopes that are TIFFs (.svs, .ndpi, .lsm).

Levels are decoded when they are read. Stored samples become grey, RGB or channels, as the photometric tags
say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.formats.png_jpeg import JPEG_COMPRESSIONS, checked_decoder
from napari_cmrir.images.formats.tiff_series import (
    MissingPages,
    OmeImage,
    is_secondary,
    open_series,
    own_pages,
)
from napari_cmrir.images.intensity import LUMINANCE, from_palette, inverted, rgb_from_cmyk
from napari_cmrir.images.metadata import (
    PixelSize,
    sizes_of_instrument,
    sizes_of_resolution,
    sizes_of_slide,
)
from napari_cmrir.images.series import Level, Series, Stored

if TYPE_CHECKING:
    import tifffile

__all__ = ["TIFF", "Convert", "colours_of", "open_tiff", "rgb_from_lab", "rgb_from_ycbcr"]

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


Convert = Callable[[NDArray[Any]], NDArray[Any]]
"""Turns stored samples, (y, x, sample), into (y, x, channel)."""

MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE, MASK, SEPARATED, YCBCR, CIELAB, ICCLAB = 0, 1, 2, 3, 4, 5, 6, 8, 9
"""Values of PhotometricInterpretation (TIFF 6.0, Technical Note 1 for Lab)."""

DECODED_TO_RGB = {6, 7, 34892, 33007, 50001, 50002, 52546}
"""Compressions whose decoders return RGB of YCbCr: the kinds of JPEG, WebP and JPEG XL."""

APERIO_YCBCR = 33003
"""Aperio's JPEG 2000 of YCbCr. Its files are tagged as RGB (OpenSlide, openslide-decode-jp2k.c)."""

_NAMES = {10: "ITU Lab", 32803: "a colour filter array of a camera", 34892: "linear raw of a camera"}
_RGB_OF_XYZ = np.array(  # sRGB (IEC 61966-2-1), adapted to D50 by Bradford's method
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
_WHITE_D50 = np.array([0.96422, 1.0, 0.82521])


def colours_of(page: Any, *, imagej: bool = False) -> tuple[Convert | None, bool]:
    """Say how the samples of a TIFF page become grey, RGB or channels.

    Parameters
    ----------
    page : tifffile.TiffPage
    imagej : bool
        ImageJ wrote the file: its lookup tables colour grey images on the screen.

    Returns
    -------
    convert : callable or None
        ``None`` where the samples are taken as stored.
    is_rgb : bool
        The channels are colours that belong together.

    Raises
    ------
    ValueError
        The samples are of a kind that is not converted, such as a camera's colour filter array.
    """
    photometric, n_samples = int(page.photometric), int(page.samplesperpixel)
    if photometric in _NAMES:
        raise ValueError(f"its samples are {_NAMES[photometric]}; convert the file to RGB")
    if photometric == PALETTE and page.colormap is not None and n_samples == 1:
        return _palette(page.colormap, imagej)
    colours = _colour_samples(page, photometric, n_samples)
    alpha = _alpha(page, colours, n_samples)
    take = [sample for sample in range(n_samples) if sample not in alpha]
    drop = None if len(take) == n_samples else partial(np.take, indices=take, axis=2)
    if photometric == SEPARATED and len(take) == 4 and int(page.tags.valueof("InkSet", default=1)) == 1:
        return _after(drop, rgb_from_cmyk), True
    if photometric == MIN_IS_WHITE:
        if _is_mask_of_tifffile(page):
            return drop, False
        return _after(drop, partial(inverted, bits=_bits(page))), False
    if len(take) != 3:
        return drop, False
    compression = int(page.compression)
    if (photometric == YCBCR and compression not in DECODED_TO_RGB) or compression == APERIO_YCBCR:
        black_white = page.tags.valueof("ReferenceBlackWhite", default=None)
        weights = page.tags.valueof("YCbCrCoefficients", default=None)
        convert = partial(
            rgb_from_ycbcr, weights=_fractions(weights, 3), black_white=_fractions(black_white, 6)
        )
        return _after(drop, convert), True
    if photometric in (CIELAB, ICCLAB):
        return _after(drop, partial(rgb_from_lab, signed=photometric == CIELAB)), True
    return drop, photometric in (RGB, YCBCR) or n_samples == 3


def rgb_from_ycbcr(
    pixels: NDArray[Any],
    weights: tuple[float, ...] | None = None,
    black_white: tuple[float, ...] | None = None,
) -> NDArray[Any]:
    """Turn YCbCr of an unsigned type into RGB of the same (TIFF 6.0, section 21).

    Parameters
    ----------
    pixels : ndarray, (y, x, 3)
    weights : tuple of three float, optional
        YCbCrCoefficients; by default 0.299, 0.587, 0.114.
    black_white : tuple of six float, optional
        ReferenceBlackWhite; by default the full range.

    Examples
    --------
    >>> rgb_from_ycbcr(np.array([[[76, 85, 255], [255, 128, 128]]], np.uint8)).tolist()
    [[[254, 0, 0], [255, 255, 255]]]
    """
    full = float(np.iinfo(pixels.dtype).max)
    middle = (full + 1) / 2
    red, green, blue = weights if weights and len(weights) == 3 and weights[1] > 0 else LUMINANCE
    y, cb, cr = np.moveaxis(pixels.astype(np.float64), -1, 0)
    # Many writers tag YCbCr with the reference values of RGB (0 and 255 thrice): these code chroma about the
    # middle all the same.
    if black_white and len(black_white) == 6 and black_white[2] > 0 and black_white[4] > 0:
        y_black, y_white, cb_black, cb_white, cr_black, cr_white = black_white
        if y_white > y_black and cb_white > cb_black and cr_white > cr_black:
            y = (y - y_black) * full / (y_white - y_black)
            cb = (cb - cb_black) * (full - middle) / (cb_white - cb_black) + middle
            cr = (cr - cr_black) * (full - middle) / (cr_white - cr_black) + middle
    r = y + (cr - middle) * (2 - 2 * red)
    b = y + (cb - middle) * (2 - 2 * blue)
    g = (y - blue * b - red * r) / green
    rgb: NDArray[Any] = np.rint(np.clip(np.stack([r, g, b], -1), 0, full)).astype(pixels.dtype)
    return rgb


def rgb_from_lab(pixels: NDArray[Any], *, signed: bool = True) -> NDArray[Any]:
    """Turn CIE L*a*b* (D50) of 8 or 16 bits into sRGB of the same type.

    Parameters
    ----------
    pixels : ndarray, (y, x, 3)
        Lightness from 0 to the highest value; a* and b* in two's complement.
    signed : bool
        False for ICC's encoding, whose a* and b* are offset by half of the range.

    Examples
    --------
    >>> rgb_from_lab(np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)).tolist()
    [[[255, 255, 255], [0, 0, 0]]]
    """
    n_bits = pixels.dtype.itemsize * 8
    unit = 2.0 ** (n_bits - 8)  # of a* and b*
    stored = pixels.astype(np.float64)
    highest = 255.0 * unit if not signed or n_bits == 8 else 2.0**n_bits - 1  # ICC: 0xFF00 is 100
    lightness = stored[..., 0] * (100.0 / highest)
    if signed:
        chroma = np.where(
            stored[..., 1:] >= 2.0 ** (n_bits - 1), stored[..., 1:] - 2.0**n_bits, stored[..., 1:]
        )
    else:
        chroma = stored[..., 1:] - 128.0 * unit
    a, b = np.moveaxis(chroma / unit, -1, 0)
    fy = (lightness + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * 3 * (6 / 29) ** 2) * _WHITE_D50
    linear = np.clip(xyz @ _RGB_OF_XYZ.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: NDArray[Any] = np.rint(encoded * np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return rgb


def _palette(colormap: NDArray[np.uint16], imagej: bool) -> tuple[Convert | None, bool]:
    ramp = np.arange(colormap.shape[1])
    as_bytes = colormap if colormap.max(initial=0) < 256 else colormap >> 8
    if colormap.shape[1] == 256 and all((channel == ramp).all() for channel in as_bytes):
        return None, False  # the palette of a grey image
    luminance = np.array(LUMINANCE) @ colormap.astype(np.float64)
    if imagej and (np.diff(luminance) >= -1e-6).all():
        return None, False  # a pseudo-colour; the palettes of colour images are in no order
    return partial(from_palette, colormap=colormap), True


def _colour_samples(page: Any, photometric: int, n_samples: int) -> int:
    """Number of samples that the photometric interpretation itself takes."""
    if photometric in (RGB, YCBCR, CIELAB, ICCLAB):
        return 3
    if photometric == SEPARATED:
        return int(page.tags.valueof("NumberOfInks", default=4))
    return 1


def _alpha(page: Any, colours: int, n_samples: int) -> set[int]:
    """List the samples that are tagged as opacity."""
    extra = [int(kind) for kind in page.extrasamples or ()]
    if not extra and int(page.photometric) == RGB and n_samples == 4:
        return {3}  # the tag is required: what lacks it follows the custom that a fourth sample is opacity
    first = n_samples - len(extra)
    return {
        first + at for at, kind in enumerate(extra) if kind in (1, 2) and first + at >= min(colours, first)
    }


def _after(first: Convert | None, then: Convert) -> Convert:
    if first is None:
        return then
    before = first
    return lambda pixels: then(before(pixels))


def _bits(page: Any) -> int | None:
    bits = page.bitspersample
    return int(bits) if isinstance(bits, int) else None


def _is_mask_of_tifffile(page: Any) -> bool:
    """Tell a mask of bool: tifffile tags it min-is-white, but stores its True as 1."""
    software = str(page.tags.valueof("Software", default="") or "")
    return page.dtype == bool and software.startswith("tifffile")


def _fractions(values: Any, count: int) -> tuple[float, ...] | None:
    """Turn a tag's numerators and denominators, or plain numbers, into numbers."""
    try:
        numbers = [float(value) for value in values]
        if len(numbers) == 2 * count:
            numbers = [top / bottom for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return tuple(numbers) if len(numbers) == count else None
