"""Refinement recovers a known pose to a fraction of a pixel and of a degree."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.registration.refinement import pose_scores, refine_poses


@settings(max_examples=12, deadline=None)
@given(
    degrees=st.floats(-40, 40),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    wrong=st.tuples(st.floats(-2, 2), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    size=st.tuples(st.integers(40, 70), st.integers(40, 70)),
    round_mask=st.booleans(),
)
def test_a_pose_nearby_is_moved_onto_the_peak(degrees, shift, wrong, size, round_mask) -> None:
    image = gaussian_filter(np.random.default_rng(0).normal(size=(160, 160)), 3).astype(np.float32)
    centre = (80 + shift[0], 80 + shift[1])
    patch, _ = cut(image[..., None], Region(centre, *size, degrees))
    query = torch.from_numpy(np.ascontiguousarray(patch.transpose(2, 0, 1)))
    mask = torch.ones(size)
    if round_mask:
        y, x = np.ogrid[: size[0], : size[1]]
        inside = ((y / (size[0] - 1) - 0.5) ** 2 + (x / (size[1] - 1) - 0.5) ** 2) <= 0.25
        mask = torch.from_numpy(inside.astype(np.float32))
        query = torch.where(mask.bool(), query, 99.0)
    field = torch.from_numpy(image)[None, None]
    start = torch.tensor([[degrees + wrong[0], centre[0] + wrong[1], centre[1] + wrong[2]]])
    poses, scores = refine_poses(query, mask, field, start, 0.5, iterations=12)
    found = poses[0].tolist()
    assert found[0] == pytest.approx(degrees, abs=0.2)
    assert np.hypot(found[1] - centre[0], found[2] - centre[1]) < 0.5
    assert float(scores[0]) > 0.98
    assert float(scores[0]) >= float(pose_scores(query, mask, field, start, 0.5)[0])


def test_too_little_overlap_scores_minus_infinity() -> None:
    field = torch.rand(1, 1, 30, 30, generator=torch.manual_seed(0))
    pose = torch.tensor([[0.0, -8.0, 15.0]])
    assert pose_scores(torch.rand(1, 20, 20), torch.ones(20, 20), field, pose, 0.5).item() == -torch.inf
