"""The picture of a query's hits, looked at by colour."""

import numpy as np
import pytest

from napari_cmrir.cli.demo import FoundImage, Truth, draw_hits
from napari_cmrir.images.geometry import Region
from napari_cmrir.search.hits import Hit

GREEN = (0, 160, 0)  # of the image, in no frame, text or box
YELLOW, BLUE = (255, 214, 10), (0, 190, 255)
BOX = Region.from_rectangle(30, 20, 40, 60).corners()


def found(rank, box=BOX, name=None):
    pixels = np.full((100, 100, 3), GREEN, np.uint8)
    hit = Hit(rank, name or f"/x/{rank}.tif", 0.5, box, 0.0, 0.5, rank, {})
    return FoundImage(hit, f"{rank}.tif", pixels, np.full((1, 100, 100), 90, np.uint8))


def draw(images, truth=None, query=None):
    query = np.zeros((50, 50, 1), np.uint16) if query is None else query
    return draw_hits(query, "SHG", np.full((1, *query.shape[:2]), 200, np.uint8), images, truth)


def extent(picture, colour, tolerance=40):
    """First and last row and column of a colour."""
    rows, columns = np.nonzero(np.abs(picture.astype(int) - colour).max(axis=2) <= tolerance)
    return (rows.min(), rows.max(), columns.min(), columns.max()) if rows.size else None


def panels(picture):
    """The hits' images in the picture: (top, bottom, left, right), found by their colour."""
    top, bottom, *_ = extent(picture, GREEN)
    is_green = (np.abs(picture[top : bottom + 1].astype(int) - GREEN).max(axis=2) <= 40).any(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], is_green, [0]))))
    return [(top, bottom, left, right - 1) for left, right in edges.reshape(-1, 2)]


def test_every_hit_has_a_panel_of_one_size_and_distance():
    boxes = panels(draw([found(rank) for rank in (1, 2, 3)]))
    assert len(boxes) == 3
    assert len({right - left for _, _, left, right in boxes}) == 1
    lefts = [left for _, _, left, _ in boxes]
    assert lefts[1] - lefts[0] == lefts[2] - lefts[1]


def test_match_box_lies_in_its_place():
    picture = draw([found(1)])
    ((top, bottom, left, right),) = panels(picture)
    first_y, last_y, first_x, last_x = extent(picture[top : bottom + 1, left : right + 1], YELLOW)
    scale = (bottom - top + 3) / 100  # with the frame
    lines = [first_y / scale, last_y / scale, first_x / scale, last_x / scale]
    assert lines == pytest.approx([30, 70, 20, 80], abs=1.2)


def test_turned_box_has_its_corner_where_it_belongs():
    corners = Region((50, 50), 40, 60, 30).corners()
    picture = draw([found(1, corners)])
    ((top, bottom, left, right),) = panels(picture)
    first_y, last_y, first_x, last_x = extent(picture[top : bottom + 1, left : right + 1], YELLOW)
    scale = (bottom - top + 3) / 100
    lowest, highest = corners.min(0), corners.max(0)
    lines = [first_y / scale, last_y / scale, first_x / scale, last_x / scale]
    assert lines == pytest.approx([lowest[0], highest[0], lowest[1], highest[1]], abs=2)


def test_comir_below_carries_the_same_box():
    picture = draw([found(1)])
    ((top, bottom, left, right),) = panels(picture)
    above = extent(picture[top : bottom + 1, left : right + 1], YELLOW)
    step = (
        next(  # to the next row that has the match's colour inside the column
            row
            for row in range(bottom + 1, len(picture))
            if extent(picture[row : row + 1, left:right], YELLOW)
        )
        - (top + above[0])
    )
    below = extent(picture[top + step : bottom + 1 + step, left : right + 1], YELLOW)
    assert below == above


def test_truth_is_outlined_in_its_image_alone():
    truth = Truth("/x/2.tif", Region.from_rectangle(10, 50, 40, 40).corners(), 0.0)
    picture = draw([found(1), found(2)], truth)
    first, second = (picture[t:b, left:right] for t, b, left, right in panels(picture))
    assert extent(first, BLUE) is None
    assert extent(second, BLUE) is not None


def test_truth_shows_on_both_sides_of_a_match_that_is_right():
    picture = draw([found(1)], Truth("/x/1.tif", BOX, 0.0))
    ((top, bottom, left, right),) = panels(picture)
    panel = picture[top : bottom + 1, left : right + 1]
    true_y, true_end, true_x, true_right = extent(panel, BLUE)
    match_y, match_end, match_x, match_right = extent(panel, YELLOW)
    assert true_y < match_y < match_end < true_end
    assert true_x < match_x < match_right < true_right


def test_legend_names_the_truth_only_if_it_is_known():
    with_truth = draw([found(1), found(2)], Truth("/x/elsewhere.tif", BOX, 0.0))
    assert extent(with_truth, BLUE) is not None  # its key
    assert extent(draw([found(1), found(2)]), BLUE) is None


def test_dim_16_bit_query_is_stretched_to_be_seen():
    query = np.zeros((64, 32, 1), np.uint16)
    query[16:48, 8:24] = 300
    picture = draw([found(1)], query=query)
    ((top, bottom, left, _),) = panels(picture)
    shown = picture[top : bottom + 1, :left]
    assert shown.max(axis=2).max() == 255
    y, y_end, x, x_end = extent(shown, (255, 255, 255))
    assert (y_end - y) / (x_end - x) == pytest.approx(2, rel=0.05)  # its shape is kept
