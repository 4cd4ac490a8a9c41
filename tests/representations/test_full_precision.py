"""The last convolution in full precision."""

import pytest
import torch
from torch.nn import functional as F

from napari_cmrir.representations.comir.networks import mix_channels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_mixing_channels_equals_a_convolution(channels, memory_format) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 20, 250, 260).bfloat16().contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(channels, 20, requires_grad=True)
    plain = x.detach().float().requires_grad_()
    weights = weight.detach().clone().requires_grad_()
    mixed, expected = mix_channels(x, weight), F.conv2d(plain, weights[:, :, None, None])
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, expected)
    gradient = torch.randn_like(expected)
    mixed.backward(gradient)
    expected.backward(gradient)
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.float(), plain.grad, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(weight.grad, weights.grad, rtol=1e-3, atol=1e-1)
