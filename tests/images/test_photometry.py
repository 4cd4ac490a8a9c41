"""Every photometric interpretation, bit depth and orientation, against values computed by hand."""

from __future__ import annotations

import io
from contextlib import closing

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_cmrir.errors import InputError
from napari_cmrir.images.formats.tiff import rgb_from_lab, rgb_from_ycbcr
from napari_cmrir.images.readers import open_image, read_image
from napari_cmrir.settings import ReadingSettings

GREY = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], np.uint8)
PALETTE_16 = np.zeros((3, 256), np.uint16)
PALETTE_16[:, 3], PALETTE_16[:, 4] = (0xFF00, 0x8000, 0), (0, 0, 0x4000)
GREEN = np.zeros((3, 256), np.uint16)
GREEN[1] = np.arange(256) * 257


@pytest.mark.parametrize(
    ("dtype", "bits", "highest"),
    [
        (np.uint8, 8, 255),
        (np.uint16, 16, 65535),
        (np.uint16, 12, 4095),
        (np.uint16, 10, 1023),
        (np.uint8, 4, 15),
    ],
)
def test_min_is_white_is_inverted_at_its_bits(tmp_path, dtype, bits, highest):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY.astype(dtype), photometric="miniswhite", bitspersample=bits)
    assert read_image(path)[..., 0].tolist() == (highest - GREY.astype(int)).tolist()
    with closing(open_image(path)) as image:
        assert image.bits == bits


def test_min_is_white_of_one_bit_is_inverted_except_in_masks_of_tifffile(tmp_path):
    mask = GREY > 5
    tifffile.imwrite(tmp_path / "mask.tif", mask)  # tagged min-is-white, but True is 1
    tifffile.imwrite(tmp_path / "scan.tif", mask, photometric="miniswhite", software="a scanner")
    assert read_image(tmp_path / "mask.tif")[..., 0].tolist() == (mask * 255).tolist()
    assert read_image(tmp_path / "scan.tif")[..., 0].tolist() == (~mask * 255).tolist()


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    ("n_samples", "extra", "expected"),
    [
        (2, None, 2),
        (2, ["unspecified"], 2),
        (2, ["unassalpha"], 1),
        (4, None, 4),
        (4, ["unspecified", "unspecified", "assocalpha"], 3),
        (5, None, 5),
    ],
)
def test_samples_of_grey_files_are_channels_unless_tagged_as_opacity(
    tmp_path, n_samples, extra, expected, planar
):
    pixels = np.random.default_rng(0).integers(0, 4096, (6, 7, n_samples), dtype=np.uint16)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, -1, 0)
    options = {} if extra is None else {"extrasamples": extra}
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels[..., :expected])
    if expected > 3:
        chosen = read_image(tmp_path / "a.tif", ReadingSettings(channels=(3,)))
        np.testing.assert_array_equal(chosen[..., 0], pixels[..., 3])


@pytest.mark.parametrize(("extra", "expected"), [("unassalpha", 3), ("assocalpha", 3), ("unspecified", 4)])
def test_a_fourth_sample_of_rgb_is_opacity_where_it_is_tagged_so(tmp_path, extra, expected):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[extra])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels[..., :expected])


def test_ome_channels_of_several_samples_are_all_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (3, 6, 7, 2), dtype=np.uint16)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, pixels, metadata={"axes": "CYXS"}, photometric="minisblack", planarconfig="contig")
    expected = pixels.transpose(1, 2, 0, 3).reshape(6, 7, 6)
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize(
    ("colormap", "imagej", "expected"),
    [
        (PALETTE_16, False, [[[255, 128, 0], [0, 0, 64]]]),
        (PALETTE_16 >> 8, False, [[[255, 128, 0], [0, 0, 64]]]),  # entries of 8 bits
        (GREEN, False, [[[0, 3, 0], [0, 4, 0]]]),
        (GREEN, True, [[[3], [4]]]),  # ImageJ colours a grey image
        (np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1)), False, [[[3], [4]]]),
        (PALETTE_16, True, [[[255, 128, 0], [0, 0, 64]]]),  # ImageJ's 8-bit colour
    ],
)
def test_palettes(tmp_path, colormap, imagej, expected):
    index = np.full((2, 2), [3, 4], np.uint8)
    options = {"description": "ImageJ=1.53t\n", "metadata": None} if imagej else {}
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colormap, **options)
    assert read_image(tmp_path / "a.tif")[:1].tolist() == expected


def test_cmyk_with_opacity_is_rgb_and_other_inks_are_channels(tmp_path):
    inks = np.array(
        [[[0, 0, 0, 0, 7], [255, 0, 0, 0, 7]], [[0, 255, 255, 0, 7], [0, 0, 0, 255, 7]]], np.uint8
    )
    options = {"photometric": "separated", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "cmyka.tif", inks, extrasamples=["unassalpha"], **options)
    tifffile.imwrite(tmp_path / "inks.tif", inks[..., :4], extratags=[(332, 3, 1, 2, True)], **options)
    rgb = [[[255, 255, 255], [0, 255, 255]], [[255, 0, 0], [0, 0, 0]]]
    assert read_image(tmp_path / "cmyka.tif").tolist() == rgb
    assert read_image(tmp_path / "inks.tif").tolist() == inks[..., :4].tolist()


