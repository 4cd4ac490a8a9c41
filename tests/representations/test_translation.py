"""pix2pix and CycleGAN: networks, steps, trainings that are killed, model files, and searches."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.representations.base import load_model, represent, train
from napari_cmrir.representations.training_settings import (
    CYCLEGAN_PRESETS,
    PIX2PIX_PRESETS,
    CycleGanSettings,
    Pix2PixSettings,
)
from napari_cmrir.representations.translation.model import _padded
from napari_cmrir.representations.translation.networks import (
    PatchDiscriminator,
    ResidualGenerator,
    UNetGenerator,
    build_generator,
)
from napari_cmrir.representations.translation.objectives import (
    CycleGan,
    ImagePool,
    Pix2Pix,
    rate_factor,
    with_channels,
)
from napari_cmrir.representations.translation.training import AlignedPatches

SHG_BF = ("SHG", "BF")
CPU = torch.device("cpu")
SMALL = {
    "pix2pix": Pix2PixSettings(steps=6, batch_size=2, patch_size=32, filters=4, downs=5, reduction=2),
    "cyclegan": CycleGanSettings(steps=6, patch_size=32, filters=4, blocks=1, reduction=2, pool_size=3),
}
BOTH = pytest.mark.parametrize("name", sorted(SMALL))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def trained(tissue_pairs, tmp_path_factory):
    """A model file of each method, trained for a few steps."""
    folder = tmp_path_factory.mktemp("translation")
    files = {}
    for name, settings in SMALL.items():
        files[name] = folder / f"{name}.safetensors"
        run(train(tissue_pairs, SHG_BF, settings, representation=name, output=files[name]))
    return files


# The networks


def test_parameters_are_those_of_the_published_networks():
    assert count(UNetGenerator(3, 3)) == 54_413_955
    assert count(UNetGenerator(1, 3)) == 54_411_907
    assert count(UNetGenerator(3, 1)) == 54_409_857
    assert count(PatchDiscriminator(6, is_batch_normed=True)) == 2_768_705
    assert count(PatchDiscriminator(4, is_batch_normed=True)) == 2_766_657
    assert count(ResidualGenerator(3, 3)) == 11_378_179
    assert count(PatchDiscriminator(3, is_batch_normed=False)) == 2_764_737
    assert count(UNetGenerator(1, 3, downs=7, filters=32)) == 10_460_483


def test_the_games_of_the_paper_have_the_published_channels():
    """SHG to BF takes 3 channels to 3, BF to SHG 3 to 1; CycleGAN 3 to 3 both ways."""
    game = Pix2Pix(PIX2PIX_PRESETS["paper"], (1, 3), CPU)
    assert [count(network) for network in game.generators] == [54_413_955, 54_409_857]
    assert [count(network) for network in game.discriminators] == [2_768_705, 2_766_657]
    cycle = CycleGan(CYCLEGAN_PRESETS["paper"], (1, 3), CPU)
    assert {count(network) for network in cycle.generators} == {11_378_179}
    assert {count(network) for network in cycle.discriminators} == {2_764_737}


def test_weights_are_drawn_as_published():
    game = Pix2Pix(PIX2PIX_PRESETS["fast"], (1, 3), CPU)
    for network in (*game.generators, *game.discriminators):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 10_000:
                assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
                assert abs(float(module.weight.detach().mean())) < 0.001
            if isinstance(module, nn.BatchNorm2d):
                assert float(module.weight.detach().mean()) == pytest.approx(1, abs=0.02)
                assert float(module.bias.detach().abs().max()) == 0


def test_seventy_pixels_decide_a_score_of_the_discriminator():
    judge = PatchDiscriminator(3, is_batch_normed=False)
    assert judge(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)
    for norm in judge.norms:
        norm.forward = lambda x: x  # it joins all places
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    judge(image)[0, 0, 15, 15].backward()
    seen = image.grad[0].abs().sum(0).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [70, 70]


def test_an_unet_is_the_published_sequence_of_layers():
    """The same weights in a plain recursion, as the published code nests its blocks."""
    torch.manual_seed(0)
    network = UNetGenerator(3, 2, downs=5, filters=4)
    x = torch.randn(2, 3, 64, 64)

    def block(depth: int, x: torch.Tensor) -> torch.Tensor:
        inner = F.leaky_relu(x, 0.2) if depth else x
        down = network.down_norm[depth](network.down[depth](inner))
        if depth < 4:
            down = block(depth + 1, down)
        up = network.up_norm[4 - depth](network.up[4 - depth](F.relu(down)))
        return torch.tanh(up) if depth == 0 else torch.cat([x, up], 1)

    assert torch.allclose(network(x), block(0, x), atol=1e-6)


def test_dropout_is_drawn_in_the_three_widest_enlargements_alone():
    network, image = UNetGenerator(1, 1, downs=8, filters=2), torch.randn(1, 1, 256, 256)
    assert network.dropped == 3
    assert UNetGenerator(1, 1, downs=7, filters=2).dropped == 2
    once, again = (network(image, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(once, again)
    assert not torch.equal(once, network(image, torch.Generator().manual_seed(2)))
    assert torch.equal(network(image), network(image))


# The schedule, the pool, and the steps


def test_the_learning_rate_is_constant_and_then_falls_linearly():
    assert [round(rate_factor(epoch), 4) for epoch in (0, 99, 149, 199)] == [1, 1, 0.505, 0.0099]


def test_the_pool_keeps_fifty_fakes_and_swaps_half_of_the_new_ones():
    pool = ImagePool(50, seed=3)
    fakes = [torch.full((1, 2), float(number)) for number in range(1050)]
    given = [float(pool.exchange(fake)[0, 0]) for fake in fakes]
    assert given[:50] == list(range(50))  # while it fills, the new ones
    later = list(enumerate(given[50:], 50))
    swapped = [(number, old) for number, old in later if old != number]
    assert all(old < number for number, old in swapped)
    assert len({old for _, old in swapped}) == len(swapped)  # one that was given away is not in it any more
    assert 0.45 < len(swapped) / len(later) < 0.55
    again = ImagePool(50, seed=3)
    assert [float(again.exchange(fake)[0, 0]) for fake in fakes] == given
    assert [float(ImagePool(0, 0).exchange(fake)[0, 0]) for fake in fakes[:4]] == [0, 1, 2, 3]


@pytest.fixture
def in_full_precision(monkeypatch):
    """The games compute in float32, as the plain implementation beside them does."""
    monkeypatch.setattr(
        "napari_cmrir.representations.translation.objectives.training_precision", lambda _: torch.float32
    )


def patches(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, 32, 32, generator=draws) * 2 - 1, torch.rand(
        2, 3, 32, 32, generator=draws
    ) * 2 - 1


def assert_equal_weights(network: nn.Module, plain: nn.Module) -> None:
    for (name, one), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        if name.endswith("bias") and isinstance(network, ResidualGenerator | PatchDiscriminator):
            continue  # an instance norm takes a bias away; what Adam makes of its rounding is noise
        assert torch.allclose(one, other, atol=2e-5), name


def test_a_step_of_pix2pix_is_the_published_one(in_full_precision):
    game, plain = (Pix2Pix(SMALL["pix2pix"], (1, 3), CPU) for _ in range(2))
    adams = [
        torch.optim.Adam(n.parameters(), 2e-4, (0.5, 0.999))
        for n in (*plain.generators, *plain.discriminators)
    ]
    bce = nn.BCEWithLogitsLoss()
    for step in range(3):
        first, second = patches(step)
        parts = game.play(first, second, (step, step + 9))
        found = []
        for side, (source, target) in enumerate(((first, second), (second, first))):
            generator, judge = plain.generators[side], plain.discriminators[side]
            given = source.repeat(1, 3, 1, 1) if source.shape[1] == 1 else source
            fake = generator(given, torch.Generator().manual_seed((step, step + 9)[side]))
            real_scores = judge(torch.cat([given, target], 1))
            fake_scores = judge(torch.cat([given, fake.detach()], 1))
            ones, zeros = torch.ones_like(real_scores), torch.zeros_like(real_scores)
            judged = 0.5 * (bce(real_scores, ones) + bce(fake_scores, zeros))
            adams[2 + side].zero_grad()
            judged.backward()
            adams[2 + side].step()
            fooling = bce(judge(torch.cat([given, fake], 1)), ones)
            l1 = nn.functional.l1_loss(fake, target)
            adams[side].zero_grad()
            (fooling + 100 * l1).backward()
            adams[side].step()
            found.append((fooling.item(), l1.item(), judged.item()))
        expected = dict(zip(("generator", "l1", "discriminator"), np.mean(found, 0), strict=True))
        assert parts == pytest.approx(expected, rel=1e-4)
        assert game.total(parts) == pytest.approx(parts["generator"] + 100 * parts["l1"])
    for network, other in zip(game.generators, plain.generators, strict=True):
        assert_equal_weights(network, other)
    for network, other in zip(game.discriminators, plain.discriminators, strict=True):
        assert_equal_weights(network, other)


def test_a_step_of_cyclegan_is_the_published_one(in_full_precision):
    """Every network run for itself, one optimiser for each side, as the published code has it."""
    game, plain = (CycleGan(SMALL["cyclegan"], (1, 3), CPU) for _ in range(2))
    forth, back = plain.generators
    judge_a, judge_b = plain.discriminators
    adam_g = torch.optim.Adam([*forth.parameters(), *back.parameters()], 2e-4, (0.5, 0.999))
    adam_d = torch.optim.Adam([*judge_a.parameters(), *judge_b.parameters()], 2e-4, (0.5, 0.999))
    mse, l1 = nn.MSELoss(), nn.L1Loss()
    pools = [ImagePool(3, seed) for seed in (0, 1)]
    for step in range(4):
        first, second = patches(step)
        parts = game.play(first, second, (0, 0))
        a, b = first.repeat(1, 3, 1, 1), second
        fake_b, fake_a = forth(a), back(b)
        same_b, same_a = forth(b), back(a)
        again_a, again_b = back(fake_b), forth(fake_a)
        scores_b, scores_a = judge_b(fake_b), judge_a(fake_a)
        ones, zeros = torch.ones_like(scores_b), torch.zeros_like(scores_b)
        loss = mse(scores_b, ones) + mse(scores_a, ones) + 10 * (l1(again_a, a) + l1(again_b, b))
        loss = loss + 5 * (l1(same_b, b) + l1(same_a, a))
        adam_g.zero_grad()
        loss.backward()
        adam_g.step()
        adam_d.zero_grad()
        judged = 0.0
        for judge, real, old in (
            (judge_a, a, pools[0].exchange(fake_a)),
            (judge_b, b, pools[1].exchange(fake_b)),
        ):
            of_side = 0.5 * (mse(judge(real), ones) + mse(judge(old), zeros))
            of_side.backward()
            judged += of_side.item() / 2
        adam_d.step()
        assert 2 * game.total(parts) == pytest.approx(loss.item(), rel=1e-4)
        assert parts["discriminator"] == pytest.approx(judged, rel=1e-4)
    for network, other in ((game.generators[0], forth), (game.generators[1], back)):
        assert_equal_weights(network, other)
    for network, other in ((game.discriminators[0], judge_a), (game.discriminators[1], judge_b)):
        assert_equal_weights(network, other)


@BOTH
def test_a_step_without_a_finite_loss_leaves_the_weights(in_full_precision, name):
    game = {"pix2pix": Pix2Pix, "cyclegan": CycleGan}[name](SMALL[name], (1, 3), CPU)
    before = [p.detach().clone() for n in (*game.generators, *game.discriminators) for p in n.parameters()]
    first, second = patches(0)
    parts = game.play(first * torch.nan, second, (0, 0))
    assert not np.isfinite(game.total(parts))
    after = [p for n in (*game.generators, *game.discriminators) for p in n.parameters()]
    assert all(bool(weights.isfinite().all()) for weights in after)
    kept = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert all(kept if name == "pix2pix" else kept[: -len(list(game.discriminators[1].parameters()))])


def test_patches_of_a_pair_show_the_same_place_without_mirrored_pixels():
    """Rows and columns in two channels: every patch is a turned grid of distances of one pixel."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    place = torch.stack([y, x])
    first, second = AlignedPatches([(place, place + 1000)], SMALL["pix2pix"]).draw(6)
    assert torch.allclose(second - first, torch.full_like(first, 1000), atol=0.01)
    for patch in first[:, :, 4:-4, 4:-4]:  # a blur mirrors at the border of a patch
        steps = (patch[:, :, 1:] - patch[:, :, :-1]).square().sum(0).sqrt()
        assert torch.allclose(steps, torch.ones_like(steps), atol=0.02)


