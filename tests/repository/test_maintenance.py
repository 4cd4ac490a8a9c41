import os
import shutil
import signal
from pathlib import Path

import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository import maintenance as compacting
from napari_cmrir.repository.build import Source, build_index, build_repository
from napari_cmrir.repository.maintenance import (
    compact_repository,
    prune_repository,
    verify_repository,
)
from napari_cmrir.repository.repository import open_repository

REBUILD_AND_DIE = """
import os, signal, sys
from napari_cmrir.repository.build import build_index

path, message, nth = sys.argv[1:]
seen = 0
for progress in build_index(path, rebuild=True):
    seen += progress.message.startswith(message)
    if seen == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def rebuild(path):
    """Learn the words anew."""
    run(build_index(path, rebuild=True))
    return open_repository(path)


@pytest.fixture
def path(built, tmp_path):
    """A copy of the repository and its images, to change."""
    shutil.copytree(built.path.parent / "images", tmp_path / "images")
    shutil.copytree(built.path, tmp_path / "copy.cmrir")
    return tmp_path / "copy.cmrir"


@pytest.fixture
def images(path):
    return path.parent / "images"


def names(repository):
    return [repository.image_name(field) for field in range(len(repository))]


def files(path):
    return {entry.relative_to(path).parts[:2] for entry in path.rglob("*") if entry.is_file()}


@pytest.fixture
def moved_away(built, path):
    """The images that the copy was made of are not there while it is tested."""
    folder = built.path.parent / "images"
    folder.rename(folder.with_name("away"))
    yield
    folder.with_name("away").rename(folder)


@pytest.mark.usefixtures("moved_away")
class TestPrune:
    def test_vanished_images_are_dropped_and_no_others(self, path, images):
        (images / "core1_BF.tif").unlink()
        dropped = run(prune_repository(path))
        assert [Path(one).name for one in dropped] == ["core1_BF.tif"]
        assert names(open_repository(path)) == [f"core{i}_BF.tif" for i in (0, 2, 3, 4)]
        assert run(prune_repository(path)) == ()

    def test_a_pruned_image_that_is_back_is_indexed_again(self, path, images, model, index, rankings, built):
        content = (images / "core1_BF.tif").read_bytes()
        (images / "core1_BF.tif").unlink()
        run(prune_repository(path))
        (images / "core1_BF.tif").write_bytes(content)
        repository = index([images], model, path, settings=None)
        assert sorted(names(repository)) == names(built)

    def test_moved_images_are_not_dropped_when_their_folder_is_given(self, path, images, model):
        images.rename(images.with_name("elsewhere"))
        (images.with_name("elsewhere") / "core3_BF.tif").unlink()
        folder = images.with_name("elsewhere")
        repository = run(build_repository([folder], model, "BF", path, prune=True))
        assert names(repository) == [f"core{i}_BF.tif" for i in (0, 1, 2, 4)]
        assert repository.image_path(0) == folder / "core0_BF.tif"

    def test_nothing_is_dropped_when_all_images_are_away(self, path, images):
        images.rename(images.with_name("elsewhere"))
        with pytest.raises(InputError, match="None of the 5 images"):
            run(prune_repository(path))
        assert len(open_repository(path)) == 5

    def test_arrays_stay(self, path, images, model, index, built):
        pixels = built.comir(0)[0][..., None]
        index([Source("layer", pixels)], model, path, settings=None)
        (images / "core1_BF.tif").unlink()
        run(prune_repository(path))
        assert "layer" in names(open_repository(path))


class TestRebuildVocabulary:
    def test_the_words_are_those_of_a_repository_built_at_once(
        self, folder, model, tmp_path, index, rankings, write_image
    ):
        path = tmp_path / "a.cmrir"
        index([folder / "core0_BF.tif"], model, path)
        for seed in range(5, 8):
            write_image(folder / f"core{seed}_BF.tif", seed)
        reader = index([folder], model, path, settings=None)
        before = rankings(reader)
        rebuilt = rebuild(path)
        at_once = index([folder], model, tmp_path / "b.cmrir")
        assert rankings(rebuilt) == rankings(at_once) != before
        assert rebuilt.verify() == []
        assert rankings(reader) == before  # who opened it before keeps the old words

    def test_more_is_added_with_the_new_words(self, path, images, model, index, write_image):
        rebuild(path)
        write_image(images / "core9_BF.tif", 9)
        repository = index([images], model, path, settings=None)
        assert names(repository)[-1] == "core9_BF.tif"
        assert repository.verify() == []
        assert len(repository.bag_index) == 6

    @pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
    @pytest.mark.parametrize(("message", "nth"), [("vocabulary: describing", 3), ("words", 4)])
    def test_a_killed_rebuild_keeps_the_old_words_and_can_be_repeated(
        self, path, images, message, nth, model, index, write_image, rankings, run_python
    ):
        write_image(images / "core9_BF.tif", 9)
        before = rankings(index([images], model, path, settings=None))
        death = run_python(REBUILD_AND_DIE, path, message, nth)
        assert death.returncode == -signal.SIGKILL, death.stderr
        assert rankings(open_repository(path)) == before
        assert run(verify_repository(path)) == []
        repository = rebuild(path)
        assert repository.verify() == []
        assert len(repository) == 6
        assert rankings(repository) != before

    def test_a_lost_segment_and_vocabulary_are_rebuilt(self, path, built, rankings):
        words, vocabulary = sorted((path / "indexes" / "words").iterdir())
        words.unlink()
        vocabulary.unlink()
        problems = run(verify_repository(path))
        assert len(problems) == 2
        assert all("--rebuild-vocabulary" in problem for problem in problems)
        assert rankings(rebuild(path)) == rankings(built)
        assert run(verify_repository(path)) == []

    def test_a_damaged_segment_is_not_used_again(self, path, built, rankings):
        spoilt = min((path / "indexes" / "words").iterdir())
        content = bytearray(spoilt.read_bytes())
        content[-1] ^= 1
        spoilt.write_bytes(content)
        repository = rebuild(path)
        assert repository.verify() == []
        assert rankings(repository) == rankings(built)

    @pytest.mark.parametrize("part", ["segments", "indexes/thumbnails"])
    def test_a_deleted_segment_is_indexed_again(self, path, images, model, index, built, rankings, part):
        next((path / part).iterdir()).unlink()
        (problem,) = run(verify_repository(path))
        assert problem.endswith("delete it and index the images again.")
        repository = index([built.path.parent / "images"], model, path, settings=None)
        assert repository.verify() == []
        assert rankings(repository) == rankings(built)

    def test_without_any_comir_it_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="not a repository"):
            rebuild(tmp_path)


class TestCompact:
    def test_ranks_stay_and_files_go(self, path, images, model, index, rankings, write_image):
        for seed in range(5, 8):  # a segment each
            write_image(images / f"core{seed}_BF.tif", seed)
            index([images], model, path, settings=None)
        write_image(images / "core2_BF.tif", 22)
        repository = index([images], model, path, settings=None)
        before, n_files = rankings(repository), len(files(path))
        assert len(list((path / "segments").iterdir())) == 5
        done = run(compact_repository(path))
        assert (done.segments, done.dropped_images) == (1, 1)
        assert done.freed_bytes > 0
        after = open_repository(path)
        assert rankings(after) == before
        assert after.verify() == []
        assert len(files(path)) == n_files - 4 - 1  # four segments and a CoMIR; two folders of indexes
        assert run(compact_repository(path)).dropped_images == 0

    def test_more_can_be_added_when_the_old_words_are_gone(self, path, images, model, index, write_image):
        rebuild(path)
        run(compact_repository(path))
        assert len(list((path / "indexes" / "words").glob("vocabulary-*"))) == 1
        write_image(images / "core9_BF.tif", 9)
        repository = index([images], model, path, settings=None)
        assert len(repository) == 6
        assert repository.verify() == []

    def test_full_segments_are_left_alone(self, path, images, model, index, write_image, monkeypatch):
        write_image(images / "core5_BF.tif", 5)
        index([images], model, path, settings=None)
        monkeypatch.setattr(compacting, "COMPACT_FIELDS", 5)
        before = files(path)
        assert run(compact_repository(path)).segments == 2
        assert files(path) == before


def test_a_damaged_comir_is_repaired_as_verify_advises(path, images, model, index, built, rankings):
    spoilt = sorted((path / "comirs").iterdir())[2]
    pixels = next((spoilt / "0").rglob("c/0/0/0"))
    pixels.write_bytes(pixels.read_bytes()[:-1])
    (problem,) = run(verify_repository(path))
    image = built.path.parent / "images" / "core2_BF.tif"
    assert problem.endswith(f"delete it and index {image} again.")
    shutil.rmtree(spoilt)
    repository = index([images], model, path, settings=None)
    assert repository.verify() == []
    assert sorted(names(repository)) == names(built)
    assert sorted(hits[0][0] for hits in rankings(repository)) == names(built)


def test_an_unfinished_repository_can_be_verified(folder, model, tmp_path, small):
    job = build_repository([folder], model, "BF", tmp_path / "a.cmrir", small)
    for progress in job:
        if progress.message.startswith("CoMIR of core3"):
            break
    job.close()
    seen = []
    assert run(verify_repository(tmp_path / "a.cmrir"), seen.append) == []
    assert seen[-1].done == seen[-1].total == 1


def test_a_damaged_catalogue_is_found(path):
    catalogue = path / "catalogue.sqlite"
    content = bytearray(catalogue.read_bytes())
    content[4096 + 100 : 4096 + 300] = bytes(200)
    content[8192:8400] = bytes([255]) * 208
    catalogue.write_bytes(content)
    (problem,) = run(verify_repository(path))
    assert problem.startswith("catalogue.sqlite is damaged")
