"""The verb `pair`: its table, its options, and what it says of bad input."""

import csv

import numpy as np
import pytest
import tifffile

from napari_cmrir.cli.main import main
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.representations.model_file import sample_model

pytestmark = pytest.mark.core


@pytest.fixture
def folders(tmp_path):
    """One pair, turned by 30 degrees, under different names."""
    pair = sample_pair(90, 256)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tifffile.imwrite(tmp_path / "a" / "core_SHG.tif", pair.shg[..., 0])
    turned = cut(pair.bf, Region((127.5, 127.5), 220, 220, 30))[0]
    tifffile.imwrite(tmp_path / "b" / "slide_BF.tif", turned, photometric="rgb")
    return [
        str(tmp_path / "a"),
        str(tmp_path / "b"),
        "--modalities",
        "SHG",
        "BF",
        "-o",
        str(tmp_path / "out"),
    ]


def leave(arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_a_pair_is_found_and_listed(folders, tmp_path, capsys):
    assert leave(["pair", *folders, "--model", str(sample_model()), "--max-rotation", "40"]) == 0
    said = capsys.readouterr().out
    assert "1 pairs found" in said
    assert "core_SHG.tif" in said
    (row,) = csv.DictReader((tmp_path / "out" / "pairs.csv").open())
    assert row["accepted"] == "yes"
    assert float(row["rotation_degrees"]) == pytest.approx(-30, abs=0.5)
    assert (tmp_path / "out" / "core_BF.tif").is_file()


def test_landmarks_make_a_pair(folders, tmp_path, capsys):
    points = np.array([[40.0, 50], [200, 60], [120, 210], [60, 190]])
    there = points + 3
    lines = ["first_y,first_x,second_y,second_x"]
    lines += [",".join(map(str, (*here, *place))) for here, place in zip(points, there, strict=True)]
    (tmp_path / "points.csv").write_text("\n".join(lines))
    assert leave(["pair", *folders, "--landmarks", str(tmp_path / "points.csv")]) == 0
    said = capsys.readouterr().out
    assert "1: 0.0, 2: 0.0" in said
    (row,) = csv.DictReader((tmp_path / "out" / "pairs.csv").open())
    assert float(row["m02"]) == pytest.approx(3)
    assert (tmp_path / "out" / "core_SHG.tif").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model", "nothing.safetensors"], "nothing.safetensors"),
        (["--landmarks", "nothing.csv"], "nothing.csv"),
        (["--landmarks", "nothing.csv", "--warp", "spline"], "--warp"),
        (["--min-overlap", "0"], "--min-overlap"),
    ],
)
def test_bad_input_is_one_line_and_status_two(folders, capsys, change, message):
    assert leave(["pair", *folders, *change]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_a_missing_folder_is_named(folders, capsys):
    assert leave(["pair", "nowhere", *folders[1:], "--model", str(sample_model())]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
