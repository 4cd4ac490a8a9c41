"""A folder in which only what an earlier demo made is replaced."""

import json

import pytest

from napari_cmrir.cli.demo import NOTE, remove_own_files
from napari_cmrir.errors import InputError

NAMES = ["model.safetensors", "pairs/a.tif", "tissue.cmrir"]


@pytest.fixture
def folder(tmp_path):
    """A folder with what a demo made."""
    folder = tmp_path / "out"
    remove_own_files(folder, NAMES, {"seed": 1})
    (folder / "model.safetensors").write_text("weights")
    (folder / "pairs").mkdir()
    (folder / "pairs" / "a.tif").write_text("pixels")
    (folder / "tissue.cmrir" / "segments").mkdir(parents=True)
    (folder / "tissue.cmrir" / "catalogue.sqlite").write_text("rows")
    return folder


def content(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_was_made_goes(folder):
    remove_own_files(folder, ["other"], {"seed": 2})
    assert [path.name for path in folder.iterdir()] == [NOTE]
    assert json.loads((folder / NOTE).read_text())["seed"] == 2


def test_what_others_put_there_stays(folder):
    (folder / "notes.txt").touch()
    (folder / "pairs" / "mine.tif").touch()
    remove_own_files(folder, NAMES, {})
    assert content(folder) == [NOTE, "notes.txt", "pairs/mine.tif"]


def test_without_a_note_nothing_counts_as_made(folder):
    (folder / NOTE).unlink()
    before = content(folder)
    with pytest.raises(InputError, match="is not from a demo"):
        remove_own_files(folder, NAMES, {})
    assert content(folder) == before


def test_a_file_inside_the_repository_that_is_not_its_own_stops_everything(folder):
    (folder / "tissue.cmrir" / "thesis.txt").touch()
    before = content(folder)
    with pytest.raises(InputError, match=r"thesis\.txt is not from a demo"):
        remove_own_files(folder, NAMES, {})
    assert content(folder) == before


def test_a_foreign_file_under_a_name_that_is_new_is_not_replaced(folder):
    (folder / "hits.png").touch()
    before = content(folder)
    with pytest.raises(InputError, match=r"hits\.png is not from a demo"):
        remove_own_files(folder, [*NAMES, "hits.png"], {})
    assert content(folder) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"made_by": "someone", "files": 3}', "\x00"])
def test_a_note_of_another_kind_is_refused(text, folder):
    (folder / NOTE).write_text(text)
    before = content(folder)
    with pytest.raises(InputError, match=r"demo\.json is not from a demo"):
        remove_own_files(folder, NAMES, {})
    assert content(folder) == before


def test_a_note_does_not_lead_out_of_the_folder(folder):
    outside = folder.parent / "precious.txt"
    outside.touch()
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps(note | {"files": ["../precious.txt", str(outside), "."]}))
    with pytest.raises(InputError, match="is not from a demo"):
        remove_own_files(folder, NAMES, {})
    assert outside.exists()
    (folder / NOTE).write_text(json.dumps(note | {"files": [*NAMES, "../precious.txt", str(outside)]}))
    remove_own_files(folder, NAMES, {})
    assert outside.exists()
