"""Confidence: high for the one that stands out, low for one among equals; fitted, stored, found again."""

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.registration.prepared_query import Pose
from napari_cmrir.search.calibration import FEATURES, Calibration, Evidence, confidences, fit_calibration


def evidence(scores, runner_ups=None):
    scores = np.asarray(scores, float)
    runner_ups = np.full(len(scores), 0.08) if runner_ups is None else np.asarray(runner_ups, float)
    return Evidence(np.arange(len(scores)), scores, runner_ups)


def first_of(scores):
    """The confidence of the best of some images."""
    return confidences(evidence(scores), [int(np.argmax(scores))], Calibration())[0]


def test_of_many_wrong_images_few_look_sure() -> None:
    rng = np.random.default_rng(0)
    firsts = [first_of(rng.gumbel(0.09, 0.02, size=30)) for _ in range(300)]
    assert np.mean(np.array(firsts) > 0.9) < 0.1


def test_the_right_image_among_wrong_ones_looks_sure() -> None:
    rng = np.random.default_rng(0)
    assert min(first_of([0.5, *rng.gumbel(0.09, 0.02, size=30)]) for _ in range(50)) > 0.9


def test_no_pose_is_no_confidence_and_one_image_is_possible() -> None:
    nothing = Evidence(np.zeros(0, int), np.zeros(0), np.zeros(0))
    assert confidences(nothing, [0], Calibration()) == [0.0]
    assert 0 < first_of([0.2]) < 1


def test_the_other_places_of_one_slide_are_evidence() -> None:
    """A slide in fields that overlap: the place is found by two of them, all others are wrong."""
    rng, square = np.random.default_rng(0), 96.0 * np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
    scores = [0.11, 0.10, *rng.gumbel(0.03, 0.006, size=30)]  # as low as a slide's of an untrained kind
    poses = {field: Pose(score, 0.0, (50.0, 50.0), 0.03) for field, score in enumerate(scores)}
    places = [(3, 0), (0, 2), *((900.0 * number, 500.0) for number in range(1, 31))]
    boxes = {field: square + place for field, place in enumerate(places)}
    slide = np.zeros(len(poses), np.int64)
    seen = Evidence.of(poses, slide, boxes)
    assert seen.scores.tolist() == [0.11, *sorted(scores[2:], reverse=True)]
    sure = confidences(seen, [0], Calibration())[0]
    assert sure > 0.9
    assert confidences(Evidence.of(poses, slide), [0], Calibration())[0] < 0.5
    equal = {field: Pose(0.11, 0.0, (50.0, 50.0), 0.05) for field in poses}
    assert confidences(Evidence.of(equal, slide, boxes), [0], Calibration())[0] < 0.1
    assert len(seen.without([0]).images) == 0


def test_hits_share_at_most_certainty() -> None:
    sure = confidences(evidence([0.6, 0.55, 0.1]), [0, 1, 2], Calibration(intercept=8))
    assert sure[0] + sure[1] <= 1
    assert sure == sorted(sure, reverse=True)


def test_what_is_left_out_is_as_if_it_had_never_been_there() -> None:
    scores = [0.5, 0.3, 0.2, 0.1]
    without = evidence(scores).without([0])
    alone = Evidence(np.array([1, 2, 3]), np.array(scores[1:]), np.full(3, 0.08))
    np.testing.assert_array_equal(without.features(1), alone.features(1))
    assert without.features(0) is None


def test_scores_of_another_height_are_as_sure() -> None:
    """The margins are shares of the score: a model whose scores are all half as high has the same."""
    scores, runner_ups = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.2, 0.1])
    full, half = (Evidence(np.arange(3), k * scores, k * runner_ups).features(0) for k in (1.0, 0.5))
    assert full[[1, 3]].tolist() == half[[1, 3]].tolist() == pytest.approx([0.4, 0.5])
    low = Evidence(np.arange(2), np.array([-0.01, 0.3]), np.array([-0.02, 0.1])).features(0)
    assert low[[1, 3]] == pytest.approx([-0.31 / 0.02, 0.01 / 0.02])


def test_a_fit_finds_the_law_that_drew_the_answers() -> None:
    """Probabilities of a fit are those the answers were drawn with, and as good as sklearn's."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    features = np.abs(rng.normal(size=(4000, 4))) * [0.2, 0.2, 4, 0.2]
    law = Calibration(score=6, relative_margin=8, gumbel_margin=0.4, relative_peak=3, intercept=-3)
    right = rng.random(4000) < law.probability(features)
    fitted = fit_calibration(features, right, "a test")
    assert (fitted.queries, fitted.source) == (4000, "a test")
    assert np.abs(fitted.probability(features) - law.probability(features)).mean() < 0.03
    spread = features.std(0)
    other = LogisticRegression(C=1.0, max_iter=500).fit(features / spread, right)
    theirs = other.predict_proba(features / spread)[:, 1]
    np.testing.assert_allclose(fitted.probability(features), theirs, atol=2e-3)


def test_nothing_that_speaks_for_a_hit_counts_against_it() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 4))
    right = features[:, 0] - features[:, 1] + 0.3 * rng.normal(size=300) > 0
    fitted = fit_calibration(features, right)
    assert fitted.score > 1
    assert fitted.relative_margin == 0
    assert all(getattr(fitted, name) >= 0 for name in FEATURES)


@pytest.mark.parametrize(("n", "n_right"), [(9, 4), (30, 30), (30, 0)])
def test_what_cannot_calibrate_is_refused(n, n_right) -> None:
    with pytest.raises(InputError, match="evaluate on more pairs"):
        fit_calibration(np.zeros((n, 4)), np.arange(n) < n_right)
