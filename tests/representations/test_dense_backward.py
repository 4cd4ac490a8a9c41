"""A training step of a dense block against the same block computed layer by layer."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from napari_cmrir.representations.comir import dense_layers
from napari_cmrir.representations.comir.dense_backward import dense_block, dropout_noise
from napari_cmrir.representations.comir.dense_layers import LayerWeights, TensorPool
from napari_cmrir.representations.comir.networks import Tiramisu

FEW, MANY = (6, 9, 12, 10), (5, 9, 160, 160)  # at once, and in parts of few images


class Layer(nn.Module):
    """A layer as arXiv:1611.09326 has it."""

    def __init__(self, channels: int, scales: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.convolution = nn.Conv2d(channels, 5, 3, padding=1)
        nn.init.uniform_(self.norm.weight, -1.5, 1.5)
        nn.init.normal_(self.norm.bias)
        if scales == "some zero":
            with torch.no_grad():
                self.norm.weight[:4] = torch.tensor([0.0, 0.01, -0.01, 0.0])

    def weights(self) -> LayerWeights:
        return LayerWeights(self.norm.weight, self.norm.bias, self.convolution.weight, self.convolution.bias)


def block(layers, x, dropout, keep_input, memory=None):
    noises = [dropout_noise(x, 5, dropout, None) for _ in layers]
    inputs = (x[:, :4], x[:, 4:])  # what lies on two images
    weights = [layer.weights() for layer in layers]
    return dense_block(inputs, weights, noises, 1e-5, keep_input=keep_input, memory=memory)


def one_by_one(layers, x, dropout):
    for layer in layers:
        new = layer.convolution(F.relu(layer.norm(x)))
        x = torch.cat((x, F.dropout2d(new, dropout)), 1)
    return x


@pytest.mark.parametrize("keep_input", [True, False])
@pytest.mark.parametrize(
    ("dropout", "scales", "shape"),
    [(0.0, "any", FEW), (0.2, "any", FEW), (0.2, "some zero", FEW), (0.2, "some zero", MANY)],
)
def test_block_equals_its_layers_one_by_one(keep_input, dropout, scales, shape) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(Layer(9 + 5 * i, scales) for i in range(3)).double()
    expecting = copy.deepcopy(layers)
    x = (3 * torch.randn(shape, dtype=torch.float64) + 2).requires_grad_()
    same = x.detach().clone().requires_grad_()
    torch.manual_seed(1)
    out, _, means, variances = block(layers, x, dropout, keep_input=keep_input)
    torch.manual_seed(1)
    expected = one_by_one(expecting, same, dropout)[:, 0 if keep_input else 9 :]
    torch.testing.assert_close(out, expected)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(x.grad, same.grad)
    for (name, one), other in zip(layers.named_parameters(), expecting.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda told, name=name: f"{name}: {told}")
    last = expecting[-1].norm  # its running statistics hold a tenth of the batch's
    torch.testing.assert_close(means, 10 * last.running_mean)
    torch.testing.assert_close(variances, 10 * last.running_var - 9)


def test_gradients_in_bfloat16_are_as_accurate_as_layer_by_layer() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(Layer(9 + 5 * i, "any") for i in range(3))
    x = torch.randn(8, 9, 32, 32)
    gradient = torch.randn(8, 24, 32, 32)
    answers = []
    for precision in (torch.float32, torch.bfloat16):
        layers.zero_grad()
        out = block(layers, x.to(precision), 0.0, keep_input=True).out
        out.float().backward(gradient)
        answers.append(torch.cat([p.grad.flatten() for p in layers.parameters()]))
    assert answers[1].dtype == torch.float32
    assert F.cosine_similarity(answers[0], answers[1], dim=0) > 0.999


def test_tiramisu_in_training_equals_the_plain_tiramisu() -> None:
    """In the first step, and in the second, whose memory has been used before."""
    torch.manual_seed(0)
    network = Tiramisu(1, 1).double().train()
    plain = copy.deepcopy(network)
    for step in range(2):
        image = torch.rand(3, 1, 64, 64, dtype=torch.float64)
        comir = network(image, torch.Generator().manual_seed(step))
        expected = layer_by_layer(plain, image, torch.Generator().manual_seed(step))
        torch.testing.assert_close(comir, expected)
        gradient = torch.randn_like(comir)
        comir.backward(gradient)
        expected.backward(gradient)
    for (name, one), other in zip(network.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=lambda told, name=name: f"{name}: {told}")
    for (name, one), other in zip(network.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=lambda told, name=name: f"{name}: {told}")


def layer_by_layer(network, image, generator):
    x, skips = network.conv_init(image), []
    for block, transition in zip(network.layers_down, network.transitions_down, strict=True):
        skips.append(block(x, generator))
        x = transition(skips[-1], generator)
    x = network.bottleneck(x, generator)
    for block, transition, skip in zip(network.layers_up, network.transitions_up, skips[::-1], strict=True):
        x = block(transition(x, skip), generator)
    return network.final_conv(x)


def test_two_forward_passes_before_a_backward_pass_do_not_share_memory() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(Layer(9 + 5 * i, "any") for i in range(3)).double()
    memory = TensorPool()

    def gradient(*images):
        layers.zero_grad()
        sum(
            block(layers, x, 0.0, keep_input=False, memory=memory).out.square().sum() for x in images
        ).backward()
        return torch.cat([p.grad.flatten() for p in layers.parameters()])

    one, other = torch.rand(2, *FEW, dtype=torch.float64)
    torch.testing.assert_close(gradient(one) + gradient(other), gradient(one, other))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_public_operations_replace_missing_private_ones_of_torch(monkeypatch, dtype) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(Layer(9 + 5 * i, "some zero") for i in range(3)).to(dtype)
    x = torch.randn(FEW, dtype=dtype)
    gradient, asked, answers = torch.randn(len(x), 24, *x.shape[2:], dtype=dtype), [], []
    public = copy.deepcopy(layers)
    for used in (layers, public):
        if used is public:
            monkeypatch.setattr(dense_layers, "private_op", asked.append)  # gives None
        seen = x.clone().requires_grad_()
        out, _, means, variances = block(used, seen, 0.0, keep_input=True)
        out.backward(gradient)
        answers.append([out, means, variances, seen.grad, *(p.grad for p in used.parameters())])
    assert len(set(asked)) >= 3
    for one, other in zip(*answers, strict=True):
        tolerance = 0.05 * float(one.detach().abs().max()) if dtype == torch.bfloat16 else 1e-9
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
