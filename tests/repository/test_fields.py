import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_cmrir.repository.segments import cut_fields


def test_an_image_of_up_to_a_field_is_one_field():
    assert cut_fields(1024, 300).tolist() == [[0, 0, 1024, 300]]


def test_a_strip_is_cut_along_its_length_only():
    fields = cut_fields(100, 2000)
    assert set(fields[:, 0]) == {0}
    assert set(fields[:, 2]) == {100}
    assert len(fields) == 3


@given(st.integers(1, 6000), st.integers(1, 6000), st.integers(4, 20), st.integers(0, 75))
def test_fields_cover_the_image_overlap_enough_and_start_on_every_level(height, width, size, percent):
    field_size, overlap = 64 * size, percent / 100
    fields = cut_fields(height, width, field_size, overlap)
    for start, extent, length in [(0, 2, height), (1, 3, width)]:
        sides = np.unique(fields[:, [start, extent]], axis=0)
        ends = sides.sum(axis=1)
        assert sides[0, 0] == 0
        assert ends[-1] == length
        assert (sides[:, 1] <= field_size).all()
        assert (sides[:, 0] % 64 == 0).all()
        assert (ends[:-1] - sides[1:, 0] >= overlap * field_size - 1e-6).all()
