import gc
import json
import shutil
import sqlite3
import weakref
from contextlib import closing

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source
from napari_cmrir.repository.catalogue import CATALOGUE_NAME, MODEL_NAME, Catalogue
from napari_cmrir.repository.maintenance import verify_repository
from napari_cmrir.repository.pyramids import halve
from napari_cmrir.repository.repository import open_repository

RANK = """
import sys
from conftest import rankings
from napari_cmrir.repository.repository import open_repository
print(rankings(open_repository(sys.argv[1])))
"""


@pytest.fixture
def copy(built, tmp_path):
    """A copy of the repository, to spoil."""
    path = tmp_path / "copy.cmrir"
    shutil.copytree(built.path, path)
    return path


def test_another_process_opens_it_and_ranks_the_same(built, rankings, run_python):
    other = run_python(RANK, built.path)
    assert other.stdout.strip() == repr(rankings(built)), other.stderr


def test_it_holds_its_model_vocabulary_and_settings(built, model):
    with open_repository(built.path) as repository:
        assert repository.model.fingerprint == model.fingerprint
        assert repository.modality == "BF"
        assert repository.settings == built.settings
        assert repository.descriptor_settings.block_widths == (16, 32)
        assert len(repository.vocabulary) == 30


def test_the_comir_of_a_field_is_read_at_any_level(copy, built, small):
    full = built.comir(2)
    assert full.shape == (1, 72, 80)
    assert full.dtype == np.uint8
    assert full.std() > 0
    with pytest.raises(InputError, match="no level 1"):  # 36 px would be too small
        built.comir(2, 1)


def test_images_that_moved_with_the_repository_are_found(built, tmp_path):
    shutil.copytree(built.path.parent, tmp_path / "moved")
    moved = open_repository(tmp_path / "moved" / "built.cmrir")
    assert moved.image_path(1) == tmp_path / "moved" / "images" / "core1_BF.tif"
    assert built.image_path(1) == built.path.parent / "images" / "core1_BF.tif"


def test_images_that_stayed_are_found_too(copy, built):
    assert open_repository(copy).image_path(1) == built.path.parent / "images" / "core1_BF.tif"


def test_a_sound_repository_verifies(copy):
    assert open_repository(copy).verify() == []


@pytest.mark.parametrize(
    "part",
    [
        "segments/*.safetensors",
        "comirs/*/0/c/0/0/0",
        MODEL_NAME,
        "indexes/words/vocabulary-*",
        "indexes/thumbnails/*",
    ],
)
def test_one_changed_bit_is_found(copy, part):
    (spoilt,) = sorted(copy.glob(part))[:1]
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.write_bytes(content)
    (problem,) = run(verify_repository(copy))
    assert str(spoilt.relative_to(copy)).split("/0/c/")[0] in problem
    assert "checksum" in problem


def test_a_lost_pyramid_is_found(copy):
    shutil.rmtree(next((copy / "comirs").iterdir()))
    assert len(run(verify_repository(copy))) == 1


@pytest.mark.parametrize("part", [MODEL_NAME, "segments/*.safetensors"])
def test_a_missing_part_is_named_when_it_is_opened(copy, part):
    missing = sorted(copy.glob(part))[0]
    missing.unlink()
    with pytest.raises(InputError, match=missing.name):
        open_repository(copy)


def test_a_newer_format_is_refused(copy):
    with sqlite3.connect(copy / CATALOGUE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match=r"format 99.*update napari-cmrir"):
        open_repository(copy)


def test_an_older_format_is_refused(copy):
    with sqlite3.connect(copy / CATALOGUE_NAME) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(InputError, match=r"format 2, older.*index the images into a new repository"):
        open_repository(copy)


def test_it_goes_when_nobody_uses_it_any_more(copy):
    repository = open_repository(copy)
    assert repository.comir(0, 2).shape == repository.thumbnails([0])[0].shape
    assert repository.pixel_step(0) == 1
    gone = weakref.ref(repository)
    repository.close()
    gc.disable()  # a cycle would be collected, and not at once
    try:
        del repository
        assert gone() is None
    finally:
        gc.enable()


def test_a_setting_of_a_newer_version_is_a_warning(copy):
    with closing(Catalogue(copy, writable=True)) as catalogue, catalogue.transaction():
        catalogue.note(settings=catalogue.about("settings") | {"settings_version": 99, "tiles": "hexagons"})
    with pytest.warns(UserWarning, match=f"{copy.name}.*tiles"), open_repository(copy) as opened:
        assert opened.summary()["images"]["indexed"] > 0


def test_what_is_no_repository_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="not a repository"):
            open_repository(path)


def test_the_summary_is_json_and_counts(built):
    summary = json.loads(json.dumps(built.summary()))
    assert summary["images"] == {"indexed": 5}
    assert summary["fields"] == 5
    assert summary["modality"] == "BF"
    assert summary["words"] == 30


def test_levels_of_a_field_are_those_of_its_image(model, tmp_path, index):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 520, 1), dtype=np.uint8)
    repository = index([Source("wide", pixels)], model, tmp_path / "a.cmrir")
    field = 1
    assert repository.fields[field]["x"] > 0
    np.testing.assert_array_equal(repository.comir(field, 1), halve(repository.comir(field)))
