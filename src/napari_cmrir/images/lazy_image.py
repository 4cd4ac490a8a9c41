"""Lazy images, which are read when they are sliced, and their resampling to another pixel size."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ImageWindow", "LazyImage", "lazy_array", "overview", "resample"]


ReadRegion = Callable[[int, int, int, int], NDArray[Any]]
"""Reads rows ``y`` to ``y + height`` and columns ``x`` to ``x + width`` as (y, x, channel)."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, eq=False)
class LazyImage:
    """An image of any size, (y, x, channel), sliced like an array; only the slice is read.

    Parameters
    ----------
    name : str
        File or address, for messages.
    shape : (int, int, int)
        Height, width and channels.
    read_region : callable
        ``read_region(y, x, height, width)`` reads a rectangle inside the image.
    pixel_size : float or None
        Side of a pixel in micrometres, of a square as large as a pixel; ``None`` if unknown.
    channel_names : tuple of str
        One per channel.
    reading_note : str
        Series, level, planes or channels that were chosen, in a phrase; empty if the file has one image only.
    assumption : str
        Assumption about the pixel size, in a phrase; empty if the file states it.
    steps : (float, float)
        Pixels of the file's finest level per pixel of this image, along y and x.
    aspect : float
        Height of a pixel over its width.
    bits : int or None
        Bits of a value, where the file states them: 12 of a camera's 16, for instance.
    known : ndarray, (y, x, channel), optional
        Pixels that were read already, of an image of which no others can be read.
    coarser : tuple of LazyImage
        The same image at lower resolutions, if the file holds any.
    close : callable
        Closes the file.

    Examples
    --------
    >>> image = lazy_array(np.arange(12).reshape(3, 4, 1))
    >>> image[1:3, 2:9].shape
    (2, 2, 1)
    """

    name: str
    shape: tuple[int, int, int]
    read_region: ReadRegion = field(repr=False)
    pixel_size: float | None = None
    channel_names: tuple[str, ...] = ()
    reading_note: str = ""
    assumption: str = ""
    steps: tuple[float, float] = (1.0, 1.0)
    aspect: float = 1.0
    bits: int | None = None
    known: NDArray[Any] | None = field(default=None, repr=False)
    coarser: tuple[LazyImage, ...] = field(default=(), repr=False)
    close: Callable[[], object] = field(default=_nothing, repr=False)

    ndim = 3

    @property
    def downsample(self) -> float:
        """Pixels of the file's finest level per pixel of this image along an axis, the mean of both."""
        y, x = self.steps
        return y if y == x else math.sqrt(y * x)

    @property
    def pixel_sides(self) -> tuple[float, float]:
        """Height and width of a pixel in micrometres; not-a-number where they are unknown."""
        side = math.nan if self.pixel_size is None else self.pixel_size
        if self.aspect == 1:
            return side, side
        return side * math.sqrt(self.aspect), side / math.sqrt(self.aspect)

    def __getitem__(self, key: slice | tuple[slice, ...]) -> NDArray[Any]:
        """Read rows and columns, as slices of step one; a third slice chooses channels."""
        rows, columns, *channels = key if isinstance(key, tuple) else (key, slice(None))
        top, bottom, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1])
        if bottom <= top or right <= left:
            return np.empty((max(bottom - top, 0), max(right - left, 0), self.shape[2]), np.uint8)
        pixels = self._read(top, left, bottom - top, right - left)
        return pixels[(slice(None), slice(None), *channels)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the whole image."""
        return np.asarray(self[:, :], dtype=dtype)

    def window(self, y: int, x: int, height: int, width: int) -> LazyImage:
        """Return a part of the image, limited to its borders, as a lazy image."""
        top, left = max(y, 0), max(x, 0)
        bottom, right = min(y + height, self.shape[0]), min(x + width, self.shape[1])
        shape = (max(bottom - top, 0), max(right - left, 0), self.shape[2])
        read = self.read_region
        return replace(
            self,
            shape=shape,
            read_region=lambda y, x, height, width: read(top + y, left + x, height, width),
            coarser=(),
        )

    def _read(self, y: int, x: int, height: int, width: int) -> NDArray[Any]:
        try:
            return self.read_region(y, x, height, width)
        except (InputError, MemoryError):
            raise
        except Exception as error:  # decoders raise any exception, such as struct.error or their own classes
            raise unreadable(self.name, error) from error


_LOCKED = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EAGAIN, errno.ETXTBSY)
_GONE = (
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),
    *(errno.ENODEV, errno.ENXIO, errno.ENOENT, errno.ENETUNREACH, errno.ECONNRESET),
)


def unreadable(name: str, error: Exception) -> InputError:
    """Say in one line why a file cannot be read.

    Examples
    --------
    >>> print(unreadable("a.tif", OSError(errno.EIO, "Input/output error")))
    a.tif cannot be reached (Input/output error); check its drive or network and try again.
    """
    number = error.errno if isinstance(error, OSError) else None
    why = os.strerror(number) if number is not None else ""
    if number in _LOCKED:
        advice = "close it in other programs, or check its permissions"
        return InputError(f"{name} cannot be opened ({why}); {advice}.")
    if number in _GONE:
        return InputError(f"{name} cannot be reached ({why}); check its drive or network and try again.")
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"{name} is not an image that can be read (OME-Zarr, TIFF, PNG or JPEG): {reason[0].rstrip('.')}."
    )


def lazy_array(
    pixels: Any, name: str = "array", *, pixel_size: float | None = None, assumption: str = ""
) -> LazyImage:
    """Wrap an array as a `LazyImage`.

    Parameters
    ----------
    pixels : array, (y, x) or (y, x, channel)
        A numpy, dask or zarr array.
    name : str
        Name for messages.
    pixel_size : float, optional
        Side of a pixel in micrometres.
    assumption : str
        Assumption about the pixel size; see `LazyImage`.

    Returns
    -------
    LazyImage

    Raises
    ------
    InputError
        If the array has another number of dimensions, or no pixels.
    """
    if pixels.ndim not in (2, 3):
        raise InputError(f"{name} has {pixels.ndim} dimensions; give an image of (y, x) or (y, x, channel).")
    if 0 in pixels.shape:
        raise InputError(f"{name} holds an empty image of shape {pixels.shape}; give one with pixels.")
    height, width, n_channels = (*pixels.shape, 1)[:3]

    def read(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        part = np.asarray(pixels[y : y + height, x : x + width])
        return part[..., np.newaxis] if part.ndim == 2 else part

    return LazyImage(
        name,
        (height, width, n_channels),
        read,
        pixel_size=pixel_size,
        channel_names=numbered(n_channels),
        assumption=assumption,
    )


def numbered(n_channels: int) -> tuple[str, ...]:
    """Name channels for which the file has no names.

    Examples
    --------
    >>> numbered(3), numbered(2)
    (('red', 'green', 'blue'), ('channel 0', 'channel 1'))
    """
    if n_channels == 3:
        return ("red", "green", "blue")
    return ("grey",) if n_channels == 1 else tuple(f"channel {number}" for number in range(n_channels))


@dataclass(frozen=True, eq=False)
class ImageWindow:
    """A part of an image that was read. Unlike a `LazyImage` it can be sent to another process.

    Parameters
    ----------
    name : str
        Name of the image, for messages.
    shape : (int, int)
        Height and width of the whole image.
    first : (int, int)
        (y, x) of the part's first pixel.
    pixels : ndarray, (y, x, channel)
        Pixels of the part.
    """

    name: str
    shape: tuple[int, int]
    first: tuple[int, int]
    pixels: NDArray[Any]

    def image(self) -> LazyImage:
        """Give a lazy image of the whole image's size, in which only this part can be read.

        Examples
        --------
        >>> window = ImageWindow("slide", (100, 200), (10, 20), np.ones((5, 6, 1)))
        >>> window.image().shape, window.image()[11:13, 20:23].shape
        ((100, 200, 1), (2, 3, 1))
        """

        def read(y: int, x: int, height: int, width: int) -> NDArray[Any]:
            top, left = y - self.first[0], x - self.first[1]
            part = self.pixels[max(top, 0) : top + height, max(left, 0) : left + width]
            if part.shape[:2] != (height, width):
                raise InputError(f"More of {self.name} is needed than was read; search again.")
            return part

        n_channels = self.pixels.shape[2]
        shape = (*self.shape, n_channels)
        return LazyImage(self.name, shape, read, channel_names=numbered(n_channels), known=self.pixels)


BAND_VALUES = 2**25
"""Values of the image that `overview` reads at once; float32 copies of them take 128 MiB."""


def resample(image: LazyImage, factor: float | tuple[float, float]) -> LazyImage:
    """Change the size of an image's pixels.

    A new pixel is a weighted mean of the old pixels around its centre. The weights are a triangle of twice
    the width of the larger pixel: linear interpolation to finer pixels, no aliasing to coarser ones. The
    weights depend on the position in the image only, so that regions read separately join without a seam.

    Parameters
    ----------
    image : LazyImage
    factor : float or (float, float)
        New pixel size over the old one, of both axes or of y and x.

    Returns
    -------
    LazyImage
        Same pixel type; it is read when it is sliced.

    Examples
    --------
    >>> from napari_cmrir.images.lazy_image import lazy_array
    >>> ramp = lazy_array(np.arange(0, 80, 10, dtype=np.uint8).reshape(1, 8, 1).repeat(4, 0))
    >>> resample(ramp, 2.0)[:, :][0, :, 0]
    array([ 7, 25, 45, 63], dtype=uint8)
    """
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    height, width = (max(1, round(side / by)) for side, by in zip(image.shape[:2], factors, strict=True))

    def read(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        rows, top = _weights(y, height, image.shape[0], factors[0])
        columns, left = _weights(x, width, image.shape[1], factors[1])
        pixels = image[top : top + rows.shape[1], left : left + columns.shape[1]]
        fine = pixels.astype(np.float32)
        narrow = (rows @ fine.reshape(len(fine), -1)).reshape(height, fine.shape[1], -1)
        small = (columns @ np.moveaxis(narrow, 1, 0).reshape(fine.shape[1], -1)).reshape(width, height, -1)
        result: NDArray[Any] = np.moveaxis(small, 0, 1)
        if pixels.dtype.kind in "iu":
            result = np.rint(result)
        return result.astype(pixels.dtype)

    return replace(
        image,
        shape=(height, width, image.shape[2]),
        read_region=read,
        pixel_size=None if image.pixel_size is None else image.pixel_size * math.sqrt(math.prod(factors)),
        aspect=round(image.aspect * factors[0] / factors[1], 9),
        steps=(image.steps[0] * factors[0], image.steps[1] * factors[1]),
        coarser=image.coarser,
    )


def overview(image: LazyImage, cell: int) -> NDArray[np.float32]:
    """Read a whole image at low resolution.

    The coarsest level that is fine enough is read in bands of rows.

    Parameters
    ----------
    image : LazyImage
    cell : int
        Pixels of the image per pixel of the overview, along each axis.

    Returns
    -------
    ndarray, (ceil(y / cell), ceil(x / cell), channel) float32

    Examples
    --------
    >>> overview(lazy_array(np.ones((5, 8, 1))), 4).shape
    (2, 2, 1)
    """
    shape = tuple(math.ceil(side / cell) for side in image.shape[:2])
    wanted = image.downsample * cell
    source = next((level for level in reversed(image.coarser) if level.downsample <= wanted), image)
    factors = (image.steps[0] * cell / source.steps[0], image.steps[1] * cell / source.steps[1])
    far = resample(replace(source, pixel_size=None), factors)
    a_row = max(1, round(factors[0])) * source.shape[1] * source.shape[2]
    n_rows = max(1, BAND_VALUES // a_row)
    bands = [far[top : top + n_rows, :].astype(np.float32) for top in range(0, far.shape[0], n_rows)]
    found = np.concatenate(bands)
    missing = [(0, max(0, side - have)) for side, have in zip(shape, found.shape, strict=False)]
    whole: NDArray[np.float32] = np.pad(found, (*missing, (0, 0)), mode="edge")[: shape[0], : shape[1]]
    return whole


def _weights(start: int, count: int, length: int, factor: float) -> tuple[csr_array, int]:
    """Compute the resampling weights of an axis, (count, source pixels), and the first source pixel."""
    from scipy.sparse import csr_array

    reach = max(1.0, factor)
    centres = (np.arange(start, start + count) + 0.5) * factor - 0.5
    taps = np.arange(2 * math.ceil(reach) + 1) - math.ceil(reach)
    places = np.floor(centres)[:, np.newaxis].astype(np.int64) + taps
    weights = np.maximum(0.0, 1 - np.abs(places - centres[:, np.newaxis]) / reach)
    weights[(places < 0) | (places >= length)] = 0
    is_beyond = weights.sum(1) == 0  # the centre lies beyond the last pixel
    places = places.clip(0, length - 1)
    weights[is_beyond, -1] = 1
    weights /= weights.sum(1, keepdims=True)
    first, last = int(places.min()), int(places.max())
    rows = np.repeat(np.arange(count), places.shape[1])
    shape = (count, last - first + 1)
    matrix = csr_array((weights.ravel().astype(np.float32), (rows, (places - first).ravel())), shape=shape)
    return matrix, first
