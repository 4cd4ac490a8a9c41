"""Exports, read back by something else than what wrote them."""

import csv
import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import AffineTransform, estimate_transform

from napari_cmrir.images.geometry import Region
from napari_cmrir.search.hits import (
    Hit,
    SearchResult,
    affine_matrix,
    as_csv,
    as_elastix,
    as_geojson,
    as_itk,
    as_json,
    as_matrix,
)

regions = st.builds(
    Region,
    st.tuples(st.floats(-50, 500), st.floats(-50, 500)),
    st.floats(32, 400),
    st.floats(32, 400),
    st.floats(-180, 180),
)


def make_hit(region, degrees=20.0, shift=(30.0, -12.0), mirrored=False, scale=1.0, rank=1):
    """A hit that turns the query about its centre by so much, and moves it."""
    angle = np.radians(degrees + region.rotation_degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    halves = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * [region.height / 2, region.width / 2]
    if mirrored:
        halves = halves * [1, -1]
    box = scale * halves @ rotation.T + np.array(region.centre) + shift
    return Hit(rank, "folder/a_BF.tif", 0.42, box, degrees, 0.8, 0, {}, mirrored, scale)


def read_itk(text):
    """Points (x, y) through a transform file, as ITK defines it: A (p - c) + t + c."""
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    assert lines["Transform"] == "AffineTransform_double_2_2"
    *linear, tx, ty = map(float, lines["Parameters"].split())
    centre = np.array(lines["FixedParameters"].split(), float)
    matrix = np.array(linear).reshape(2, 2)
    return lambda points: (points - centre) @ matrix.T + [tx, ty] + centre


@given(region=regions, degrees=st.floats(-180, 180), mirrored=st.booleans(), scale=st.floats(0.5, 2))
def test_the_matrix_takes_the_region_to_the_box_as_skimage_estimates_it(region, degrees, mirrored, scale):
    hit = make_hit(region, degrees, mirrored=mirrored, scale=scale)
    matrix = affine_matrix(region, hit)
    estimated = estimate_transform("affine", region.corners(), hit.box).params
    np.testing.assert_allclose(matrix, estimated, atol=1e-6)
    assert np.sign(np.linalg.det(matrix)) == (-1 if mirrored else 1)


@given(region=regions, degrees=st.floats(-180, 180), mirrored=st.booleans())
def test_itk_and_elastix_say_the_same_of_every_point(region, degrees, mirrored):
    hit = make_hit(region, degrees, mirrored=mirrored)
    matrix = affine_matrix(region, hit)
    points = np.random.default_rng(0).uniform(-100, 600, (20, 2))  # (x, y)
    there = AffineTransform(np.loadtxt(io.StringIO(as_matrix(matrix))))(points[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(read_itk(as_itk(matrix))(points), there, atol=1e-8)
    elastix = as_elastix(matrix, (300, 400, 3))
    entries = dict(line[1:-1].split(" ", 1) for line in elastix.splitlines())
    assert entries["Size"] == "400 300"
    assert entries["Transform"] == '"AffineTransform"'
    assert entries["TransformParameters"] == as_itk(matrix).splitlines()[3].removeprefix("Parameters: ")


def test_resampling_the_hits_image_by_the_transform_shows_the_query():
    """The matrix in OpenCV's hands."""
    y, x = np.mgrid[:200, :240].astype(np.float32)
    image = np.sin(y / 11) + np.cos(x / 7 + y / 30)
    region = Region.from_rectangle(20, 30, 80, 90)
    hit = make_hit(region, 25)
    matrix = affine_matrix(region, hit)
    seen = cv2.warpAffine(image, matrix[1::-1][:, [1, 0, 2]], (130, 110), flags=cv2.WARP_INVERSE_MAP | 1)
    down, right = (hit.box[3] - hit.box[0]) / 80, (hit.box[1] - hit.box[0]) / 90
    y, x = hit.box[0] + down / 2 + right / 2  # the centre of the region's first pixel
    assert seen[20, 30] == pytest.approx(np.sin(y / 11) + np.cos(x / 7 + y / 30), abs=0.02)


def test_simpleitk_reads_the_transform(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    region = Region((60, 80), 64, 96, 10)
    hit = make_hit(region)
    (tmp_path / "hit.tfm").write_text(as_itk(affine_matrix(region, hit)))
    transform = sitk.ReadTransform(str(tmp_path / "hit.tfm"))
    for (y, x), there in zip(region.corners(), hit.box, strict=True):
        np.testing.assert_allclose(transform.TransformPoint((x, y))[::-1], there, atol=1e-6)


def test_the_table_holds_every_hit():
    region = Region.from_rectangle(0, 0, 64, 64)
    hits = [make_hit(region), make_hit(region, -5, rank=2, mirrored=True)]
    rows = list(csv.DictReader(io.StringIO(as_csv([("q.tif", hits), ("other, with comma.tif", hits[:1])]))))
    assert [(row["query"], row["rank"]) for row in rows] == [
        ("q.tif", "1"),
        ("q.tif", "2"),
        ("other, with comma.tif", "1"),
    ]
    for row, hit in zip(rows, [*hits, hits[0]], strict=True):
        assert float(row["bottom_right_y"]) == pytest.approx(hit.box[2, 0], abs=1e-3)
        assert float(row["bottom_right_x"]) == pytest.approx(hit.box[2, 1], abs=1e-3)
        assert row["mirrored"] == str(hit.mirrored)
        assert row["image"] == hit.image


@pytest.mark.parametrize("mirrored", [False, True])
def test_geojson_features_are_closed_rings_in_qupaths_pixels(mirrored):
    hit = make_hit(Region.from_rectangle(10, 20, 64, 96), 30, mirrored=mirrored)
    content = json.loads(as_geojson([("q.tif", [hit])]))
    (feature,) = content["features"]
    assert (content["type"], feature["type"], feature["geometry"]["type"]) == (
        "FeatureCollection",
        "Feature",
        "Polygon",
    )
    (ring,) = feature["geometry"]["coordinates"]
    assert ring[0] == ring[-1]
    assert len(ring) == 5
    contour = np.array(ring[:4], np.float32)
    assert cv2.contourArea(contour) == pytest.approx(64 * 96, rel=1e-3)
    assert cv2.contourArea(contour, oriented=True) > 0
    assert sorted(map(tuple, np.round(hit.box[:, ::-1] + 0.5, 3).tolist())) == sorted(map(tuple, ring[:4]))
    properties = feature["properties"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"]["name"] == "Match"
    assert all(isinstance(value, float) for value in properties["measurements"].values())
    assert properties["measurements"]["score"] == 0.42
    assert properties["image"] == hit.image


def test_a_field_without_a_pose_is_still_json():
    hit = Hit(1, "a.tif", -np.inf, np.zeros((4, 2)), 0.0, 0.0, 0, {})
    assert json.loads(as_geojson([("q", [hit])]))["features"][0]["properties"]["measurements"]["score"] == -1


def test_json_says_what_was_asked_what_was_found_and_what_is_doubtful():
    region, nothing = Region((31.5, 47.5), 64, 96, 10), np.zeros((1, 64, 96), np.uint8)
    hits = make_hit(region), replace(make_hit(region, rank=2), score=-np.inf)
    found = SearchResult(
        hits, 1.5, {}, nothing, nothing[0] == 0, region=region, reliable=False, warnings=("Much glass.",)
    )
    (query,) = json.loads(as_json([("a.tif", found)]), parse_constant=pytest.fail)["queries"]
    assert query.pop("hits") == [hits[0].as_dict(), hits[1].as_dict() | {"score": None}]
    assert query == {
        "image": "a.tif",
        "region": [0, 0, 64, 96],
        "rotation_degrees": 10,
        "seconds": 1.5,
        "error": None,
        "reliable": False,
        "warnings": ["Much glass."],
    }
