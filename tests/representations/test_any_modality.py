"""The model of any two modalities, and models that are named."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import stain_white, to_grey
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model, represent, train
from napari_cmrir.representations.comir.inference import AnyModalityModel, own_intensity
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.comir.training.validation import measure_scale
from napari_cmrir.representations.model_file import find_model, read_header
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.query import search


@pytest.fixture
def image():
    return sample_pair(1, 160).bf


@pytest.fixture
def model(image):
    torch.manual_seed(0)
    settings = TrainingSettings(widths=(4, 8))
    network = build_network(settings, 1).eval()
    seen = torch.from_numpy(own_intensity(image).apply(image))[None]
    scale = measure_scale(network, seen, settings, torch.device("cpu"))
    return AnyModalityModel(("SHG", "BF"), settings, network, scale)


def test_it_takes_any_name_and_any_number_of_channels(model, image):
    one_channel = to_grey(image, stain_white(image))
    grey = run(represent(model, one_channel, "IR", device="cpu"))
    assert grey.shape == (1, 160, 160)
    assert grey.std() > 1
    assert np.array_equal(run(represent(model, image, "visible", device="cpu")), grey)
    assert run(represent(model, image[..., [0, 1, 2, 0, 1]], "5 channels", device="cpu")).shape == grey.shape
    assert np.array_equal(run(represent(model, one_channel[..., 0], "plain", device="cpu")), grey)


def test_it_says_how_channels_are_brought_to_one(model, image, caplog):
    with caplog.at_level(logging.INFO, "napari_cmrir"):
        run(represent(model, image, "BF", device="cpu"))
        run(represent(model, image[..., [1, 0, 2]], "green", device="cpu"))
        run(represent(model, image[..., :2], "two", device="cpu"))
        run(represent(model, image[..., :1], "one", device="cpu"))
    assert [record.getMessage() for record in caplog.records] == [
        "BF images: of 3 channels, the model sees red less green and blue, as of a stained section.",
        "green images: of 3 channels, the model sees the luminance.",
        "two images: of 2 channels, the model sees the mean.",
    ]


def test_the_range_of_an_image_does_not_matter(model, image):
    comir = run(represent(model, image, "BF", device="cpu")).astype(int)
    brighter = run(represent(model, image.astype(np.uint16) * 50 + 1000, "BF", device="cpu"))
    assert np.abs(brighter - comir).max() <= 2


def test_a_large_image_is_scaled_as_a_whole_and_read_in_windows():
    class Counting:
        shape = (40_000, 30_000, 1)
        read = 0

        def __getitem__(self, key):
            rows, columns = (
                np.arange(*part.indices(side)) for part, side in zip(key, self.shape[:2], strict=True)
            )
            self.read += len(rows) * len(columns)
            return (rows[:, None] + columns)[..., None].astype(np.float32)

    pixels = Counting()
    intensity = own_intensity(pixels)
    assert pixels.read <= 2**18
    assert intensity.low[0] < 2000
    assert intensity.high[0] > 66_000


def test_parts_of_an_image_are_as_in_the_whole(model, image):
    whole = run(represent(model, image, "BF", device="cpu"))
    part = run(represent(model, image, "BF", device="cpu", part=(32, 16, 64, 96)))
    assert np.abs(part.astype(int) - whole[:, 32:96, 16:112]).max() <= 1


def test_a_saved_model_answers_the_same(tmp_path, model, image):
    model.save(tmp_path / "any.safetensors")
    loaded = load_model(tmp_path / "any.safetensors")
    assert isinstance(loaded, AnyModalityModel)
    assert loaded.fingerprint == model.fingerprint
    answers = [run(represent(m, image, "X", device="cpu")) for m in (model, loaded)]
    assert np.array_equal(*answers)


def test_a_file_from_before_stains_were_told_sees_the_luminance_still(tmp_path, model, image):
    old = replace(model, sees_stains=False)
    assert "stained" not in old.decisive()["grey"]
    old.save(tmp_path / "old.safetensors")
    loaded = load_model(tmp_path / "old.safetensors")
    assert loaded.fingerprint == old.fingerprint != model.fingerprint
    seen, grey, stains = (
        run(represent(one, pixels, "X", device="cpu"))
        for one, pixels in ((loaded, image), (model, to_grey(image)), (model, image))
    )
    assert np.array_equal(seen, grey)
    assert not np.array_equal(seen, stains)


def test_a_repository_remembers_its_modality_and_is_searched_by_any_other(tmp_path, model, image):
    sources = [Source(f"tissue {seed}", sample_pair(seed, 160).bf) for seed in (1, 2)]
    built = run(build_repository(sources, model, "slide", tmp_path / "any.cmrir", device="cpu"))
    built.close()
    with open_repository(tmp_path / "any.cmrir") as repository:
        assert repository.modality == "slide"
        result = run(search(repository, image, "something else"))
        assert result.hits[0].image == "tissue 1"
        assert not any("fit" in warning for warning in result.warnings)


def test_it_is_not_trained_on_pairs(image):
    with pytest.raises(InputError, match="--model starter"):
        run(train([(image, image)], ("A", "B"), representation="comir-any"))


def test_a_path_that_exists_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_model("starter").parent.name == "data"
    (tmp_path / "starter").touch()
    assert str(find_model("starter")) == "starter"
    assert str(find_model("nothing")) == "nothing"


def test_an_unknown_model_is_refused_and_the_names_are_told():
    with pytest.raises(InputError, match=r"no model file startr; .* starter"):
        load_model("startr")


def test_the_starter_is_small_and_has_a_card():
    path = find_model("starter")
    assert path.stat().st_size < 6e6
    provenance = read_header(path)["provenance"]
    assert {"is", "is not", "trained_on", "steps_done", "hours"} <= set(provenance)


def test_the_starter_finds_tissue_of_another_modality(tmp_path):
    starter = load_model("starter")
    pairs = [sample_pair(seed, 192) for seed in range(6)]
    sources = [Source(str(seed), pair.bf) for seed, pair in enumerate(pairs)]
    with run(build_repository(sources, starter, "BF", tmp_path / "s.cmrir", device="cpu")) as repository:
        first = [run(search(repository, pair.shg, "SHG")).hits[0].image for pair in pairs]
    assert sum(name == str(seed) for seed, name in enumerate(first)) >= 5
