"""Indexing on worker processes and dask clusters; on one thread each, results equal those of this process."""

import contextlib
import os
import signal

import dask
import pytest
from distributed import Client

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_index, build_repository
from napari_cmrir.repository.executors import IndexConfig, WorkerContext, make_executor
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.repository.tasks import ImageTask, represent_batch

N_IMAGES = 12
POISON = """
import os
from napari_cmrir.repository import tasks as representing

def dask_setup(worker):
    open_source = representing.open_source
    def read_or_die(source, *arguments, **named):
        if source.name == "core07_BF.tif":
            os._exit(9)
        return open_source(source, *arguments, **named)
    representing.open_source = read_or_die
"""

pytestmark = [pytest.mark.core, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_image):
    folder = tmp_path_factory.mktemp("many") / "images"
    folder.mkdir()
    for seed in range(N_IMAGES):
        write_image(folder / f"core{seed:02d}_BF.tif", seed)
    return folder


@pytest.fixture(scope="module")
def in_peace(images, model, index, rankings):
    """The rankings of a repository that this process built."""
    return rankings(index([images], model, images.parent / "peace.cmrir"))


def test_two_workers_of_a_cluster_rank_byte_for_byte_as_one_process(
    cluster, images, model, in_peace, tmp_path, small, rankings
):
    address, seen = cluster.scheduler_address, []
    path = tmp_path / "a.cmrir"
    run(build_repository([images], model, "BF", path, small, scheduler=address), seen.append)
    run(build_index(path, scheduler=address))
    repository = open_repository(path)
    assert rankings(repository) == in_peace
    assert repository.verify() == []
    assert repository.summary()["segments"] > 1
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1].done == seen[-1].total == N_IMAGES
    run(build_index(repository.path, rebuild=True, scheduler=address))
    assert rankings(open_repository(repository.path)) == in_peace


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("share", [0.2, 0.8], ids=["CoMIRs", "words"])
def test_a_worker_killed_in_the_middle_changes_nothing(
    cluster, images, model, in_peace, tmp_path, small, rankings, share
):
    address, killed = cluster.scheduler_address, None
    job = build_repository([images], model, "BF", tmp_path / "a.cmrir", small, scheduler=address)

    def kill_one(progress):
        nonlocal killed
        if killed is None and progress.done >= share * N_IMAGES:
            with Client(address, set_as_default=False) as client:
                killed = next(iter(client.run(os.getpid).values()))
            os.kill(killed, signal.SIGKILL)

    repository = run(job, kill_one)
    assert killed is not None
    assert rankings(repository) == in_peace
    assert repository.verify() == []


def test_local_workers_and_a_stop_in_the_middle(images, model, in_peace, tmp_path, small, rankings):
    job = build_repository([images], model, "BF", tmp_path / "a.cmrir", small, workers=2)
    with contextlib.closing(job):
        for progress in job:
            if progress.done >= 0.2 * N_IMAGES:
                break
    repository = run(build_repository([images], model, "BF", tmp_path / "a.cmrir", small))
    assert rankings(repository) == in_peace


@pytest.mark.slow
def test_an_image_that_kills_its_workers_is_reported(images, model, tmp_path, small):
    poison = tmp_path / "poison.py"
    poison.write_text(POISON)
    with dask.config.set({"distributed.worker.preload": [str(poison)]}):
        repository = run(build_repository([images], model, "BF", tmp_path / "a.cmrir", small, workers=2))
    assert list(repository.failures) == [str(images / "core07_BF.tif")]
    assert "its worker died" in next(iter(repository.failures.values()))
    assert len(repository) == N_IMAGES - 1


def test_a_worker_that_does_not_see_the_repository_is_reported(cluster, images, tmp_path, small):
    config = IndexConfig(tmp_path / "elsewhere.cmrir", "", "BF", small)
    given = ImageTask(1, "core00_BF.tif", images / "core00_BF.tif")
    with make_executor(None, cluster.scheduler_address) as executor:
        assert executor.size == 2
        with pytest.raises(InputError, match=r"does not see .*elsewhere\.cmrir"):
            list(executor.run_batches(represent_batch, WorkerContext(config), [[given]]))


@pytest.mark.parametrize(
    ("workers", "scheduler", "words"),
    [
        (2, "tcp://127.0.0.1:1", "not both"),
        (0, None, "at least one"),
        (None, "tcp://127.0.0.1:1", "No dask scheduler answers at"),
    ],
)
def test_unusable_workers_and_schedulers_are_refused(workers, scheduler, words, monkeypatch):
    monkeypatch.setattr("napari_cmrir.repository.executors.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=words), make_executor(workers, scheduler):
        pass
