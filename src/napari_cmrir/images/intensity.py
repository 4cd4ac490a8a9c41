"""Pixel values: palettes, CMYK and alpha to grey or RGB, scaling for a network, structure above noise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from napari_cmrir.errors import InputError
from napari_cmrir.settings import Settings

__all__ = [
    "LUMINANCE",
    "STAIN",
    "Intensity",
    "bandpass",
    "choose_intensity",
    "from_palette",
    "grey_span",
    "inverted",
    "plain_type",
    "rgb_from_cmyk",
    "shows_structure",
    "stain_white",
    "to_grey",
    "without_alpha",
]

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""

STAIN = (1.0, -0.5, -0.5)
"""Weights of red, green and blue of a stained section: eosin is bright, haematoxylin and glass are dark.

Chosen on shg_bf/train by the starter's first hits of 352 patches of 96 px (`evaluate starter --query patch
--patches 4`): right in 69 % with these weights, 68 % with red minus green, 60 % with a* of CIELAB or with red
over green, 49 % with the eosin of Ruifrok & Johnston's matrix, 40 % with the luminance, 27 % with red.
"""


BAND = (1.5, 16.0)
"""Standard deviations in px of the two Gaussians between which structure is looked for."""

LEAST_CONTRAST = 0.01
"""Share of the image's range that the standard deviation of structure must exceed.

This, `ABOVE_NOISE` and `BAND` were set before the results of any query were looked at.
"""

ABOVE_NOISE = 2.0
"""How many times what noise alone leaves in the band the standard deviation of structure must be."""


def without_alpha(pixels: NDArray[Any]) -> NDArray[Any]:
    """Drop the alpha channel of a grey (2 channels) or RGB image (4 channels), (y, x, channel)."""
    return {2: pixels[..., :1], 4: pixels[..., :3]}.get(pixels.shape[2], pixels)


def rgb_from_cmyk(pixels: NDArray[Any]) -> NDArray[Any]:
    """Convert CMYK of an unsigned integer type, (y, x, 4), to RGB of the same type, (y, x, 3).

    Examples
    --------
    >>> rgb_from_cmyk(np.array([[[255, 0, 0, 0]]], np.uint8)).tolist()
    [[[0, 255, 255]]]
    """
    if pixels.dtype.kind != "u":
        raise ValueError(f"its inks are of type {pixels.dtype}")
    full = np.iinfo(pixels.dtype).max
    light = 1.0 - pixels.astype(np.float32) / full
    rgb: NDArray[Any] = np.rint(light[..., :3] * light[..., 3:] * full).astype(pixels.dtype)
    return rgb


def from_palette(pixels: NDArray[Any], colormap: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Look up palette indexes (y, x, 1) in a colormap of 16 bit, (3, n): RGB of 8 bit, (y, x, 3).

    A palette whose entries are all below 256 was written with 8-bit entries; libtiff reads it the same way.

    Examples
    --------
    >>> from_palette(np.array([[[1]]]), np.array([[0, 0xFF00], [0, 0x8000], [0, 0]], np.uint16)).tolist()
    [[[255, 128, 0]]]
    >>> from_palette(np.array([[[1]]]), np.array([[0, 255], [0, 128], [0, 0]], np.uint16)).tolist()
    [[[255, 128, 0]]]
    """
    colours = colormap if colormap.max(initial=0) < 256 else colormap >> 8
    rgb: NDArray[np.uint8] = np.moveaxis(colours[:, pixels[..., 0]], 0, -1).astype(np.uint8)
    return rgb


def inverted(pixels: NDArray[Any], bits: int | None = None) -> NDArray[Any]:
    """Make white of zero and black of the highest value.

    Parameters
    ----------
    pixels : ndarray
        Floats stay, because their highest value is unknown.
    bits : int, optional
        Bits of a value, such as 12 of 16 stored; by default all.

    Examples
    --------
    >>> inverted(np.array([0, 4095], np.uint16), bits=12).tolist()
    [4095, 0]
    """
    if pixels.dtype.kind not in "bui":
        return pixels
    if pixels.dtype.kind == "u" and bits is not None and bits < 8 * pixels.dtype.itemsize:
        turned: NDArray[Any] = pixels.dtype.type(2**bits - 1) - pixels
        return turned
    return ~pixels


def plain_type(pixels: NDArray[Any]) -> NDArray[Any]:
    """Convert any real type to the smallest of uint8, uint16 and float32 that holds the values.

    Booleans become 0 and 255.

    Parameters
    ----------
    pixels : ndarray

    Returns
    -------
    ndarray, uint8, uint16 or float32

    Raises
    ------
    ValueError
        If the pixels are complex or not numbers.

    Examples
    --------
    >>> plain_type(np.array([1, 300], np.int32)).dtype, plain_type(np.array([-1, 300], np.int32)).dtype
    (dtype('uint16'), dtype('float32'))
    """
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "f":
        return pixels.astype(np.float32, copy=False)
    if pixels.dtype.kind not in "iu":
        raise ValueError(f"its pixels are of type {pixels.dtype}")
    if pixels.dtype.kind == "i" and pixels.min(initial=0) < 0:
        return pixels.astype(np.float32)
    if pixels.dtype.itemsize == 1:
        return pixels.astype(np.uint8, copy=False)
    native = pixels.dtype.itemsize == 2 or pixels.max(initial=0) < 2**16
    return pixels.astype(np.uint16 if native else np.float32, copy=False)


# Scaled values are clipped to this range: an image brighter than the training images keeps its contrast, and
# a dead pixel does not dominate. Not measured.
_LOWEST, _HIGHEST = -0.5, 2.0
# Pixels per image that `choose_intensity` samples: 0.1 and 99.9 percentiles then rest on 16 pixels each.
_SAMPLES_PER_IMAGE = 2**14


class Intensity(Settings):
    """A fixed mapping of a modality's pixel values to about 0 to 1.

    ``low`` becomes 0 and ``high`` becomes 1. Values outside are clipped at -0.5 and 2: an image brighter than
    the training images keeps its contrast, and a dead pixel does not dominate. ``log`` then takes
    log2(1 + x), the paper's log(1 + x) of SHG in [0, 1], rescaled to [0, 1] (Breznik et al. 2024,
    doi:10.1038/s41598-024-68800-1, Methods).
    """

    transform: Literal["linear", "log", "ln"] = Field(
        default="linear",
        description="linear; log: log2(1 + x) of the scaled value; ln: ln(1 + x), as the released models"
        " take SHG",
    )
    low: tuple[float, ...] = Field(
        min_length=1, description="Pixel value that becomes 0, for each channel", examples=[(0.0,)]
    )
    high: tuple[float, ...] = Field(
        min_length=1, description="Pixel value that becomes 1, for each channel", examples=[(255.0,)]
    )

    @model_validator(mode="after")
    def _ends_match(self) -> Intensity:
        if len(self.low) != len(self.high):
            raise ValueError("low and high must have one value a channel")
        if not all(np.isfinite((*self.low, *self.high))):
            raise ValueError("low and high must be finite")
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must be below high")
        return self

    @property
    def channels(self) -> int:
        """Number of channels of the result."""
        return len(self.low)

    def apply(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Scale an image.

        Parameters
        ----------
        pixels : ndarray, (y, x, channel) or (y, x)
            A grey image is repeated for a model of several channels. An image of three equal channels counts
            as grey for a model of one channel.

        Returns
        -------
        ndarray, (channel, y, x), float32
            0 at ``low``, 1 at ``high``, at least -0.5 (log: -1) and at most 2 (log: 1.58). NaN becomes 0.

        Raises
        ------
        InputError
            If the image has another number of channels.

        Examples
        --------
        >>> intensity = Intensity(transform="log", low=(0,), high=(100,))
        >>> intensity.apply(np.array([[0, 50, 100]], np.uint8)).round(3).tolist()
        [[[0.0, 0.5849999785423279, 1.0]]]
        """
        planes = np.moveaxis(_with_channels(pixels, self.channels), -1, 0)  # (channel, y, x)
        scaled = np.empty(planes.shape, np.float32)
        for plane, low, high, out in zip(planes, self.low, self.high, scaled, strict=True):
            np.subtract(plane, np.float32(low), out=out, dtype=np.float32)
            out /= np.float32(high - low)
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=_HIGHEST, neginf=_LOWEST)
        np.clip(scaled, _LOWEST, _HIGHEST, out=scaled)
        if self.transform != "linear":
            np.log1p(scaled, out=scaled)
        if self.transform == "log":
            scaled /= np.float32(np.log(2))
        return scaled


def to_grey(pixels: NDArray[Any], white: tuple[float, ...] = ()) -> NDArray[np.float32]:
    """Bring an image to one channel: the luminance of three channels, else the mean.

    Parameters
    ----------
    pixels : (y, x) or (y, x, channel) array
    white : tuple of float
        Of a stained section, see `stain_white`: channels are divided by their white, then weighted (`STAIN`).

    Returns
    -------
    (y, x, 1) float32 array

    Examples
    --------
    >>> to_grey(np.array([[[100, 0, 0], [20, 20, 20]]], np.uint8))[0, :, 0].round(1).tolist()
    [29.899999618530273, 20.0]
    """
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    channels = pixels.shape[2]
    if channels == 1:
        return pixels.astype(np.float32)
    weights = np.array(LUMINANCE if channels == 3 else [1 / channels] * channels, np.float32)
    if white:
        weights = (np.array(STAIN) / white).astype(np.float32)
    grey: NDArray[np.float32] = (pixels.astype(np.float32) @ weights)[..., np.newaxis]
    return grey


_COLOURED = 0.1  # difference of a pixel's channels, and depth of its darkest, as shares of white, that count
_DARKEST = 0.875  # least share of the colour that is darkest in green
_ABSORBED = 0.4  # least share of green in the optical density: haematoxylin 0.43, eosin 0.85, grey 0.33


def stain_white(pixels: NDArray[Any]) -> tuple[float, ...]:
    """Tell whether an image shows a section stained with haematoxylin and eosin, and give its white.

    Both stains absorb green most (Ruifrok & Johnston, Anal. Quant. Cytol. Histol. 23, 2001), so that green
    is the darkest channel wherever such a section has colour, and takes more than a third of the optical
    density. In windows of 224 px of the sections of shg_bf/train, these shares are 0.90 and 0.43 and more; no
    window of vis_ir/train and vis_ir/val that passes one of the limits comes near the other.

    Parameters
    ----------
    pixels : (y, x) or (y, x, channel) array

    Returns
    -------
    tuple of float
        The 99th percentile of each channel; empty if it is another image.

    Examples
    --------
    >>> glass, eosin, sky = [240.0, 240.0, 240.0], [230.0, 120.0, 170.0], [90.0, 120.0, 170.0]
    >>> [stain_white(np.array([[glass, glass, colour]])) for colour in (eosin, sky)]
    [(240.0, 240.0, 240.0), ()]
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        return ()
    sample = _thinned(pixels)
    sample = sample[np.isfinite(sample).all(1)]
    if sample.shape[1] != 3 or not len(sample):
        return ()
    white = np.percentile(sample, 99, axis=0)
    if not (white > 0).all():
        return ()
    balanced = sample / white
    colour = np.ptp(balanced, axis=1)
    colour[colour < _COLOURED] = 0
    darkest = colour[balanced.argmin(1) == 1].sum()
    density = -np.log(balanced[balanced.min(1) < 1 - _COLOURED].clip(1 / 256, 1))
    is_stained = darkest > _DARKEST * colour.sum() and density[:, 1].sum() > _ABSORBED * density.sum()
    return tuple(white.tolist()) if is_stained else ()


def choose_intensity(images: Iterable[NDArray[Any]]) -> Intensity:
    """Choose the scaling of a modality from images.

    ``low`` and ``high`` are the 0.1 and 99.9 percentiles of each channel, pooled over the images. A grey
    modality whose median lies in the lowest tenth of that range, such as SHG, gets the logarithm.

    Parameters
    ----------
    images : iterable of ndarray, (y, x, channel) or (y, x)
        Images of one modality. Grey and RGB may mix; RGB with equal channels counts as grey. A generator is
        consumed one image at a time.

    Returns
    -------
    Intensity
        For one channel if all images are grey. NaN and infinite pixels are ignored. If all pixels are equal,
        the range is 1.

    Raises
    ------
    InputError
        If there is no image, or images have different numbers of channels.

    Examples
    --------
    >>> choose_intensity([np.arange(101.0).reshape(1, -1, 1)]).low
    (0.1,)
    """
    samples = [_thinned(pixels) for pixels in images]
    if not samples:
        raise InputError("There is no image to choose the intensity scaling from; give at least one.")
    channels = max(sample.shape[-1] for sample in samples)
    for sample in samples:
        if sample.shape[-1] not in (1, channels):
            raise InputError(
                f"Images of one modality have {sample.shape[-1]} and {channels} channels; "
                "give images of one kind."
            )
    pooled = np.concatenate([np.broadcast_to(s, (len(s), channels)) for s in samples])
    finite = [channel[np.isfinite(channel)] for channel in pooled.T]
    ends = [_ends(values) for values in finite]
    low, high = zip(*ends, strict=True)
    skewed = channels == 1 and finite[0].size > 0 and np.median(finite[0]) - low[0] < 0.1 * (high[0] - low[0])
    return Intensity(transform="log" if skewed else "linear", low=low, high=high)


def bandpass(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep the structure (y, x) between 1.5 and 16 px, as the difference of two Gaussians.

    Examples
    --------
    >>> bandpass(np.full((8, 8), 5.0)).round(9).any()
    np.False_
    """
    from scipy.ndimage import gaussian_filter

    fine, coarse = BAND
    kept: NDArray[np.float64] = gaussian_filter(grey, fine) - gaussian_filter(grey, coarse)
    return kept


def grey_span(image: NDArray[Any]) -> float:
    """Range of the grey values of an image (y, x, channel), without the lowest and highest thousandth.

    Examples
    --------
    >>> grey_span(np.linspace(0, 200, 64**2).reshape(64, 64, 1)) < 200
    True
    """
    low, high = np.percentile(image[::4, ::4].mean(2), (0.1, 99.9))
    return float(high - low)


def shows_structure(
    pixels: NDArray[Any], span: float | None = None, mask: NDArray[np.bool_] | None = None
) -> bool:
    """Tell whether a region shows structure: its contrast between 1.5 and 16 px stands above its noise.

    The noise is that of Immerkaer, "Fast noise variance estimation", Comput. Vis. Image Underst. 64, 1996.

    Parameters
    ----------
    pixels : ndarray, (y, x, channel)
        The region; the mean of the channels counts.
    span : float, optional
        Range of the values of the image that the region is of; by default the region's own.
    mask : ndarray of bool, (y, x), optional
        True for the pixels that count.

    Returns
    -------
    bool

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(100, 2, (96, 96, 1))
    >>> structure = 20.0 * np.sin(np.arange(96) / 4)[:, None, None]
    >>> shows_structure(noise, span=255), shows_structure(noise + structure, span=255)
    (False, True)
    """
    from scipy.ndimage import convolve

    grey = np.nan_to_num(pixels.mean(2, dtype=np.float64))
    inside = np.ones(grey.shape, bool) if mask is None else mask
    if not inside.any() or min(grey.shape) < 3:
        return False
    grey = np.where(inside, grey, grey[inside].mean())
    contrast = bandpass(grey)[inside].std()
    kernel = np.outer((1, -2, 1), (1, -2, 1))
    noise = np.sqrt(np.pi / 2) / 6 * np.abs(convolve(grey, kernel))[inside].mean()
    left = noise / (2 * np.sqrt(np.pi) * BAND[0])  # of white noise, after the finer Gaussian
    least = LEAST_CONTRAST * (np.ptp(grey) if span is None else span)
    return bool(contrast > max(ABOVE_NOISE * left, least))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, (0.1, 99.9)))
    if not high > low:  # nearly constant: take the full range
        low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1.0)


def _thinned(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Sample pixels on a regular grid, (n, channel); equal channels become one."""
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] > 1 and _is_grey(pixels):
        pixels = pixels[..., :1]
    step = max(1, int(np.sqrt(pixels.shape[0] * pixels.shape[1] / _SAMPLES_PER_IMAGE)))
    return pixels[::step, ::step].reshape(-1, pixels.shape[-1]).astype(np.float64)


def _is_grey(pixels: NDArray[Any]) -> bool:
    first = pixels[..., 0]
    equal_nan = pixels.dtype.kind == "f"
    return all(np.array_equal(first, pixels[..., i], equal_nan=equal_nan) for i in range(1, pixels.shape[-1]))


def _with_channels(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """Bring an image to a number of channels, (y, x, channels)."""
    if pixels.ndim not in (2, 3):
        raise InputError(f"The image has {pixels.ndim} dimensions; give one of (y, x) or (y, x, channel).")
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] == channels:
        return pixels
    if pixels.shape[-1] == 1:
        return np.broadcast_to(pixels, (*pixels.shape[:2], channels))
    if channels == 1 and pixels.shape[-1] == 3 and _is_grey(pixels):
        return pixels[..., :1]
    raise InputError(
        f"The image has {pixels.shape[-1]} channels but the modality has {channels}; "
        "check that the image is of the modality given."
    )
