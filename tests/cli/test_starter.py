"""The starter model on the command line: no training, any two names."""

import json

import pytest

from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def folder(call, tmp_path_factory):
    """A folder of tissue in two modalities, and a repository of the one that was built with the starter."""
    folder = tmp_path_factory.mktemp("starter")
    for pair in write_sample_folder(folder / "pairs", range(3), 160):
        for path, name in zip(pair.paths, ("laser", "slide"), strict=True):
            path.rename(folder / "pairs" / f"{pair.identifier}_{name}.tif")
    images = sorted((folder / "pairs").glob("*_slide.tif"))
    ended = call("index", *images, "--model", "starter", "--modality", "slide", "-o", folder / "a.cmrir")
    assert ended.status == 0, ended.err
    assert ended.err.count("of 3 channels, the model sees red less green and blue") == 1
    return folder


def test_a_search_works_at_once_by_another_name(call, info, folder):
    assert info(folder / "a.cmrir")["modality"] == "slide"
    queries = sorted((folder / "pairs").glob("*_laser.tif"))
    ended = call("query", folder / "a.cmrir", *queries, "--modality", "laser", "--json", folder / "hits.json")
    assert ended.status == 0, ended.err
    hits = [query["hits"][0]["image"] for query in json.loads((folder / "hits.json").read_text())["queries"]]
    assert sum(f"sample-{n:03d}_slide" in hit for n, hit in enumerate(hits)) >= 2


def test_the_card_says_what_the_starter_is(call, info):
    card = info("starter")
    assert card["modalities"] == "any two"
    assert set(card["parameters"]) == {"any modality"}
    assert "no pair of real images" in card["trained_on"]
    assert "It is not made for diagnosis." in call("info", "starter").out


def test_evaluate_represent_and_calibrate_take_the_name(call, folder, tmp_path):
    image = folder / "pairs" / "sample-000_slide.tif"
    assert call("represent", "starter", image, "--modality", "slide", "-o", tmp_path).status == 0
    asked = ("--modalities", "laser", "slide", "--field-size", 128, "--no-within", "--no-untransformed")
    ended = call("evaluate", "starter", folder / "pairs", *asked, "--query", "full")
    assert ended.status == 0, ended.err
    ended = call("evaluate", "starter", folder / "pairs", *asked, "--query", "full", "--calibrate", "starter")
    assert ended.status == 2
    assert "keep the calibration with a repository instead" in ended.err
