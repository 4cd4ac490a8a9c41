import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.queries import (
    GridField,
    box_in_field,
    centre_of,
    cut_grid,
    cut_query,
    draw_region,
    find_queries,
)
from napari_cmrir.evaluation.records import EvaluationSettings

FIELD = GridField("a", 0, 0, 70, 90, 96, 80)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("side", [None, 32])
def test_a_query_shows_what_lies_in_its_true_box(coordinates, seed, side):
    region = draw_region(FIELD, coordinates.shape, EvaluationSettings(seed=seed))
    region = region if side is None else centre_of(region, side)
    query = cut_query(coordinates, region)
    assert query.mask is None
    top_left, top_right, bottom_right, bottom_left = box_in_field(region, FIELD) + np.array([70, 90])
    height, width = query.pixels.shape[:2]
    right, down = (top_right - top_left) / width, (bottom_left - top_left) / height
    np.testing.assert_allclose(query.pixels[0, 0], top_left + (right + down) / 2, atol=0.02)
    np.testing.assert_allclose(query.pixels[-1, -1], bottom_right - (right + down) / 2, atol=0.02)
    np.testing.assert_allclose(query.pixels[0, -1], top_right + (down - right) / 2, atol=0.02)
    # counter-clockwise on the screen: what was to the right now points up
    angle = np.degrees(np.arctan2(-right[0], right[1]))
    assert angle == pytest.approx(region.rotation_degrees)


def test_an_untransformed_query_is_the_field_itself(coordinates):
    query = cut_query(coordinates, FIELD.region)
    np.testing.assert_array_equal(query.pixels, FIELD.crop(coordinates))
    patch = cut_query(coordinates, centre_of(FIELD.region, 31))
    np.testing.assert_array_equal(patch.pixels, np.rint(patch.pixels))
    assert patch.pixels.shape == (31, 31, 2)
    middle = patch.pixels[15, 15] - np.array(FIELD.region.centre)
    assert np.abs(middle).max() <= 1


def test_transforms_fill_their_ranges_and_stay_in_the_image():
    settings = EvaluationSettings(field_size=100)
    regions = [
        draw_region(field, (2000, 2000), settings)
        for field in cut_grid("a", 2000, 2000, 100)
        if 0 < field.row < 19 and 0 < field.column < 19
    ]
    shifts = np.array([region.centre for region in regions]) % 100 - 49.5
    turns = np.array([region.rotation_degrees for region in regions])
    assert len(regions) == 324
    assert -12 <= shifts.min() < -11.5
    assert 11.5 < shifts.max() <= 12
    assert -30 <= turns.min() < -29
    assert 29 < turns.max() <= 30
    # of a uniform variable: the standard deviation is the range over the root of 12
    assert turns.std() == pytest.approx(60 / np.sqrt(12), rel=0.08)
    assert shifts.std(axis=0) == pytest.approx(24 / np.sqrt(12), rel=0.08)
    for region in regions:
        corners = region.corners()
        assert corners.min() >= -0.5
        assert corners.max() <= 1999.5


def test_a_shift_is_drawn_again_until_the_query_lies_in_the_image():
    """The field is at the border: only a shift to the inside will do."""
    settings = EvaluationSettings(max_rotation=0)
    for seed in range(20):
        field = GridField(f"pair {seed}", 0, 0, 0, 200, 100, 100)
        region = draw_region(field, (400, 400), settings)
        assert region.corners().min() >= -0.5
        assert region.centre[0] >= 49.5


def test_what_lies_beyond_a_small_image_is_masked_out():
    settings = EvaluationSettings(max_shift=0)
    pixels = np.full((100, 100, 1), 7, np.uint8)
    field = next(
        field
        for field in (GridField(str(i), 0, 0, 0, 0, 100, 100) for i in range(99))
        if abs(draw_region(field, pixels.shape, settings).rotation_degrees) > 20
    )
    query = cut_query(pixels, draw_region(field, pixels.shape, settings))
    assert query.mask is not None
    assert 0.7 < query.inside < 1
    assert query.mask[50, 50]
    assert not query.mask[0, 0]


def test_seeds_and_fields_differ_and_the_rest_does_not_matter():
    one = draw_region(FIELD, (500, 500), EvaluationSettings(seed=1))
    assert one == draw_region(FIELD, (500, 500), EvaluationSettings(seed=1, query="patch", hits=3))
    assert one != draw_region(FIELD, (500, 500), EvaluationSettings(seed=2))
    other = GridField("b", 0, 0, 70, 90, 96, 80)
    assert one != draw_region(other, (500, 500), EvaluationSettings(seed=1))


def test_ready_queries_are_known_by_their_whole_identifier(tmp_path):
    for name in ("1B_B1_SHG.tif", "1B_B10_SHG.tif", "1B_B1_BF.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((8, 8), np.uint8))
    found = find_queries(tmp_path, "SHG", {"1B_B1", "1B_B10", "1B_B100"})
    assert {identifier: path.name for identifier, path in found.items()} == {
        "1B_B1": "1B_B1_SHG.tif",
        "1B_B10": "1B_B10_SHG.tif",
    }
    with pytest.raises(InputError, match="belongs to no pair"):
        find_queries(tmp_path, "SHG", {"1B_B10"})
    with pytest.raises(InputError, match="holds no query named"):
        find_queries(tmp_path, "CT", {"1B_B10"})
