import errno
import itertools
import os
import shutil

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.settings import RepositorySettings

BUILD_AND_DIE = """
import os, signal, sys
from pathlib import Path
from conftest import SMALL
from napari_cmrir.representations.base import load_model
from napari_cmrir.repository.build import build_repository

images, model, path, message, nth = sys.argv[1:]
seen = 0
for progress in build_repository([images], load_model(Path(model)), "BF", path, SMALL):
    seen += progress.message.startswith(message)
    if seen == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_each_image_is_found_by_its_own_words(built, rankings):
    assert [hits[0][0] for hits in rankings(built)] == [f"core{i}_BF.tif" for i in range(5)]


def test_progress_never_goes_back_and_ends_at_the_number_of_images(folder, model, tmp_path, index):
    seen = []
    index([folder], model, tmp_path / "a.cmrir", on_progress=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert (done[0], done[-1], seen[-1].total) == (0, 100, 100)
    (folder / "core0_BF.tif").touch()
    images = []
    run(build_repository([folder], model, "BF", tmp_path / "b.cmrir"), images.append)
    assert {(progress.total, progress.unit) for progress in images} == {(5, "images")}
    shares = [progress.share for progress in images if progress.share is not None]
    assert shares == sorted(shares)
    assert len(shares) > 4
    assert images[-1].done == 5


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize(
    ("message", "nth", "n_kept"),
    [
        ("CoMIR", 6, {1, 2}),  # the second may have been killed while it was written
        ("CoMIR", 9, {2, 3, 4}),
    ],
)
def test_a_killed_job_leaves_an_unfinished_repository_and_resumes(
    folder, model, built, tmp_path, message, nth, n_kept, index, rankings, run_python
):
    model.save(tmp_path / "model.safetensors")
    path = tmp_path / "a.cmrir"
    death = run_python(BUILD_AND_DIE, folder, tmp_path / "model.safetensors", path, message, nth)
    assert death.returncode == -9, death.stderr
    kept = {entry: entry.stat().st_mtime_ns for entry in (path / "comirs").glob("0*")}
    assert len(kept) in n_kept
    with pytest.raises(
        InputError, match=r"unfinished.*none of 5 images is searchable.*index the same images"
    ):
        open_repository(path)
    repository = index([folder], model, path)
    assert {entry: entry.stat().st_mtime_ns for entry in kept} == kept
    assert repository.verify() == []
    assert rankings(repository) == rankings(built)


def test_stopping_anywhere_loses_nothing_and_the_resumed_index_is_the_same(
    folder, model, built, tmp_path, rankings, small
):
    path = tmp_path / "a.cmrir"
    for n_messages in itertools.count(2, step=3):  # each attempt goes on a little longer
        job = build_repository([folder], model, "BF", path, small)
        try:
            for _ in range(n_messages):
                next(job)
        except StopIteration as end:
            repository = end.value
            break
        job.close()
    assert n_messages > 8
    assert repository.verify() == []
    assert rankings(repository) == rankings(built)
    assert not list(path.rglob(".partial-*"))


def test_indexing_again_adds_new_images_and_changes_no_others(
    folder, model, tmp_path, index, rankings, write_image
):
    path = tmp_path / "a.cmrir"
    index([folder], model, path)
    before = {entry: entry.stat().st_mtime_ns for entry in path.rglob("*") if entry.suffix != ".sqlite"}
    before = {entry: time for entry, time in before.items() if entry.is_file() and "catal" not in entry.name}
    write_image(folder / "core9_BF.tif", 9)
    seen = []
    repository = index([folder], model, path, on_progress=seen.append)
    assert seen[-1].done == seen[-1].total == 100
    assert [repository.image_name(field) for field in range(6)][5] == "core9_BF.tif"
    unchanged = {entry for entry, time in before.items() if entry.stat().st_mtime_ns == time}
    assert set(before) - unchanged <= {path / "writer.lock"}
    assert rankings(repository)[5][0][0] == "core9_BF.tif"
    assert repository.verify() == []


def test_indexing_again_with_nothing_new_does_nothing(folder, model, tmp_path, index):
    index([folder], model, tmp_path / "a.cmrir")
    for entry in folder.iterdir():  # touched, not changed
        os.utime(entry, ns=(1, 1))
    assert list(build_repository([folder], model, "BF", tmp_path / "a.cmrir")) == []


def test_a_changed_file_replaces_its_old_version(folder, model, tmp_path, index, rankings, write_image):
    index([folder], model, tmp_path / "a.cmrir")
    write_image(folder / "core2_BF.tif", 42, 90, 91)
    repository = index([folder], model, tmp_path / "a.cmrir")
    names = [repository.image_name(field) for field in range(len(repository))]
    assert sorted(names) == [f"core{i}_BF.tif" for i in range(5)]
    field = names.index("core2_BF.tif")
    assert repository.fields[field]["height"] == 90
    assert rankings(repository)[field][0][0] == "core2_BF.tif"


def test_readers_keep_their_state_while_images_are_replaced(
    folder, model, tmp_path, index, rankings, write_image
):
    reader = index([folder], model, tmp_path / "a.cmrir")
    write_image(folder / "core2_BF.tif", 42)
    index([folder], model, tmp_path / "a.cmrir")
    assert len(reader.bag_index) == len(reader) == 5
    assert [hits[0][0] for hits in rankings(reader)] == [f"core{i}_BF.tif" for i in range(5)]


def test_a_repository_opens_in_its_published_state_while_it_is_written(
    folder, model, tmp_path, index, write_image
):
    path = tmp_path / "a.cmrir"
    index([folder], model, path)
    write_image(folder / "core9_BF.tif", 9)
    sizes = []
    for _ in build_repository([folder], model, "BF", path):
        with open_repository(path) as reader:
            sizes.append(len(reader))
    assert set(sizes) == {5, 6}
    assert sizes == sorted(sizes)


def test_a_file_of_the_same_content_elsewhere_is_the_moved_image(folder, model, tmp_path, index):
    index([folder], model, tmp_path / "a.cmrir")
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert list(build_repository([moved], model, "BF", tmp_path / "a.cmrir")) == []
    assert open_repository(tmp_path / "a.cmrir").image_path(3) == moved / "core3_BF.tif"


def test_a_copy_is_another_image(folder, model, tmp_path, index):
    index([folder], model, tmp_path / "a.cmrir")
    shutil.copy(folder / "core1_BF.tif", folder / "core7_BF.tif")
    assert len(index([folder], model, tmp_path / "a.cmrir")) == 6


def test_arrays_are_indexed_beside_files(folder, model, tmp_path, index):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 300, 1), dtype=np.uint8)
    sources = [folder / "core0_BF.tif", Source("layer", pixels)]
    repository = index(sources, model, tmp_path / "a.cmrir")
    assert repository.image_path(0) == folder / "core0_BF.tif"
    assert [repository.image_name(field) for field in range(3)] == ["core0_BF.tif", "layer", "layer"]
    assert repository.image_path(1) is None
    assert repository.fields[1:].tolist() == [(2, 0, 0, 70, 256), (2, 0, 64, 70, 236)]
    np.testing.assert_array_equal(repository.comir(1)[:, :, 64:], repository.comir(2)[:, :, :192])
    assert list(build_repository(sources, model, "BF", tmp_path / "a.cmrir")) == []
    sources[1] = Source("layer", pixels + np.uint8(1))
    assert len(index(sources, model, tmp_path / "a.cmrir")) == 3


def test_two_arrays_of_one_name_are_refused(model, tmp_path, index):
    pixels = np.zeros((64, 64, 1), np.uint8)
    with pytest.raises(InputError, match="'layer'"):
        index([Source("layer", pixels), Source("layer", pixels)], model, tmp_path / "a.cmrir")


def test_an_unreadable_file_is_reported_and_does_not_stop_the_others(folder, model, tmp_path, index):
    (folder / "core3_BF.tif").write_bytes(b"no image")
    (folder / "naïve\nname_BF.tif").write_bytes((folder / "core0_BF.tif").read_bytes()[:300])
    sources = [*folder.iterdir(), folder / "vanished_BF.tif"]
    seen = []
    repository = index(sources, model, tmp_path / "a.cmrir", on_progress=seen.append)
    names = {path.rsplit("/", 1)[-1] for path in repository.failures}
    assert names == {"core3_BF.tif", "naïve\nname_BF.tif", "vanished_BF.tif"}
    assert "No such file" in repository.failures[str(folder / "vanished_BF.tif")]
    assert len(repository) == 4
    assert any("4 images indexed, 3 not" in progress.message for progress in seen)


def test_an_image_too_small_to_describe_is_reported(folder, model, tmp_path, index):
    sources = [folder, Source("tiny", np.full((2, 2, 1), 9, np.uint8))]
    repository = index(sources, model, tmp_path / "a.cmrir")
    assert repository.failures == {"tiny": "tiny (2 x 2 px) is blank or too small to be described."}
    assert len(repository) == 5


def test_a_failed_file_is_tried_again(folder, model, tmp_path, index):
    whole = (folder / "core3_BF.tif").read_bytes()
    (folder / "core3_BF.tif").write_bytes(b"no image")
    index([folder], model, tmp_path / "a.cmrir")
    (folder / "core3_BF.tif").write_bytes(whole)
    repository = index([folder], model, tmp_path / "a.cmrir")
    assert repository.failures == {}
    assert len(repository) == 5


def test_when_no_image_can_be_used_the_reason_is_given_and_the_folder_can_be_used(
    folder, model, tmp_path, index, make_model
):
    (folder / "core3_BF.tif").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"could not be indexed.*core3_BF\.tif"):
        index([folder / "core3_BF.tif"], model, tmp_path / "a.cmrir")
    assert len(index([folder / "core0_BF.tif"], make_model(1), tmp_path / "a.cmrir")) == 1


def test_nothing_to_index_is_refused(model, tmp_path, index):
    with pytest.raises(InputError, match="no image to index"):
        index([], model, tmp_path / "a.cmrir")


def test_another_model_modality_or_settings_are_refused(
    folder, model, built, index, write_image, make_model, small
):
    write_image(folder / "new_BF.tif", 8)
    with pytest.raises(InputError, match="built with another model"):
        index([folder], make_model(1), built.path)
    with pytest.raises(InputError, match="holds BF images, not SHG"):
        index([folder], model, built.path, modality="SHG")
    with pytest.raises(InputError, match=r"other settings \(field_size\)"):
        index([folder], model, built.path, small.model_copy(update={"field_size": 512}))
    with pytest.raises(InputError, match="XYZ"):
        index([folder], model, built.path, modality="XYZ")
    assert len(open_repository(built.path)) == 5


def test_added_images_use_the_repositorys_own_settings(folder, model, tmp_path, index, small):
    index([folder / "core0_BF.tif"], model, tmp_path / "a.cmrir")
    assert index([folder], model, tmp_path / "a.cmrir", settings=None).settings == small


def test_a_folder_of_other_files_is_not_written_to(folder, model, index):
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match="not a repository"):
        index([folder], model, folder)
    assert sorted(folder.iterdir()) == before
    with pytest.raises(InputError, match="is a file"):
        index([folder], model, before[0])


def test_a_second_writer_is_refused_and_the_first_goes_on(folder, model, tmp_path, index, small):
    path = tmp_path / "a.cmrir"
    job = build_repository([folder], model, "BF", path, small)
    next(job)
    with pytest.raises(InputError, match=f"being written by process {os.getpid()}"):
        index([folder], model, path)
    job.close()
    assert len(index([folder], model, path)) == 5


def test_a_full_disk_is_reported_and_finished_images_are_kept(folder, model, tmp_path, monkeypatch, index):
    replace, published = os.replace, []

    def fill_up(source, target):
        if str(target).endswith(".ome.zarr"):
            published.append(target)
        if len(published) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fill_up)
    with pytest.raises(InputError, match=r"disk of .* is full"):
        index([folder], model, tmp_path / "a.cmrir")
    monkeypatch.undo()
    assert len(list((tmp_path / "a.cmrir" / "comirs").iterdir())) == 2
    assert len(index([folder], model, tmp_path / "a.cmrir")) == 5


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_reported(folder, model, tmp_path, index):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(InputError, match="cannot be written to"):
        index([folder], model, tmp_path / "closed" / "a.cmrir")


def test_the_paper_settings_differ_only_where_the_paper_does():
    assert RepositorySettings.paper().bags.word_frequency == (0.01, 0.9)
