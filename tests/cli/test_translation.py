"""pix2pix and CycleGAN on the command line: trained, described, indexed, searched and evaluated."""

import re

import pytest
import tifffile

pytestmark = pytest.mark.core

SMALL = {
    "pix2pix": ("--downs", 5, "--batch-size", 2),
    "cyclegan": ("--blocks", 1, "--batch-size", 1, "--identity-weight", 0),
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_translation_is_trained_indexed_and_searched(call, info, pairs, tmp_path, name):
    model, both = tmp_path / "model.safetensors", ("--modalities", "SHG", "BF")
    ended = call(
        *("train", pairs, *both, "--representation", name, "-o", model, *SMALL[name]),
        *("--steps", 2, "--patch-size", 32, "--filters", 4, "--reduction", 1, "--target", "first"),
    )
    assert ended.status == 0, ended.err
    assert "2 steps, last loss" in ended.out
    assert "not comparable with the paper" in ended.out
    card = info(model)
    assert (card["representation"], card["compared in"], card["steps"]) == (name, "SHG", 2)
    assert "not comparable with the paper" in card["caveat"]
    assert card["parameters"].keys() == {"SHG", "BF"}
    repository = tmp_path / "tissue.cmrir"
    ended = call("index", pairs, "--model", model, "--modality", "BF", "-o", repository)
    assert ended.status == 0, ended.err
    image = pairs / "sample-001_SHG.tif"
    ended = call("query", repository, image, "--modality", "SHG", "--json", tmp_path / "hits.json")
    assert ended.status == 0, ended.err
    assert "sample-00" in (tmp_path / "hits.json").read_text()
    ended = call("represent", model, image, "--modality", "SHG", "-o", tmp_path / "out")
    assert ended.status == 0, ended.err
    (written,) = (tmp_path / "out").iterdir()
    assert tifffile.imread(written).shape == (160, 160)


def test_settings_of_another_representation_are_refused(call, pairs, tmp_path):
    ask = ("train", pairs, "--modalities", "SHG", "BF", "-o", tmp_path / "m.safetensors")
    ended = call(*ask, "--representation", "pix2pix", "--blocks", 3, "--widths", 4)
    assert ended.status == 2
    assert "'pix2pix' is trained without --widths, --blocks; leave it out." in " ".join(ended.err.split())
    ended = call(*ask, "--downs", 5)
    assert "'comir' is trained without --downs" in " ".join(ended.err.split())
    ended = call(*ask, "--representation", "pix2pix", "--patch-size", 100)
    assert ended.status == 2
    assert "must be a multiple of 128 pixels" in ended.err
    ended = call(*ask, "--representation", "cyclegan", "--batch-size", 0)
    assert re.search(
        r"'--batch-size': .*(greater than or equal to 1|x>=1)", ended.err
    )  # typer's words, by its version
    assert not list(tmp_path.iterdir())
