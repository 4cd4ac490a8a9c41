"""A registration of limited time leaves out the last fields; the others get the poses that they have."""

import math

import numpy as np
import pytest
import torch

from napari_cmrir.jobs import run
from napari_cmrir.registration.coarse_to_fine import Registration, register
from napari_cmrir.registration.prepared_query import PreparedQuery
from napari_cmrir.settings import RegistrationSettings

FIELDS = 40
CHOSEN = RegistrationSettings(max_rotation=6, refine=3)


@pytest.fixture(scope="module")
def asked(comirs_of):
    comirs = comirs_of([(96, 96)] * FIELDS)
    query = PreparedQuery(comirs.images[5][:, 10:74, 20:84], np.ones((64, 64), bool), torch.device("cpu"))
    return query, comirs, list(range(FIELDS))


@pytest.mark.parametrize(
    ("seconds", "at_least", "expected"), [(0, 25, 25), (1e6, 0, FIELDS), (0, 99, FIELDS)]
)
def test_the_first_fields_are_registered(asked, seconds, at_least, expected):
    poses = run(register(*asked, CHOSEN, seconds=seconds, at_least=at_least))
    assert sorted(poses) == list(range(expected))
    best = max(poses, key=lambda field: poses[field].score)
    unlimited = run(register(*asked, CHOSEN))
    assert best == 5 == max(unlimited, key=lambda field: unlimited[field].score)
    assert poses[5].score == pytest.approx(unlimited[5].score, abs=1e-5)
    assert poses[5].centre == pytest.approx(unlimited[5].centre, abs=0.01)


def test_portions_grow_until_the_time_is_up(asked):
    """A portion is at most as large as all before it, as times vary."""
    steps, portions = Registration(*asked[:2], CHOSEN), []

    def run_step(name, batches):
        portions.append(
            (name, [field for batch in batches for field in batch[1]] if name == "coarse" else [])
        )
        yield from steps.run_step(name, batches)

    run(register(*asked, CHOSEN, run_step, seconds=math.inf))
    (whole,) = (fields for name, fields in portions if name == "coarse")
    assert sorted(whole) == asked[2]
    portions.clear()
    run(register(*asked, CHOSEN, run_step, seconds=1e6))
    sizes = [len(fields) for name, fields in portions if name == "coarse"]
    assert sizes == [16, 16, 8]  # at most twice as many as are done
