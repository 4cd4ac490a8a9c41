"""PNG and JPEG: decoded whole, as their formats want it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.intensity import without_alpha
from napari_cmrir.images.series import Level, Series, Stored

__all__ = ["JPEG", "PNG", "open_jpeg", "open_png"]


def open_png(path: Path) -> Stored:
    """Read a PNG of any bit depth; palettes become RGB."""
    import imagecodecs

    return _stored(path, imagecodecs.png_decode(path.read_bytes()))


def open_jpeg(path: Path) -> Stored:
    """Read a JPEG; CMYK becomes RGB.

    Raises
    ------
    ValueError
        If it is cut off or damaged.
    """
    import imagecodecs

    data = path.read_bytes()
    if b"\xff\xd9" not in data:  # the decoder would fill the rest with grey
        raise ValueError("the file is cut off")
    pixels: NDArray[Any] = imagecodecs.jpeg_decode(data)
    if pixels.ndim == 3 and pixels.shape[2] == 4:  # CMYK, which only OpenCV converts
        import cv2

        converted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if converted is None:
            raise ValueError("its CMYK pixels are damaged")
        pixels = converted[..., ::-1]
    return _stored(path, pixels)


def _stored(path: Path, pixels: NDArray[Any]) -> Stored:
    pixels = without_alpha(pixels[..., np.newaxis] if pixels.ndim == 2 else pixels)
    return Stored(str(path), [Series([Level(pixels, "YXS")], is_rgb=pixels.shape[2] == 3)])


PNG = ImageFormat(open_png, magics=(b"\x89PNG",))
JPEG = ImageFormat(open_jpeg, magics=(b"\xff\xd8\xff",))
