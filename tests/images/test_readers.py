from __future__ import annotations

import os

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.images.readers import find_images, image_stem, images_in, natural_order, read_image


@pytest.fixture
def rgb():
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:, :8, 0], pixels[:, 8:16, 1], pixels[:, 16:, 2] = 250, 200, 150  # red, green, blue stripes
    return pixels


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 2**16, (17, 23)).astype(np.uint16)


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.ome.tif", "a.png"])
def test_rgb_comes_back_in_rgb_order(tmp_path, rgb, name):
    path = tmp_path / name
    if name.endswith("png"):
        cv2.imwrite(str(path), rgb[..., ::-1])
    else:
        tifffile.imwrite(path, rgb, photometric="rgb")
    np.testing.assert_array_equal(read_image(path), rgb)


def test_jpeg_colours_are_red_green_blue(tmp_path, rgb):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    pixels = read_image(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, rgb.shape)
    stripes = [pixels[:, at].mean(axis=0) for at in (3, 12, 20)]
    np.testing.assert_allclose(stripes, [[250, 0, 0], [0, 200, 0], [0, 0, 150]], atol=12)


def test_grey_jpeg_has_one_channel(tmp_path, rgb):
    cv2.imwrite(str(tmp_path / "a.jpeg"), rgb[..., 0])
    assert read_image(tmp_path / "a.jpeg").shape == (16, 24, 1)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_sixteen_bit_grey_is_kept(tmp_path, grey, name):
    path = tmp_path / name
    tifffile.imwrite(path, grey) if name.endswith("tif") else cv2.imwrite(str(path), grey)
    pixels = read_image(path)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[..., 0], grey)


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "jpeg2000"])
def test_compressed_tiff(tmp_path, grey, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, grey, compression=compression, tile=(16, 16))
    np.testing.assert_array_equal(read_image(path)[..., 0], grey)


def test_planar_rgb_tiff(tmp_path, rgb):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.moveaxis(rgb, -1, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(path), rgb)


def test_alpha_is_dropped(tmp_path, rgb, grey):
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(rgba))
    (tmp_path / "grey.png").write_bytes(imagecodecs.png_encode(np.dstack([grey, grey // 2])))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), grey[..., np.newaxis])


def test_palette_tiff_becomes_rgb(tmp_path):
    index = np.array([[0, 1], [2, 1]], np.uint8)
    colormap = np.zeros((3, 256), np.uint16)
    colormap[:, 1], colormap[:, 2] = (0xFF00, 0, 0), (0, 0x8000, 0x4000)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colormap)
    red, green = [255, 0, 0], [0, 128, 64]
    assert read_image(tmp_path / "a.tif").tolist() == [[[0, 0, 0], red], [green, red]]


def test_white_is_zero_is_inverted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 255], [5, 9]], np.uint8), photometric="miniswhite")
    assert read_image(tmp_path / "a.tif")[..., 0].tolist() == [[255, 0], [250, 246]]


def test_cmyk_tiff_becomes_rgb(tmp_path):
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0]], [[0, 255, 255, 0], [0, 0, 0, 255]]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", cmyk, photometric="separated")
    assert read_image(tmp_path / "a.tif").tolist() == [
        [[255, 255, 255], [0, 255, 255]],
        [[255, 0, 0], [0, 0, 0]],
    ]


def test_grey_stack_is_projected_and_rgb_stack_gives_its_first_plane(tmp_path, rgb):
    stack = np.random.default_rng(1).integers(0, 99, (5, 8, 9)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "z.ome.tif", stack, metadata={"axes": "ZYX"}, photometric="minisblack")
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([rgb, rgb // 2]), photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "z.ome.tif")[..., 0], stack.max(axis=0))
    np.testing.assert_array_equal(read_image(tmp_path / "rgb.tif"), rgb)


def test_ome_channels_become_the_last_axis(tmp_path):
    stack = np.random.default_rng(1).integers(0, 99, (3, 2, 8, 9)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "ZCYX"}, photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "a.ome.tif"), np.moveaxis(stack.max(axis=0), 0, -1))


