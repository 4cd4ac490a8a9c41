"""A model adapted to a repository: pairs mined, weights gone on from, images indexed again."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from pydantic import ValidationError

from napari_cmrir.cli.main import main
from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.pairing import adapt
from napari_cmrir.pairing.adapt import adapt_model, adaptation_settings
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.training.patches import PatchSampler
from napari_cmrir.representations.comir.training.train import Start, train
from napari_cmrir.representations.model_file import sample_model
from napari_cmrir.representations.training_settings import TrainingSettings
from napari_cmrir.search.settings import PairingSettings

pytestmark = pytest.mark.core
MODALITIES = ("SHG", "BF")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Four generated tissues in two folders, the second turned; and the second, indexed."""
    root = tmp_path_factory.mktemp("collection")
    (root / "shg").mkdir()
    (root / "bf").mkdir()
    for number, (seed, degrees) in enumerate({40: 0.0, 41: 70.0, 42: -25.0, 43: 10.0}.items()):
        pair = sample_pair(seed, 384)
        tifffile.imwrite(root / "shg" / f"a{number}.tif", pair.shg[..., 0])
        turned = cut(pair.bf, Region((191.5, 191.5), 304, 304, degrees))[0]
        tifffile.imwrite(root / "bf" / f"b{3 - number}.tif", turned, photometric="rgb")
    run(build_repository([root / "bf"], load_model(sample_model()), "BF", root / "own.cmrir")).close()
    return root


def test_train_adapt_goes_on_from_the_repositorys_model_and_indexes_again(collection, tmp_path, capsys):
    output = tmp_path / "adapted.safetensors"
    command = ["train", collection / "shg", "--adapt", collection / "own.cmrir", "--modalities", *MODALITIES]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in (*command, "-o", output, "--steps", "2")])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    lines = printed.out.splitlines()
    found = next(line for line in lines if "confident pairs found" in line)
    assert int(found.split()[0]) >= 3
    assert any("Went on from its model for 2 steps" in line for line in lines)
    adapted, before = load_model(output), load_model(sample_model())
    assert adapted.name == "comir"
    assert adapted.provenance["went_on_from"]["fingerprint"] == before.fingerprint
    assert adapted.intensities == before.intensities
    for name, tensor in before.tensors().items():  # two steps change little, not nothing
        if name.endswith("stem.weight"):
            change = (adapted.tensors()[name] - tensor).abs().max()
            assert 0 < change < 0.1 * tensor.abs().max()
    with (
        open_repository(tmp_path / "adapted.cmrir") as again,
        open_repository(collection / "own.cmrir") as own,
    ):
        assert again.model.fingerprint == adapted.fingerprint
        assert own.model.fingerprint == before.fingerprint
        assert {path.name for path in map(again.image_path, range(len(again)))} == {
            f"b{n}.tif" for n in range(4)
        }


def test_the_starter_is_left_behind_too_with_five_pairs_and_other_models_go_on():
    starter, own = load_model("starter"), load_model(sample_model())
    assert list(adaptation_settings(starter, 4)) == ["went-on"]
    ways = adaptation_settings(starter, 5)
    assert ways["went-on"].widths == starter.settings.widths
    assert ways["afresh"] == TrainingSettings()
    assert list(adaptation_settings(own, 100)) == ["went-on"]
    changed = adaptation_settings(starter, 100, {"steps": 7})
    assert {way: settings.steps for way, settings in changed.items()} == {"went-on": 7, "afresh": 7}
    with pytest.raises(ValidationError, match="steps"):
        adaptation_settings(starter, 100, {"steps": 0})


@pytest.fixture
def adapting(collection, tmp_path, monkeypatch):
    """Adapting a repository of the starter in both ways, two steps each, to few pairs."""
    monkeypatch.setattr(adapt, "AFRESH_FROM", 3)
    run(build_repository([collection / "bf"], load_model("starter"), "BF", tmp_path / "own.cmrir")).close()
    return partial(
        adapt_model,
        tmp_path / "own.cmrir",
        collection / "shg",
        MODALITIES,
        tmp_path / "new.safetensors",
        changes={"steps": 2, "validation_every": 1},
    )


