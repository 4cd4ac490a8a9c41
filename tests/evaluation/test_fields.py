from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from napari_cmrir.evaluation.queries import cut_grid, identifier_of


@given(st.integers(2, 900), st.integers(2, 900), st.integers(64, 512))
def test_a_grid_is_as_many_whole_fields_as_fit_about_the_centre(height, width, size):
    fields = cut_grid("a", height, width, size)
    assert len(fields) == max(1, height // size) * max(1, width // size)
    covered = set()
    for field in fields:
        assert (field.height, field.width) == (min(size, height), min(size, width))
        assert field.y >= 0 <= field.x
        assert field.y + field.height <= height
        assert field.x + field.width <= width
        covered.add((field.y // field.height, field.x // field.width, field.row, field.column))
    assert len({(field.y, field.x) for field in fields}) == len(fields)
    for start, side, length in (("y", "height", height), ("x", "width", width)):
        first = min(getattr(field, start) for field in fields)
        last = max(getattr(field, start) + getattr(field, side) for field in fields)
        assert 0 <= (length - last) - first <= 1
        starts = sorted({getattr(field, start) for field in fields})
        assert all(b - a == size for a, b in pairwise(starts))


def test_a_pair_smaller_than_a_field_is_one_field():
    (field,) = cut_grid("x/1B_B1", 200, 150, 256)
    assert (field.y, field.x, field.height, field.width) == (0, 0, 200, 150)
    assert identifier_of(field.name) == "x/1B_B1"
