"""Confidence: high for the one that stands out, low for one among equals."""

import numpy as np

from napari_cmrir.search.confidence import confidences


def test_of_many_wrong_images_few_look_sure() -> None:
    rng = np.random.default_rng(0)
    firsts = [max(confidences(rng.gumbel(0.09, 0.02, size=30))) for _ in range(300)]
    assert np.mean(np.array(firsts) > 0.95) < 0.15


def test_the_right_image_among_wrong_ones_looks_sure() -> None:
    rng = np.random.default_rng(0)
    firsts = [confidences([0.5, *rng.gumbel(0.09, 0.02, size=30)])[0] for _ in range(50)]
    assert min(firsts) > 0.95


def test_no_pose_is_no_confidence_and_one_image_is_possible() -> None:
    assert confidences([-np.inf, 0.2, 0.1])[0] == 0.0
    assert 0 < confidences([0.2])[0] < 1
