"""What the process beside napari keeps open from one search to the next, and when it opens it again."""

import os
import shutil

import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.lazy_image import ImageWindow
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import Progress, run
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs import tasks as kept
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.repository.build import build_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.search.settings import SearchSettings


def opened():
    """Tell, of the process that does it, its number, what it has opened, and whether a model is loaded."""
    yield Progress(0, None, "", "")
    keeps = kept.REPOSITORIES._kept
    is_loaded = keeps is not None and "model" in vars(keeps[1])
    return os.getpid(), kept.REPOSITORIES.count, kept.MODELS.count, is_loaded


@pytest.fixture
def repository(repository_path, tmp_path):
    """A repository of its own."""
    return shutil.copytree(repository_path, tmp_path / "own.cmrir")


@pytest.fixture
def search(pairs_folder, repository):
    """Search it with the SHG image of a pair, in the process beside; give the names of the hits."""

    def names(number=1, folder=pairs_folder):
        pixels = read_image(folder / f"sample-{number:03d}_SHG.tif")
        window = ImageWindow("image", pixels.shape[:2], (0, 0), pixels)
        region = Region.whole(pixels.shape[:2])
        settings = SearchSettings(hits=10)
        job = in_worker_process(tasks.search, repository, window, "SHG", region, None, None, settings)
        return {os.path.basename(hit.image) for hit in run(job).hits}

    return names


def asked(repository):
    """Ask the process that keeps the repository."""
    return run(in_worker_process(opened_of, repository))


def opened_of(_):
    return (yield from opened())


def test_the_second_search_opens_nothing_again(search, repository):
    first = search()
    before = asked(repository)
    assert before[3]
    assert search(2) == first
    assert asked(repository) == before


def test_what_is_indexed_between_two_searches_is_found_by_the_second(
    search, repository, model_path, tmp_path
):
    first = search()
    process, count, *_ = asked(repository)
    more = tmp_path / "more"
    write_sample_folder(more, range(7, 9), 128)
    run(build_repository([more], load_model(model_path), "BF", repository)).close()  # by another process
    second = search(7, more)
    assert len(first) == 4
    assert len(second) == 6
    assert asked(repository)[:2] == (process, count + 1)


def test_a_repository_that_is_replaced_is_opened_again(search, repository, model_path, tmp_path):
    assert len(search()) == 4
    shutil.rmtree(repository)
    with pytest.raises(InputError, match=r"own\.cmrir is not a repository"):
        search()
    more = tmp_path / "more"
    write_sample_folder(more, range(7, 9), 128)
    run(build_repository([more], load_model(model_path), "BF", repository)).close()
    assert search(7, more) == {"sample-007_BF.tif", "sample-008_BF.tif"}


def test_a_model_is_loaded_once_and_again_when_its_file_changes(model_path, pairs_folder, tmp_path):
    model = shutil.copy(model_path, tmp_path / "own.safetensors")
    pixels = read_image(pairs_folder / "sample-001_SHG.tif")
    counts = []
    for change in (False, False, True):
        if change:
            os.replace(shutil.copy(model_path, tmp_path / "next.safetensors"), model)
        run(in_worker_process(tasks.represent, model, pixels, "SHG"))
        counts.append(run(in_worker_process(opened_of, model))[2])
    assert (counts[1] - counts[0], counts[2] - counts[1]) == (0, 1)


def test_a_repository_is_current_until_something_is_published(repository, model_path, tmp_path):
    keeps = kept.LastOpened(kept._open_repository, lambda one: one.is_current(), lambda one: one.close())
    first = keeps.get(repository)
    assert keeps.get(repository) is first
    write_sample_folder(tmp_path / "more", [7], 128)
    run(build_repository([tmp_path / "more"], load_model(model_path), "BF", repository)).close()
    second = keeps.get(repository)
    assert (len(first), len(second), keeps.count) == (4, 5, 2)
    keeps.forget()
