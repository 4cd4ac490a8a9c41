import sqlite3
from pathlib import Path

import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, FORMAT_VERSION, Catalogue


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "made" / "a.cmrir"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def catalogue(folder):
    catalogue = Catalogue(folder, writable=True)
    yield catalogue
    catalogue.close()


def test_a_folder_without_a_catalogue_is_no_repository(tmp_path):
    with pytest.raises(InputError, match="not a repository"):
        Catalogue(tmp_path)


@pytest.mark.parametrize("writable", [False, True])
def test_another_file_of_that_name_is_refused(folder, writable):
    (folder / CATALOGUE_NAME).write_bytes(b"not a database, but as long as a header of one" * 20)
    with pytest.raises(InputError, match=f"{CATALOGUE_NAME}.*not a catalogue"):
        Catalogue(folder, writable=writable)


def test_a_catalogue_whose_creation_was_killed_is_unfinished_and_can_be_created(folder):
    (folder / CATALOGUE_NAME).touch()
    with pytest.raises(InputError, match="unfinished"):
        Catalogue(folder)
    Catalogue(folder, writable=True).close()
    reader = Catalogue(folder)
    assert reader.count_images() == {}
    reader.close()


def test_another_programs_database_is_neither_read_nor_changed(folder):
    with sqlite3.connect(folder / CATALOGUE_NAME) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    before = (folder / CATALOGUE_NAME).read_bytes()
    for writable in (False, True):
        with pytest.raises(InputError, match="not a repository's catalogue"):
            Catalogue(folder, writable=writable)
    assert (folder / CATALOGUE_NAME).read_bytes() == before


@pytest.mark.parametrize("writable", [False, True])
def test_a_newer_format_is_refused_with_a_clear_error(folder, catalogue, writable):
    catalogue.close()
    with sqlite3.connect(folder / CATALOGUE_NAME) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(InputError, match=f"format {FORMAT_VERSION + 1}.*update napari-cmrir"):
        Catalogue(folder, writable=writable)


def test_a_transaction_that_fails_leaves_nothing(catalogue):
    with pytest.raises(sqlite3.IntegrityError), catalogue.transaction():
        catalogue.change_image(catalogue.add_image("a"), state="unheard of")
    assert catalogue.count_images() == {}


def test_a_reader_sees_the_state_before_or_after_never_between(folder, catalogue):
    first = catalogue.add_image("a", state="pending")
    second = catalogue.add_image("b", state="pending")
    reader = Catalogue(folder)
    with reader.snapshot():
        assert reader.count_images() == {"pending": 2}
        with catalogue.transaction():
            catalogue.enter_segment("segments/1", "0" * 64, 2, [first, second], [])
        assert reader.count_images() == {"pending": 2}
        assert reader.segments() == []
    assert reader.count_images() == {"indexed": 2}
    assert [segment.file for segment in reader.segments()] == ["segments/1"]
    reader.close()


def test_an_image_that_replaces_another_retires_it_when_it_is_published(catalogue):
    old = catalogue.add_image("a", state="indexed")
    new = catalogue.add_image("a", state="pending", replaces=old)
    with catalogue.transaction():
        catalogue.enter_segment("segments/1", "0" * 64, 1, [new], [])
    assert catalogue.image_ids("indexed") == [new]
    assert catalogue.image_ids("retired") == [old]


def test_dropping_segments_and_retired_images_leaves_the_other_rows_valid(catalogue):
    with catalogue.transaction():
        old = catalogue.add_image("a", state="indexed")
        new = catalogue.add_image("a", state="pending", replaces=old)
        catalogue.enter_segment("segments/1", "0" * 64, 1, [old], [])
        catalogue.enter_segment("segments/2", "0" * 64, 1, [new], [])
        catalogue.drop_segments(["segments/1"])
        assert catalogue.drop_retired() == 1
    catalogue.shrink()
    assert [segment.file for segment in catalogue.segments()] == ["segments/2"]
    assert catalogue.count_images() == {"indexed": 1}
    assert catalogue.image(new).replaces is None
    assert catalogue.damage() is None


def test_a_file_is_found_where_it_was_and_beside_a_moved_repository(folder, catalogue, tmp_path):
    path = tmp_path / "made" / "core.tif"
    path.touch()
    names = {"relative_path": catalogue.relative_path(path), "absolute_path": str(path)}
    image = catalogue.add_image("core.tif", **names)
    assert catalogue.find_file(path).id == image
    assert catalogue.find_file(tmp_path / "core.tif") is None
    catalogue.close()
    (tmp_path / "made").rename(tmp_path / "moved")
    moved = Catalogue(tmp_path / "moved" / "a.cmrir", writable=True)
    row = moved.find_file(tmp_path / "moved" / "core.tif")
    assert row.id == image
    assert moved.resolve(row) == tmp_path / "moved" / "core.tif"
    moved.close()


def test_an_array_has_no_file(catalogue):
    image = catalogue.add_image("layer")
    assert catalogue.resolve(catalogue.image(image)) is None
    assert catalogue.find_array("layer").id == image


def test_a_name_that_is_not_unicode_is_kept_readable(catalogue):
    path = Path("/images/core\udcff.tif")
    image = catalogue.add_image("core", absolute_path=None, relative_path=catalogue.relative_path(path))
    assert catalogue.image(image).relative_path.endswith("core\\udcff.tif")
