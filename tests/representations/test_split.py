"""The split into training and validation images, which never share pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_cmrir.representations.comir.training.pair_checks import split_pairs
from napari_cmrir.representations.training_settings import TrainingSettings


def pairs(shapes):
    return [(np.full((*s, 1), i), np.full((*s, 3), i)) for i, s in enumerate(shapes)]


@given(count=st.integers(4, 30), share=st.floats(0.01, 0.5), seed=st.integers(0, 99))
def test_every_image_is_on_one_side(count, share, seed) -> None:
    settings = TrainingSettings(validation_share=share, seed=seed)
    split = split_pairs(pairs([(200, 200)] * count), settings)
    sides = [sorted(int(first.flat[0]) for first, _ in side) for side in (split.training, split.validation)]
    assert sorted(sides[0] + sides[1]) == list(range(count))
    assert len(sides[1]) == max(1, round(share * count))
    assert tuple(sides[1]) == split.held_out
    assert split_pairs(pairs([(200, 200)] * count), settings).held_out == split.held_out


@pytest.mark.parametrize("shape", [(500, 300), (300, 500), (512, 512)])
def test_few_pairs_give_a_strip_each(shape) -> None:
    split = split_pairs(pairs([shape] * 3), TrainingSettings())
    assert split.manner == "A strip of each image is kept for validation."
    for kept, strip in zip(split.training, split.validation, strict=True):
        assert kept[0].shape[:2] == kept[1].shape[:2]
        assert kept[0].size + strip[0].size == shape[0] * shape[1]
        assert min(kept[0].shape[:2]) >= 128
        assert min(strip[0].shape[:2]) == 96


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (160, 160)), (3, (190, 190)), (6, (160, 180)), (1, (300, 80))]
)
def test_too_little_to_validate_on_is_reported(count, shape) -> None:
    split = split_pairs(pairs([shape] * count), TrainingSettings())
    assert split.validation == []
    assert len(split.training) == count
    assert all(first.shape[:2] == shape for first, _ in split.training)
    assert "too few and too small to validate on; the last model is kept" in split.manner


def test_no_share_no_validation() -> None:
    split = split_pairs(pairs([(300, 300)] * 8), TrainingSettings(validation_share=0))
    assert (len(split.training), split.validation, split.held_out) == (8, [], ())
