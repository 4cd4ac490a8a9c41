"""JPEG data that are cut off or damaged are refused; whole ones of every kind are read."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_cmrir.errors import InputError
from napari_cmrir.images.formats.png_jpeg import require_whole
from napari_cmrir.images.readers import read_image

NOISE = np.clip(np.random.default_rng(1).normal(128, 50, (90, 110, 3)), 0, 255).astype(np.uint8)


def _jpeg(pixels, **options):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", **options)
    return content.getvalue()


def _with_thumbnail(quality=95):
    exif = Image.Exif()
    exif[0x110] = "camera"
    thumbnail = _jpeg(NOISE[:32, :40])
    return _jpeg(NOISE, quality=quality, exif=exif.tobytes() + thumbnail)


KINDS = [*itertools.product((0, 1, 2), (False, True), ({}, {"optimize": True}))]


@pytest.mark.parametrize(
    ("subsampling", "progressive", "more"), [*KINDS, (2, False, {"restart_marker_rows": 1})]
)
def test_whole_data_pass_and_half_of_them_do_not(subsampling, progressive, more):
    for pixels, quality in ((NOISE, 30), (NOISE[..., 0], 90)):
        whole = _jpeg(pixels, subsampling=subsampling, progressive=progressive, quality=quality, **more)
        require_whole(whole)
        require_whole(whole + b"a trailer")
        for share in (0.3, 0.6, 0.95):
            with pytest.raises(ValueError, match="cut off"):
                require_whole(whole[: int(share * len(whole))])


def test_a_file_cut_behind_its_thumbnail_is_refused(tmp_path):
    whole = _with_thumbnail()
    assert whole.count(b"\xff\xd9") > 1
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_image(tmp_path / "whole.jpg").shape == NOISE.shape
    for share in (0.4, 0.5, 0.9):
        (tmp_path / "cut.jpg").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=r"cut\.jpg.*cut off"):
            read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("filler", [b"\0", b"\x55", b"\xff\x00"])
def test_damaged_data_are_refused(tmp_path, filler):
    whole = bytearray(_jpeg(NOISE, quality=95))
    middle = len(whole) // 2
    whole[middle : middle + 1500] = (filler * 1500)[:1500]
    (tmp_path / "a.jpg").write_bytes(whole)
    with pytest.raises(InputError, match=r"a\.jpg.*damaged"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("options", [{"tile": (32, 32)}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("pixels", [NOISE, NOISE[..., 0]])
def test_a_damaged_tile_or_strip_of_a_tiff_is_refused(tmp_path, options, pixels):
    path = tmp_path / "a.tif"
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(path, pixels, photometric=photometric, compression="jpeg", **options)
    assert read_image(path).squeeze().shape == pixels.shape
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[0].dataoffsets[3], tiff.pages[0].databytecounts[3]
    data = bytearray(path.read_bytes())
    data[start + count // 2 : start + count] = bytes(count - count // 2)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.tif.*tile or strip 3 is damaged"):
        read_image(path)
