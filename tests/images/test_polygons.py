"""Polygons: the rectangle around a polygon, and the pixels inside it."""

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.polygons import polygon_region


def test_a_disc_holds_the_pixels_nearer_than_its_radius():
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    circle = np.column_stack([40 + 20.3 * np.sin(turn), 50 + 20.3 * np.cos(turn)])
    region, mask = polygon_region(circle, (90, 100, 3))
    y, x = np.mgrid[:90, :100]
    whole = np.hypot(y - 40, x - 50) < 20.3
    np.testing.assert_array_equal(mask, whole[20:61, 30:71])
    assert (region.centre, region.height, region.width) == ((40, 50), 41, 41)


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([(1, 1), (2, 2)], "at least three corners"),
        ([(1, 1), (2, 2), (np.nan, 3)], "at least three corners"),
        ([(50, 50), (60, 60), (50, 60)], "holds no pixel"),
    ],
)
def test_points_that_are_no_polygon_in_the_image_are_refused(points, sentence):
    with pytest.raises(InputError, match=sentence):
        polygon_region(points, (20, 20))
