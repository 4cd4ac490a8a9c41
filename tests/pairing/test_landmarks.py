from __future__ import annotations

import json

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.pairing.landmark_files import read_landmarks
from napari_cmrir.pairing.landmarks import fit_landmarks, pair_from_landmarks
from napari_cmrir.registration.affine import apply, box_difference

pytestmark = pytest.mark.core

POINTS = np.array([[20.0, 30.0], [200.0, 60.0], [120.0, 220.0], [40.0, 180.0], [210.0, 210.0]])
TURNED = np.array([[0.0, -1.2, 300.0], [1.2, 0.0, 10.0], [0, 0, 1]])
MIRRORED = np.array([[0.9, 0.1, 5.0], [0.1, -0.9, 260.0], [0, 0, 1]])
BENT = np.array([[1.1, 0.2, -5.0], [-0.1, 0.8, 12.0], [0, 0, 1]])


@pytest.mark.parametrize("matrix", [TURNED, MIRRORED])
@pytest.mark.parametrize("count", [3, 5])
def test_a_similarity_is_recovered(matrix, count):
    fit = fit_landmarks(POINTS[:count], apply(matrix, POINTS[:count]))
    np.testing.assert_allclose(fit.matrix, matrix, atol=1e-9)
    assert fit.residuals.max() < 1e-9
    assert not fit.outliers.any()


def test_an_affine_map_is_recovered_where_asked_for():
    there = apply(BENT, POINTS)
    np.testing.assert_allclose(fit_landmarks(POINTS, there, "affine").matrix, BENT, atol=1e-9)
    assert fit_landmarks(POINTS, there, find_outliers=False).error > 5


def test_a_landmark_that_is_off_is_marked_and_does_not_count():
    there = apply(TURNED, POINTS) + np.random.default_rng(1).normal(0, 0.7, POINTS.shape)
    there[3] += (40, -25)
    fit = fit_landmarks(POINTS, there)
    assert fit.outliers.tolist() == [False, False, False, True, False]
    assert box_difference(TURNED, fit.matrix, (240, 240)) < 0.01
    assert fit.residuals[3] == pytest.approx(np.hypot(40, 25), rel=0.1)
    assert fit.error < 2


def test_too_few_or_flat_landmarks_are_refused():
    with pytest.raises(InputError, match="too few"):
        fit_landmarks(POINTS[:2], POINTS[:2])
    with pytest.raises(InputError, match="as many"):
        fit_landmarks(POINTS, POINTS[:4])
    with pytest.raises(InputError, match="on a line"):
        fit_landmarks([[0, 0], [10, 10], [20, 20.1]], POINTS[:3])


@pytest.fixture
def images(tmp_path, write, placed):
    pair = sample_pair(80, 256)
    region = Region((130, 120), 220, 220, 100)
    write(tmp_path / "a" / "core_SHG.tif", pair.shg)
    write(tmp_path / "b" / "slide_BF.tif", cut(pair.bf, region)[0])
    return [tmp_path / "a" / "core_SHG.tif"], [tmp_path / "b" / "slide_BF.tif"], placed(region)


def test_a_pair_is_cut_by_landmarks(images, tmp_path):
    (first,), (second,), truth = images
    there = apply(truth, POINTS)
    made = run(pair_from_landmarks(first, second, (POINTS, there), ("SHG", "BF"), tmp_path / "out"))
    (pair,) = find_pairs([tmp_path / "out"], ("SHG", "BF"))
    assert pair.paths == made.files
    assert pair.identifier == "core"
    shg, bf = read_pair(pair)
    assert shg.shape[:2] == bf.shape[:2]
    assert made.found.rotation_degrees == pytest.approx(-100)


def test_clicks_are_refined_by_correlation(images, tmp_path, model):
    (first,), (second,), truth = images
    there = apply(truth, POINTS) + np.random.default_rng(0).normal(0, 2.5, POINTS.shape)
    given = (first, second, (POINTS, there), ("SHG", "BF"), tmp_path / "out")
    made = run(pair_from_landmarks(*given, model=model))
    clicked = box_difference(truth, made.fit.matrix, (256, 256))
    refined = box_difference(truth, made.found.matrix, (256, 256))
    assert refined < 0.005 < clicked or refined < 0.5 * clicked
    assert "refined" in made.found.reason


def test_landmarks_of_other_tissue_are_not_refined(images, tmp_path, model, write):
    (first,), _, truth = images
    write(tmp_path / "other_BF.tif", sample_pair(81, 220).bf)
    given = (
        first,
        tmp_path / "other_BF.tif",
        (POINTS, apply(truth, POINTS)),
        ("SHG", "BF"),
        tmp_path / "out",
    )
    made = run(pair_from_landmarks(*given, model=model))
    np.testing.assert_array_equal(made.found.matrix, made.fit.matrix)
    assert "not refined" in made.found.reason


