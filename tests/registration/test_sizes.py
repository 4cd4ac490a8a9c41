"""Fields of many sizes are registered in classes, padded and masked: with the poses of each field alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_cmrir.jobs import run
from napari_cmrir.registration.coarse_to_fine import register, size_classes
from napari_cmrir.registration.prepared_query import PreparedQuery
from napari_cmrir.settings import Comparison, RegistrationSettings

SIZES = [(200, 240), (201, 239), (190, 250), (120, 260), (110, 100), (230, 260), (64, 300), (200, 240)]


@pytest.mark.parametrize("high_pass_px", [16.0, 0.0])
@pytest.mark.parametrize("side", [96, 160])
def test_poses_are_those_of_each_field_alone(comirs_of, side, high_pass_px):
    comirs = comirs_of(SIZES)
    source = comirs.images[1]
    query = source[:, 20 : 20 + side, 40 : 40 + side]
    mask = np.ones((side, side), bool)
    mask[:20, :30] = False
    prepared = PreparedQuery(query, mask, torch.device("cpu"), comparison=Comparison(high_pass_px))
    chosen = RegistrationSettings(max_rotation=12, min_overlap=0.4)
    fields = list(range(len(SIZES)))
    together = run(register(prepared, comirs, fields, chosen))
    for field in fields:
        alone = run(register(prepared, comirs, [field], chosen))[field]
        pose = together[field]
        if not np.isfinite(alone.score):
            assert pose.score == alone.score
            continue
        assert pose.score == pytest.approx(alone.score, abs=1e-5)
        assert pose.runner_up == pytest.approx(alone.runner_up, abs=1e-4)
        assert pose.rotation_degrees == pytest.approx(alone.rotation_degrees, abs=1e-3)
        # px; a peak is flat: at equal scores, sums in another order move it by 0.002 on some processors
        assert pose.centre == pytest.approx(alone.centre, abs=0.01)
    best = max(fields, key=lambda field: together[field].score)
    assert best == 1
    assert together[best].centre == pytest.approx((20 + (side - 1) / 2, 40 + (side - 1) / 2), abs=0.2)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(1, 2000)), min_size=1, max_size=150),
    st.integers(0, 500),
)
def test_classes_hold_every_field_once_in_a_shape_that_it_fits(sizes, margin):
    sizes = np.array(sizes)
    classes = size_classes(sizes, (margin, margin))
    assert sorted(np.concatenate([rows for _, rows in classes]).tolist()) == list(range(len(sizes)))
    for shape, rows in classes:
        assert tuple(sizes[rows].max(0).tolist()) == shape


def test_a_hundred_similar_sizes_make_few_classes():
    sizes = np.random.default_rng(0).integers(500, 901, (100, 2))
    classes = size_classes(sizes, (256, 256))
    padded = sum((np.array(shape) + 256).prod() * len(rows) for shape, rows in classes)
    assert len(classes) < 20
    assert padded < 1.25 * (sizes + 256).prod(1).sum()


def test_one_size_is_one_class_and_a_size_far_from_the_others_is_another():
    one = size_classes(np.array([(64, 80)] * 5), (9, 9))
    assert [(shape, rows.tolist()) for shape, rows in one] == [((64, 80), [0, 1, 2, 3, 4])]
    two = size_classes(np.array([(640, 800)] * 5 + [(64, 80)] * 5), (9, 9))
    assert {shape for shape, _ in two} == {(640, 800), (64, 80)}
