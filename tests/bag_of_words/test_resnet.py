import hashlib

import numpy as np
import pytest
import torch

import napari_cmrir as cmrir
from napari_cmrir.bag_of_words.descriptors import resnet
from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.errors import InputError
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.repository.settings import RepositorySettings

pytestmark = pytest.mark.core

RESNET = DescriptorSettings(name="resnet152")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder in place of the user's weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.hub.set_dir(str(tmp_path / "torch" / "hub"))
    resnet.feature_network.cache_clear()
    yield tmp_path
    torch.hub._hub_dir = None
    resnet.feature_network.cache_clear()


def torchvision_or_skip():
    try:
        resnet.torchvision_models()
    except InputError as missing:
        pytest.skip(str(missing))


def test_missing_weights_are_named_with_address_size_hash_and_folder(home):
    with pytest.raises(InputError) as refusal:
        describe(np.zeros((1, 64, 64), np.uint8), RESNET)
    text = str(refusal.value)
    assert "https://download.pytorch.org/models/resnet152-394f9c45.pth (230 MB, SHA-256 394f9c45...)" in text
    assert str(resnet.weights_folder()) in text
    assert "\n" not in text


def test_words_of_resnet_without_its_weights_are_refused_in_words(home):
    pixels = [sample_pair(seed, 64).bf for seed in range(2)]
    model = cmrir.run(cmrir.train([(one, one) for one in pixels], ("SHG", "BF"), representation="original"))
    sources = [cmrir.Source(str(number), one) for number, one in enumerate(pixels)]
    settings = RepositorySettings(descriptor=RESNET)
    cmrir.run(cmrir.build_repository(sources, model, "BF", home / "a.cmrir", settings)).close()
    with pytest.raises(InputError, match="ImageNet weights of resnet152 are missing"):
        cmrir.run(cmrir.build_index(home / "a.cmrir", "words"))


def test_weights_of_another_hash_are_refused(home):
    file = home / "resnet152-394f9c45.pth"
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"its SHA-256 is .*\.\.\., not 394f9c45"):
        resnet.find_weights("resnet152", file)
    with pytest.raises(InputError, match="holds none of the known weights"):
        resnet.install_weights(file)


def published(monkeypatch, name, file):
    """Take a file that the test wrote for the published one."""
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    monkeypatch.setitem(resnet.IMAGENET, name, resnet.ImagenetWeights(f"{name}-{digits}.pth", 1))


def test_weights_of_any_name_are_installed_once(home, monkeypatch):
    file = home / "weights.bin"
    file.write_bytes(b"some weights")
    published(monkeypatch, "resnet152", file)
    installed = resnet.install_weights(file)
    assert installed.parent == resnet.weights_folder()
    assert resnet.install_weights(file) == installed == resnet.find_weights("resnet152")


def test_the_input_is_that_of_the_released_pipeline():
    rgb = np.random.default_rng(0).integers(0, 256, (3, 8, 9), dtype=np.uint8)
    expected = (rgb / 255 - np.array(resnet.MEAN)[:, None, None]) / np.array(resnet.STANDARD_DEVIATION)[
        :, None, None
    ]
    np.testing.assert_allclose(resnet.network_input(rgb)[0], expected, atol=1e-6)
    grey = resnet.network_input(rgb[:1])[0]
    np.testing.assert_allclose(grey[1] * 0.224 + 0.456, rgb[0] / 255, atol=1e-6)


def test_channels_become_features_of_64_values():
    maps = torch.arange(2 * 27 * 27.0).reshape(1, 2, 27, 27)
    values = resnet.feature_matrix(torch.nn.Identity(), maps)
    assert values.shape == (2, 64)
    assert values[1, 0] == pytest.approx(maps[0, 1, :4, :4].mean())  # windows of 4 to 5 that overlap
    exact = torch.rand(1, 3, 8, 8)
    np.testing.assert_array_equal(resnet.feature_matrix(torch.nn.Identity(), exact), exact[0].flatten(1))


@pytest.mark.slow
def test_the_matrix_is_2048_by_64_for_any_size(monkeypatch):
    torchvision_or_skip()
    network = resnet.without_classifier(resnet.imagenet_network("resnet152", resnet.RANDOM))
    assert sum(parameter.numel() for parameter in network.parameters()) == 58_143_808
    monkeypatch.setattr(resnet, "feature_network", lambda: network)
    rng = np.random.default_rng(0)
    for shape in ((1, 834, 834), (3, 256, 256), (1, 300, 517)):
        features = describe(rng.integers(0, 256, shape, dtype=np.uint8), RESNET)
        assert features.descriptors.shape == (2048, 64)
        np.testing.assert_allclose(features.strengths, features.descriptors.sum(1))


@pytest.mark.slow
def test_a_file_of_weights_is_loaded(home, monkeypatch):
    torchvision_or_skip()
    for name in ("resnet50", "densenet121"):
        network = resnet.imagenet_network(name, resnet.RANDOM, seed=3)
        state = {
            key.replace("norm1.", "norm.1.") if "denselayer" in key else key: value
            for key, value in network.state_dict().items()
        }
        file = home / f"{name}.pth"
        torch.save(state, file)
        published(monkeypatch, name, file)
        loaded = resnet.imagenet_network(name, file, seed=4)
        assert not loaded.training
        for key, value in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key
