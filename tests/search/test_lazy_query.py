"""A query reads its region and some context, never the whole image."""

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut, window_of
from napari_cmrir.images.lazy_image import LazyImage
from napari_cmrir.images.polygons import polygon_region
from napari_cmrir.jobs import run
from napari_cmrir.search.query import search

SIDE = 20_000
TOP, LEFT = 5_000, 17_000


def slide_of(pixels, asked):
    """A slide of 400 million pixels that holds an image somewhere, and notes what is read of it."""

    def read(y, x, height, width):
        asked.append((height, width))
        assert height * width < 2**20, "the slide is read"
        window = np.full((height, width, pixels.shape[2]), pixels.min(), pixels.dtype)
        y, x = TOP - y, LEFT - x
        part = pixels[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
        window[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]] = part
        return window

    return LazyImage("slide", (SIDE, SIDE, pixels.shape[2]), read)


def boxes_and_scores(result):
    return [(hit.image, round(hit.score, 5)) for hit in result.hits]


@pytest.mark.parametrize("shape", ["region", "polygon"])
def test_a_region_of_a_slide_is_found_as_in_its_own_image_and_little_is_read(repository, partners, shape):
    pixels = np.atleast_3d(next(iter(partners.values())))
    corners = np.array([(70.0, 70.0), (70.0, 160.0), (160.0, 170.0), (165.0, 75.0)])
    move = np.array([TOP, LEFT])
    large = (
        {"region": Region.from_rectangle(70 + TOP, 72 + LEFT, 96, 90)}
        if shape == "region"
        else {"polygon": corners + move}
    )
    wide = np.pad(pixels, ((100, 100), (100, 100), (0, 0)), constant_values=pixels.min())  # the same context
    small = (
        {"region": Region.from_rectangle(170, 172, 96, 90)}
        if shape == "region"
        else {"polygon": corners + 100}
    )
    asked = []
    there = run(search(repository, slide_of(pixels, asked), "SHG", **large))
    here = run(search(repository, wide, "SHG", **small))
    assert max(height * width for height, width in asked) < 300**2
    assert there.mask.sum() == here.mask.sum()
    assert boxes_and_scores(there) == boxes_and_scores(here)


def test_a_polygon_far_larger_than_what_is_searched_is_refused_before_it_is_drawn(repository, partners):
    asked = []
    corners = [(0, 0), (0, SIDE - 1), (SIDE - 1, SIDE // 2)]
    slide = slide_of(np.atleast_3d(next(iter(partners.values()))), asked)
    with pytest.raises(InputError, match="larger than all searched fields"):
        run(search(repository, slide, "SHG", polygon=corners))
    assert sum(height * width for height, width in asked) <= 1  # a pixel tells the type of the values


def test_a_polygon_is_drawn_in_its_own_rectangle():
    region, mask = polygon_region([(9_000, 9_000), (9_000, 9_010), (9_010, 9_000)], (10**6, 10**6))
    assert mask.shape == (region.height, region.width) == (11, 11)
    assert region.rectangle[:2] == (9_000, 9_000)


def test_a_polygon_stands_for_itself(repository, partners):
    corners = [(0, 0), (0, 90), (90, 0)]
    with pytest.raises(InputError, match="replaces a region"):
        run(
            search(
                repository,
                next(iter(partners.values())),
                "SHG",
                polygon=corners,
                region=Region((50, 50), 64, 64),
            )
        )


@pytest.mark.parametrize("centre", [(50, 60), (0, 3), (118, 79), (-10, 90)])
@pytest.mark.parametrize("degrees", [0, 33])
@pytest.mark.parametrize("step", [1.0, 2.5])
def test_a_cut_from_its_window_is_the_cut_from_the_image(centre, degrees, step):
    pixels = np.random.default_rng(3).integers(0, 256, (120, 80, 1), np.uint8)
    region = Region(centre, 60.0, 70.0, degrees)
    rows, columns = window_of(region, pixels.shape, step + 3)
    moved = Region((centre[0] - rows.start, centre[1] - columns.start), 60.0, 70.0, degrees)
    whole, inside = cut(pixels, region, pixel_step=step)
    part, inside_part = cut(pixels[rows, columns], moved, pixel_step=step)
    np.testing.assert_array_equal(inside_part, inside)
    assert np.abs(whole.astype(int) - part).max() <= 1  # OpenCV rounds coordinates to 1/32 px
