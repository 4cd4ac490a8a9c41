"""Training patches: both modalities show the same place at the reported rotation, without reflections."""

import numpy as np
import pytest
import torch

from napari_cmrir.representations.comir.training.patches import (
    PatchSampler,
    circular_mask,
    local_circles,
    rotate,
    vary,
)


def smooth_pair(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(height) / 17.0, torch.arange(width) / 23.0, indexing="ij")
    image = 0.5 + 0.2 * torch.sin(y + 0.3 * x) + 0.2 * torch.cos(1.7 * x - 0.4 * y)
    return image[None], torch.stack((image, image, image))


@pytest.mark.parametrize("free", [0.0, 45.0])
def test_turning_the_second_patch_back_gives_the_first(free: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "napari_cmrir.representations.comir.training.patches.vary", lambda patches, *_: patches
    )
    sampler = PatchSampler([smooth_pair(300, 260)], 64, free, seed=1)
    first, second, turned = sampler.draw(16)
    back = rotate(second, -turned)
    inside = circular_mask(60)
    error = (back[:, :1, 2:-2, 2:-2] - first[..., 2:-2, 2:-2])[..., inside].abs().max()
    assert error < 0.01
    assert (turned % 90 != 0).any() == (free > 0)


def test_same_seed_same_patches_and_another_seed_others() -> None:
    pairs = [smooth_pair(200, 200), smooth_pair(220, 240)]
    one, same, other = (PatchSampler(pairs, 64, 45.0, seed).draw(6) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_images_hardly_larger_than_a_patch_are_turned_by_quarters_only() -> None:
    _, _, turned = PatchSampler([smooth_pair(70, 70)], 64, 45.0, seed=0).draw(12)
    assert (turned % 90 == 0).all()


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(quarters: int) -> None:
    image = torch.rand(1, 2, 32, 32, generator=torch.manual_seed(0))
    turned = rotate(image, torch.tensor([90.0 * quarters]))
    np.testing.assert_allclose(turned, torch.rot90(image, quarters, (-2, -1)), atol=1e-4)


@pytest.mark.parametrize("side", [8, 32, 48, 64, 128])
def test_local_discs_lie_side_by_side_within_the_disc(side: int) -> None:
    numbers = torch.arange(side * side).reshape(1, 1, side, side)
    parts = local_circles(numbers)
    assert parts.shape[0] == 4
    assert len(parts.unique()) == parts.numel()  # none twice
    assert circular_mask(side).flatten()[parts.flatten()].all()
    assert parts.numel() > 0.55 * circular_mask(side).sum()  # four of radius R / (1 + sqrt 2) cover 69 %


def test_variation_scales_the_change_of_intensities() -> None:
    flat = torch.full((400, 3, 8, 8), 0.5)
    none, modest, strong = (
        vary(flat, torch.Generator().manual_seed(1), factor) for factor in (0.0, 1.0, 2.0)
    )
    torch.testing.assert_close(none, flat)
    spread = [float((varied.mean((2, 3)) - 0.5).std()) for varied in (modest, strong)]
    assert 0.05 < spread[0] < 0.5 * 1.2 * spread[1]


def test_variation_also_mixes_colours() -> None:
    red = torch.zeros(100, 3, 8, 8)
    red[:, 0] = 1.0
    varied = vary(red, torch.Generator().manual_seed(2), 1.0).mean((2, 3))
    apart = varied[:, 1] - varied[:, 2]  # equal, if each channel were only scaled and shifted alike
    assert 0.03 < float(apart.std()) < 0.3
