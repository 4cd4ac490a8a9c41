"""SIFT of gradients as a retriever: inverted contrast, opposite orientation, RANSAC, and which image."""

import cv2
import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS
from napari_cmrir.evaluation.retrievers.untrained import (
    GradientSift,
    consistent_matches,
    describe_gradients,
    match_keypoints,
)
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import run


def blobs(seed, side=256):
    """Discs of random size and brightness, smoothed."""
    rng = np.random.default_rng(seed)
    image = np.zeros((side, side), np.float32)
    for _ in range(60):
        centre = tuple(map(int, rng.integers(0, side, 2)))
        cv2.ellipse(
            image,
            centre,
            (int(rng.integers(4, 22)), int(rng.integers(4, 22))),
            int(rng.integers(180)),
            0,
            360,
            float(rng.uniform(0.2, 1)),
            -1,
        )
    return cv2.GaussianBlur(image, (0, 0), 1.0)


def as_shown(image):
    return np.round(255 * image / image.max()).astype(np.uint8)[..., None]


def test_a_half_turn_and_inverted_contrast_leave_the_matches_where_they_were():
    image = blobs(0)
    query, turned = describe_gradients(image), describe_gradients(1 - image[::-1, ::-1])
    assert len(query.points) > 50
    first, second = match_keypoints(query, turned, 0.9)
    off = np.linalg.norm(first - (np.array(image.shape) - 1 - second), axis=1)
    assert (off < 2).mean() > 0.8  # of OpenCV's keypoints; of wrong matches, 1 in 5,000 would be


def test_the_opposite_orientation_is_described_as_opencv_describes_it():
    """`turned` rearranges cells; OpenCV computes the same from a keypoint that is turned by 180 degrees."""
    picture = as_shown(blobs(1))[..., 0]
    sift = cv2.SIFT.create()
    (keypoint,) = sift.detect(picture)[:1]
    upright = sift.compute(picture, [keypoint])[1]
    keypoint.angle = (keypoint.angle + 180) % 360
    opposite = sift.compute(picture, [keypoint])[1]

    def folded(values):
        return values.reshape(4, 4, 2, 4).sum(2)

    expected = folded(opposite)
    assert np.abs(folded(upright)[::-1, ::-1] - expected).max() < 0.05 * expected.max()
    assert np.abs(folded(upright) - expected).max() > 0.2 * expected.max()


def test_the_similarity_that_most_matches_agree_with_is_found_among_wrong_ones():
    rng = np.random.default_rng(0)
    first = rng.uniform(0, 200, (100, 2))
    angle = np.radians(70)
    turn = 1.2 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = first @ turn.T + [30, -12] + rng.normal(0, 0.5, (100, 2))
    second[25:] = rng.uniform(0, 300, (75, 2))
    agree = consistent_matches(first, second, 3.0)
    assert agree[:25].mean() > 0.9
    assert agree[25:].sum() <= 3


def test_matches_of_one_keypoint_are_no_agreement():
    first = np.random.default_rng(0).uniform(0, 200, (40, 2))
    assert consistent_matches(first, np.full((40, 2), 50.0), 5.0).sum() == 0
    one_place = np.tile([[10.0, 10.0]], (40, 1))
    assert consistent_matches(one_place, first, 5.0).sum() == 0
    assert consistent_matches(first[:1], first[:1], 5.0).tolist() == [False]


def test_a_turned_part_of_the_inverted_image_is_found(tmp_path):
    images = {str(seed): blobs(seed) for seed in range(5)}
    retriever = GradientSift(tmp_path)
    run(retriever.index({name: as_shown(image.max() - image) for name, image in images.items()}, "B"))
    region = Region((120.0, 130.0), 128, 128, 160.0)
    query, inside = cut(as_shown(images["3"]), region)
    scores = run(retriever.rank(query, "A", mask=inside))
    assert max(scores, key=scores.get) == "3"
    others = [score for name, score in scores.items() if name != "3"]
    assert scores["3"] > 2 * max(others)
    scores = run(retriever.rank(as_shown(images["3"]), "A", region=region))
    assert max(scores, key=scores.get) == "3"


def test_flat_images_score_nothing_and_no_images_are_refused(tmp_path):
    assert RETRIEVERS["gradient-sift"] is GradientSift
    retriever = GradientSift(tmp_path)
    with pytest.raises(InputError, match="no images"):
        run(retriever.rank(np.zeros((64, 64, 1), np.uint8), "A"))
    run(retriever.index({"flat": np.full((64, 64, 1), 7, np.uint8), "blobs": as_shown(blobs(0))}, "B"))
    assert run(retriever.rank(np.zeros((64, 64, 3), np.uint8), "A")) == {"flat": 0.0, "blobs": 0.0}
