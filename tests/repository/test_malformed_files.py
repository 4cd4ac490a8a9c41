"""A folder of bad and odd images: each is indexed or reported with its reason, and none stops the others."""

import os
import re
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from napari_cmrir.repository.repository import open_repository

NOISE = gaussian_filter(np.random.default_rng(0).normal(size=(72, 80)), 2)
GREY = np.clip(128 + 500 * NOISE, 0, 255).astype(np.uint8)
RGB = np.dstack([GREY, GREY, GREY])  # grey in three channels is taken by a model of one


def _tiff(pixels, **options):
    return lambda path: tifffile.imwrite(path, pixels, **options)


def _cut(keep, **options):
    def write(path):
        tifffile.imwrite(path, GREY, **options)
        path.write_bytes(path.read_bytes()[:keep])

    return write


def _of_twelve_bits(path):
    first, second = (GREY.astype(np.uint16).ravel()[start::2] << 4 for start in (0, 1))
    triples = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    packed = triples.astype(np.uint8).tobytes()
    plain = {254: 0, 256: 80, 257: 72, 258: 12, 259: 1, 262: 1, 273: 0, 277: 1, 278: 72, 279: len(packed)}
    entries = sorted(plain.items())
    plain[273] = 8 + 2 + 12 * len(entries) + 4
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, plain[tag]) for tag, _ in entries)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + packed)


def _of_unknown_compression(path):
    tifffile.imwrite(path, GREY, metadata=None)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HH", 259, 3))
    data[at + 8 : at + 10] = struct.pack("<H", 34676)  # SGI's logarithmic: nobody's
    path.write_bytes(data)


def _png_of_no_size(path):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 0, 0, 8, 0, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _tiff_of_no_size(path):
    tifffile.imwrite(path, GREY, metadata=None)
    data = bytearray(path.read_bytes())
    for tag in (256, 257):
        at = data.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in data else None
        at = at if at is not None else data.index(struct.pack("<HH", tag, 3))
        data[at + 8 : at + 12] = bytes(4)
    path.write_bytes(data)


def _with(value):
    pixels = GREY.astype(np.float32)
    pixels[10:30, 20:60] = value
    return _tiff(pixels)


def _loop_of_files(path):
    path.symlink_to(path.name)


def _loop_of_folders(path):
    path.mkdir()
    (path / "again").symlink_to(path, target_is_directory=True)


def _broken_zarr(path):
    path.mkdir()
    (path / "zarr.json").write_text("{")


INDEXED = {
    "plain.tif": _tiff(GREY),
    "one bit.tif": _tiff(GREY > 128, photometric="minisblack"),
    "one bit.png": lambda path: Image.fromarray(GREY > 128).save(path),
    "fax.tif": lambda path: Image.fromarray(GREY > 128).save(path, compression="group4"),
    "16 bits.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path),
    "twelve bits.tif": _of_twelve_bits,
    "32 bits.tif": _tiff(GREY.astype(np.uint32)),
    "32 bits signed.tif": _tiff(GREY.astype(np.int32) - 100),
    "64 bits.tif": _tiff(GREY.astype(np.float64)),
    "not a number.tif": _with(np.nan),
    "infinite.tif": _with(np.inf),
    "cmyk.tif": _tiff(np.dstack([RGB * 0, 255 - GREY]), photometric="separated"),
    "cmyk.jpg": lambda path: Image.fromarray(np.dstack([RGB * 0, 255 - GREY]), mode="CMYK").save(path),
    "palette.png": lambda path: Image.fromarray(RGB).quantize(64).save(path),
    "palette.tif": _tiff(
        GREY, photometric="palette", colormap=np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    ),
    "alpha.tif": _tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=["unassalpha"]),
    "Gewebe Ünïcode 組織 🔬.tif": _tiff(GREY),
    "two\nlines.tif": _tiff(GREY),
    " spaces  .tif": _tiff(GREY),
    "-o.tif": _tiff(GREY),
    "%s {0} $HOME 'quoted' \"twice\".tif": _tiff(GREY),
    "called.png": _tiff(GREY),  # a TIFF: the content counts
}

REPORTED = {
    "nothing.tif": (lambda path: path.write_bytes(b""), "the file is empty"),
    "zeros.tif": (lambda path: path.write_bytes(bytes(4096)), "its content is of another kind"),
    "text.tif": (lambda path: path.write_text("This is a text."), "its content is of another kind"),
    "cut in the header.tif": (_cut(9), "not an image that can be read"),
    "cut in the pixels.tif": (_cut(3000), "not an image that can be read"),
    "cut compressed.tif": (_cut(1500, compression="zlib"), "not an image that can be read"),
    "cut.jpg": (lambda path: path.write_bytes(imagecodecs.jpeg_encode(GREY)[:900]), "cut off"),
    "cut.png": (lambda path: path.write_bytes(imagecodecs.png_encode(GREY)[:900]), "not an image that"),
    "one pixel.tif": (_tiff(GREY[:1, :1]), "a line of 1 x 1 px"),
    "line.tif": (_tiff(np.zeros((60000, 1), np.uint8)), "a line of 60000 x 1 px"),
    "lying line.tif": (_tiff(np.zeros((1, 60000), np.uint8)), "a line of 1 x 60000 px"),
    "no size.png": (_png_of_no_size, "not an image that can be read"),
    "no size.tif": (_tiff_of_no_size, "empty|not an image that can be read"),
    "compression.tif": (_of_unknown_compression, "34676|COMPRESSION"),
    "only not a number.tif": (_tiff(np.full((72, 80), np.nan, np.float32)), "blank"),
    "complex.tif": (_tiff(GREY.astype(np.complex64)), "complex64"),
    "black.tif": (_tiff(np.zeros((72, 80), np.uint8)), "blank"),
    "loop.tif": (_loop_of_files, "Too many levels of symbolic links|Symlink loop"),
    "gone.tif": (lambda path: path.symlink_to("nowhere"), "No such file"),
    "colours.tif": (_tiff(np.dstack([GREY, GREY // 2, GREY // 3])), "3 channels"),
    "broken.ome.zarr": (_broken_zarr, "not an image that can be read"),
    "empty.zarr": (lambda path: path.mkdir(), "not an image that can be read"),
    "pipe.tif": (os.mkfifo, "no regular file") if hasattr(os, "mkfifo") else (_cut(0), "empty"),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory, model, index):
    if os.name == "nt":
        pytest.skip("Windows allows neither these names nor links")
    folder = tmp_path_factory.mktemp("bestiary")
    images = folder / "images"
    images.mkdir()
    for name, write in INDEXED.items():
        write(images / name)
    for name, (write, _) in REPORTED.items():
        write(images / name)
    _loop_of_folders(images / "looping")
    index([images], model, folder / "a.cmrir", modality="BF")
    return open_repository(folder / "a.cmrir")


@pytest.mark.parametrize("name", INDEXED)
def test_odd_but_sound_images_are_indexed(repository, name):
    assert name in [repository.image_name(field) for field in range(len(repository))]


@pytest.mark.parametrize("name", REPORTED)
def test_bad_images_are_reported_with_their_reason(repository, name):
    reasons = {path.rsplit("/", 1)[-1]: reason for path, reason in repository.failures.items()}
    assert re.search(REPORTED[name][1], reasons[name]), reasons[name]
    assert "\n" not in reasons[name].replace(name, "")


def test_nothing_else_is_indexed_or_reported(repository):
    assert len(repository) == len(INDEXED)
    assert len(repository.failures) == len(REPORTED)
    assert repository.verify() == []
