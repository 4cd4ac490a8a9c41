"""Faults of a training are detected, reported and recovered from; each test provokes one."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.comir.networks import UNet
from napari_cmrir.representations.comir.training.patches import PatchBatch
from napari_cmrir.representations.comir.training.train import train

SHG_BF = ("SHG", "BF")


@pytest.fixture(scope="module")
def pairs():
    """Five pairs, one of which is kept for validation and gives four fields."""
    return [(pair.shg, pair.bf) for pair in (sample_pair(seed, 200) for seed in range(5))]


@pytest.fixture
def settings(small_settings):
    return small_settings.model_copy(update={"validation_every": 2})


class Faulty:
    """Replaces the U-Net's forward by one that fails while it is told to."""

    def __init__(self, monkeypatch, fail) -> None:
        self.on, self.forward = False, UNet.forward
        monkeypatch.setattr(
            UNet, "forward", lambda net, x: fail(self.forward, net, x) if self.on else self.forward(net, x)
        )


def flat(forward, network, images):
    return forward(network, images) * 0 + 3


def notes_of(job) -> tuple[list[str], object]:
    """What a training says of its steps, and its model."""
    notes: list[str] = []
    model = run(job, lambda progress: notes.extend(progress.preview.notes if progress.preview else ()))
    return [note for note in notes if note.startswith("Step ")], model


def assert_is_sound(model) -> None:
    for network in model.networks.values():
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())


def test_too_small_a_memory_halves_the_batch_and_says_so(monkeypatch, pairs, settings) -> None:
    seen = []

    def too_large(forward, network, images):
        seen.append(len(images))
        if network.training and len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, images)

    Faulty(monkeypatch, too_large).on = True
    notes, model = notes_of(train(pairs, SHG_BF, settings))
    (note,) = [note for note in notes if "memory" in note]
    assert note == "Step 1: the memory of cpu does not hold 6 pairs of patches; going on with 3 a step."
    assert note in model.provenance["notes"]
    assert seen[0] == 6
    assert model.history[-1]["step"] == settings.steps
    assert np.isfinite(model.history[-1]["loss"])


def test_a_memory_too_small_for_two_pairs_ends_with_a_clear_error(monkeypatch, pairs, settings) -> None:
    def too_large(forward, network, images):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    Faulty(monkeypatch, too_large).on = True
    with pytest.raises(
        InputError, match="does not hold a training step of 3 pairs of patches; give a smaller"
    ):
        run(train(pairs, SHG_BF, settings))


def test_too_small_a_memory_shrinks_the_validation(monkeypatch, pairs, settings) -> None:
    expected = run(train(pairs, SHG_BF, settings))

    def too_large(forward, network, images):
        if not network.training and len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(network, images)

    Faulty(monkeypatch, too_large).on = True
    model = run(train(pairs, SHG_BF, settings))
    assert model.score["retrieval"] == expected.score["retrieval"]
    assert model.score["validation_loss"] == pytest.approx(expected.score["validation_loss"], abs=1e-2)


def test_other_errors_are_not_taken_for_a_full_memory(monkeypatch, pairs, settings) -> None:
    def broken(forward, network, images):
        raise RuntimeError("shape mismatch")

    Faulty(monkeypatch, broken).on = True
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(train(pairs, SHG_BF, settings))


@pytest.mark.parametrize("poisoned", [range(4, 5), range(4, 20)])
def test_a_loss_that_is_not_a_number_restores_the_best_model(monkeypatch, pairs, settings, poisoned) -> None:
    cut, cuts = PatchBatch.cut, []

    def cut_poison(self, side):
        patches = cut(self, side)
        if side == 1:
            return patches
        cuts.append(len(patches))
        return patches * torch.nan if len(cuts) in poisoned else patches

    monkeypatch.setattr(PatchBatch, "cut", cut_poison)
    longer = settings.model_copy(update={"steps": 12})
    notes, model = notes_of(train(pairs, SHG_BF, longer))
    assert notes[0] == "Step 4: the loss is not a number; going back to step 2 with half the learning rate."
    assert_is_sound(model)
    if len(poisoned) == 1:
        assert len(notes) == 1
        assert model.history[-1]["step"] == 12
    else:
        assert notes[-1].startswith("Step 9: the loss is not a number for the 6th time; training stops with")
        assert model.score["step"] == 2
    assert all(np.isfinite(entry["loss"]) for entry in model.history)


