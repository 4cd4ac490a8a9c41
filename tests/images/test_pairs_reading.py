"""Pairs of stacks: training and evaluation read the planes and channels that the settings choose."""

import numpy as np
import pytest
import tifffile

from napari_cmrir.evaluation.protocol import EvaluationRun
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.readers import read_pair
from napari_cmrir.jobs import run
from napari_cmrir.representations.comir.training.pair_checks import read_pairs
from napari_cmrir.settings import ReadingSettings


@pytest.fixture
def stacks(tmp_path):
    """A pair of stacks of three planes, each plane of its own values."""
    drawn = np.random.default_rng(0).integers(0, 60, (2, 3, 96, 96))
    planes = (drawn + np.array([10, 80, 160])[:, None, None]).astype(np.uint8)
    for name, stack in zip(("a_SHG", "a_BF"), planes, strict=True):
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", stack, metadata={"axes": "ZYX"})
    return tmp_path, planes


def _pairs(folder):
    return find_pairs([folder], ("SHG", "BF"), ReadingSettings(z=1))


def test_a_pair_is_read_as_it_was_found(stacks):
    folder, planes = stacks
    for image, expected in zip(read_pair(_pairs(folder)[0]), planes[:, 1], strict=True):
        np.testing.assert_array_equal(image[..., 0], expected)


def test_training_reads_the_chosen_plane(stacks):
    folder, planes = stacks
    images = run(read_pairs(_pairs(folder))).images
    np.testing.assert_array_equal(images[0][0][..., 0], planes[0, 1])


def test_an_evaluation_reads_the_chosen_plane(stacks):
    folder, planes = stacks
    evaluation = EvaluationRun(None, ("SHG", "BF"), EvaluationSettings(field_size=64), "cpu")
    evaluation.add(_pairs(folder)[0])
    np.testing.assert_array_equal(evaluation.images["BF"]["a"][..., 0], planes[1, 1])
