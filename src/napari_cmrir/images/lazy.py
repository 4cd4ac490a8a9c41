"""An image that is read where it is asked for: the one interface of all readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.errors import InputError

__all__ = ["LazyImage", "lazy_array"]

ReadRegion = Callable[[int, int, int, int], NDArray[Any]]
"""Reads rows ``y`` to ``y + height`` and columns ``x`` to ``x + width`` as (y, x, channel)."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, eq=False)
class LazyImage:
    """An image of any size, (y, x, channel), sliced like an array and read only there.

    Parameters
    ----------
    name : str
        Its file or address, for messages.
    shape : (int, int, int)
        Height, width and channels.
    read_region : callable
        ``read_region(y, x, height, width)``, always inside the image.
    pixel_size : float or None
        Side of a pixel in micrometres; ``None`` where it is not known.
    channel_names : tuple of str
        One a channel.
    choice : str
        In words, what was chosen where the file offers more than one thing; empty where it does not.
    assumption : str
        In words, what was assumed of the pixel size; empty where nothing was.
    step : float
        Pixels of the file's finest level that a pixel covers along each axis.
    coarser : tuple of LazyImage
        The same image at lower resolutions, if the file holds such.
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
    choice: str = ""
    assumption: str = ""
    step: float = 1.0
    coarser: tuple[LazyImage, ...] = field(default=(), repr=False)
    close: Callable[[], object] = field(default=_nothing, repr=False)

    ndim = 3

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
        """Read it whole."""
        return np.asarray(self[:, :], dtype=dtype)

    def window(self, y: int, x: int, height: int, width: int) -> LazyImage:
        """Return a part, as far as it lies inside, that is an image itself and not yet read."""
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
        except Exception as error:  # decoders raise all kinds, from struct.error to their own
            raise unreadable(self.name, error) from error


def unreadable(name: str, error: Exception) -> InputError:
    """Say in one line why a file cannot be read."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return InputError(
        f"{name} is not an image that can be read (OME-Zarr, TIFF, PNG or JPEG): {reason[0].rstrip('.')}."
    )


def lazy_array(
    pixels: Any, name: str = "array", *, pixel_size: float | None = None, assumption: str = ""
) -> LazyImage:
    """Give an array the interface of a file.

    Parameters
    ----------
    pixels : array, (y, x) or (y, x, channel)
        Anything that is sliced like one: numpy, dask, zarr.
    name : str
        For messages.
    pixel_size : float, optional
        Side of a pixel in micrometres.
    assumption : str
        What was assumed of it.

    Raises
    ------
    InputError
        If it has another number of dimensions, or no pixels.
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
    """Name channels that have no names."""
    if n_channels == 3:
        return ("red", "green", "blue")
    return ("grey",) if n_channels == 1 else tuple(f"channel {number}" for number in range(n_channels))
