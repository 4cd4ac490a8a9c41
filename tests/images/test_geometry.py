from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, corner_error, cut, rotation_difference

coordinates = st.floats(-500, 500)
sizes = st.floats(1, 400)
rotations = st.floats(-179.9, 180)
regions = st.builds(Region, st.tuples(coordinates, coordinates), sizes, sizes, rotations)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).integers(0, 2**16, (61, 83, 3)).astype(np.uint16)


def smooth(y, x):
    return 100 + 40 * np.sin(y / 9) + 30 * np.cos(x / 11)


@pytest.fixture(scope="module")
def waves():
    y, x = np.mgrid[:120, :150].astype(np.float64)
    return smooth(y, x)[..., np.newaxis]


@given(regions)
def test_corners_there_and_back(region):
    again = Region.from_corners(region.corners())
    assert corner_error(again.corners(), region.corners()) < 1e-9
    assert rotation_difference(again.rotation_degrees, region.rotation_degrees) < 1e-6
    np.testing.assert_allclose([again.height, again.width], [region.height, region.width])


def test_positive_rotation_is_counter_clockwise_on_the_screen():
    corners = Region((0.0, 0.0), 2.0, 4.0, 90.0).corners()  # top-left goes to bottom-left
    np.testing.assert_allclose(corners, [[2, -1], [-2, -1], [-2, 1], [2, 1]], atol=1e-12)
    corner = Region((5.0, 7.0), 2.0, 2.0, 45.0).corners()[1]  # the right top corner goes straight up
    np.testing.assert_allclose(corner, [5 - np.sqrt(2), 7], atol=1e-12)


