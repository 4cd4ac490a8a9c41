"""The training job: it learns, can be stopped, and resumes with the same result."""

import numpy as np
import pytest
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model, represent
from napari_cmrir.representations.comir.training.train import keep_best, train
from napari_cmrir.representations.training_settings import PRESETS, TrainingSettings

SHG_BF = ("SHG", "BF")


def losses(job) -> list[float]:
    """The loss of every step of a training, from its messages' previews."""
    return [entry["loss"] for entry in run(job).history]


def test_training_lowers_the_loss(tissue_pairs) -> None:
    settings = TrainingSettings(widths=(8, 16), steps=60, patch_size=64, batch_size=8, variation=1.0)
    history = run(train(tissue_pairs, SHG_BF, settings)).history
    chance = np.log(2 * 8 - 1) + np.log(2 * 32 - 1)  # of patches, and of the discs in them
    assert history[-1]["step"] == 60
    assert history[-1]["loss"] < 0.75 * chance


def test_same_seed_same_model(tissue_pairs, small_settings) -> None:
    one, two = (run(train(tissue_pairs, SHG_BF, small_settings)) for _ in range(2))
    other = run(train(tissue_pairs, SHG_BF, small_settings.model_copy(update={"seed": 1})))
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_a_resumed_training_gives_the_model_of_an_uninterrupted_one(
    tmp_path, tissue_pairs, small_settings
) -> None:
    whole = run(train(tissue_pairs, SHG_BF, small_settings))
    output = tmp_path / "model.safetensors"
    job = train(tissue_pairs, SHG_BF, small_settings, output=output)
    for progress in job:
        if progress.unit == "steps" and progress.done == 3:
            break
    job.close()
    assert not output.exists()
    assert (tmp_path / "model.safetensors.checkpoint").exists()
    torch.rand(7)  # whatever else draws random numbers meanwhile
    resumed = run(train(tissue_pairs, SHG_BF, small_settings, output=output, resume=True))
    assert [e["loss"] for e in resumed.history] == [e["loss"] for e in whole.history]
    assert resumed.fingerprint == whole.fingerprint == load_model(output).fingerprint
    assert not (tmp_path / "model.safetensors.checkpoint").exists()


def test_a_stopped_training_with_dropout_resumes_too(tmp_path, tissue_pairs, small_settings) -> None:
    changes = {"network": "tiramisu", "steps": 2, "batch_size": 2, "rotations": 1}
    settings = small_settings.model_copy(update=changes)
    whole = run(train(tissue_pairs, SHG_BF, settings))
    job = train(tissue_pairs, SHG_BF, settings, output=tmp_path / "model.safetensors")
    next(p for p in job if p.unit == "steps" and p.done == 1)
    job.close()
    torch.rand(7)  # whatever else draws random numbers meanwhile
    resumed = run(train(tissue_pairs, SHG_BF, settings, output=tmp_path / "model.safetensors", resume=True))
    assert [e["loss"] for e in resumed.history] == [e["loss"] for e in whole.history]
    assert resumed.fingerprint == whole.fingerprint


def test_the_best_model_of_a_stopped_training_can_be_kept_and_the_training_resumed(
    tmp_path, tissue_pairs, small_settings
) -> None:
    whole = run(train(tissue_pairs, SHG_BF, small_settings))
    output, checkpoint = tmp_path / "model.safetensors", tmp_path / "model.safetensors.checkpoint"
    job = train(tissue_pairs, SHG_BF, small_settings, output=output)
    for progress in job:
        if progress.unit == "steps":
            assert checkpoint.exists()  # from the first step on: a kill loses little
        if progress.done == 3 and progress.unit == "steps":
            break
    job.close()
    kept = run(keep_best(tissue_pairs, SHG_BF, small_settings, output=output))
    assert kept.provenance["steps_done"] == 3
    assert kept.fingerprint == load_model(output).fingerprint != whole.fingerprint
    resumed = run(train(tissue_pairs, SHG_BF, small_settings, output=output, resume=True))
    assert resumed.fingerprint == whole.fingerprint
    with pytest.raises(InputError, match="nothing has been learnt yet"):
        run(keep_best(tissue_pairs, SHG_BF, small_settings, output=output))