def test_a_plain_table_names_its_images(images, tmp_path):
    first, second, truth = images
    rows = ["first,second,first_y,first_x,second_y,second_x"]
    rows += [
        f"core_SHG.tif,slide_BF,{y},{x},{v},{u}"
        for (y, x), (v, u) in zip(POINTS, apply(truth, POINTS), strict=True)
    ]
    (tmp_path / "points.csv").write_text("\n".join(rows))
    (found,) = read_landmarks([tmp_path / "points.csv"], [*first, tmp_path / "x.tif"], second)
    assert (found.first, found.second) == (first[0], second[0])
    np.testing.assert_allclose(found.first_points, POINTS)
    np.testing.assert_allclose(apply(truth, found.first_points), found.second_points)


@pytest.mark.parametrize("kind", ["2d", "2d numbered", "3d"])
def test_a_file_of_bigwarp_is_read(images, tmp_path, kind):
    first, second, truth = images
    lines = []
    for number, ((y, x), (v, u)) in enumerate(zip(POINTS, apply(truth, POINTS), strict=True)):
        active = "true" if number != 1 else "false"
        values = f'"{x}","{y}","{u}","{v}"' if kind != "3d" else f'"{x}","{y}","0","{u}","{v}","0"'
        extra = '"0",' if "numbered" in kind else ""
        lines.append(f'"Pt-{number}","{active}",{extra}{values}')
    zero = ('"Infinity",' * (3 if kind == "3d" else 2))[:-1]
    extra = '"0",' if "numbered" in kind else ""
    lines.append(f'"Pt-9","true",{extra}{"1,2,0" if kind == "3d" else "1,2"},{zero}')
    (tmp_path / "landmarks.csv").write_text("\n".join(lines))
    (found,) = read_landmarks([tmp_path / "landmarks.csv"], first, second)
    np.testing.assert_allclose(found.first_points, POINTS[[0, 2, 3, 4]])
    np.testing.assert_allclose(found.second_points, apply(truth, POINTS)[[0, 2, 3, 4]])


def test_points_of_qupath_are_read_from_both_kinds_of_file(images, tmp_path):
    first, second, truth = images
    names = ["e", "b", "a", "d", "c"]
    tsv = ["x\ty\tclass\tname\t"]
    tsv += [f"{x + 0.5}\t{y + 0.5}\tTumor\t{name}\t" for name, (y, x) in zip(names, POINTS, strict=True)]
    (tmp_path / "first.tsv").write_text("\n".join(tsv))
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [x + 0.5, y + 0.5]},
            "properties": {"objectType": "annotation", "name": name},
        }
        for name, (y, x) in sorted(zip(names, apply(truth, POINTS).tolist(), strict=True))
    ]
    content = {"type": "FeatureCollection", "features": features}
    (tmp_path / "second.geojson").write_text(json.dumps(content))
    (found,) = read_landmarks([tmp_path / "first.tsv", tmp_path / "second.geojson"], first, second)
    np.testing.assert_allclose(apply(truth, found.first_points), found.second_points)
    assert len(found.first_points) == 5


def test_a_multipoint_of_qupath_keeps_its_order(images, tmp_path):
    first, second, truth = images
    for name, points in (("first", POINTS), ("second", apply(truth, POINTS))):
        geometry = {"type": "MultiPoint", "coordinates": (points[:, ::-1] + 0.5).tolist()}
        (tmp_path / f"{name}.geojson").write_text(json.dumps([{"type": "Feature", "geometry": geometry}]))
    files = [tmp_path / "first.geojson", tmp_path / "second.geojson"]
    (found,) = read_landmarks(files, first, second)
    np.testing.assert_allclose(found.first_points, POINTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "no landmark file"),
        ("first_y,first_x,second_y,second_x\n1,2,3,four\n", "Line 2"),
        ("first,second,y1,x1,y2,x2\nno.tif,slide_BF.tif,1,2,3,4\n", r"no\.tif"),
    ],
)
def test_a_file_that_holds_no_landmarks_is_refused(images, tmp_path, content, message):
    (tmp_path / "points.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_landmarks([tmp_path / "points.csv"], images[0], images[1])


def test_a_file_without_names_needs_two_images(images, tmp_path):
    (tmp_path / "points.csv").write_text("y1,x1,y2,x2\n1,2,3,4\n")
    with pytest.raises(InputError, match="which images"):
        read_landmarks([tmp_path / "points.csv"], [*images[0], *images[0]], images[1])
