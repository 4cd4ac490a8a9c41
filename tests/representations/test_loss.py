"""The loss against the double sum of the paper's equation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cmrir.representations.comir.training.loss import contrastive_loss
from napari_cmrir.representations.comir.training.patches import local_circles


def similarity(a: torch.Tensor, b: torch.Tensor, critic: str) -> float:
    if critic == "mse":
        return -float(((a - b) ** 2).mean())
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def literal_loss(first: torch.Tensor, second: torch.Tensor, critic: str, temperature: float) -> float:
    comirs = [*first, *second]
    n, total = len(first), 0.0
    for i, anchor in enumerate(comirs):
        others = [j for j in range(2 * n) if j != i]
        weights = {j: math.exp(similarity(anchor, comirs[j], critic) / temperature) for j in others}
        total -= math.log(weights[(i + n) % (2 * n)] / sum(weights.values()))
    return total / (2 * n)


@pytest.mark.parametrize("critic", ["mse", "cosine"])
@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 6),
    channels=st.integers(1, 3),
    temperature=st.floats(0.1, 2),
    seed=st.integers(0, 999),
)
def test_matrix_products_equal_the_double_sum(
    critic: str, n: int, channels: int, temperature: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(n, channels, 5, 7, generator=g, dtype=torch.float64) for _ in range(2))
    loss = contrastive_loss(first, second, critic=critic, temperature=temperature)
    assert float(loss) == pytest.approx(literal_loss(first, second, critic, temperature), abs=1e-6)


def test_partners_that_agree_cost_less_than_partners_that_do_not() -> None:
    comirs = torch.randn(6, 1, 8, 8, generator=torch.manual_seed(0))
    assert contrastive_loss(comirs, comirs) < contrastive_loss(comirs, comirs.roll(1, 0))


def test_only_local_discs_penalise_comirs_that_repeat_within_a_patch() -> None:
    tiles = torch.randn(6, 1, 26, 26, generator=torch.manual_seed(0))
    repeating = torch.nn.functional.pad(tiles.repeat(1, 1, 2, 2), (6, 6, 6, 6))
    varied = torch.randn(repeating.shape, generator=torch.manual_seed(1))
    loss = {
        name: (
            float(contrastive_loss(comirs, comirs, critic="cosine", temperature=0.05)),
            float(
                contrastive_loss(
                    local_circles(comirs), local_circles(comirs), critic="cosine", temperature=0.05
                )
            ),
        )
        for name, comirs in {"repeating": repeating, "varied": varied}.items()
    }
    assert max(loss["repeating"][0], *loss["varied"]) < 0.01
    assert loss["repeating"][1] == pytest.approx(math.log(7), abs=0.01)  # eight discs are one
