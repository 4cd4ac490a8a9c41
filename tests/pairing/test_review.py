from __future__ import annotations

import numpy as np
import pytest

from napari_cmrir.cli.main import main
from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_image, read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.pairing.review import check_alignment, correct_pairs
from napari_cmrir.representations.model_file import sample_model

pytestmark = pytest.mark.core
MODALITIES = ("SHG", "BF")
KINDS = {
    "good": "aligned",
    "half": "turned",
    "moved": "shifted",
    "one": "other",
    "two": "other",
    "strange": "unclear",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write):
    """Six pairs: good, turned by half a circle, shifted, two exchanged, and one of unknown tissue."""
    folder = tmp_path_factory.mktemp("given")
    tissues = {name: sample_pair(100 + number, 280) for number, name in enumerate(KINDS)}
    partners = {name: tissue.bf for name, tissue in tissues.items()}
    partners["half"] = partners["half"][::-1, ::-1]
    partners["moved"] = cut(partners["moved"], Region((159.5, 119.5), 280, 280))[0]
    partners["one"], partners["two"] = partners["two"], partners["one"]
    partners["strange"] = sample_pair(200, 280).bf
    for name, tissue in tissues.items():
        write(folder / f"{name}_SHG.tif", tissue.shg)
        write(folder / f"{name}_BF.tif", np.ascontiguousarray(partners[name]))
    return folder


@pytest.fixture(scope="module")
def pairs(folder):
    return find_pairs([folder], MODALITIES)


@pytest.fixture(scope="module")
def findings(pairs, model):
    return run(check_alignment(pairs, MODALITIES, model))


def test_what_is_wrong_with_a_pair_is_told_by_name(findings):
    assert {one.identifier: one.kind for one in findings} == KINDS
    told = {one.identifier: one.sentence for one in findings}
    assert "half_BF.tif is turned by 180 degrees against half_SHG.tif" in told["half"]
    assert "moved_BF.tif is shifted against moved_SHG.tif by 20 px up and 20 px right" in told["moved"]
    assert "one_SHG.tif shows the tissue of two_BF.tif" in told["one"]


def test_corrected_pairs_are_aligned(pairs, findings, tmp_path, model):
    left_out = run(correct_pairs(pairs, findings, MODALITIES, tmp_path / "new"))
    assert not left_out
    corrected = find_pairs([tmp_path / "new"], MODALITIES)
    assert [pair.identifier for pair in corrected] == [pair.identifier for pair in pairs]
    again = run(check_alignment(corrected, MODALITIES, model))
    assert {one.kind for one in again if one.identifier != "strange"} == {"aligned"}
    half = next(pair for pair in corrected if pair.identifier == "half")
    given = next(pair for pair in pairs if pair.identifier == "half")
    assert read_image(half.paths[0]).shape == read_image(given.paths[0]).shape  # no field is lost
    truth = sample_pair(101, 280)
    shg, bf = read_pair(half)
    assert np.abs(bf.astype(float) - truth.bf[: len(bf), : bf.shape[1]]).mean() < 6
    assert shg.shape[0] > 270


def test_the_folder_of_the_pairs_is_not_written_to(pairs, findings, folder):
    with pytest.raises(InputError, match="not an empty folder"):
        run(correct_pairs(pairs, findings, MODALITIES, folder))


def test_train_checks_and_corrects_only_when_asked(folder, tmp_path, capsys):
    command = [
        "train",
        str(folder),
        "--modalities",
        *MODALITIES,
        "--check",
        "--check-model",
        str(sample_model()),
    ]
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SystemExit) as left:
        main(command)
    said = capsys.readouterr().out
    assert left.value.code == 0
    assert "half_BF.tif is turned by 180 degrees" in said
    assert "4 of 6 pairs" in said
    assert sorted(path.name for path in folder.iterdir()) == before
    with pytest.raises(SystemExit) as left:
        main([*command, "--correct", str(tmp_path / "new")])
    assert left.value.code == 0
    assert len(list((tmp_path / "new").glob("*.tif"))) == 12


def test_training_still_needs_an_output(folder, capsys):
    with pytest.raises(SystemExit) as left:
        main(["train", str(folder), "--modalities", *MODALITIES])
    assert left.value.code == 2
    assert "--output" in capsys.readouterr().err
