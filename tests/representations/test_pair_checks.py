"""Problems of training pairs are found and reported before training starts."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.representations.comir.training.pair_checks import check_pairs, estimate_shift
from napari_cmrir.representations.comir.training.train import train

SHG_BF = ("SHG", "BF")


@pytest.fixture
def folder(tmp_path) -> Path:
    write_sample_folder(tmp_path / "pairs", range(3), 200)
    return tmp_path / "pairs"


def problems(folder, **more):
    return run(check_pairs(find_pairs(folder, SHG_BF), **more))


def changed(path: Path, change) -> Path:
    pixels = tifffile.imread(path)
    tifffile.imwrite(path, change(pixels), photometric="rgb" if pixels.ndim == 3 else "minisblack")
    return path


def the(found, path: Path):
    (problem,) = [problem for problem in found if str(path) in problem.sentence]
    return problem


def test_good_pairs_have_no_problem_except_their_number(folder) -> None:
    (few,) = problems(folder)
    assert (
        few.sentence == "3 pairs of 0.12 megapixels in all are little to learn from; give ten pairs or more."
    )
    assert (few.severity, few.number) == ("doubtful", -1)


def test_enough_pairs_have_no_problem_at_all() -> None:
    images = [(pair.shg, pair.bf) for pair in (sample_pair(seed, 420) for seed in range(6))]
    assert run(check_pairs(images)) == []


def test_unequal_sizes_are_fatal(folder) -> None:
    path = changed(folder / "sample-001_BF.tif", lambda pixels: pixels[:-3])
    problem = the(problems(folder), path)
    assert problem.sentence.startswith(
        f"{folder / 'sample-001_SHG.tif'} has 200 x 200 px but its partner {path} has"
    )
    assert "197 x 200 px" in problem.sentence
    assert (problem.identifier, problem.severity, problem.number) == ("sample-001", "fatal", 1)


def test_an_unreadable_file_is_fatal(folder) -> None:
    path = folder / "sample-002_SHG.tif"
    path.write_bytes(b"II*\0 and no more")
    assert the(problems(folder), path).severity == "fatal"


def test_one_image_as_both_partners_is_fatal(folder) -> None:
    one, other = (folder / f"sample-000_{modality}.tif" for modality in SHG_BF)
    one.write_bytes(other.read_bytes())
    problem = the(problems(folder), one)
    assert problem.sentence == f"{one}, {other} hold the same image; a pair needs two modalities."
    assert problem.severity == "fatal"


def test_one_image_in_two_pairs_is_reported(folder) -> None:
    one, other = (folder / f"sample-00{i}_BF.tif" for i in (0, 2))
    tifffile.imwrite(other, tifffile.imread(one), photometric="rgb", compression="zlib")  # another file
    problem = the(problems(folder), one)
    assert problem.sentence == f"{one}, {other} hold the same image; give every tissue once."
    assert (problem.paths, problem.severity) == ((one, other), "doubtful")


@pytest.mark.parametrize("change", [np.zeros_like, lambda pixels: np.full(pixels.shape, np.nan, np.float32)])
def test_a_constant_image_is_useless(folder, change) -> None:
    path = changed(folder / "sample-001_SHG.tif", change)
    problem = the(problems(folder), path)
    assert "is constant" in problem.sentence
    assert problem.severity == "useless"


def test_a_saturated_image_is_reported(folder) -> None:
    path = changed(
        folder / "sample-001_SHG.tif",
        lambda pixels: np.where(np.arange(200) < 60, 65535, pixels).astype(np.uint16),
    )
    assert "is saturated: 30% of it has its highest value" in the(problems(folder), path).sentence


def test_images_without_a_partner_are_reported(folder) -> None:
    alone = folder / "sample-009_BF.tif"
    assert the(problems(folder, alone=[alone]), alone).sentence == f"{alone} has no partner; it is left out."


def test_a_shifted_partner_is_reported(tmp_path) -> None:
    pair = sample_pair(2, 400)
    folder = tmp_path / "shifted"
    folder.mkdir()
    one, other = (folder / f"core_{modality}.tif" for modality in SHG_BF)
    tifffile.imwrite(one, pair.shg[30:, :-20])
    tifffile.imwrite(other, pair.bf[:-30, 20:], photometric="rgb")
    problem = the(problems(folder), other)
    assert f"{other} looks shifted against {one} by" in problem.sentence
    assert problem.severity == "doubtful"
    down, left = (float(part.split()[0]) for part in problem.sentence.split(" by ")[1].split(" and "))
    assert (down, left) == (pytest.approx(30, abs=2), pytest.approx(20, abs=2))
    assert "px down and" in problem.sentence
    assert "px left; align" in problem.sentence


@settings(max_examples=20, deadline=None)
@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(0, 5))
def test_the_shift_of_an_inverted_image_is_estimated(y, x, seed) -> None:
    image = np.random.default_rng(seed).random((25, 30)).repeat(12, 0).repeat(12, 1)
    first = image[50:250, 50:310]
    second = 1 - image[50 - y : 250 - y, 50 - x : 310 - x] ** 2
    found = estimate_shift(first, second)
    if max(abs(y), abs(x)) < 4:
        assert found is None
    elif max(abs(y), abs(x)) > 5:
        assert found == (y, x)


@pytest.mark.parametrize("seed", range(6))
def test_aligned_modalities_are_not_called_shifted(seed) -> None:
    pair = sample_pair(seed, 300)
    assert estimate_shift(pair.shg, pair.bf) is None


def test_large_images_are_checked_at_low_resolution() -> None:
    image = np.random.default_rng(0).random((60, 70)).repeat(24, 0).repeat(24, 1)
    y, x = estimate_shift(image[48:, :-96], 1 - image[:-48, 96:])
    assert (y, x) == (pytest.approx(48, abs=4), pytest.approx(-96, abs=4))


def test_training_refuses_fatal_problems_and_names_the_file(folder, small_settings) -> None:
    path = changed(folder / "sample-001_BF.tif", lambda pixels: pixels[:-3])
    changed(folder / "sample-002_BF.tif", lambda pixels: pixels[:-3])
    with pytest.raises(InputError, match=r"1 more like this") as refused:
        run(train(find_pairs(folder, SHG_BF), SHG_BF, small_settings))
    assert str(path) in str(refused.value)


def test_training_leaves_out_useless_pairs_and_reports_them(folder, small_settings) -> None:
    path = changed(folder / "sample-001_SHG.tif", np.zeros_like)
    notes: list[str] = []
    job = train(find_pairs(folder, SHG_BF), SHG_BF, small_settings)
    model = run(job, lambda progress: notes.extend(progress.preview.notes if progress.preview else ()))
    assert f"{path} is constant (0 everywhere); the pair is left out." in notes
    assert model.provenance["trained_on"] == ["sample-000", "sample-002"]


def test_training_on_nothing_but_useless_pairs_is_refused(small_settings) -> None:
    blank = np.zeros((100, 100))
    with pytest.raises(InputError, match="No pair can be trained on: The first image of pair 1 is constant"):
        run(train([(blank, blank + 1)], SHG_BF, small_settings))