def test_the_largest_series_is_read(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(np.zeros((4, 4), np.uint8))
        tiff.write(np.full((8, 8), 3, np.uint8))
    assert read_image(tmp_path / "a.tif").shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([[0, 1], [2, 300]], np.int16, np.uint16),
        ([[0, -1], [2, 300]], np.int16, np.float32),
        ([[0, 1], [2, 65535]], np.uint32, np.uint16),
        ([[0, 1], [2, 65536]], np.uint32, np.float32),
        ([[0, 1], [2, 100]], np.int8, np.uint8),
        ([[0, 0.5], [2, np.nan]], np.float64, np.float32),
        ([[0, 0.5], [2, np.inf]], np.float16, np.float32),
    ],
)
def test_other_types_keep_their_values(tmp_path, values, dtype, expected):
    tifffile.imwrite(tmp_path / "a.tif", np.array(values, dtype))
    pixels = read_image(tmp_path / "a.tif")
    assert pixels.dtype == expected
    np.testing.assert_array_equal(pixels[..., 0], np.array(values, dtype))


def test_black_and_white_becomes_0_and_255(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[True, False], [False, True]]))
    pixels = read_image(tmp_path / "a.tif")
    assert pixels.dtype == np.uint8
    assert pixels[..., 0].tolist() == [[255, 0], [0, 255]]


def test_the_content_tells_the_format(tmp_path, rgb):
    cv2.imwrite(str(tmp_path / "a.png"), rgb[..., ::-1])
    (tmp_path / "a.png").rename(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)


def _cut_off(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.6])
def test_a_damaged_file_is_named(tmp_path, name, keep):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    tifffile.imwrite(path, noise) if name.endswith("tif") else cv2.imwrite(str(path), noise)
    _cut_off(path, keep)
    with pytest.raises(InputError, match="not an image that can be read") as error:
        read_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    tifffile.imwrite(tmp_path / "line.tif", np.zeros((1, 9), np.uint8))
    tifffile.imwrite(tmp_path / "complex.tif", np.zeros((9, 9), np.complex64))
    for name, reason in [
        ("missing.tif", "does not exist"),
        ("notes.txt", "TIFF, PNG or JPEG"),
        (".", "is a folder"),
        ("line.tif", "line of 1 x 9 px"),
        ("complex.tif", "complex64"),
    ]:
        with pytest.raises(InputError, match=reason) as error:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _names(folder, images):
    return [image.relative_to(folder).as_posix() for image in images]


def test_folders_are_searched_in_natural_order_without_hidden_files_and_repositories(tmp_path):
    _touch(tmp_path, "b10.tif", "b9.TIF", "sub/c.jpeg", "a.ome.tiff", "notes.txt")
    _touch(tmp_path, ".hidden.tif", ".cache/x.tif", "found.cmrir/y.png", "sub/.DS_Store")
    assert _names(tmp_path, find_images([tmp_path])) == ["a.ome.tiff", "b9.TIF", "b10.tif", "sub/c.jpeg"]


def test_a_modality_selects_within_each_folder(tmp_path):
    _touch(tmp_path, "one/a_BF.tif", "one/a_SHG.tif", "one/b_bf.tif", "two/a.tif", "three/a_bf.png")
    _touch(tmp_path, "three/a_shg.png", "three/xBF.png")
    assert _names(tmp_path, find_images([tmp_path / "one"], "BF")) == ["one/a_BF.tif"]
    assert _names(tmp_path, find_images([tmp_path / "two"], "BF")) == ["two/a.tif"]
    assert _names(tmp_path, find_images([tmp_path / "three"], "BF")) == ["three/a_bf.png"]


def test_files_are_listed_once_in_the_given_order(tmp_path):
    _touch(tmp_path, "a_SHG.tif", "notes.txt")
    paths = [
        tmp_path / "notes.txt",
        tmp_path / "a_SHG.tif",
        tmp_path,
        os.path.relpath(tmp_path / "notes.txt"),
    ]
    assert _names(tmp_path, find_images(paths, "BF")) == ["notes.txt", "a_SHG.tif"]


def test_folders_without_images_are_named(tmp_path):
    _touch(tmp_path, "empty/notes.txt", "found.cmrir/a.tif", "file.tif")
    for name, reason in [
        ("empty", "holds no image"),
        ("found.cmrir", "is a repository"),
        ("missing", "does not exist"),
    ]:
        with pytest.raises(InputError, match=reason) as error:
            find_images([tmp_path / name])
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(InputError, match="not a folder"):
        images_in(tmp_path / "file.tif")


def test_names():
    assert image_stem("x/1B.2_BF.OME.TIFF") == "1B.2_BF"
    assert image_stem("slide.v2.svs") == "slide.v2"
    assert sorted(["a1/b", "a01/b", "a1/B", "1", "a"], key=natural_order) == [
        "1",
        "a",
        "a01/b",
        "a1/B",
        "a1/b",
    ]
