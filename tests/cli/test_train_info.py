"""What train tells while it trains, and the model card that info prints of the result."""

import json

import numpy as np
import pytest
import tifffile
import zarr

from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def trained(call, tmp_path_factory):
    """A folder with one doubtful pair, the model of it, and what training said."""
    folder = tmp_path_factory.mktemp("cards")
    write_sample_folder(folder / "pairs", range(5), 200)
    blank = folder / "pairs" / "sample-004_SHG.tif"
    tifffile.imwrite(blank, np.zeros((200, 200), np.uint16))
    model = folder / "model.safetensors"
    ended = call(
        *("train", folder / "pairs", "--modalities", "SHG", "BF", "-o", model),
        *("--steps", 2, "--pixel-size", 0.5),
    )
    assert ended.status == 0, ended.err
    return model, blank, ended


def test_train_warns_of_the_pairs_and_tells_what_it_kept(trained):
    model, blank, ended = trained
    assert f"{blank} is constant (0 everywhere); the pair is left out." in ended.err
    assert "little to learn from" in ended.err
    assert "One of 4 pairs is kept for validation." in ended.err
    assert "kept step 2, which retrieves" in ended.out
    assert "of 128 validation queries" in ended.out
    assert str(model) in ended.out


def test_the_model_card_tells_score_pixel_size_history_and_versions(call, info, trained):
    model = trained[0]
    card = info(model)
    assert card["score"]["step"] == card["steps"] == 2
    assert card["score"]["fields"] == 4
    assert card["validations"] == [f"step 2: {card['score']['retrieval']:.3f}"]
    assert card["pixel size (micrometres)"] == 0.5
    assert card["channels"] == 1
    assert set(card["parameters"]) == {"SHG", "BF"}
    assert len(card["trained_on"]) == 3
    assert len(card["validated_on"]) == 1
    assert len(card["images_sha256"]) == 64
    assert {"torch", "python", "napari-cmrir", "device", "created"} <= card.keys()
    told = call("info", model).out
    assert "pixel size (micrometres): 0.5" in told
    assert f"  retrieval: {card['score']['retrieval']}" in told
    assert json.dumps(card)


def test_represent_writes_pyramids_when_asked_to(call, trained, tmp_path):
    model, blank, _ = trained
    image = blank.parent / "sample-001_SHG.tif"
    for option in ([], ["--pyramid"], ["--rotations", "1"]):
        target = tmp_path / "".join(["out", *option])
        ended = call("represent", model, image, "--modality", "SHG", "-o", target, *option)
        assert ended.status == 0, ended.err
    plain = tifffile.imread(tmp_path / "out" / "sample-001_SHG_CoMIR.tif")
    group = zarr.open_group(tmp_path / "out--pyramid" / "sample-001_SHG_CoMIR.ome.zarr", mode="r")
    assert np.array_equal(group["0"][0], plain)
    assert group["1"].shape == (1, 100, 100)
    assert group.attrs["ome"]["multiscales"][0]["name"] == "sample-001_SHG_CoMIR"
    once = tifffile.imread(tmp_path / "out--rotations1" / "sample-001_SHG_CoMIR.tif")
    assert once.shape == plain.shape
    assert not np.array_equal(once, plain)


def test_fatal_pairs_end_training_in_one_line(call, tmp_path):
    write_sample_folder(tmp_path / "pairs", range(2), 160)
    short = tmp_path / "pairs" / "sample-001_BF.tif"
    tifffile.imwrite(short, tifffile.imread(short)[:-1], photometric="rgb")
    ended = call(
        "train",
        tmp_path / "pairs",
        "--modalities",
        "SHG",
        "BF",
        "-o",
        tmp_path / "m.safetensors",
        "--steps",
        1,
    )
    assert ended.status == 2
    assert str(short) in ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "m.safetensors").exists()
