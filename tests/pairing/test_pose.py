from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_cmrir.pairing.judgement import ComirImage, confidence, refine_pose
from napari_cmrir.pairing.pair_files import FoundPair, common_area
from napari_cmrir.registration.affine import box_difference, decompose

pytestmark = pytest.mark.core


def texture(seed: int, side: int = 400) -> np.ndarray:
    noise = torch.rand(1, 1, side + 8, side + 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1)[0]
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return (255 * smooth).to(torch.uint8).numpy()


def warped(image: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image of this shape that the matrix takes to the one given."""
    from napari_cmrir.images.geometry import sample

    pixels = np.moveaxis(image, 0, 2)
    return np.moveaxis(sample(pixels, matrix[:2, 2], matrix[:2, :2], *shape), 2, 0)


@pytest.mark.parametrize(
    ("matrix", "affine"),
    [
        ([[0.8, -0.6, 150], [0.6, 0.8, 30]], False),
        ([[0.72, 0.63, 20], [0.63, -0.72, 200]], False),
        ([[1.04, 0.05, 30], [-0.03, 0.94, 40]], True),
    ],
)
def test_a_pose_is_refined_and_confirmed_by_the_parts(matrix, affine):
    truth = np.vstack((matrix, [0, 0, 1]))
    second = texture(0)
    first = warped(second, truth, (260, 240))
    start = truth.copy()
    start[:2, 2] += (2.5, -2)
    start[:2, :2] = start[:2, :2] @ np.array([[0.9998, -0.012], [0.012, 0.9998]])
    found = refine_pose(ComirImage(first), ComirImage(second), start, 16.0, affine=affine)
    assert box_difference(truth, found.matrix, (260, 240)) < 0.004
    assert found.agreement > 0.9
    assert confidence(found) > 0.99


def test_a_similarity_stays_one_where_nothing_is_bent():
    truth = np.array([[0.8, -0.6, 150], [0.6, 0.8, 30], [0, 0, 1]])
    second = texture(0)
    found = refine_pose(ComirImage(warped(second, truth, (260, 240))), ComirImage(second), truth, 16.0)
    assert decompose(found.matrix).stretch == pytest.approx(1)


def test_the_parts_of_other_tissue_disagree():
    found = refine_pose(ComirImage(texture(1, 260)), ComirImage(texture(2)), np.eye(3), 16.0)
    assert found.parts > 5
    assert confidence(found) < 0.01


def test_a_comir_of_coarser_pixels_is_taken_as_such():
    truth = np.array([[0.5, 0, 19.75], [0, 0.5, 29.75], [0, 0, 1]])
    second = texture(3)
    first = ComirImage(second[:, 20:200, 30:230], step=2.0)  # an image of twice as many pixels
    start = truth.copy()
    start[:2, 2] += (1.5, -1)
    found = refine_pose(first, ComirImage(second), start, 16.0)
    assert box_difference(truth, found.matrix, (360, 400)) < 0.002


def test_images_that_do_not_overlap_have_no_part():
    far = np.array([[1, 0, 900.0], [0, 1, 0], [0, 0, 1]])
    found = refine_pose(ComirImage(texture(1)), ComirImage(texture(2)), far, 16.0)
    assert (found.parts, found.agreeing) == (0, 0)
    assert confidence(found) < 0.05


@pytest.mark.parametrize("degrees", [0, 20, 45, 180])
def test_the_common_area_lies_on_both_images(degrees):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn
    matrix[:2, 2] = np.array([99.5, 119.5]) - turn @ [99.5, 119.5] + [12, -9]
    y, x, height, width = common_area((200, 240), (200, 240), matrix)
    assert height * width > 0.4 * 200 * 240
    corners = np.array([[y, x], [y, x + width - 1], [y + height - 1, x + width - 1], [y + height - 1, x]])
    there = corners @ turn.T + matrix[:2, 2]
    assert (there > -0.5).all()
    assert (there < [199.5, 239.5]).all()


def test_a_row_tells_rotation_and_mirroring():
    mirrored = np.array([[0, -1, 100.0], [-1, 0, 50], [0, 0, 1]])
    row = FoundPair(None, None, True, 1.0, mirrored, "")
    assert row.mirrored
    assert row.rotation_degrees == pytest.approx(-90)


def test_a_border_keeps_an_image_whole_whose_pose_is_a_pixel_off():
    moved = np.array([[-1, 0, 200.3], [0, -1, 238.0], [0, 0, 1]])  # half a circle; 0.8 px and 0.5 px outside
    assert common_area((200, 240), (200, 240), moved)[2:] == (199, 239)
    assert common_area((200, 240), (200, 240), moved, border=0.6)[2:] == (199, 240)
    assert common_area((200, 240), (200, 240), moved, border=1.0) == (0, 0, 200, 240)
