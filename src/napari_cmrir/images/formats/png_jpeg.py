"""PNG and JPEG: decoded whole, as these formats require; and whether JPEG data are whole, in a TIFF as well.

Decoders fill with grey what is cut off, and go on after what is damaged, so JPEG data are checked first.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_cmrir.images.formats.base import ImageFormat
from napari_cmrir.images.intensity import without_alpha
from napari_cmrir.images.series import Level, Series, Stored

__all__ = ["JPEG", "PNG", "JpegData", "checked_decoder", "open_jpeg", "open_png", "require_whole"]


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


_START, _END, _SCAN, _RESTARTS = 0xD8, 0xD9, 0xDA, range(0xD0, 0xD8)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # without tables and the two reserved
_CHECKED_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, by Huffman codes
JPEG_COMPRESSIONS = {6, 7, 34892, 33007}
"""TIFF compressions whose segments are JPEG data; of these, 6 is the old kind without a stream of its own."""

_LEFT_OVER = 4
"""Bytes: more than the padding behind the last code of a whole stream, which is less than one."""


@dataclass(frozen=True)
class JpegData:
    """What the markers of a JPEG stream say.

    Parameters
    ----------
    coded : bytes
        The stream from its first marker to its end marker, without application data and comments.
    frame : int
        Marker of its frame; 0 if there is none.
    precision : int
        Bits of a sample.
    sampling : tuple of (int, int)
        Horizontal and vertical sampling factors of each component.
    has_end : bool
        Its own end marker follows its scans.
    has_restarts : bool
        Restart markers interrupt its codes.
    """

    coded: bytes
    frame: int
    precision: int
    sampling: tuple[tuple[int, int], ...]
    has_end: bool
    has_restarts: bool = False

    @classmethod
    def of(cls, data: bytes, tables: bytes | None = None) -> JpegData:
        """Walk over the markers of a stream.

        An end marker counts only after a scan: an embedded thumbnail has one of its own.

        Parameters
        ----------
        data : bytes
        tables : bytes, optional
            TIFF's JPEGTables: the tables that its segments share.

        Raises
        ------
        ValueError
            There is no stream, or no scan.
        """
        pieces = [b"\xff\xd8"]
        if tables:
            start = 2 if tables[:2] == b"\xff\xd8" else 0
            pieces.append(tables[start : -2 if tables[-2:] == b"\xff\xd9" else None])
        if data[:2] != b"\xff\xd8":
            raise ValueError("it does not begin as JPEG data")
        at, frame, precision, has_scan, has_restarts = 2, 0, 8, False, False
        sampling: tuple[tuple[int, int], ...] = ()
        while True:
            if at + 4 > len(data):
                has_end = data[at : at + 2] == b"\xff\xd9"
                break
            if data[at] != 0xFF:
                raise ValueError("its JPEG data are damaged")
            marker = data[at + 1]
            if marker == 0xFF:  # padding
                at += 1
                continue
            if marker == _END:
                has_end = True
                break
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            segment = data[at : at + 2 + length]
            if marker in _FRAMES:
                frame, precision = marker, segment[4]
                sampling = tuple((factors >> 4, factors & 15) for factors in segment[11::3][: segment[9]])
            has_restarts |= marker == 0xDD and any(segment[4:6])
            if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
                pieces.append(segment)
            at += 2 + length
            if marker == _SCAN:
                has_scan = True
                end = _end_of_scan(data, at)
                pieces.append(data[at:end])
                at = end
        if not has_scan:
            raise ValueError("the file is cut off")
        return cls(b"".join([*pieces, b"\xff\xd9"]), frame, precision, sampling, has_end, has_restarts)

    @property
    def is_checkable(self) -> bool:
        """Whether libjxl can read such a stream: 8 bits, one or three components, usual sampling."""
        usual = all(factor in (1, 2) for factors in self.sampling for factor in factors)
        usual &= not (self.frame == 0xC2 and self.has_restarts)  # libjxl 0.11 takes these for damaged
        return (
            self.frame in _CHECKED_FRAMES and self.precision == 8 and len(self.sampling) in (1, 3) and usual
        )


def _end_of_scan(data: bytes, at: int) -> int:
    """Find the marker behind a scan's coded data."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return len(data)
        follower = data[at + 1]
        if follower == 0 or follower in _RESTARTS:
            at += 2
        elif follower == 0xFF:
            at += 1
        else:
            return at


def require_whole(data: bytes, tables: bytes | None = None) -> None:
    """Refuse JPEG data that are cut off or damaged.

    JPEG XL stores a JPEG without loss, and therefore has to understand every code of it: libjxl's reader of
    JPEG accepts no stream with an impossible code, or with too few. One with codes left over after its last
    block it accepts; such a stream is still accepted when its last bytes are taken away.

    Parameters
    ----------
    data : bytes
        A JPEG file, or a segment of a TIFF.
    tables : bytes, optional
        TIFF's JPEGTables.

    Raises
    ------
    ValueError
        It is cut off or damaged.
    """
    import imagecodecs

    stream = JpegData.of(data, tables)
    if not stream.is_checkable:  # of 12 bits, four inks or arithmetic codes only the end is looked for
        if not stream.has_end and tables is None:
            raise ValueError("the file is cut off")
        return
    if not imagecodecs.JPEGXL.available:  # pragma: no cover, a build of imagecodecs without it
        if not stream.has_end:
            raise ValueError("the file is cut off")
        return
    try:
        imagecodecs.jpegxl_encode_jpeg(stream.coded, numthreads=1)
    except imagecodecs.JpegxlError as error:
        reason = "its JPEG data are damaged" if stream.has_end else "the file is cut off"
        raise ValueError(reason) from error
    with suppress(imagecodecs.JpegxlError):
        imagecodecs.jpegxl_encode_jpeg(stream.coded[: -2 - _LEFT_OVER] + b"\xff\xd9", numthreads=1)
        raise ValueError("its JPEG data are damaged")


def checked_decoder(decode: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a decoder of TIFF's JPEG segments, so that it refuses damaged ones.

    Parameters
    ----------
    decode : callable
        ``TiffPage.decode``.
    """

    def decode_whole(
        data: bytes | None, index: int, /, *, jpegtables: bytes | None = None, **options: Any
    ) -> Any:
        if data is not None and options.get("jpegheader") is None:
            try:
                require_whole(bytes(data), jpegtables)
            except ValueError as error:
                raise ValueError(f"tile or strip {index} is damaged, {error}") from error
        return decode(data, index, jpegtables=jpegtables, **options)

    return decode_whole
