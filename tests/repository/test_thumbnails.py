"""Thumbnails: published with the fields, and kept when the repository changes."""

import numpy as np
import pytest

from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_index
from napari_cmrir.repository.maintenance import compact_repository, verify_repository
from napari_cmrir.repository.pyramids import halve
from napari_cmrir.repository.repository import open_repository


def quarter(comir):
    return halve(halve(comir))


def check(repository):
    for field in range(len(repository)):
        np.testing.assert_array_equal(repository.thumbnails([field])[0], quarter(repository.comir(field)))


@pytest.fixture
def tiles(tmp_path, folder, write_image, model, index):
    """A repository of small images and of one that is cut into tiles at odd sizes."""
    write_image(folder / "large_BF.tif", 9, 467, 530)
    return index([folder], model, tmp_path / "tiles.cmrir")


def test_every_field_has_its_comir_at_a_quarter(tiles):
    assert len(np.unique(tiles.fields[["height", "width"]])) > 2
    check(tiles)
    same = np.flatnonzero(tiles.fields["height"] == 72)
    assert tiles.thumbnails(same.tolist()).shape == (5, 1, 18, 20)
    padded = tiles.thumbnails(range(len(tiles)))
    for field, thumbnail in enumerate(padded):
        height, width = (side >> 2 for side in tiles.fields[["height", "width"]][field].item())
        np.testing.assert_array_equal(thumbnail[:, :height, :width], tiles.thumbnails([field])[0])
        assert not thumbnail[:, height:].any()
        assert not thumbnail[:, :, width:].any()


def test_they_stay_when_segments_are_joined_and_words_learned_anew(tiles, folder, model, index, write_image):
    write_image(folder / "more_BF.tif", 11, 100, 300)
    (folder / "core1_BF.tif").unlink()
    write_image(folder / "core1_BF.tif", 12, 90, 90)
    index([folder], model, tiles.path)
    run(compact_repository(tiles.path))
    check(open_repository(tiles.path))
    run(build_index(tiles.path, rebuild=True))
    check(open_repository(tiles.path))
    assert run(verify_repository(tiles.path)) == []
