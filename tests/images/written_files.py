"""Files that tifffile, zarr, Pillow, OpenCV and imagecodecs write, with the pixels that they show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
import zarr
from PIL import Image

_RNG = np.random.default_rng(0)
GREY = _RNG.integers(0, 256, (48, 64), dtype=np.uint8)
GREY16 = _RNG.integers(0, 2**16, (48, 64), dtype=np.uint16)
RGB = np.stack([np.add.outer(np.arange(48), k * np.arange(64)) * 2 % 256 for k in (1, 2, 3)], -1).astype(
    np.uint8
)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[60:108, 70:134], 90), -1).astype(np.uint8)
FLOATS = _RNG.random((48, 64)).astype(np.float32)


@dataclass(frozen=True)
class Written:
    """A file to write, and its pixels.

    Parameters
    ----------
    name : str
    write : callable
        Takes the path.
    pixels : ndarray, (y, x, channel)
    tolerance : float
        By which pixels may differ after a compression with loss.
    """

    name: str
    write: Callable[[Path], object]
    pixels: Any
    tolerance: float = 0.0


def _tiff(name: str, pixels: Any, shown: Any = None, tolerance: float = 0.0, **options: Any) -> Written:
    def write(path: Path) -> None:
        tifffile.imwrite(path, pixels, **options)

    return Written(f"{name}.tif", write, np.atleast_3d(pixels if shown is None else shown), tolerance)


def _ycbcr(rgb: Any) -> Any:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]


def _tiffs() -> Iterator[Written]:
    for codec in (
        "none",
        "lzw",
        "deflate",
        "adobe_deflate",
        "packbits",
        "zstd",
        "lzma",
        "lerc",
        "png",
        "jpegxl",
    ):
        yield _tiff(f"grey-{codec}", GREY, compression=codec)
        if codec not in ("packbits", "lerc"):
            yield _tiff(f"rgb-{codec}-tiled", RGB, compression=codec, tile=(16, 32), photometric="rgb")
    for codec in ("jpeg2000", "webp", "jpegxr"):
        lossless = {"lossless": True} if codec == "webp" else {"level": 0} if codec == "jpeg2000" else {}
        yield _tiff(f"rgb-{codec}", RGB, compression=codec, photometric="rgb", compressionargs=lossless,
                    tolerance=0 if lossless else 8)  # fmt: skip
    for subsampling in ((1, 1), (2, 2), (2, 1)):
        options = {"compression": "jpeg", "photometric": "rgb", "subsampling": subsampling, "tile": (32, 32)}
        yield _tiff(f"rgb-jpeg-{subsampling[0]}{subsampling[1]}", SMOOTH, tolerance=10, **options)
    yield _tiff("grey-jpeg", SMOOTH[..., 0], compression="jpeg", tolerance=4)
    yield _tiff("ycbcr-jpeg", _ycbcr(SMOOTH), SMOOTH, 8, compression="jpeg", photometric="ycbcr")
    for order in "<>":
        name = "little" if order == "<" else "big"
        yield _tiff(f"grey16-{name}", GREY16, byteorder=order)
        yield _tiff(f"float-{name}", FLOATS, byteorder=order, compression="zlib", predictor=3)
    yield _tiff("grey16-predictor", GREY16, compression="lzw", predictor=2, rowsperstrip=7)
    yield _tiff("big", GREY16, bigtiff=True)
    yield _tiff("planar", np.moveaxis(RGB, -1, 0), RGB, photometric="rgb", planarconfig="separate")
    yield _tiff("planar-tiled", np.moveaxis(RGB, -1, 0), RGB, photometric="rgb", planarconfig="separate",
                tile=(16, 16), compression="zlib")  # fmt: skip
    for bits in (2, 4, 10, 12, 14):
        values = (GREY16 >> (16 - bits)).astype(np.uint8 if bits <= 8 else np.uint16)
        yield _tiff(f"grey-{bits}-bits", values, bitspersample=bits)
    yield _tiff("bool", GREY > 99, (GREY > 99) * np.uint8(255))
    yield _tiff("int16", GREY.astype(np.int16) - 100, GREY.astype(np.float32) - 100)
    yield _tiff("uint32", GREY.astype(np.uint32) * 256, GREY.astype(np.uint16) * 256)
    yield _tiff("float16", GREY.astype(np.float16), GREY.astype(np.float32))
    yield _tiff("float64", GREY.astype(np.float64) / 8, GREY.astype(np.float32) / 8)
    yield _tiff("min-is-white", GREY, 255 - GREY, photometric="miniswhite")
    yield _tiff("min-is-white-16", GREY16, 65535 - GREY16, photometric="miniswhite", compression="zlib")
    yield _tiff(
        "min-is-white-12", GREY16 >> 4, 4095 - (GREY16 >> 4), photometric="miniswhite", bitspersample=12
    )
    palette = _RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    coloured = np.moveaxis(palette[:, GREY], 0, -1).astype(np.uint8)
    yield _tiff("palette", GREY, coloured, photometric="palette", colormap=palette * 257)
    yield _tiff("palette-8", GREY, coloured, photometric="palette", colormap=palette)
    inks = np.dstack([RGB, np.zeros_like(GREY)])
    yield _tiff("cmyk", inks, 255 - RGB, photometric="separated", tolerance=1)
    yield _tiff("ycbcr", _ycbcr(RGB), RGB, photometric="ycbcr", tolerance=3,
                extratags=[(530, 3, 2, (1, 1), True)])  # fmt: skip
    yield _tiff("ycbcr-lzw", _ycbcr(RGB), RGB, photometric="ycbcr", compression="lzw", tolerance=3,
                extratags=[(530, 3, 2, (1, 1), True)])  # fmt: skip
    aperio = {"compression": 33003, "compressionargs": {"level": 0, "mct": False}, "tile": (16, 16)}
    yield _tiff("aperio-33003", _ycbcr(RGB), RGB, 3, photometric="rgb", **aperio)
    yield _tiff("rgba", np.dstack([RGB, GREY]), RGB, photometric="rgb", extrasamples=["unassalpha"])
    yield _tiff("grey-and-alpha", np.dstack([GREY, GREY // 2]), GREY, photometric="minisblack",
                planarconfig="contig", extrasamples=["unassalpha"])  # fmt: skip
    four = np.dstack([GREY, GREY // 2, GREY // 3, GREY // 4])
    yield _tiff("four-channels", four, photometric="minisblack", planarconfig="contig")
    yield _tiff("two-channels", four[..., :2], photometric="minisblack", planarconfig="contig")
    yield _tiff("ome-channels", np.moveaxis(four, -1, 0), four, ome=True, metadata={"axes": "CYX"})
    yield _tiff("imagej-channels", np.moveaxis(four, -1, 0)[:, np.newaxis][:, 0], four, imagej=True,
                metadata={"axes": "CYX"})  # fmt: skip
    for orientation, shown in ((3, GREY[::-1, ::-1]), (6, np.rot90(GREY, -1)), (8, np.rot90(GREY, 1))):
        yield _tiff(f"orientation-{orientation}", GREY, shown, extratags=[(274, 3, 1, orientation, True)])


def _pillow(name: str, image: Any, shown: Any, tolerance: float = 0.0, **options: Any) -> Written:
    return Written(name, lambda path: image.save(path, **options), np.atleast_3d(shown), tolerance)


def _others() -> Iterator[Written]:
    rgb, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x112] = 6
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield _pillow(f"pillow-{compression}.tif", rgb, RGB, compression=compression)
    yield _pillow("pillow-fax4.tif", grey.point(lambda v: 255 * (v > 99)).convert("1", dither=0),
                  (GREY > 99) * np.uint8(255), compression="group4")  # fmt: skip
    yield _pillow("pillow-lab.tif", Image.fromarray(SMOOTH).convert("LAB"), SMOOTH, 6)
    yield _pillow("pillow-ycbcr.tif", Image.fromarray(SMOOTH).convert("YCbCr"), SMOOTH, 4)
    yield _pillow("pillow-cmyk.tif", rgb.convert("CMYK"), RGB, 1)
    quantised = rgb.quantize(16)
    yield _pillow("pillow-palette.tif", quantised, np.asarray(quantised.convert("RGB")))
    yield _pillow("pillow-palette.png", quantised, np.asarray(quantised.convert("RGB")))
    yield _pillow("pillow.png", rgb, RGB)
    yield _pillow("pillow-16.png", Image.fromarray(GREY16), GREY16)
    yield _pillow("pillow-alpha.png", Image.fromarray(np.dstack([RGB, GREY])), RGB)
    yield _pillow("pillow-1.png", grey.point(lambda v: 255 * (v > 99)).convert("1", dither=0),
                  (GREY > 99) * np.uint8(255))  # fmt: skip
    yield _pillow("pillow-exif.png", rgb, np.rot90(RGB, -1), exif=exif)
    smooth = Image.fromarray(SMOOTH)
    yield _pillow("pillow.jpg", smooth, SMOOTH, 6, quality=95)
    yield _pillow("pillow-exif.jpg", smooth, np.rot90(SMOOTH, -1), 6, quality=95, exif=exif)
    yield _pillow("pillow-progressive.jpg", smooth, SMOOTH, 6, quality=95, progressive=True)
    yield _pillow("pillow-grey.jpg", Image.fromarray(SMOOTH[..., 0]), SMOOTH[..., 0], 4, quality=95)
    yield _pillow("pillow-cmyk.jpg", smooth.convert("CMYK"), SMOOTH, 8, quality=98)
    yield Written("opencv.png", lambda path: cv2.imwrite(str(path), RGB[..., ::-1]), RGB)
    yield Written("opencv.tif", lambda path: cv2.imwrite(str(path), RGB[..., ::-1]), RGB)
    yield Written("opencv-16.tif", lambda path: cv2.imwrite(str(path), GREY16), GREY16[..., np.newaxis])
    yield Written("opencv.jpg", lambda path: cv2.imwrite(str(path), SMOOTH[..., ::-1]), SMOOTH, 8)
    yield Written("imagecodecs.png", lambda path: path.write_bytes(imagecodecs.png_encode(RGB)), RGB)
    for version in ("0.1", "0.2", "0.3", "0.4", "0.5"):
        yield _zarr(version)


def _zarr(version: str) -> Written:
    pixels = np.moveaxis(RGB, -1, 0)[np.newaxis, :, np.newaxis]  # t, c, z, y, x

    def write(path: Path) -> None:
        group = zarr.create_group(path, zarr_format=3 if version == "0.5" else 2)
        group.create_array("0", shape=pixels.shape, dtype=np.uint8, chunks=(1, 1, 1, 32, 32))[...] = pixels
        image: dict[str, Any] = {"version": version, "datasets": [{"path": "0"}]}
        if version == "0.3":
            image["axes"] = list("tczyx")
        if version in ("0.4", "0.5"):
            kinds = {"t": "time", "c": "channel"}
            image["axes"] = [{"name": axis, "type": kinds.get(axis, "space")} for axis in "tczyx"]
            scale = [{"type": "scale", "scale": [1.0] * 5}]
            image["datasets"][0]["coordinateTransformations"] = scale
        group.attrs.update({"ome": {"version": version, "multiscales": [image]}} if version == "0.5" else
                           {"multiscales": [image]})  # fmt: skip

    return Written(f"ome-{version}.ome.zarr", write, RGB)


FILES = {written.name: written for written in (*_tiffs(), *_others())}
