"""PNG and JPEG: decoded whole, as these formats require."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.formats.jpeg_data import require_whole
from napari_cmrir.images.intensity import without_alpha
from napari_cmrir.images.series import Level, Series, Stored

__all__ = ["JPEG", "PNG", "open_jpeg", "open_png"]


def open_png(path: Path) -> Stored:
    """Read a PNG of any bit depth; palettes become RGB."""
    import imagecodecs

    data = path.read_bytes()
    return _stored(path, imagecodecs.png_decode(data), _orientation(data))


def open_jpeg(path: Path) -> Stored:
    """Read a JPEG; CMYK becomes RGB.

    Raises
    ------
    ValueError
        If it is cut off or damaged.
    """
    import imagecodecs

    data = path.read_bytes()
    require_whole(data)
    pixels: NDArray[Any] = imagecodecs.jpeg_decode(data)
    if pixels.ndim == 3 and pixels.shape[2] == 4:  # CMYK, which only OpenCV converts
        import cv2

        how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        converted = cv2.imdecode(np.frombuffer(data, np.uint8), how)
        if converted is None:
            raise ValueError("its CMYK pixels are damaged")
        pixels = converted[..., ::-1]
    return _stored(path, pixels, _orientation(data))


def _orientation(data: bytes) -> int:
    """Read EXIF's orientation, from 1 to 8; 1 where there is none, or it is damaged."""
    if b"Exif" not in data[:65536] and b"eXIf" not in data:
        return 1
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = int(image.getexif().get(0x112, 1))
    except Exception:  # metadata are optional
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _stored(path: Path, pixels: NDArray[Any], orientation: int) -> Stored:
    pixels = without_alpha(pixels[..., np.newaxis] if pixels.ndim == 2 else pixels)
    is_rgb = pixels.shape[2] == 3
    return Stored(str(path), [Series([Level(pixels, "YXS")], is_rgb=is_rgb, orientation=orientation)])


PNG = ImageFormat(open_png, magics=(b"\x89PNG",))
JPEG = ImageFormat(open_jpeg, magics=(b"\xff\xd8\xff",))
