import errno
import sqlite3
from contextlib import closing

import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.files import atomic_path, checksum, explain_disk_errors, remove_partials


def test_a_file_does_not_appear_before_it_is_whole(tmp_path):
    target = tmp_path / "file.bin"
    with atomic_path(target) as partial:
        partial.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"


def test_what_was_there_stays_when_writing_fails(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_path(target) as partial:
        partial.write_bytes([b"half", partial.write_bytes(b"half")])
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_an_unpublished_one(tmp_path):
    target = tmp_path / "folder"
    (target / "left").mkdir(parents=True)
    with atomic_path(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("x")
    assert [entry.name for entry in target.iterdir()] == ["new"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    writing = atomic_path(tmp_path / "file.bin")
    partial = writing.__enter__()  # never left, as in a killed process
    partial.write_bytes(b"half")
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_digest_of_a_folder_tells_contents_names_and_missing_files_apart(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"2")
    digests = [checksum(folder)]
    (folder / "b").write_bytes(b"3")
    digests.append(checksum(folder))
    (folder / "b").rename(folder / "c")
    digests.append(checksum(folder))
    (folder / "c").unlink()
    digests.append(checksum(folder))
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be written"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written"),
    ],
)
def test_what_the_user_can_put_right_on_the_disk_is_said(tmp_path, error, words):
    with pytest.raises(InputError, match=words), explain_disk_errors(tmp_path):
        raise error


def test_a_database_that_cannot_grow_is_a_full_disk(tmp_path):
    with closing(sqlite3.connect(tmp_path / "small.sqlite")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("PRAGMA max_page_count = 3")
        with pytest.raises(InputError, match="is full"), explain_disk_errors(tmp_path):
            connection.execute("INSERT INTO notes VALUES (?)", ["x" * 100_000])


def test_a_fault_is_not_taken_for_a_full_disk(tmp_path):
    with pytest.raises(sqlite3.OperationalError), explain_disk_errors(tmp_path):
        raise sqlite3.OperationalError("no such table: images")
