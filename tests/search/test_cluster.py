"""Searches on the workers of a dask cluster; on one thread each, hits equal those of this process."""

import contextlib
import os
import signal

import numpy as np
import pytest
from distributed import Client, LocalCluster
from scipy.ndimage import gaussian_filter

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.search.places import find_places
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

pytestmark = [pytest.mark.core, pytest.mark.timeout(240), pytest.mark.usefixtures("one_thread")]
N_IMAGES = 24
REGISTERED = SearchSettings(max_rotation=12, min_overlap=0.3, refine=12)
SCREENED = REGISTERED.model_copy(update={"register_all": 0, "n_screened": 10})
VARIED = SCREENED.model_copy(update={"mirror": True, "max_scale": 1.06})


def texture(seed):
    side = (192, 176) if seed % 3 else (160, 208)
    noise = np.random.default_rng(seed).normal(size=side)
    smooth = gaussian_filter(noise, 3)
    return np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def repository(tmp_path_factory, identity_model):
    sources = [Source(f"texture-{seed:02d}", texture(seed)) for seed in range(N_IMAGES)]
    model = identity_model()
    built = run(build_repository(sources, model, "B", tmp_path_factory.mktemp("cluster") / "a.cmrir"))
    built.model = model
    return built


def found(repository, settings, scheduler="", on_progress=None):
    """Everything that a search answers, as values that compare equal bit for bit."""
    query = texture(4)[30:126, 40:140]
    settings = settings.model_copy(update={"scheduler": scheduler})
    result = run(search(repository, query, "A", settings=settings), on_progress)
    hits = [
        (hit.image, hit.score, hit.box.tolist(), hit.rotation_degrees, hit.confidence, hit.scores)
        for hit in result.hits
    ]
    return hits, result.ranking.tolist(), None if result.screening is None else result.screening.tolist()


@pytest.mark.parametrize("settings", [REGISTERED, SCREENED, VARIED], ids=["all", "screened", "variants"])
def test_two_workers_find_bit_for_bit_what_this_process_finds(repository, cluster, settings):
    seen = []
    here = found(repository, settings)
    there = found(repository, settings, cluster.scheduler_address, seen.append)
    assert there == here
    assert here[0][0][0] == "texture-04"
    done = [progress.done for progress in seen]
    assert done == sorted(done)


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_worker_killed_while_it_answers_changes_nothing(repository, cluster):
    address, killed = cluster.scheduler_address, []

    def kill_one(progress):
        if not killed and progress.message == "Registering":
            with Client(address, set_as_default=False) as client:
                killed.append(next(iter(client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    assert found(repository, SCREENED, address, kill_one) == found(repository, SCREENED)
    assert killed


def test_a_search_that_is_stopped_does_not_disturb_the_next(repository, cluster):
    settings = SCREENED.model_copy(update={"scheduler": cluster.scheduler_address})
    with contextlib.closing(search(repository, texture(7)[30:126, 40:140], "A", settings=settings)) as job:
        assert any(progress.message == "Registering" for progress in job)
    assert found(repository, SCREENED, cluster.scheduler_address) == found(repository, SCREENED)


def test_a_repository_that_has_changed_is_told(repository, cluster, tmp_path):
    more = Source("another", texture(99))
    path = tmp_path / "b.cmrir"
    model = repository.model
    old = run(build_repository([Source("first", texture(4))], model, "B", path))
    old.model = model
    with run(build_repository([more], model, "B", path)):
        pass
    with pytest.raises(InputError, match=r"b\.cmrir has changed since it was opened; open it again"):
        found(old, REGISTERED, cluster.scheduler_address)
    new = open_repository(path)
    new.model = model
    assert found(new, REGISTERED, cluster.scheduler_address)[0][0][0] == "first"


def test_a_scheduler_that_is_not_there_or_goes_away_is_told(repository, monkeypatch):
    monkeypatch.setattr("napari_cmrir.repository.executors.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=r"No dask scheduler answers at tcp://127\.0\.0\.1:1;"):
        found(repository, REGISTERED, "tcp://127.0.0.1:1")
    going = LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL"
    )
    address = going.scheduler_address

    def leave(progress):
        if progress.message == "Registering":
            going.close()

    with pytest.raises(InputError, match=r"scheduler at .* no longer answers; start it again"):
        found(repository, REGISTERED, address, leave)
    with pytest.raises(InputError, match="No dask scheduler answers"):
        found(repository, REGISTERED, address)


def test_a_scheduler_without_workers_is_told(repository):
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs="CRITICAL") as cluster:
        address = cluster.scheduler_address
        with pytest.raises(InputError, match=f"has no worker; start one: dask worker {address}"):
            found(repository, REGISTERED, address)


def test_the_places_of_one_image_are_looked_for_here(repository):
    """Windows of an image are no fields that workers know."""
    result = run(search(repository, texture(4)[30:126, 40:140], "A", settings=REGISTERED))
    gone = REGISTERED.model_copy(update={"scheduler": "tcp://127.0.0.1:1"})
    here, there = (
        [
            (place.score, place.box.tolist())
            for place in run(find_places(repository, result, result.hits[0], asked))
        ]
        for asked in (REGISTERED, gone)
    )
    assert here == there
    np.testing.assert_allclose(here[0][1][0], (29.5, 39.5), atol=1)
