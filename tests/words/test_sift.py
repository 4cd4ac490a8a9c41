import cv2
import numpy as np
import pytest
import torch

from napari_cmrir.words.settings import DescriptorSettings
from napari_cmrir.words.sift import sift


@pytest.fixture(scope="module")
def tissue():
    noise = torch.from_numpy(np.random.default_rng(3).random((1, 1, 121, 121)))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1)[0, 0].numpy()
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def test_describes_the_grid_in_the_order_of_surf(tissue):
    settings = DescriptorSettings(name="sift")
    features = sift(tissue, settings)
    assert features.points.shape == (14 * 14 * 4, 3)
    assert features.descriptors.shape == (14 * 14 * 4, 128)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    keypoint = cv2.KeyPoint(60.0, 52.0, 32 / 6, 0.0)
    _, expected = cv2.SIFT.create().compute(tissue, [keypoint])
    here = (features.points == (52, 60, 32)).all(axis=1)
    np.testing.assert_allclose(
        features.descriptors[here][0], expected[0] / np.linalg.norm(expected[0]), atol=1e-5
    )


def test_dominant_orientation_keeps_the_descriptor_of_a_turned_image(tissue):
    settings = DescriptorSettings(name="sift", block_widths=(32,), orientation="dominant")
    here = sift(tissue, settings).descriptors.reshape(14, 14, 128)
    turned = np.rot90(sift(np.rot90(tissue), settings).descriptors.reshape(14, 14, 128), -1)
    assert np.median((here * turned).sum(axis=2)) > 0.97


def test_root_is_the_square_root_of_values_that_sum_to_one(tissue):
    plain = sift(tissue, DescriptorSettings(name="sift")).descriptors
    root = sift(tissue, DescriptorSettings(name="sift", normalisation="root")).descriptors
    np.testing.assert_allclose(root, np.sqrt(plain / plain.sum(axis=1, keepdims=True)), atol=1e-5)


def test_float_images_are_stretched(tissue):
    settings = DescriptorSettings(name="sift", block_widths=(32,))
    plain = sift(tissue, settings).descriptors
    scaled = sift(tissue.astype(np.float32) / 255 - 3, settings).descriptors
    np.testing.assert_allclose(scaled, plain, atol=0.03)
