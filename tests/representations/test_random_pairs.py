"""Random scenes and looks, and the training that draws them without end."""

import numpy as np
import pytest
import torch

from endless import EndlessTrainer
from napari_cmrir.representations.training_settings import TrainingSettings
from random_looks import draw_pair
from random_scenes import SCENES, draw_scene, scene_of_picture

SETTINGS = TrainingSettings(widths=(4, 8), batch_size=4, patch_size=32, steps=6, validation_share=0.0)


@pytest.mark.parametrize("kind", SCENES)
def test_every_structure_divides_the_image(kind):
    labels, fibrous = SCENES[kind](np.random.default_rng(2), (96, 96))
    assert labels.shape == fibrous.shape == (96, 96)
    assert labels.min() >= 0
    assert len(np.unique(labels)) > 1


def test_the_same_seed_draws_the_same_pair_and_another_one_another():
    ours, again, others = (draw_pair([1, n], 96) for n in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(ours, again, strict=True))
    assert not np.array_equal(ours[0], others[0])


def test_looks_are_finite_and_of_the_range_that_networks_see():
    for number in range(40):
        for look in draw_pair([2, number], 96):
            assert look.shape == (1, 96, 96)
            assert look.dtype == np.float32
            assert np.isfinite(look).all()
            assert look.min() >= -1
            assert look.max() <= 2
            assert look.std() > 0.01


def test_a_photograph_is_cut_from_inside_and_keeps_its_colours():
    picture = np.zeros((120, 140, 3), np.uint8)
    picture[..., 1] = 200
    scene = scene_of_picture(np.random.default_rng(0), 96, picture)
    assert scene.picture is not None
    assert np.allclose(scene.picture, (0, 200 / 255, 0), atol=0.01)


def test_pictures_are_a_part_of_the_scenes_only():
    picture = np.random.default_rng(0).integers(0, 255, (120, 120, 3), np.uint8)
    drawn = [draw_scene(np.random.default_rng(n), 64, [picture]).picture is not None for n in range(30)]
    assert 3 < sum(drawn) < 20


def test_tissue_is_cut_from_a_section_that_scenes_share():
    scenes = [draw_scene(np.random.default_rng(n), 64, section=(4, 2)) for n in range(20)]
    tissue = [scene for scene in scenes if scene.parts is not None]
    assert 3 < len(tissue) < 17
    for scene in tissue:
        assert scene.parts.shape == (6, 64, 64)
        assert 0 <= scene.parts.min() <= scene.parts.max() <= 1
        matrix, collagen, *_ = scene.parts
        assert (collagen <= matrix + 0.3).mean() > 0.9  # fibres lie in the matrix or between fat cells
        assert np.corrcoef(scene.fibrous.ravel(), collagen.ravel())[0, 1] > 0.5


def draw(number):
    return draw_pair([3, number], 64)


def test_the_loss_falls_on_scenes_not_met_before():
    trainer = EndlessTrainer(draw, SETTINGS.model_copy(update={"steps": 40}), torch.device("cpu"), threads=2)
    losses = [trainer.advance() for _ in range(40)]
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_a_resumed_training_has_the_same_losses():
    through = EndlessTrainer(draw, SETTINGS, torch.device("cpu"))
    losses = [through.advance() for _ in range(6)]
    first = EndlessTrainer(draw, SETTINGS, torch.device("cpu"))
    before = [first.advance() for _ in range(3)]
    resumed = EndlessTrainer(draw, SETTINGS, torch.device("cpu"), state=first.state())
    assert resumed.step == 3
    assert before + [resumed.advance() for _ in range(3)] == losses


def test_two_threads_compute_what_one_does():
    one, two = (EndlessTrainer(draw, SETTINGS, torch.device("cpu"), threads=n) for n in (1, 2))
    assert [one.advance() for _ in range(3)] == [two.advance() for _ in range(3)]


def test_a_state_of_other_settings_is_refused_but_for_the_steps():
    state = EndlessTrainer(draw, SETTINGS, torch.device("cpu")).state()
    more = SETTINGS.model_copy(update={"steps": 9})
    assert EndlessTrainer(draw, more, torch.device("cpu"), state=state).settings.steps == 9
    others = SETTINGS.model_copy(update={"temperature": 0.5})
    with pytest.raises(ValueError, match="other settings"):
        EndlessTrainer(draw, others, torch.device("cpu"), state=state)
