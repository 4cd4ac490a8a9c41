"""The retrieval test on validation fields separates good CoMIRs from bad ones."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from napari_cmrir.images.intensity import Intensity
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.representations.comir.networks import UNet
from napari_cmrir.representations.comir.training.validation import RetrievalScore, RetrievalTest, Selection

UNIT = Intensity(low=(0.0,), high=(1.0,))


def blotches(seed: int, shape: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.random((1, 1, shape[0] // 8, shape[1] // 8)))
    return F.interpolate(noise, shape, mode="bicubic")[0, 0].numpy()[..., None]


@pytest.fixture(scope="module")
def test() -> RetrievalTest:
    images = [blotches(seed, (512, 512)) for seed in (0, 1)]
    return RetrievalTest([(image, image) for image in images], (UNIT, UNIT), seed=0)


def itself(_: int, images: torch.Tensor) -> torch.Tensor:
    return images


def nothing(_: int, images: torch.Tensor) -> torch.Tensor:
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(len(images)))


def test_fields_are_sixteen_and_queries_go_both_ways(test) -> None:
    assert len(test) == 16
    assert (test.side, test.query_side) == (160, 96)
    assert len(test.queries) == 128
    assert sum(query.side for query in test.queries) == 64


def test_equal_images_find_each_other_and_noise_finds_nothing(test) -> None:
    perfect, chance = test.score(itself), test.score(nothing)
    assert perfect.retrieval == 1
    assert perfect.loss < 0.2
    assert chance.retrieval < 0.25  # one of 16 by chance
    assert chance.loss == pytest.approx(np.log(16), abs=0.3)


def test_a_representation_that_does_not_turn_with_the_image_retrieves_less(test) -> None:
    def mirrored(_: int, images: torch.Tensor) -> torch.Tensor:
        return images.flip(-1)  # turned back, it lies at twice the angle

    assert test.score(mirrored).retrieval < 0.8


def test_the_same_seed_asks_the_same_queries() -> None:
    image = blotches(3, (300, 300))
    one, two, other = (RetrievalTest([(image, image)], (UNIT, UNIT), seed) for seed in (1, 1, 2))
    assert all(torch.equal(a.image, b.image) for a, b in zip(one.queries, two.queries, strict=True))
    assert not torch.equal(one.queries[0].image, other.queries[0].image)


def test_real_modalities_have_their_own_channels() -> None:
    pair = sample_pair(0, 256)
    colour = Intensity(low=(0.0,) * 3, high=(255.0,) * 3)
    test = RetrievalTest([(pair.shg, pair.bf)], (Intensity(low=(0.0,), high=(4095.0,)), colour), seed=0)
    assert [fields.shape for fields in test.fields] == [(4, 1, 128, 128), (4, 3, 128, 128)]
    score = test.score(lambda _, images: images.mean(1, keepdim=True))
    assert 0 <= score.retrieval <= 1


def test_images_too_small_for_a_field_give_none() -> None:
    image = blotches(0, (64, 64))
    assert len(RetrievalTest([(image, image)], (UNIT, UNIT), seed=0)) == 0


def test_flat_comirs_retrieve_no_better_than_chance(test) -> None:
    score = test.score(lambda _, images: torch.ones_like(images))
    assert score.retrieval <= 1 / 16
    assert score.loss == pytest.approx(np.log(16), abs=0.01)


@pytest.mark.parametrize(
    ("score", "better"),
    [((0.6, 2.0), True), ((0.4, 0.1), False), ((0.5, 0.9), True), ((0.5, 1.0), False), ((0.5, 1.1), False)],
)
def test_more_retrieved_is_better_and_of_equals_the_lower_loss(score, better) -> None:
    assert RetrievalScore(*score).is_better_than(RetrievalScore(0.5, 1.0)) is better
    assert RetrievalScore(*score).is_better_than(None)


def test_the_best_networks_are_kept_not_the_last(test) -> None:
    networks = {"A": UNet(1, 1, (4, 8)), "B": UNet(1, 1, (4, 8))}
    selection = Selection(networks, test)
    weights = []
    for step, represent in enumerate((nothing, itself, nothing), start=1):
        for network in networks.values():
            torch.nn.init.constant_(network.head.weight, step)
        selection.offer(step, networks, represent)
        weights.append(selection.step)
    assert weights == [1, 2, 2]
    assert selection.worse == 1
    selection.restore(networks)
    assert networks["A"].head.weight.unique().tolist() == [2.0]
    other = Selection(networks, test)
    other.load_state(selection.state())
    assert (other.step, other.score, other.worse) == (2, selection.score, 1)


@pytest.mark.parametrize(("high_pass_px", "lowest", "highest"), [(0.0, 0.0, 1.8), (16.0, 2.4, 2.8)])
def test_validation_uses_the_high_pass_of_the_loss(
    high_pass_px: float, lowest: float, highest: float
) -> None:
    """Fields that differ by a slow variation only, under a fine texture that they share."""
    rng = np.random.default_rng(0)
    shared = np.tile(gaussian_filter(rng.normal(size=(160, 160)), 3, mode="wrap"), (3, 6))
    slow = gaussian_filter(rng.normal(size=(480, 960)), 50)
    image = (0.5 + 0.1 * shared / shared.std() + 0.1 * slow / slow.std())[..., None]
    test = RetrievalTest([(image, image)], (UNIT, UNIT), 0, high_pass_px=high_pass_px)
    assert (test.side, len(test)) == (160, 16)
    assert lowest <= test.score(itself).loss <= highest  # by chance: log(16), 2.77
