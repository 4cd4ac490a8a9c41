"""The high pass: an image without the Gaussian mean of its neighbourhood."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from napari_cmrir.registration.correlation import high_pass


def test_equals_scipys_gaussian_of_the_pixels_that_count() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((30, 40))
    mask = rng.random((30, 40)) < 0.7

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 3, mode="constant", radius=9)

    expected = (image - smooth(image * mask) / smooth(mask.astype(float))) * mask
    found = high_pass(torch.from_numpy(image)[None, None], torch.from_numpy(mask.astype(float)), 3.0)
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_constant_added_to_an_image_changes_nothing(offset: float) -> None:
    image = torch.rand(2, 3, 20, 20, generator=torch.manual_seed(0), dtype=torch.float64)
    mask = torch.ones(20, 20, dtype=torch.float64)
    torch.testing.assert_close(high_pass(image + offset, mask, 4.0), high_pass(image, mask, 4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("needs_gradient", [False, True])
def test_without_a_mask_all_pixels_count(dtype: torch.dtype, needs_gradient: bool) -> None:
    images = torch.rand(
        2, 3, 30, 41, generator=torch.manual_seed(1), dtype=dtype, requires_grad=needs_gradient
    )
    expected = high_pass(images, torch.ones(30, 41, dtype=dtype), 5.0)
    torch.testing.assert_close(high_pass(images, None, 5.0), expected, atol=1e-5, rtol=1e-5)


def test_a_deviation_of_0_applies_the_mask_only() -> None:
    images = torch.rand(2, 1, 9, 12, generator=torch.manual_seed(2))
    mask = (torch.arange(12) < 7).float().expand(9, 12)
    assert high_pass(images, None, 0.0) is images
    torch.testing.assert_close(high_pass(images, mask, 0.0), images * mask)
