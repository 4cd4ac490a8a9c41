"""The paper's covering grid."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from napari_cmrir.search.rerankers import covering_offsets


def test_the_papers_grid() -> None:
    assert covering_offsets(834, 256) == [0, 193, 385, 578]


@given(length=st.integers(1, 3000), patch=st.integers(1, 600))
def test_the_patches_cover_all_and_are_the_fewest(length: int, patch: int) -> None:
    offsets = covering_offsets(length, patch)
    assert offsets[0] == 0
    assert all(b - a <= patch for a, b in pairwise(offsets))
    assert offsets[-1] + patch >= length
    assert (len(offsets) - 1) * patch < length
