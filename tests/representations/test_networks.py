"""The networks: sizes, parameter names and equivalence with the published network."""

import pytest
import torch

from napari_cmrir.representations.comir.networks import Tiramisu, UNet, without_norms


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_unet_keeps_the_size_and_sees_no_further_than_its_halo(stem: int) -> None:
    network = UNet(1, 2, (4, 8, 8), stem).eval()
    side = 8 * network.halo
    side -= side % network.stride
    image = torch.rand(1, 1, side, side, generator=torch.manual_seed(0))
    changed = image.clone()
    centre = side // 2
    changed[..., centre, centre] += 10
    with torch.inference_mode():
        difference = (network(changed) - network(image)).abs().amax((0, 1))
    rows, columns = torch.nonzero(difference > 1e-6, as_tuple=True)
    assert difference.shape == (side, side)
    assert max((rows - centre).abs().max(), (columns - centre).abs().max()) <= network.halo


def test_tiramisu_has_the_published_parameters() -> None:
    network = Tiramisu(1, 1)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(p.numel() for p in network.parameters()) == 1_053_244
    assert len(shapes) == 421
    assert shapes["bottleneck.layers.3.conv.weight"] == (12, 159, 3, 3)
    assert shapes["layers_up.5.layers.0.conv.weight"] == (12, 128, 3, 3)
    assert shapes["final_conv.weight"] == (1, 176, 1, 1)


def test_tiramisu_maps_any_multiple_of_its_stride() -> None:
    with torch.inference_mode():
        assert Tiramisu(3, 1).eval()(torch.zeros(1, 3, 64, 128)).shape == (1, 1, 64, 128)


@pytest.mark.parametrize(("channels", "stem"), [(1, 1), (3, 2)])
def test_a_network_without_norms_gives_the_comirs_of_the_trained_one(channels: int, stem: int) -> None:
    torch.manual_seed(0)
    network = UNet(channels, 2, (6, 10, 14), stem=stem)
    for _ in range(3):  # the norms learn means and variances
        network(1 + 3 * torch.rand(2, channels, 64, 64))
    network.eval()
    images = 1 + 3 * torch.rand(2, channels, 48, 80)
    with torch.inference_mode():
        fast = without_norms(network)(images)
    expected = network(images)  # with gradients: joined by torch's own functions
    torch.testing.assert_close(fast, expected.detach(), atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())  # it is a copy


def test_a_network_without_norms_is_kept_until_a_weight_changes() -> None:
    network, images = UNet(1, 1, (4, 8)).eval(), torch.rand(1, 1, 16, 16)
    kept = without_norms(network)
    assert without_norms(network) is kept
    network.load_state_dict(UNet(1, 1, (4, 8)).state_dict())
    with torch.inference_mode():
        changed = without_norms(network)(images)
        torch.testing.assert_close(changed, network(images), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(changed, kept(images), atol=1e-3)
