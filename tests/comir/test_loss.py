"""The loss against the paper's double sum, written out."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cmrir.comir.loss import contrastive_loss


def similarity(a: torch.Tensor, b: torch.Tensor, critic: str) -> float:
    if critic == "mse":
        return -float(((a - b) ** 2).mean())
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def literal_loss(
    first: torch.Tensor, second: torch.Tensor, more: torch.Tensor, critic: str, temperature: float
) -> float:
    comirs = [*first, *second]
    n, total = len(first), 0.0
    for i, anchor in enumerate(comirs):
        others = [j for j in range(2 * n) if j != i]
        weights = {j: math.exp(similarity(anchor, comirs[j], critic) / temperature) for j in others}
        strangers = sum(math.exp(similarity(anchor, other, critic) / temperature) for other in more)
        total -= math.log(weights[(i + n) % (2 * n)] / (sum(weights.values()) + strangers))
    return total / (2 * n)


@pytest.mark.parametrize("critic", ["mse", "cosine"])
@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 6),
    m=st.integers(0, 5),
    channels=st.integers(1, 3),
    temperature=st.floats(0.1, 2),
    seed=st.integers(0, 999),
)
def test_matrix_products_equal_the_double_sum(
    critic: str, n: int, m: int, channels: int, temperature: float, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(n, channels, 5, 7, generator=g, dtype=torch.float64) for _ in range(2))
    more = torch.randn(m, channels, 5, 7, generator=g, dtype=torch.float64)
    loss = contrastive_loss(first, second, more if m else None, critic=critic, temperature=temperature)
    assert float(loss) == pytest.approx(literal_loss(first, second, more, critic, temperature), abs=1e-6)


def test_partners_that_agree_cost_less_than_partners_that_do_not() -> None:
    comirs = torch.randn(6, 1, 8, 8, generator=torch.manual_seed(0))
    assert contrastive_loss(comirs, comirs) < contrastive_loss(comirs, comirs.roll(1, 0))
