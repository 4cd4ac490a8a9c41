import cv2
import numpy as np
import pytest
import torch

from napari_cmrir.bag_of_words.descriptors.sift import sift, sift_at_keypoints
from napari_cmrir.bag_of_words.settings import DescriptorSettings


def paper(**changed):
    return DescriptorSettings.paper().model_copy(update=changed)


def gaussian(centre, deviation, shift):
    positions = np.arange(int(centre) - 60, int(centre) + 61) + shift
    weights = np.exp(-((positions - centre) ** 2) / (2 * deviation**2))
    weights[np.abs(positions - centre) > 4 * deviation] = 0
    return positions, weights / weights.sum()


def gradient(image, y, x, deviation):
    """Derivatives of the smoothed image at any position; outside, its edge goes on."""

    def pixels(rows, columns):
        rows = np.clip(rows, 0, image.shape[0] - 1).astype(int)
        return image[np.ix_(rows, np.clip(columns, 0, image.shape[1] - 1).astype(int))]

    (rows, in_rows), (columns, in_columns) = (gaussian(at, deviation, 0.0) for at in (y, x))
    (lower, in_lower), (right, in_right) = (gaussian(at, deviation, 0.5) for at in (y, x))
    dx = in_rows @ (pixels(rows, right + 0.5) - pixels(rows, right - 0.5)) @ in_right
    dy = in_lower @ (pixels(lower + 0.5, columns) - pixels(lower - 0.5, columns)) @ in_columns
    return dx, dy


def literal_sift(image, y, x, width):
    """One upright SIFT descriptor, sample by sample as Lowe writes it."""
    sums = np.zeros((6, 6, 8))  # with a border that is cut off
    for v, u in np.ndindex(20, 20):
        v, u = (v - 9.5) / 16, (u - 9.5) / 16
        if not (-0.5 <= y + v * width <= len(image) - 0.5 and -0.5 <= x + u * width <= image.shape[1] - 0.5):
            continue
        dx, dy = gradient(image, y + v * width, x + u * width, width / 20)
        direction = np.arctan2(-dy, dx) / (2 * np.pi) * 8 % 8
        weight = np.hypot(dx, dy) * np.exp(-(u**2 + v**2) / (2 * 0.5**2))
        row, column, turn = 4 * v + 2.5, 4 * u + 2.5, int(direction)
        for i, j, k in np.ndindex(2, 2, 2):
            near = 1 - abs(row - int(row) - i), 1 - abs(column - int(column) - j)
            share = near[0] * near[1] * (1 - abs(direction - turn - k))
            sums[int(row) + i, int(column) + j, (turn + k) % 8] += weight * share
    values = sums[1:5, 1:5].ravel()
    values = np.minimum(values, 0.2 * np.linalg.norm(values))
    return values / np.linalg.norm(values)


@pytest.fixture(scope="module")
def tissue():
    noise = torch.from_numpy(np.random.default_rng(3).random((1, 1, 121, 121)))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1)[0, 0].numpy()
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def test_describes_the_grid_in_the_order_of_surf(tissue):
    settings = paper(name="sift")
    features = sift(tissue, settings)
    assert features.points.shape == (14 * 14 * 4, 3)
    assert features.descriptors.shape == (14 * 14 * 4, 128)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    for number in np.random.default_rng(0).choice(len(features), 24, replace=False):
        y, x, width = features.points[number].astype(float)
        expected = literal_sift(tissue.astype(float), y, x, width)
        np.testing.assert_allclose(features.descriptors[number], expected, atol=1e-4)


def test_upright_descriptors_are_those_of_opencv(tissue):
    features = sift(tissue, paper(name="sift", block_widths=(32, 64)))
    room = np.minimum(features.points[:, :2], 112 - features.points[:, :2]).min(axis=1)
    inside = np.flatnonzero(room > 0.65 * features.points[:, 2])
    for number in np.random.default_rng(1).choice(inside, 24, replace=False):
        y, x, width = features.points[number].astype(float)
        keypoint = cv2.KeyPoint(x, y, width / 6, 0.0, 0.0, int(np.log2(width / 32)))
        _, [expected] = cv2.SIFT.create().compute(tissue, [keypoint])
        assert features.descriptors[number] @ expected / np.linalg.norm(expected) > 0.99