RGB = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [90, 120, 200]]], np.uint8
)
YCC = np.array(  # ITU-R BT.601 of the full range, rounded
    [
        [[76, 85, 255], [150, 44, 21], [29, 255, 107]],
        [[255, 128, 128], [0, 128, 128], [120, 173, 107]],
    ],
    np.uint8,
)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "zstd", "jpeg2000"])
def test_ycbcr_outside_jpeg_becomes_rgb(tmp_path, compression):
    big = YCC.repeat(16, 0).repeat(16, 1)
    options = {} if compression != "jpeg2000" else {"compressionargs": {"level": 0, "mct": False}}
    tifffile.imwrite(
        tmp_path / "a.tif", big, photometric="ycbcr", compression=compression,
        extratags=[(530, 3, 2, (1, 1), True)], **options,
    )  # fmt: skip
    read = read_image(tmp_path / "a.tif")[::16, ::16]
    assert np.abs(read.astype(int) - RGB).max() <= 2


def test_ycbcr_of_the_range_of_video_and_of_16_bits():
    stored = np.array([[[235, 128, 128], [16, 128, 128]]], np.uint8)
    assert rgb_from_ycbcr(stored, None, (16, 235, 128, 240, 128, 240)).tolist() == [[[255] * 3, [0] * 3]]
    wide = rgb_from_ycbcr(np.array([[[65535, 32768, 32768]]], np.uint16))
    assert wide.tolist() == [[[65535] * 3]]


@pytest.mark.parametrize("name", ["Aperio's", "tagged"])
def test_aperios_jpeg_2000_of_ycbcr(tmp_path, name):
    big = YCC.repeat(32, 0).repeat(32, 1)
    photometric = "rgb" if name == "Aperio's" else "ycbcr"
    tifffile.imwrite(
        tmp_path / "a.tif", big, photometric=photometric, compression=33003, tile=(32, 32),
        compressionargs={"level": 0, "mct": False},
    )  # fmt: skip
    assert np.abs(read_image(tmp_path / "a.tif")[::32, ::32].astype(int) - RGB).max() <= 2
    options = {"photometric": "rgb", "compression": 33005, "compressionargs": {"level": 0}}
    tifffile.imwrite(tmp_path / "b.tif", RGB.repeat(32, 0).repeat(32, 1), tile=(32, 32), **options)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[::32, ::32], RGB)


def test_lab_becomes_srgb(tmp_path):
    Image.fromarray(RGB.repeat(8, 0).repeat(8, 1)).convert("LAB").save(tmp_path / "a.tif")
    read = read_image(tmp_path / "a.tif")[::8, ::8].astype(int)
    assert np.abs(read - RGB).max() <= 10  # a step of a* is 10 of red in a saturated green
    # L* 53.585, a* 0, b* 0 is sRGB 128; ICC's encoding is offset by 128; 16 bits hold the same
    for stored, signed, tolerance in [
        (np.array([[[137, 0, 0]]], np.uint8), True, 1),
        (np.array([[[137, 128, 128]]], np.uint8), False, 1),
    ]:
        assert np.abs(rgb_from_lab(stored, signed=signed).astype(int) - 128).max() <= tolerance
    sixteen = rgb_from_lab(np.array([[[35118, 0, 0]]], np.uint16))
    assert np.abs(sixteen.astype(int) - 128 * 257).max() <= 100


def test_what_is_not_converted_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True)])
    with pytest.raises(InputError, match=r"a\.tif.*colour filter array"):
        read_image(tmp_path / "a.tif")


UPRIGHT = {
    1: GREY,
    2: GREY[:, ::-1],
    3: GREY[::-1, ::-1],
    4: GREY[::-1],
    5: GREY.T,
    6: np.rot90(GREY, -1),
    7: GREY[::-1, ::-1].T,
    8: np.rot90(GREY, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_to_tiff_png_and_jpeg(tmp_path, orientation):
    expected = UPRIGHT[orientation]
    options = {"resolution": (1e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", GREY, extratags=[(274, 3, 1, orientation, True)], **options)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(GREY).save(tmp_path / "a.png", exif=exif)
    big = Image.fromarray(GREY.repeat(16, 0).repeat(16, 1) * 20)
    big.save(tmp_path / "a.jpg", exif=exif, quality=95)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], expected)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], expected)
    turned = read_image(tmp_path / "a.jpg")[8::16, 8::16, 0]
    assert np.abs(turned.astype(int) - expected.astype(int) * 20).max() <= 4
    with closing(open_image(tmp_path / "a.tif")) as image:
        assert ("orientation tag" in image.reading_note) == (orientation != 1)
        assert image.pixel_sides == pytest.approx((1.0, 0.5) if orientation >= 5 else (0.5, 1.0))
        height, width = expected.shape
        part = image[1 : height - 1, 2:width]
    np.testing.assert_array_equal(part[..., 0], expected[1 : height - 1, 2:width])


def test_jpeg_of_four_inks(tmp_path):
    inks = Image.fromarray(np.full((16, 16, 3), (200, 40, 90), np.uint8)).convert("CMYK")
    inks.save(tmp_path / "a.jpg", quality=95)
    data = io.BytesIO((tmp_path / "a.jpg").read_bytes())
    expected = np.asarray(Image.open(data).convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - expected).max() <= 4
