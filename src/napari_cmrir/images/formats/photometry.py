"""Stored samples become grey, RGB or channels, as TIFF's photometric tags say."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.intensity import from_palette, inverted, rgb_from_cmyk

__all__ = ["Convert", "colours_of", "rgb_from_lab", "rgb_from_ycbcr"]

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
    red, green, blue = weights if weights and len(weights) == 3 and weights[1] > 0 else (0.299, 0.587, 0.114)
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
    luminance = np.array([0.299, 0.587, 0.114]) @ colormap.astype(np.float64)
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