@given(regions, st.floats(-180, 180))
def test_a_turned_query_maps_on_its_hit_by_the_documented_pose(query, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    centre = np.array([3.0, 4.0])
    box = centre + (query.corners() - query.centre) @ np.array([[c, -s], [s, c]]).T
    hit = Region.from_corners(box)
    assert rotation_difference(hit.rotation_degrees, query.rotation_degrees + degrees) < 1e-6
    np.testing.assert_allclose(hit.centre, centre, atol=1e-9)


@given(st.integers(0, 50), st.integers(0, 70), st.integers(1, 11), st.integers(1, 13))
def test_an_upright_cut_is_an_exact_copy(noise, y, x, height, width):
    patch, mask = cut(noise, Region.from_rectangle(y, x, height, width))
    np.testing.assert_array_equal(patch, noise[y : y + height, x : x + width])
    assert mask.all()
    assert not np.shares_memory(patch, noise)


@given(st.integers(-1, 4), st.integers(2, 17))
def test_quarter_turns_are_exact(noise, quarters, size):
    region = Region.from_rectangle(20, 30, size, size)
    turned = Region(region.centre, size, size, 90.0 * quarters)
    patch, _ = cut(noise, turned)
    np.testing.assert_array_equal(patch, np.rot90(cut(noise, region)[0], -quarters))


def test_content_turned_by_some_angle_is_upright_in_a_region_turned_as_much():
    arrow = np.zeros((21, 21, 1), np.uint8)
    arrow[10, 10:18] = 200  # points right
    up = np.rot90(arrow)  # the same arrow, turned counter-clockwise by 90 degrees
    assert up[3:11, 10].all()
    np.testing.assert_array_equal(cut(up, Region((10.0, 10.0), 21, 21, 90.0))[0], arrow)


@given(st.integers(-90, 90), st.integers(-90, 130), st.integers(1, 70), st.integers(1, 90))
@settings(max_examples=50)
def test_beyond_the_border_the_image_is_mirrored(noise, y, x, height, width):
    patch, mask = cut(noise, Region.from_rectangle(y, x, height, width))
    padded = np.pad(noise, ((100, 100), (100, 200), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(patch, padded[100 + y : 100 + y + height, 100 + x : 100 + x + width])
    inside = np.pad(np.ones(noise.shape[:2], bool), ((100, 100), (100, 200)))
    np.testing.assert_array_equal(mask, inside[100 + y : 100 + y + height, 100 + x : 100 + x + width])


@given(st.floats(-180, 180), st.floats(-20, 140), st.floats(-20, 170))
@settings(max_examples=50)
def test_turned_cuts_agree_with_scipy(waves, degrees, y, x):
    region = Region((y, x), 30, 40, degrees)
    patch, mask = cut(waves, region)
    rows, columns = np.mgrid[:30, :40]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    at = [
        y + c * (rows - 14.5) - s * (columns - 19.5),
        x + s * (rows - 14.5) + c * (columns - 19.5),
    ]
    expected = map_coordinates(waves[..., 0], at, order=1, mode="mirror")
    np.testing.assert_allclose(patch[..., 0], expected, atol=0.3)  # OpenCV rounds positions to 1/32 px
    depth = np.minimum.reduce([at[0] + 0.5, 119.5 - at[0], at[1] + 0.5, 149.5 - at[1]])
    clear = np.abs(depth) > 1e-3
    np.testing.assert_array_equal(mask[clear], depth[clear] > 0)


@given(st.floats(-60, 60), st.floats(50, 70), st.floats(60, 80))
@settings(max_examples=30)
def test_turning_there_and_back_gives_the_image(waves, degrees, y, x):
    turned, _ = cut(waves, Region((y, x), 61, 61, degrees))
    back, _ = cut(turned, Region((30.0, 30.0), 25, 25, -degrees))
    rows, columns = np.mgrid[:25, :25] - 12.0
    np.testing.assert_allclose(back[..., 0], smooth(y + rows, x + columns), atol=1.0)


def test_a_coarser_step_averages():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    patch, mask = cut(pixels, Region.whole(pixels.shape), pixel_step=2)
    expected = np.rint(pixels.reshape(4, 2, 4, 2).mean(axis=(1, 3)))
    np.testing.assert_array_equal(patch[..., 0], expected)
    assert mask.shape == (4, 4)
    assert mask.all()


@pytest.mark.parametrize("step", [0.25, 0.7, 1.0, 1.5, 3.3])
def test_every_step_samples_about_the_centre(step):
    y, x = np.mgrid[:100, :100]
    ramp = (3 * y + x).astype(np.float32)[..., np.newaxis]
    patch, _ = cut(ramp, Region((50.2, 47.6), 40, 30, 10.0), pixel_step=step)
    assert patch.shape[:2] == (round(40 / step), round(30 / step))
    assert abs(patch.mean() - (3 * 50.2 + 47.6)) < 0.1  # a ramp's mean is its value at the centre
    slope = np.diff(patch[..., 0], axis=1).mean()
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    assert slope == pytest.approx(step * (c - 3 * s), abs=0.02)


def test_images_longer_than_opencv_takes():
    strip = np.arange(40_000, dtype=np.float32).reshape(-1, 1, 1).repeat(4, axis=1)
    patch, mask = cut(strip, Region((20_000.0, 1.5), 39_000, 2, 0.0005))
    assert mask.all()
    np.testing.assert_allclose(patch[:, :, 0].mean(axis=1), np.arange(39_000) + 500.5, atol=0.05)


def test_one_channel_stays_an_axis_and_odd_types_become_float():
    patch, _ = cut(np.ones((9, 9, 1), np.int64), Region((4.0, 4.0), 3, 3, 30.0))
    assert patch.shape == (3, 3, 1)
    assert patch.dtype == np.float32


@given(st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_rotation_difference_is_the_smaller_angle(a, b):
    difference = rotation_difference(a, b)
    assert 0 <= difference <= 180
    assert difference == pytest.approx(np.degrees(abs(np.angle(np.exp(1j * np.radians(a - b))))), abs=1e-6)


def test_corner_error_is_the_mean_distance():
    box = np.zeros((4, 2))
    other = np.array([[3, 4], [0, 0], [0, 2], [1, 0]])
    assert corner_error(box, other) == (5 + 0 + 2 + 1) / 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region((0.0, 0.0), 0, 4), "empty"),
        (lambda: Region((0.0, float("nan")), 4, 4), "finite"),
        (lambda: Region.from_corners(np.zeros((3, 2))), r"\(3, 2\)"),
        (lambda: Region.from_corners(np.zeros((4, 2))), "empty"),
        (lambda: cut(np.zeros((4, 4, 1)), Region.whole((4, 4)), pixel_step=0), "step"),
    ],
)
def test_what_is_no_region_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
