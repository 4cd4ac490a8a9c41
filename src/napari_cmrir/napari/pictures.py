"""Images of hits and thumbnails of CoMIRs, read outside the window's thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from math import ceil, isnan, log2, prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from qtpy.QtGui import QImage, QPixmap

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import Job, Preview, Progress
from napari_cmrir.napari.jobs.worker_process import in_worker_process

if TYPE_CHECKING:
    from napari_cmrir.images.lazy_image import LazyImage
    from napari_cmrir.search.hits import Hit
    from napari_cmrir.settings import ReadingSettings

__all__ = [
    "LazyLevel",
    "Picture",
    "Thumbnail",
    "as_pixmap",
    "comir_thumbnails",
    "cut_thumbnails",
    "open_large",
    "read_picture",
    "thumbnail",
    "thumbnails",
]


_LARGE = 4096  # px a side above which a layer gets levels
_SMALLEST_LEVEL = 1024  # px a side at which a coarser level no longer saves drawing time
_THUMBNAIL = 56


class LazyLevel:
    """A level of a large image for napari: only the visible pixels are read.

    Parameters
    ----------
    image : LazyImage
        The level; its file stays open.
    lock : Lock, optional
        Held while it reads: shared by the levels of a file that the window and a search read.
    """

    def __init__(self, image: LazyImage, lock: Lock | None = None) -> None:
        self._image, self._rgb, self._lock = image, image.shape[2] == 3, lock or Lock()
        self.shape = image.shape if self._rgb else image.shape[:2]
        self.ndim, self.size = len(self.shape), prod(self.shape)
        self.dtype = self[:1, :1].dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read rows and columns, then apply the steps of the slices."""
        from napari_cmrir.images.intensity import plain_type

        rows, columns, *_ = (*(key if isinstance(key, tuple) else (key,)), slice(None), slice(None))
        top, bottom, down = rows.indices(self.shape[0])
        left, right, along = columns.indices(self.shape[1])
        with self._lock:
            pixels = plain_type(self._image[top:bottom, left:right])[::down, ::along]
        return pixels if self._rgb else pixels[..., 0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the whole level."""
        return np.asarray(self[:, :], dtype=dtype)


@dataclass(frozen=True, eq=False)
class Picture:
    """The content of an image layer.

    Parameters
    ----------
    levels : list of ndarray or LazyLevel, (y, x) or (y, x, 3)
        The image and, where it is large, the image halved again and again. Of more than three channels, or
        of two, the first.
    limits : tuple of two float
        Contrast limits.
    is_bright : bool
        Whether it is shown bright, as brightfield is.
    """

    levels: list[Any]
    limits: tuple[float, float]
    is_bright: bool

    @property
    def rgb(self) -> bool:
        """Whether the image is RGB."""
        return self.levels[0].ndim == 3


@dataclass(frozen=True, eq=False)
class Thumbnail(Preview):
    """Thumbnail of a hit's match box in the query's orientation, or the reason why there is none.

    Parameters
    ----------
    rank : int
        Rank of the hit.
    pixels : ndarray, (y, x, 3) uint8, or None
        The thumbnail.
    reason : str
        Why there is none.
    """

    rank: int
    pixels: NDArray[np.uint8] | None
    reason: str = ""


def read_picture(path: str, reading: ReadingSettings | None = None) -> Picture:
    """Read an image for a layer; of a large image with levels, napari later reads only the visible part.

    Parameters
    ----------
    path : str
        The file.
    reading : ReadingSettings, optional
        Which series, planes and channels; `Hit.reading` for the image of a hit.

    Raises
    ------
    InputError
        As `images.readers.open_image`.
    """
    from napari_cmrir.images.intensity import plain_type
    from napari_cmrir.images.readers import open_image

    image = open_image(path, reading)
    is_large = max(image.shape[:2]) > _LARGE
    if is_large and image.coarser:
        levels: list[Any] = [LazyLevel(level) for level in (image, *image.coarser)]
        finalize(levels[0], image.close)
        return _picture(levels)
    with closing(image):
        pixels = np.ascontiguousarray(plain_type(image[:, :]))
    levels = [pixels if pixels.shape[2] == 3 else pixels[..., 0]]
    while is_large and max(levels[-1].shape[:2]) > _SMALLEST_LEVEL:
        levels.append(_halved(levels[-1]))
    return _picture(levels)


def open_large(path: Path) -> dict[str, Any]:
    """Open an image of any readable format for a layer of which only the visible part, or a region, is read.

    An image without coarser levels is read once, in bands of rows, for its coarsest.

    Parameters
    ----------
    path : Path
        The file; for an OME-Zarr image, its folder or the ``zarr.json`` or ``.zattrs`` in it.

    Returns
    -------
    dict
        Keywords of the image layer.

    Raises
    ------
    InputError
        As `images.readers.open_image`.
    """
    from napari_cmrir.images.intensity import plain_type
    from napari_cmrir.images.lazy_image import overview, resample
    from napari_cmrir.images.readers import open_image

    path = path.parent if path.name in ("zarr.json", ".zattrs", ".zgroup") else path
    image, lock = open_image(path), Lock()
    levels: list[Any] = [LazyLevel(image, lock)]
    finalize(levels[0], image.close)
    if max(image.shape[:2]) > _LARGE:
        halvings = ceil(log2(max(image.shape[:2]) / _SMALLEST_LEVEL))
        coarser = image.coarser or [resample(image, 2.0**number) for number in range(1, halvings)]
        levels += [LazyLevel(level, lock) for level in coarser]
        if not image.coarser:
            coarsest = plain_type(overview(image, 2**halvings)).astype(levels[0].dtype)
            levels.append(coarsest if coarsest.shape[2] == 3 else coarsest[..., 0])
    picture = _picture(levels)
    size = image.pixel_sides
    is_shown_whole = image.shape[2] in (1, 3)  # of other numbers of channels, the layer shows the first
    return {
        "data": levels if len(levels) > 1 else levels[0],
        "multiscale": len(levels) > 1,
        "rgb": picture.rgb,
        "contrast_limits": None if picture.rgb else picture.limits,
        "name": path.name,
        "metadata": {"napari-cmrir": {"path": str(path)}} if is_shown_whole else {},
        **({} if isnan(size[0]) else {"scale": size, "units": ("um", "um")}),
    }


def thumbnails(hits: Sequence[Hit]) -> Iterator[Thumbnail]:
    """Cut the thumbnails of hits one after another, in another process.

    Parameters
    ----------
    hits : sequence of Hit
        The hits.

    Yields
    ------
    Thumbnail
        One a hit.
    """
    job = in_worker_process(cut_thumbnails, tuple(hits))
    with closing(job):
        for progress in job:
            if isinstance(progress.preview, Thumbnail):
                yield progress.preview


def cut_thumbnails(hits: Sequence[Hit]) -> Job[None]:
    """Cut the thumbnails of hits.

    Parameters
    ----------
    hits : sequence of Hit
        The hits.

    Yields
    ------
    Progress
        In hits, with a `Thumbnail` as the preview.
    """
    for number, hit in enumerate(hits, 1):
        try:
            cut = Thumbnail(hit.rank, thumbnail(hit.image, hit.box, hit.reading))
        except InputError as error:
            cut = Thumbnail(hit.rank, None, str(error))
        yield Progress(number, len(hits), "hits", "", cut)


def thumbnail(
    path: str, box: NDArray[np.float64], reading: ReadingSettings | None = None
) -> NDArray[np.uint8]:
    """Cut a match box out of an image as a small picture in the query's orientation.

    Parameters
    ----------
    path : str
        The file.
    box : ndarray, (4, 2)
        Its corners, as `Hit.box`.
    reading : ReadingSettings, optional
        `Hit.reading`: which series, planes and channels.

    Returns
    -------
    ndarray, (y, x, 3), uint8
        At most 56 px a side.

    Raises
    ------
    InputError
        As `images.readers.open_image`.
    """
    from napari_cmrir.napari.hit_files import cut_from_file

    side = float(max(np.linalg.norm(box[3] - box[0]), np.linalg.norm(box[1] - box[0])))
    patch = cut_from_file(path, box, side / _THUMBNAIL, reading)
    shown = patch if patch.shape[2] == 3 else np.repeat(patch[..., :1], 3, axis=2)
    if shown.dtype == np.uint8 and patch.shape[2] == 3:
        return np.ascontiguousarray(shown)
    low, high = _limits(shown)
    scaled: NDArray[np.uint8] = ((shown - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    return scaled


def _picture(levels: list[Any]) -> Picture:
    """Read the coarsest level here, so that the window's thread need not read it."""
    coarsest = np.asarray(levels[-1])
    few = coarsest[::16, ::16]
    is_bright = bool(np.median(few) > (float(few.min()) + float(few.max())) / 2)
    return Picture(levels, _limits(coarsest), is_bright)


def _limits(pixels: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(pixels, (0.1, 99.9)))
    return low, high if high > low else low + 1


def _halved(pixels: NDArray[Any]) -> NDArray[Any]:
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    even = pixels[:height, :width]
    parts = [even[y::2, x::2].astype(np.float32) for y in (0, 1) for x in (0, 1)]
    return np.mean(parts, axis=0).astype(pixels.dtype)


def comir_thumbnails(comirs: Sequence[Path], side: int) -> dict[Path, NDArray[np.uint8] | None]:
    """Make thumbnails of stored CoMIRs from their coarsest levels, without reading images.

    Parameters
    ----------
    comirs : sequence of Path
        Pyramids of a repository.
    side : int
        Of the pictures, in px, at most.

    Returns
    -------
    dict of Path to (y, x, 3) uint8 array or None
        The first channel in grey; ``None`` for a pyramid that cannot be read.
    """
    return {comir: _thumbnail(comir, side) for comir in comirs}


def _thumbnail(comir: Path, side: int) -> NDArray[np.uint8] | None:
    from napari_cmrir.repository.pyramids import open_coarsest

    try:
        plane = np.asarray(open_coarsest(comir)[0])
    except (InputError, OSError, ValueError):
        return None
    whole = Region.whole(plane.shape)
    small, _ = cut(plane[..., np.newaxis], whole, pixel_step=max(1.0, max(plane.shape) / side))
    return np.repeat(small, 3, axis=2)


def as_pixmap(pixels: NDArray[np.uint8]) -> QPixmap:
    """Convert an array of pixels to a picture.

    Parameters
    ----------
    pixels : ndarray, (y, x, 3), uint8
        Red, green and blue.
    """
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels)
    image = QImage(data.data, width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image.copy())
