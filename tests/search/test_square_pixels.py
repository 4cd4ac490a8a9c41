from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_cmrir.images.geometry import Region
from napari_cmrir.images.lazy_image import lazy_array
from napari_cmrir.jobs import run
from napari_cmrir.search.query import search


def test_a_query_without_square_pixels_is_found_in_its_place(repository, partners):
    """Every second row of the query's image is left out: its pixels are twice as high as wide."""
    whole = partners["tissue-21"]
    region = Region.from_rectangle(60, 70, 120, 110)
    expected = run(search(repository, lazy_array(whole, pixel_size=0.5), "SHG", region=region)).hits[0]
    flat = (whole[::2].astype(np.float32) + whole[1::2]) / 2
    image = replace(lazy_array(flat.astype(np.uint16), pixel_size=np.sqrt(0.5)), aspect=2.0)
    assert image.pixel_sides == pytest.approx((1.0, 0.5))
    upright = Region.from_rectangle(30, 70, 60, 110)
    polygon = [(30, 70), (89, 70), (89, 179), (30, 179)]
    for asked in ({"region": upright}, {"polygon": polygon}):
        result = run(search(repository, image, "SHG", **asked))
        assert result.hits[0].image == expected.image
        np.testing.assert_allclose(result.hits[0].box, expected.box, atol=4)
        np.testing.assert_allclose(result.region.rectangle, (30, 70, 60, 110), atol=1.5)
