"""Fine scores: how well the finest structures agree under a pose."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from napari_cmrir.registration.correlation import high_pass, turn
from napari_cmrir.registration.refinement import FineScores, gradient_agreement, pose_scores, with_gradients
from napari_cmrir.settings import ScoreWeights


def texture(seed, side=96):
    noise = np.random.default_rng(seed).normal(size=(1, side, side))
    return torch.from_numpy(100 * gaussian_filter(noise, (0, 2, 2))).float()


def scores_of(query, mask, fields, poses):
    """Scores of poses with and without the fine scores."""
    query = high_pass(query[None], mask, 8.0)[0]
    fields = high_pass(fields, None, 8.0)
    scores = pose_scores(query, mask, fields, poses, 0.5)
    fine = FineScores(query, mask, 2)
    return fine.add_to(scores, poses, fine.of_fields(fields, with_gradients(fields))), scores


def test_a_query_agrees_with_itself_and_not_with_another():
    fields = torch.stack([texture(0), texture(1)])
    poses = torch.tensor([[0.0, 47.5, 47.5]] * 2)
    (same, other), _ = scores_of(fields[0], torch.ones(96, 96), fields, poses)
    assert same == pytest.approx(1, abs=0.01)
    assert abs(other) < 0.1


@settings(deadline=None, max_examples=15)
@given(degrees=st.floats(-180, 180), outlined=st.booleans())
def test_gradient_directions_turn_with_the_pose(degrees, outlined):
    """A turned query agrees under its own pose, and less under one that lies 3 px away."""
    field = texture(2, 160)
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    mask = ((y - 79.5).hypot(x - 79.5) < 40).float() if outlined else torch.zeros(160, 160)
    mask[55:105, 55:105] = 1
    query, inside = turn(field, mask, -degrees)
    poses = torch.tensor([[degrees, 79.5, 79.5], [degrees, 82.5, 79.5]])
    (right, wrong), (correlation, _) = scores_of(query, inside, torch.stack([field, field]), poses)
    assert right > 0.75
    assert right > correlation - 0.2
    assert wrong < right / 2


def test_pixels_outside_the_mask_change_nothing():
    field, mask = texture(3), torch.zeros(96, 96)
    mask[20:70, 30:80] = 1
    poses = torch.tensor([[0.0, 47.5, 47.5]])
    other = torch.where(mask > 0, field, texture(4))
    score, changed = (scores_of(query, mask, field[None], poses)[0] for query in (field, other))
    torch.testing.assert_close(score, changed)
    assert score.item() == pytest.approx(1, abs=0.05)


def test_too_little_overlap_stays_minus_infinity():
    poses = torch.tensor([[0.0, -40.0, 47.5]])
    assert scores_of(texture(5), torch.ones(96, 96), texture(5)[None], poses)[0].item() == -math.inf


def test_a_score_is_the_weighted_mean_of_its_terms():
    fields, mask = torch.stack([texture(0), texture(1)]), torch.ones(96, 96)
    poses = torch.tensor([[0.0, 47.5, 47.5], [10.0, 60.0, 47.5]])
    correlations = pose_scores(fields[0], mask, fields, poses, 0.5)

    def made(weights):
        fine = FineScores(fields[0], mask, 2, weights)
        features = fine.of_fields(fields, with_gradients(fields))
        return fine, (correlations, poses, features)

    fine, asked = made(ScoreWeights(2, 3, 1))
    terms = fine.terms(*asked)
    torch.testing.assert_close(terms[0], torch.ones(3), atol=0.01, rtol=0)
    torch.testing.assert_close(fine.add_to(*asked), (2 * terms[:, 0] + 3 * terms[:, 1] + terms[:, 2]) / 6)
    unbanded, asked = made(ScoreWeights(2, 0, 1))
    torch.testing.assert_close(unbanded.add_to(*asked), (2 * terms[:, 0] + terms[:, 2]) / 3)
    alone, asked = made(ScoreWeights(1, 0, 0))
    torch.testing.assert_close(alone.add_to(*asked), correlations)


def test_gradient_agreement_equals_a_numpy_implementation():
    rng = np.random.default_rng(6)
    query, fields = rng.normal(size=(2, 2, 50)) * 30, rng.normal(size=(2, 3, 2, 50)) * 30
    weight = rng.random((3, 1, 50)) < 0.7
    a, b = np.hypot(*query), np.hypot(*fields)
    between = np.arctan2(query[0], query[1]) - np.arctan2(fields[0], fields[1])
    expected = (np.cos(2 * between) * np.minimum(a, b) * weight).sum((1, 2))
    expected /= (np.maximum(a, b) * weight).sum((1, 2))
    gradients = (tuple(torch.from_numpy(axis) for axis in axes) for axes in (query, fields))
    found = gradient_agreement(*gradients, torch.from_numpy(weight.astype(float)))
    np.testing.assert_allclose(found, expected, atol=5e-3)
