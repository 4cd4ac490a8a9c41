"""Masked correlation against its definition, computed pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.registration.correlation import RotatedTemplates, correlate, own_pixels, turn


def literal_score(query: np.ndarray, mask: np.ndarray, field: np.ndarray, y: int, x: int) -> float:
    """Correlation of the overlap at one shift, pixel by pixel, times its share of the mask."""
    query_values, field_values = [], []
    for row, column in zip(*np.nonzero(mask), strict=True):
        if 0 <= row + y < field.shape[1] and 0 <= column + x < field.shape[2]:
            query_values.append(query[:, row, column])
            field_values.append(field[:, row + y, column + x])
    a, b = np.array(query_values), np.array(field_values)
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())) * len(a) / mask.sum()


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)), channels=st.integers(1, 2), seed=st.integers(0, 999)
)
def test_equals_the_definition_at_every_shift(size: tuple[int, int], channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(channels, *size))
    fields = rng.normal(size=(2, channels, 11, 8))
    mask = rng.random(size) < 0.8
    mask[0, 0] = True
    scores, origin = correlate(
        torch.from_numpy(query), torch.from_numpy(mask.astype(float)), torch.from_numpy(fields)
    )
    seen = 0
    for index in np.ndindex(*scores.shape):
        if torch.isfinite(scores[index]):
            y, x = index[1] + origin[0], index[2] + origin[1]
            assert float(scores[index]) == pytest.approx(
                literal_score(query, mask, fields[index[0]], y, x), abs=1e-6
            )
            seen += 1
    assert seen > 10


def test_pixels_outside_the_mask_do_not_matter() -> None:
    g = torch.Generator().manual_seed(0)
    query, fields = torch.rand(1, 9, 9, generator=g), torch.rand(1, 1, 20, 20, generator=g)
    mask = torch.ones(9, 9)
    mask[:, 5:] = 0
    changed = query.clone()
    changed[..., 5:] = 77
    torch.testing.assert_close(correlate(query, mask, fields)[0], correlate(changed, mask, fields)[0])


def test_flat_images_correlate_with_nothing() -> None:
    scores, _ = correlate(torch.ones(1, 8, 8), torch.ones(8, 8), torch.rand(1, 1, 16, 16))
    assert scores[torch.isfinite(scores)].abs().max() < 1e-3


@pytest.mark.parametrize("degrees", [-30, 17, 90, 180])
def test_turning_undoes_the_cut_of_a_turned_region(degrees: float) -> None:
    """A region cut upright from a turned place, turned by the same angle, lies as in the image again."""
    y, x = np.mgrid[:80, :80]
    image = (np.sin(y / 9.0 + 0.02 * x) + np.cos(x / 12.0))[..., None].astype(np.float32)
    upright, _ = cut(image, Region((40, 40), 32, 32, degrees))
    turned, mask = turn(
        torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1))), torch.ones(32, 32), degrees
    )
    height, width = mask.shape
    there, _ = cut(image, Region((40, 40), height, width))
    inner = mask.bool().numpy()
    inner[:2] = inner[-2:] = inner[:, :2] = inner[:, -2:] = False
    error = np.abs(turned[0].numpy() - there[..., 0])[inner]
    assert np.percentile(error, 95) < 0.02


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_fields_padded_to_one_shape_correlate_as_without_padding(centred: bool, channels: int) -> None:
    """Also fields that are smaller than the query along one axis or both."""
    g = torch.Generator().manual_seed(0)
    versions = [
        (torch.randn(channels, *size, generator=g), (torch.rand(size, generator=g) > 0.2).float())
        for size in ((20, 30), (24, 24), (9, 41))
    ]
    sizes, shape = [(50, 60), (18, 40), (60, 22), (8, 8), (25, 31), (63, 64)], (63, 64)
    fields = torch.randn(len(sizes), channels, *shape, generator=g) * own_pixels(
        sizes, torch.zeros(len(sizes), channels, *shape)
    )
    padded = RotatedTemplates(versions, shape, centred=centred, padded=True)
    together = list(padded.correlate(fields, sizes))
    for number, (height, width) in enumerate(sizes):
        alone = RotatedTemplates(versions, (height, width), centred=centred)
        expected = alone.correlate(fields[number : number + 1, :, :height, :width])
        for version, (all_scores, scores) in enumerate(zip(together, expected, strict=True)):
            assert padded.versions[version].origin == alone.versions[version].origin
            rows, columns = scores.shape[1:]
            torch.testing.assert_close(all_scores[number, :rows, :columns], scores[0], atol=2e-5, rtol=0)
            assert (all_scores[number, rows:] == -torch.inf).all()
            assert (all_scores[number, :, columns:] == -torch.inf).all()