def test_a_checkpoint_of_another_training_is_refused(tmp_path, tissue_pairs, small_settings) -> None:
    output = tmp_path / "model.safetensors"
    job = train(tissue_pairs, SHG_BF, small_settings, output=output)
    for progress in job:
        if progress.unit == "steps" and progress.done == 2:
            break
    job.close()
    other = small_settings.model_copy(update={"temperature": 0.3})
    with pytest.raises(InputError, match=r"checkpoint belongs to a training of other pairs or settings"):
        run(train(tissue_pairs, SHG_BF, other, output=output, resume=True))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_reported(tmp_path, tissue_pairs, small_settings, content) -> None:
    output = tmp_path / "model.safetensors"
    (tmp_path / "model.safetensors.checkpoint").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        run(train(tissue_pairs, SHG_BF, small_settings, output=output, resume=True))


def test_progress_counts_every_step_and_ends_with_a_preview(tissue_pairs, small_settings) -> None:
    seen = [p for p in train(tissue_pairs, SHG_BF, small_settings) if p.unit == "steps"]
    assert [p.done for p in seen] == [1, 2, 3, 4, 5, 6]
    figures = seen[-1].preview.figures
    assert figures.comirs["SHG"].shape == figures.comirs["BF"].shape == (1, 160, 160)
    assert figures.comirs["SHG"].dtype == np.uint8
    assert figures.eta_seconds == 0
    assert figures.peak_memory_bytes > 2**20
    assert figures.device.startswith("cpu (no cuda")
    assert np.isfinite(figures.loss)


def test_unequal_partners_are_refused(tissue_pairs, small_settings) -> None:
    shg, bf = tissue_pairs[0]
    with pytest.raises(InputError, match="not of equal size"):
        run(train([(shg, bf[:-1])], SHG_BF, small_settings))


def test_images_smaller_than_a_patch_are_refused(tissue_pairs, small_settings) -> None:
    shg, bf = tissue_pairs[0]
    with pytest.raises(InputError, match="side of 50 pixels, less than a patch of 64"):
        run(train([(shg[:50], bf[:50])], SHG_BF, small_settings))


def test_a_diverging_training_stops_with_a_clear_error(tissue_pairs, small_settings) -> None:
    wild = small_settings.model_copy(update={"learning_rate": 1e30, "steps": 200})
    with pytest.raises(InputError, match="does not converge"):
        run(train(tissue_pairs, SHG_BF, wild))


def test_pairs_from_files_are_named_in_the_provenance(tmp_path, small_settings) -> None:
    pairs: list[Pair] = write_sample_folder(tmp_path / "pairs", range(2), 96)
    model = run(train(pairs, SHG_BF, small_settings))
    assert model.provenance["trained_on"] == [pair.identifier for pair in pairs]
    assert model.intensities["SHG"].channels == 1
    assert model.intensities["BF"].channels == 3


def test_the_paper_preset_has_the_published_settings() -> None:
    paper = PRESETS["paper"]
    assert (paper.network, paper.critic, paper.temperature) == ("tiramisu", "mse", 0.5)
    assert (paper.batch_size, paper.patch_size, paper.steps) == (24, 128, 736)
    assert 2 * paper.batch_size - 2 == 46


def test_represent_refuses_a_modality_that_the_model_lacks(tissue_pairs, small_settings) -> None:
    model = run(train(tissue_pairs, SHG_BF, small_settings))
    with pytest.raises(InputError, match="trained on SHG and BF, not on MRI"):
        run(represent(model, tissue_pairs[0][0], "MRI"))