def test_descriptors_of_channels_are_concatenated(tissue):
    settings = paper(name="sift", block_widths=(32,))
    both = sift(np.stack([tissue, np.flip(tissue, 0)]), settings).descriptors
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    on_one_thread = sift(tissue, settings).descriptors
    part = both[:, :128] / np.linalg.norm(both[:, :128], axis=1, keepdims=True)
    assert np.median((part * on_one_thread).sum(axis=1)) > 0.99


def test_keypoints_and_their_descriptors_follow_a_turned_image(tissue):
    settings = paper(name="sift-keypoints", orientation="dominant")
    here, turned = sift_at_keypoints(tissue, settings), sift_at_keypoints(np.rot90(tissue), settings)
    assert len(here) > 20
    back = np.column_stack([turned.points[:, 1], 112 - turned.points[:, 0]])
    apart = np.linalg.norm(here.points[:, None, :2] - back, axis=2)
    found = apart.min(axis=1) < 1
    assert found.mean() > 0.8
    cosines = np.where(apart < 1, here.descriptors @ turned.descriptors.T, -1).max(axis=1)
    assert np.median(cosines[found]) > 0.95


def test_keypoints_of_a_large_image_are_found_on_512_px(tissue):
    settings = paper(name="sift-keypoints")
    small = cv2.resize(tissue, (512, 512), interpolation=cv2.INTER_CUBIC)
    large = cv2.resize(small, (1024, 1024), interpolation=cv2.INTER_NEAREST)
    points, doubled = (sift_at_keypoints(image, settings).points for image in (small, large))
    assert len(points) > 20
    np.testing.assert_allclose(doubled[:, 2], 2 * points[:, 2], rtol=1e-5)
    np.testing.assert_allclose(doubled[:, :2], 2 * points[:, :2] + 0.5, atol=1e-3)


def test_keypoints_outside_a_mask_are_left_out(tissue):
    settings = paper(name="sift-keypoints")
    mask = np.zeros(tissue.shape, bool)
    mask[:, 40:] = True
    whole, part = sift_at_keypoints(tissue, settings), sift_at_keypoints(tissue, settings, mask)
    assert 0 < len(part) < len(whole)
    assert (part.points[:, 1] > 39).all()


def test_dominant_orientation_keeps_the_descriptor_of_a_turned_image(tissue):
    settings = paper(name="sift", block_widths=(32,), orientation="dominant")
    here = sift(tissue, settings).descriptors.reshape(14, 14, 128)
    turned = np.rot90(sift(np.rot90(tissue), settings).descriptors.reshape(14, 14, 128), -1)
    assert np.median((here * turned).sum(axis=2)) > 0.97


def test_root_is_the_square_root_of_values_that_sum_to_one(tissue):
    plain = sift(tissue, paper(name="sift")).descriptors
    root = sift(tissue, paper(name="sift", normalisation="root")).descriptors
    np.testing.assert_allclose(root, np.sqrt(plain / plain.sum(axis=1, keepdims=True)), atol=1e-5)


def test_float_images_are_stretched(tissue):
    settings = paper(name="sift", block_widths=(32,))
    plain = sift(tissue, settings).descriptors
    scaled = sift(tissue.astype(np.float32) / 255 - 3, settings).descriptors
    np.testing.assert_allclose(scaled, plain, atol=0.03)


@pytest.mark.parametrize("image", [np.zeros((64, 64)), np.full((3, 40, 40), np.nan), np.zeros((1, 0, 5))])
def test_empty_images_have_no_keypoints(image):
    features = sift_at_keypoints(image, paper(name="sift-keypoints"))
    assert features.points.shape == (0, 3)
    assert features.descriptors.shape == (0, 128 * (image.shape[0] if image.ndim == 3 else 1))