def test_of_two_ways_to_adapt_the_starter_the_model_that_retrieves_more_is_kept(adapting, tmp_path):
    result = run(adapting())
    assert set(result.retrieved) == {"went-on", "afresh"}
    best = max(result.retrieved.values())
    assert result.model.score["retrieval"] == best
    # two steps from random weights teach nothing that the starter does not know
    assert result.retrieved["went-on"] == best > result.retrieved["afresh"]
    kept = load_model(tmp_path / "new.safetensors")
    assert kept.fingerprint == result.model.fingerprint
    assert "went_on_from" in kept.provenance
    assert sorted(path.name for path in tmp_path.glob("*.safetensors*")) == ["new.safetensors"]
    with open_repository(tmp_path / "new.cmrir") as again:
        assert again.model.fingerprint == kept.fingerprint


def test_an_interrupted_adaptation_keeps_the_model_that_was_trained(adapting, tmp_path):
    job, first = adapting(), tmp_path / "new-went-on.safetensors"
    while not first.exists():
        next(job)
    job.close()
    made = load_model(first).provenance["created"]
    result = run(adapting(resume=True))
    assert result.model.provenance["created"] == made
    assert not first.exists()


def test_a_starter_adapted_is_an_ordinary_model_that_begins_as_the_starter(tmp_path):
    starter, tissue = load_model("starter"), sample_pair(50, 160)
    grey = np.repeat(
        tissue.shg, 3, 2
    )  # three nearly equal channels: their grey value is what the starter sees
    grey[..., 1] += 1  # equal channels are read as one
    settings = starter.settings.model_copy(update={"steps": 1, "batch_size": 2, "learning_rate": 1e-12})
    model = run(train([(tissue.shg, grey)], MODALITIES, settings, start=Start(starter)))
    assert model.name == "comir"
    model.save(tmp_path / "own.safetensors")
    loaded = load_model(tmp_path / "own.safetensors")
    assert loaded.intensities["BF"].channels == 3
    one, other = (run(loaded.represent(pixels, name)) for pixels, name in ((tissue.shg, "SHG"), (grey, "BF")))
    ours = run(starter.represent(tissue.shg, "SHG"))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.99
    assert np.corrcoef(one.ravel(), ours.ravel())[0, 1] > 0.95


def test_a_starter_adapted_to_stained_sections_begins_with_what_it_saw_of_them():
    starter, tissue = load_model("starter"), sample_pair(50, 160)
    settings = starter.settings.model_copy(update={"steps": 1, "batch_size": 2, "learning_rate": 1e-12})
    model = run(train([(tissue.shg, tissue.bf)], MODALITIES, settings, start=Start(starter)))
    ours, its = (run(one.represent(tissue.bf, "BF")) for one in (starter, model))
    assert np.corrcoef(ours.ravel(), its.ravel())[0, 1] > 0.95


def test_a_patch_is_followed_by_one_of_a_pair_that_it_is_taken_for():
    pairs = [(torch.full((1, 64, 64), float(n)), torch.full((1, 64, 64), float(n))) for n in range(4)]
    plain, paired = (PatchSampler(pairs, 32, 0.0, 0) for _ in range(2))
    paired.companions = {0: [2], 2: [0]}

    def numbers(sampler, count=200):
        return [int(window.mean()) for window in sampler.choose(count).windows[0]]

    chosen = numbers(paired)
    assert all(after == 2 for before, after in zip(chosen[::2], chosen[1::2], strict=True) if before == 0)
    assert {1, 3} <= set(chosen[::2])
    alone = numbers(plain)
    assert any(after != 2 for before, after in zip(alone[::2], alone[1::2], strict=True) if before == 0)


def test_what_cannot_be_adapted_is_said(collection, tmp_path):
    few = PairingSettings(least_confidence=1.0)
    with pytest.raises(InputError, match="too few to adapt to"):
        run(
            adapt_model(
                collection / "own.cmrir",
                collection / "shg",
                MODALITIES,
                tmp_path / "m.safetensors",
                pairing=few,
            )
        )
    with pytest.raises(InputError, match="holds BF images"):
        run(
            adapt_model(
                collection / "own.cmrir", collection / "shg", ("SHG", "CT"), tmp_path / "m.safetensors"
            )
        )
    with pytest.raises(InputError, match="would replace the repository"):
        run(
            adapt_model(
                collection / "own.cmrir", collection / "shg", MODALITIES, collection / "own.safetensors"
            )
        )
    image = sample_pair(51, 96)
    original = run(train_original(image))
    with pytest.raises(InputError, match="no networks"):
        run(
            train(
                [(image.shg, image.bf)],
                MODALITIES,
                TrainingSettings(patch_size=32, steps=1),
                start=Start(original),
            )
        )


def train_original(image):
    from napari_cmrir.representations.base import train as train_any

    return train_any([(image.shg, image.bf)], MODALITIES, representation="original")
