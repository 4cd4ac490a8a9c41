"""Thumbnails: stored with the words, kept through the life of a repository, added to repositories without."""

import shutil
import sqlite3

import numpy as np
import pytest

from napari_cmrir.files import checksum
from napari_cmrir.jobs import run
from napari_cmrir.repository.catalogue import FORMAT_VERSION, Catalogue
from napari_cmrir.repository.layout import CATALOGUE_NAME
from napari_cmrir.repository.maintenance import compact_repository, rebuild_vocabulary, verify_repository
from napari_cmrir.repository.pyramids import halve
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.segments import bags_of, map_segment, write_segment


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


@pytest.fixture
def old(tiles):
    """The same as a version without thumbnails left it."""
    path = tiles.path
    tiles.close()
    with sqlite3.connect(path / CATALOGUE_NAME) as connection:
        for (file,) in connection.execute("SELECT file FROM segments").fetchall():
            segment = map_segment(path / file)
            fields, bags = segment.fields.tolist(), list(bags_of(segment))
            write_segment(path / file, fields, bags)
            changed = (checksum(path / file), file)
            connection.execute("UPDATE segments SET sha256 = ? WHERE file = ?", changed)
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    return path


def version_of(path):
    with sqlite3.connect(path / CATALOGUE_NAME) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return version


def test_every_field_has_its_comir_at_a_quarter(tiles):
    assert len(np.unique(tiles.fields[["height", "width"]])) > 2
    check(tiles)
    same = np.flatnonzero(tiles.fields["height"] == 72)
    assert tiles.thumbnails(same.tolist()).shape == (5, 1, 18, 20)


def test_they_stay_when_segments_are_joined_and_words_learned_anew(tiles, folder, model, index, write_image):
    write_image(folder / "more_BF.tif", 11, 100, 300)
    (folder / "core1_BF.tif").unlink()
    write_image(folder / "core1_BF.tif", 12, 90, 90)
    index([folder], model, tiles.path)
    run(compact_repository(tiles.path))
    check(open_repository(tiles.path))
    check(run(rebuild_vocabulary(tiles.path)))
    assert run(verify_repository(tiles.path)) == []


def test_a_repository_without_is_read_as_it_is(old):
    before = version_of(old)
    repository = open_repository(old)
    assert all(map_segment(file).thumbnails is None for file in (old / "segments").iterdir())
    check(repository)
    assert version_of(old) == before == 1


def test_compacting_adds_them(old):
    words = open_repository(old).bag_index.words[:]
    run(compact_repository(old))
    assert version_of(old) == FORMAT_VERSION
    assert all(map_segment(file).thumbnails is not None for file in (old / "segments").iterdir())
    repository = open_repository(old)
    check(repository)
    np.testing.assert_array_equal(repository.bag_index.words[:], words)
    assert run(verify_repository(old)) == []


def test_what_is_added_to_one_without_has_them_and_older_versions_are_told(
    old, folder, model, index, write_image
):
    write_image(folder / "more_BF.tif", 11, 100, 300)
    check(index([folder], model, old))
    assert version_of(old) == FORMAT_VERSION > 1


def test_reading_does_not_change_an_old_catalogue(old, tmp_path):
    shutil.copytree(old, tmp_path / "copy.cmrir")
    Catalogue(tmp_path / "copy.cmrir").close()
    assert version_of(tmp_path / "copy.cmrir") == 1