def test_collapsed_comirs_restore_the_best_model(monkeypatch, pairs, settings) -> None:
    fault, notes = Faulty(monkeypatch, flat), []
    longer = settings.model_copy(update={"steps": 30, "validation_every": 5, "local_weight": 0.0})
    job = train(pairs, SHG_BF, longer)
    while True:
        try:
            progress = next(job)
        except StopIteration as end:
            model = end.value
            break
        notes += progress.preview.notes if progress.preview else ()
        if progress.unit == "steps":
            fault.on = progress.done == 14
    (note,) = [note for note in notes if note.startswith("Step ")]
    assert note.startswith("Step 15: the CoMIRs have become flat; going back to step ")
    losses = {entry["step"]: entry["loss"] for entry in model.history}
    assert max(losses) == 30
    assert np.mean([losses[step] for step in (20, 25, 30)]) < losses[5]  # it goes on learning


def test_comirs_that_stay_flat_stop_the_training_with_the_best_model(monkeypatch, pairs, settings) -> None:
    fault = Faulty(monkeypatch, flat)
    longer = settings.model_copy(update={"steps": 200, "validation_every": 5, "validation_share": 0.2})
    job, steps = train(pairs, SHG_BF, longer), []
    while True:
        try:
            progress = next(job)
        except StopIteration as end:
            model = end.value
            break
        if progress.unit == "steps":
            steps.append(progress.done)
            fault.on = progress.done >= 10
    assert steps[-1] == 40  # looked at every five steps, five returns, the sixth ends it
    assert model.score["step"] <= 10
    assert "training stops with the model of step" in model.provenance["notes"][-1]


def test_patience_ends_a_training_that_gets_no_better(monkeypatch, pairs, settings) -> None:
    def flat_when_tried(forward, network, images):
        return forward(network, images) if network.training else flat(forward, network, images)

    Faulty(monkeypatch, flat_when_tried).on = True
    patient = settings.model_copy(update={"steps": 9, "validation_every": 1, "patience": 2})
    notes, model = notes_of(train(pairs, SHG_BF, patient))
    assert notes[-1] == "Step 3: no better for 2 validations; training stops with the model of step 1."
    assert model.history[-1]["step"] == 3


def test_the_best_model_is_kept_and_its_score_is_reported(pairs, settings) -> None:
    model = run(train(pairs, SHG_BF, settings.model_copy(update={"steps": 20})))
    tried = {entry["step"]: entry for entry in model.history if "retrieval" in entry}
    assert sorted(tried) == list(range(2, 21, 2))
    scores = np.array([(tried[step]["retrieval"], -tried[step]["validation_loss"]) for step in sorted(tried)])
    means = [tuple(scores[max(0, i - 2) : i + 1].mean(0)) for i in range(len(scores))]
    best = tried[sorted(tried)[max(range(len(means)), key=means.__getitem__)]]
    assert model.score == {
        "retrieval": best["retrieval"],
        "validation_loss": best["validation_loss"],
        "step": best["step"],
        "fields": 4,
        "queries": 128,
    }
    assert model.provenance["validation"] == "One of 5 pairs is kept for validation."


def test_a_killed_training_resumes_with_the_same_result(tmp_path, settings) -> None:
    folder, output = tmp_path / "pairs", tmp_path / "model.safetensors"
    files = write_sample_folder(folder, range(5), 200)
    longer = settings.model_copy(update={"steps": 9})
    whole = run(train(files, SHG_BF, longer))
    code = f"""
        from napari_cmrir.representations.training_settings import TrainingSettings
        from napari_cmrir.representations.comir.training.train import train
        from napari_cmrir.images.discovery import find_pairs
        settings = TrainingSettings.model_validate_json({longer.model_dump_json()!r})
        pairs = find_pairs({str(folder)!r}, ("SHG", "BF"))
        for progress in train(pairs, ("SHG", "BF"), settings, output={str(output)!r}):
            print(progress.unit, int(progress.done), flush=True)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line == "steps 5\n" for line in process.stdout)
        process.kill()
    assert process.returncode == -9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors.checkpoint", "pairs"]

    steps = []
    resumed = run(
        train(files, SHG_BF, longer, output=output, resume=True),
        lambda progress: steps.append(progress.done) if progress.unit == "steps" else None,
    )
    assert steps[0] in (4, 6)  # what was done since the last validation is done again
    without_seconds = [
        [{key: value for key, value in entry.items() if key != "seconds"} for entry in model.history]
        for model in (whole, resumed)
    ]
    assert without_seconds[0] == without_seconds[1]
    assert resumed.score == whole.score
    assert resumed.fingerprint == whole.fingerprint == load_model(output).fingerprint
