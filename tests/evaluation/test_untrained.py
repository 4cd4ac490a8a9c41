"""Mutual information as a retriever: the shift, the rotation, and which image."""

import numpy as np
import pytest
import torch

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS
from napari_cmrir.evaluation.retrievers.untrained import (
    MutualInformation,
    mutual_information,
    quantised,
)
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run


def by_counting(template, image):
    """Mutual information of two level maps of equal size, from their joint histogram."""
    joint = np.array([[float((a * b).sum()) for b in image] for a in template])
    joint /= joint.sum()
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / expected[seen])).sum())


def test_every_shift_is_what_counting_gives():
    rng = np.random.default_rng(0)
    image = quantised(torch.from_numpy(rng.random((12, 14), np.float32)), torch.ones(12, 14), 3)
    template = quantised(torch.from_numpy(rng.random((6, 5), np.float32)), torch.ones(6, 5), 3)
    found = mutual_information(template, image[None], least_overlap=1.0)[0]
    for y, x in [(0, 0), (3, 4), (6, 9)]:
        counted = by_counting(template.numpy(), image[:, y : y + 6, x : x + 5].numpy())
        assert found[y + 5, x + 4] == pytest.approx(counted, abs=1e-4)
    assert torch.isinf(found[0, 0])


def test_a_turned_part_of_another_modality_is_found(tmp_path):
    pairs = {str(seed): sample_pair(seed, 256) for seed in range(4)}
    retriever = MutualInformation(tmp_path, "cpu", step=2, rotation_step=10.0)
    run(retriever.index({name: pair.bf for name, pair in pairs.items()}, "BF"))
    query, inside = cut(pairs["2"].shg, Region((120.0, 130.0), 128, 128, 20.0))
    scores = run(retriever.rank(query, "SHG", mask=inside))
    assert max(scores, key=scores.get) == "2"
    scores = run(retriever.rank(pairs["2"].shg, "SHG", region=Region((120.0, 130.0), 128, 128, 20.0)))
    assert max(scores, key=scores.get) == "2"


def test_it_is_registered_and_needs_images(tmp_path):
    assert RETRIEVERS["mutual-information"] is MutualInformation
    with pytest.raises(InputError, match="no images"):
        run(MutualInformation(tmp_path).rank(np.zeros((64, 64, 1)), "SHG"))
