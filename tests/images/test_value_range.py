"""Ranges of values, and images brought from one to another."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.images.lazy_image import lazy_array
from napari_cmrir.images.readers import open_image
from napari_cmrir.images.series import at_pixel_size
from napari_cmrir.images.value_range import (
    ValueRange,
    at_full_scale,
    range_of_intensity,
    range_of_pixels,
    squared,
)

BYTES = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
BYTES[0, 0] = 255
EIGHT, SIXTEEN, GUESS = ValueRange(255.0), ValueRange(65535.0), ValueRange(65535.0, False)


@pytest.mark.parametrize(
    ("pixels", "wanted", "expected", "is_doubtful"),
    [
        (BYTES, EIGHT, BYTES, False),
        (BYTES.astype(np.uint16) * 257, EIGHT, BYTES, False),
        (BYTES.astype(np.uint16), EIGHT, BYTES, False),  # 8 bits in 16
        ((BYTES / 255).astype(np.float32), EIGHT, BYTES, False),
        (BYTES.astype(np.float32), EIGHT, BYTES, False),
        (BYTES.astype(np.uint16) * 16 + 15, EIGHT, (BYTES * 16.0 + 15) / 4095 * 255, True),
        (BYTES, SIXTEEN, BYTES * 257.0, False),
        (BYTES, GUESS, BYTES * 257.0, True),
        (BYTES.astype(np.uint16) * 257, GUESS, BYTES * 257.0, False),
        (BYTES.astype(np.uint16) * 7, GUESS, BYTES * 7.0, False),
        (BYTES, ValueRange(1.0), BYTES / 255, False),
        (BYTES.astype(np.float32) * 40 - 9, EIGHT, BYTES * 40.0 - 9, True),  # unknown: as it is, and told
    ],
)
def test_values_are_brought_to_the_range_of_the_model(pixels, wanted, expected, is_doubtful):
    image, doubt = at_full_scale(lazy_array(pixels), wanted)
    np.testing.assert_allclose(image[:, :], expected, rtol=1e-6)
    np.testing.assert_allclose(image[3:9, 5:7], expected[3:9, 5:7], rtol=1e-6)
    assert bool(doubt) == is_doubtful


def test_an_image_of_the_models_type_is_the_same_object_and_not_read():
    image = lazy_array(BYTES)
    assert at_full_scale(image, EIGHT)[0] is image


def test_bits_that_a_file_states_are_its_range(tmp_path):
    values = BYTES[..., 0].astype(np.uint16) * 16
    tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=12)
    with closing(open_image(tmp_path / "a.tif")) as image:
        scaled, doubt = at_full_scale(image, EIGHT)
        np.testing.assert_allclose(scaled[:, :][..., 0], values * (255 / 4095), rtol=1e-6)
        assert (doubt, "0 to 4,095 scaled to 0 to 255" in scaled.reading_note) == ("", True)


@pytest.mark.parametrize(
    ("high", "noted", "expected"),
    [
        ((230.0, 240.0, 250.0), None, ValueRange(255.0)),
        ((230.0,), None, ValueRange(255.0, False)),
        ((9000.0,), None, GUESS),
        ((0.9,), None, ValueRange(1.0, False)),
        ((200.0,), 65535.0, SIXTEEN),
    ],
)
def test_the_range_that_a_model_was_trained_on(high, noted, expected):
    assert range_of_intensity(high, noted) == expected


def test_nan_and_infinity_do_not_count():
    assert range_of_pixels(np.array([np.nan, np.inf, 0.5])) == ValueRange(1.0)


def test_pixels_that_are_not_square_are_resampled_along_each_axis(tmp_path):
    ramp = np.arange(40, dtype=np.float32)[:, np.newaxis] * 10 + np.arange(60, dtype=np.float32)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, ramp, metadata={"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 1.0})
    with closing(open_image(path, pixel_size=0.5)) as image:
        assert image.shape == (80, 60, 1)
        assert (image.pixel_size, image.aspect) == (pytest.approx(0.5), 1.0)
        assert image.steps == pytest.approx((0.5, 1.0))
        # linear between the centres of the pixels along y, unchanged along x
        np.testing.assert_allclose(image[10:14, 7:8][:, 0, 0], [54.5, 59.5, 64.5, 69.5], rtol=1e-5)
    with closing(open_image(path)) as image:
        assert image.shape == (40, 60, 1)
        assert squared(image).shape == (80, 60, 1)


def test_levels_of_a_pyramid_scale_along_each_axis(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        size = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        file.write(np.zeros((64, 80), np.uint8), tile=(16, 16), subifds=1, metadata=size)
        file.write(np.zeros((32, 80), np.uint8), tile=(16, 16), subfiletype=1)
    with closing(open_image(tmp_path / "a.ome.tif", pixel_size=None)) as image:
        (coarse,) = image.coarser
        assert (coarse.pixel_sides, coarse.steps) == (pytest.approx((1.0, 0.5)), (2.0, 1.0))


@pytest.mark.parametrize("size", [5e-7, 1e-7, 500.0, 1e6])
def test_a_mistaken_unit_is_refused_in_words(size):
    image = lazy_array(np.zeros((400, 400), np.uint8), "slide.tif", pixel_size=size)
    with pytest.raises(InputError, match=r"slide\.tif states a pixel size of .* µm.*0\.5 µm.*--pixel-size"):
        at_pixel_size(image, 0.5)
