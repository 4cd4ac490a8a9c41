"""The options of reading images on the command line."""

import re

import numpy as np
import pytest
import tifffile

from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.repository.repository import open_repository


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    """Two stacks of five planes, of which the middle one is tissue and the last overexposed."""
    folder = tmp_path_factory.mktemp("stacks")
    for seed in range(2):
        plane = sample_pair(seed, 160).bf
        stack = np.stack([np.full_like(plane, 250), plane // 2, plane, plane // 2, np.full_like(plane, 255)])
        tifffile.imwrite(folder / f"{seed}.ome.tif", stack, photometric="rgb", metadata={"axes": "ZYXS"})
    return folder


def _index(call, model, stacks, path, *options):
    return call("index", stacks, "--model", model, "--modality", "BF", "-o", path, *options)


def test_what_is_chosen_is_said_once_and_kept(call, model, stacks, tmp_path):
    ended = _index(call, model, stacks, tmp_path / "a.cmrir")
    assert ended.status == 0, ended.err
    assert ended.err.count("middle of 5 planes") == 1
    assert "2 BF images searchable" in ended.out


def test_a_plane_is_chosen_and_kept_for_what_is_added(call, model, stacks, tmp_path):
    path = tmp_path / "a.cmrir"
    ended = _index(call, model, stacks, path, "--z", 1, "--keep-glass")
    assert ended.status == 0, ended.err
    assert "plane 1 of 5" in ended.err
    with open_repository(path) as repository:
        assert repository.settings.reading.z == 1
        assert repository.settings.least_tissue == 0
    assert _index(call, model, stacks, path, "--z", 1).status == 0
    refused = _index(call, model, stacks, path, "--z", 2)
    assert refused.status == 2
    assert "built with other settings (reading)" in refused.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--z", "sideways"), "--z cannot be 'sideways'"),
        (("--pixel-size", "-1"), "--pixel-size cannot be -1.0"),
        (("--series", "3"), "has 1 series"),
        (("--channel", "GFP"), "has no channel GFP"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(call, model, stacks, tmp_path, options, reason):
    ended = _index(call, model, stacks, tmp_path / "a.cmrir", *options)
    assert ended.status == 2
    assert re.search(reason, ended.err)
    assert len(ended.err.splitlines()) == 1
