import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_cmrir.images.lazy_image import lazy_array, overview, resample

PIXELS = np.random.default_rng(0).integers(0, 256, (120, 160, 2), dtype=np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.3, 12), st.data())
def test_regions_agree_with_the_whole_to_the_bit(factor, data):
    far = resample(lazy_array(PIXELS), factor)
    whole = far[:, :]
    assert whole.shape == far.shape
    rows, columns = (slice(*sorted(data.draw(st.tuples(*[st.integers(0, 500)] * 2)))) for _ in range(2))
    np.testing.assert_array_equal(far[rows, columns], whole[rows, columns])


@pytest.mark.parametrize("factor", [0.5, 1.6, 2.0, 4.0, 8.0])
def test_resampling_equals_pillows_antialiased_bilinear_resize(factor):
    size = round(160 / factor), round(120 / factor)
    expected = np.asarray(Image.fromarray(PIXELS[..., 0]).resize(size, Image.Resampling.BILINEAR))
    found = resample(lazy_array(PIXELS), factor)[:, :][..., 0]
    assert np.abs(found.astype(int) - expected).max() <= 1  # Pillow rounds between the axes


def test_types_and_sizes_follow():
    image = resample(lazy_array(PIXELS.astype(np.float32) / 3, pixel_size=0.5), 2.5)
    assert image[:, :].dtype == np.float32
    assert (image.pixel_size, image.downsample) == (1.25, 2.5)


@pytest.mark.parametrize("cell", [7, 32, 200])
def test_an_overview_covers_the_image_with_cells(cell):
    ramp = np.repeat(np.linspace(0, 255, 160)[None, :, None], 120, 0).astype(np.float32)
    seen = overview(lazy_array(ramp), cell)
    assert seen.shape == (-(-120 // cell), -(-160 // cell), 1)
    middles = np.clip((np.arange(seen.shape[1]) + 0.5) * cell - 0.5, 0, 159)[1:-1]
    np.testing.assert_allclose(seen[0, 1:-1, 0], middles * 255 / 159, atol=255 / 159)