def test_unpaired_patches_come_from_places_of_their_own():
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    place = torch.stack([y, x])
    settings = SMALL["cyclegan"]
    for unpaired in (False, True):
        changed = settings.model_copy(update={"unpaired": unpaired})
        first, second = AlignedPatches([(place, place)], changed).draw(8)
        centres = [patch[:, :, 15:17, 15:17].mean((2, 3)) for patch in (first, second)]
        apart = (centres[0] - centres[1]).norm(dim=1)
        assert bool((apart < 0.1).all()) is not unpaired


def test_grey_becomes_three_channels_and_three_stay():
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(with_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    colour = torch.rand(2, 3, 4, 4)
    assert with_channels(colour, 3) is colour


# Inference


def test_an_image_is_padded_to_the_next_multiple_of_256_and_cut_back_exactly():
    image = torch.rand(1, 1, 834, 834)
    padded, (y, x) = _padded(image, 256)
    assert padded.shape[-2:] == (1024, 1024)
    assert (y, x) == (95, 95)
    assert torch.equal(padded[..., y : y + 834, x : x + 834], image)
    assert torch.equal(padded[0, 0, 94, 95:929], image[0, 0, 1])  # mirrored, the border once
    assert _padded(torch.rand(1, 1, 256, 100), 256)[0].shape[-2:] == (512, 256)  # an exact side grows, too


@BOTH
def test_images_of_both_modalities_are_compared_in_the_target(trained, tissue_pairs, name):
    model = load_model(trained[name])
    shg, bf = tissue_pairs[0]
    grey_bf = run(represent(model, bf, "BF"))
    assert grey_bf.shape == (1, *bf.shape[:2])
    exact = 255 * model.intensities["BF"].apply(bf).clip(0, 1).mean(0)
    assert np.abs(grey_bf[0] - exact).max() <= 0.5001  # an image of the target stays as it is
    fake = run(model.translate(shg, "SHG"))
    assert fake.shape == (3, *shg.shape[:2])
    grey_fake = run(represent(model, shg, "SHG"))
    assert np.abs(grey_fake[0].astype(float) - fake.mean(0)).max() <= 1
    assert grey_fake.std() > 0
    other = model.towards("SHG")
    assert other.fingerprint != model.fingerprint
    assert run(other.translate(bf, "BF")).shape == (1, *bf.shape[:2])
    assert np.array_equal(run(represent(other, bf, "BF"))[0], run(other.translate(bf, "BF"))[0])
    assert (model.target, other.target, model.targets) == ("BF", "SHG", SHG_BF)
    with pytest.raises(InputError, match="trained on SHG and BF, not on CT"):
        model.towards("CT")


@BOTH
def test_a_part_equals_the_same_part_of_the_whole(trained, tissue_pairs, name, monkeypatch):
    """Also of an image of several tiles, each of which is translated by its own statistics."""
    monkeypatch.setattr("napari_cmrir.representations.translation.model._TILE", 40)
    monkeypatch.setattr("napari_cmrir.representations.translation.model._MARGIN", 4)
    model, (shg, _) = load_model(trained[name]), tissue_pairs[0]
    whole = run(represent(model, shg, "SHG"))
    for part in ((0, 0, 160, 160), (31, 47, 90, 60), (150, 3, 10, 20)):
        y, x, height, width = part
        assert np.array_equal(
            run(represent(model, shg, "SHG", part=part)), whole[:, y : y + height, x : x + width]
        )
    mask = np.zeros(shg.shape[:2], bool)
    mask[20:90, 30:80] = True
    masked = run(represent(model, shg, "SHG", mask=mask))
    assert np.array_equal(masked, whole * mask)
    out = np.zeros((1, 160, 160), np.uint8)
    assert run(represent(model, shg, "SHG", out=out)) is out
    assert np.array_equal(out, whole)


def test_dropout_at_inference_is_a_switch_and_drawn_by_the_seed(trained, tissue_pairs):
    model, (shg, _) = load_model(trained["pix2pix"]), tissue_pairs[0]
    off = [run(represent(model, shg, "SHG")) for _ in range(2)]
    assert np.array_equal(*off)
    on = []
    for seed in (1, 1, 2):
        model.settings = model.settings.model_copy(
            update={"inference_dropout": True, "seed": seed, "downs": 5}
        )
        on.append((run(represent(model, shg, "SHG")), model.fingerprint))
    # five halvings have no dropout (three belong to eight): give the network some
    model.networks["SHG"].dropped = 2
    drawn = []
    for seed in (1, 1, 2):
        model.settings = model.settings.model_copy(update={"seed": seed})
        drawn.append(run(represent(model, shg, "SHG")))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert on[0][1] == on[1][1] != on[2][1]


def test_figures_of_other_settings_than_the_papers_are_said_not_to_be_comparable(trained):
    model = load_model(trained["pix2pix"])
    assert "not comparable with the paper" in model.caveat
    model.settings = PIX2PIX_PRESETS["fast"].model_copy(update={"seed": 4})
    assert model.caveat.startswith("fast preset: not the published method")
    model.settings = PIX2PIX_PRESETS["paper"].model_copy(update={"seed": 4, "target": "first"})
    assert model.caveat == ""


# Training


@BOTH
def test_two_trainings_by_one_seed_give_equal_bytes(trained, tissue_pairs, name):
    again = run(train(tissue_pairs, SHG_BF, SMALL[name], representation=name))
    assert again.fingerprint == load_model(trained[name]).fingerprint
    other = SMALL[name].model_copy(update={"seed": 1})
    assert run(train(tissue_pairs, SHG_BF, other, representation=name)).fingerprint != again.fingerprint


@BOTH
def test_the_loss_falls(tissue_pairs, name):
    settings = SMALL[name].model_copy(update={"steps": 60, "filters": 8})
    model = run(train(tissue_pairs, SHG_BF, settings, representation=name))
    losses = [entry["loss"] for entry in model.history]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    part = {"pix2pix": "l1", "cyclegan": "cycle"}[name]
    assert model.history[-1][part] < model.history[0][part]


@BOTH
def test_a_training_shows_losses_and_fakes_and_can_be_cancelled(tissue_pairs, tmp_path, name):
    output, seen = tmp_path / "m.safetensors", []
    job = train(tissue_pairs, SHG_BF, SMALL[name], representation=name, output=output)
    for progress in job:
        if progress.unit == "steps":
            seen.append(progress)
            if progress.done == 3:
                break
    job.close()
    assert "generator" in seen[0].message
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors.checkpoint"]
    resumed = []
    run(
        train(tissue_pairs, SHG_BF, SMALL[name], representation=name, output=output, resume=True),
        lambda progress: resumed.append(progress) if progress.unit == "steps" else None,
    )
    assert resumed[0].done == 4
    shown = resumed[-1].preview.figures
    assert {modality: fake.shape[0] for modality, fake in shown.comirs.items()} == {"SHG": 3, "BF": 1}
    assert all(fake.dtype == np.uint8 for fake in shown.comirs.values())
    assert np.isfinite(shown.loss)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@BOTH
def test_a_killed_training_resumes_with_equal_losses(tmp_path, name):
    folder, output = tmp_path / "pairs", tmp_path / "model.safetensors"
    files = write_sample_folder(folder, range(3), 160)
    settings = SMALL[name].model_copy(update={"steps": 12})
    whole = run(train(files, SHG_BF, settings, representation=name))
    code = f"""
        from napari_cmrir.representations.training_settings import {type(settings).__name__}
        from napari_cmrir.representations import training
        from napari_cmrir.representations.base import train
        from napari_cmrir.images.discovery import find_pairs
        training._CHECKPOINT_SECONDS = training._SHARE = 1e-9  # a checkpoint after every step
        training._SHARE = 1e9
        settings = {type(settings).__name__}.model_validate_json({settings.model_dump_json()!r})
        pairs = find_pairs({str(folder)!r}, ("SHG", "BF"))
        job = train(pairs, ("SHG", "BF"), settings, representation={name!r}, output={str(output)!r})
        for progress in job:
            print(progress.unit, int(progress.done), flush=True)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line == "steps 7\n" for line in process.stdout)
        process.kill()
    assert process.returncode == -9
    assert not output.exists()
    steps = []
    resumed = run(
        train(find_pairs(folder, SHG_BF), SHG_BF, settings, representation=name, output=output, resume=True),
        lambda progress: steps.append(progress.done) if progress.unit == "steps" else None,
    )
    assert 7 < steps[0] < 12
    without_seconds = [
        [{key: value for key, value in entry.items() if key != "seconds"} for entry in model.history]
        for model in (whole, resumed)
    ]
    assert without_seconds[0] == without_seconds[1]
    assert resumed.fingerprint == whole.fingerprint == load_model(output).fingerprint


def test_a_checkpoint_of_the_other_method_is_refused(tissue_pairs, tmp_path):
    output = tmp_path / "m.safetensors"
    job = train(tissue_pairs, SHG_BF, SMALL["pix2pix"], representation="pix2pix", output=output)
    for progress in job:
        if progress.unit == "steps":
            break
    job.close()
    with pytest.raises(InputError, match="belongs to a training of other pairs or settings"):
        run(
            train(
                tissue_pairs, SHG_BF, SMALL["cyclegan"], representation="cyclegan", output=output, resume=True
            )
        )


def test_images_too_small_for_the_presets_reduction_are_reduced_less(tissue_pairs):
    settings = PIX2PIX_PRESETS["fast"].model_copy(update={"steps": 1, "filters": 4, "batch_size": 1})
    notes, job = [], train(tissue_pairs, SHG_BF, settings, representation="pix2pix")
    while True:
        try:
            notes += getattr(next(job).preview, "notes", ())
        except StopIteration as end:
            model = end.value
            break
    assert "a side of 160 pixels, so that the images are reduced by 1, not 2" in " ".join(notes)
    assert model.settings.reduction == 1
    assert model.caveat.startswith("own settings: not the published method")
    with pytest.raises(InputError, match="a side of 160 pixels, less than a patch of 256"):
        run(train(tissue_pairs, SHG_BF, PIX2PIX_PRESETS["paper"], representation="pix2pix"))


@BOTH
def test_a_training_that_does_not_converge_ends_in_words(tissue_pairs, monkeypatch, name):
    monkeypatch.setattr(
        AlignedPatches,
        "draw",
        lambda self, n: (torch.full((n, 1, 32, 32), torch.nan), torch.rand(n, 3, 32, 32)),
    )
    with pytest.raises(InputError, match="does not converge: at step 5, the loss is not a number"):
        run(train(tissue_pairs, SHG_BF, SMALL[name], representation=name))


# Damaged files


@BOTH
def test_damaged_weights_are_told_in_words(trained, tmp_path, name):
    from safetensors.torch import load_file

    model = load_model(trained[name])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(trained[name].read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.safetensors is not a model"):
        load_model(cut)
    weights = load_file(trained[name])
    first = next(key for key in weights if key.startswith("SHG/") and weights[key].ndim == 4)

    def damaged(change):
        path, kept = tmp_path / "damaged.safetensors", model.tensors
        found = {key: tensor.clone() for key, tensor in weights.items()}
        change(found)
        model.tensors = lambda: found
        model.save(path)
        model.tensors = kept
        return path

    with pytest.raises(InputError, match=r"damaged\.safetensors is damaged .*train or copy the model again"):
        load_model(damaged(lambda found: found.pop(first)))
    with pytest.raises(InputError, match=r"is damaged .*some weights are not numbers"):
        load_model(damaged(lambda found: found[first].fill_(torch.nan)))
    with pytest.raises(InputError, match="is damaged"):
        load_model(damaged(lambda found: found.update({first: found[first][:1]})))


def test_generators_have_the_settings_sizes():
    small = build_generator(CYCLEGAN_PRESETS["fast"], 3, 3)
    assert (len(small.blocks), small.first.out_channels) == (6, 16)
