"""Many queries at once: on worker processes and on a cluster, each finds what it finds alone."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import tifffile

from napari_cmrir.cli.main import main
from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.representations.model_file import sample_model
from napari_cmrir.search.query import Answer, search, search_many
from napari_cmrir.search.settings import SearchSettings

pytestmark = [pytest.mark.core, pytest.mark.timeout(240), pytest.mark.usefixtures("one_thread")]
REGION = Region.from_rectangle(20, 30, 100, 110)
SETTINGS = SearchSettings(max_rotation=6, refine=2, hits=3)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    sources = []
    for seed in range(5):
        pair = sample_pair(seed, 160)
        sources.append(Source(f"tissue-{seed}", pair.bf))
        tifffile.imwrite(folder / f"{seed}_SHG.tif", pair.shg[..., 0])
    (folder / "5_SHG.tif").write_bytes(b"II*\0 not an image")
    return run(build_repository(sources, load_model(sample_model()), "BF", folder / "tissues.cmrir"))


@pytest.fixture(scope="module")
def images(repository):
    return sorted(repository.path.parent.glob("*_SHG.tif"))


def values_of(result):
    """What a search found, as values that compare equal bit for bit; or why it was refused."""
    if isinstance(result, InputError):
        return str(result)
    return [(hit.image, hit.score, hit.box.tolist(), hit.confidence, hit.scores) for hit in result.hits]


@pytest.fixture(scope="module")
def alone(repository, images, one_thread):
    """What each image finds by itself, on one thread."""
    found = [
        values_of(run(search(repository, image, "SHG", region=REGION, settings=SETTINGS)))
        for image in images[:5]
    ]
    assert [hits[0][0] for hits in found] == [f"tissue-{seed}" for seed in range(5)]
    return found


def test_in_this_process_answers_come_in_order_and_a_refusal_stops_no_other(repository, images, alone):
    shown = []
    job = search_many(repository, images[::-1], "SHG", region=REGION, settings=SETTINGS)
    results = run(job, shown.append)
    assert [values_of(result) for result in results[1:]] == alone[::-1]
    assert isinstance(results[0], InputError)
    assert "5_SHG.tif" in str(results[0])
    answers = [progress.preview for progress in shown if isinstance(progress.preview, Answer)]
    assert [(answer.number, answer.result) for answer in answers] == list(enumerate(results))
    assert {(progress.total, progress.unit) for progress in shown} == {(6, "queries")}
    done = [progress.done for progress in shown]
    assert done == sorted(done)
    assert done[-1] == 6


def test_one_image_is_counted_in_percent(repository, images):
    shown = []
    (result,) = run(
        search_many(repository, images[:1], "SHG", region=REGION, settings=SETTINGS), shown.append
    )
    assert result.hits[0].image == "tissue-0"
    assert {(progress.total, progress.unit) for progress in shown} == {(100, "%")}
    assert any(0 < progress.done < 100 for progress in shown)
    assert run(search_many(repository, [], "SHG")) == []


def test_worker_processes_find_the_same(repository, images, alone):
    given = [*images, np.asarray(tifffile.imread(images[2]))]
    results = run(search_many(repository, given, "SHG", region=REGION, settings=SETTINGS, workers=2))
    assert [values_of(result) for result in results[:5]] == alone
    assert "5_SHG.tif" in str(results[5])
    assert values_of(results[6]) == alone[2]


def test_words_that_are_missing_are_counted_once_before_the_workers_search(repository, images, tmp_path):
    copy = shutil.copytree(repository.path, tmp_path / "copy.cmrir")
    settings = SearchSettings.paper().model_copy(update={"rerank": "none", "hits": 2})
    with open_repository(copy) as opened:
        results = run(search_many(opened, images[:5], "SHG", settings=settings, workers=2))
        again = run(search_many(opened, images[:5], "SHG", settings=settings))
    assert [values_of(result) for result in results] == [values_of(result) for result in again]


@pytest.mark.parametrize("count", [1, 5])  # fewer images than workers share the fields of each query
def test_a_cluster_finds_the_same(repository, images, alone, cluster, count):
    settings = SETTINGS.model_copy(update={"scheduler": cluster.scheduler_address})
    results = run(search_many(repository, images[:count], "SHG", region=REGION, settings=settings))
    assert [values_of(result) for result in results] == alone[:count]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_worker_that_dies_costs_its_query_once_more(repository, images, alone, cluster):
    settings = SETTINGS.model_copy(update={"scheduler": cluster.scheduler_address})
    killed = []

    def kill(progress):
        if isinstance(progress.preview, Answer) and not killed:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    job = search_many(repository, images[:5], "SHG", region=REGION, settings=settings)
    assert [values_of(result) for result in run(job, kill)] == alone
    assert killed


def test_workers_and_a_scheduler_exclude_each_other(repository, images):
    settings = SETTINGS.model_copy(update={"scheduler": "tcp://127.0.0.1:1"})
    with pytest.raises(InputError, match="not both"):
        run(search_many(repository, images, "SHG", settings=settings, workers=2))
    with pytest.raises(InputError, match="give at least one"):
        run(search_many(repository, images, "SHG", workers=0))


def test_the_command_writes_the_same_with_workers(repository, images, tmp_path, capsys):
    command = ["query", repository.path, *images, "--modality", "SHG", "--region", 20, 30, 100, 110, "-k", 2]
    written = []
    for name, workers in (("one.json", []), ("two.json", ["--workers", 2])):
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in (*command, *workers, "--json", tmp_path / name)])
        assert end.value.code == 2  # for the file that is no image
        printed = capsys.readouterr()
        assert (
            sum(line.startswith(f"{seed}_SHG.tif,") for line in printed.out.splitlines() for seed in range(6))
            == 5
        )
        assert "1 of 6 images failed; the others are done." in printed.err
        queries = json.loads((tmp_path / name).read_text())["queries"]
        written.append([{**query, "seconds": None} for query in queries])
    assert written[0] == written[1]
    assert [query["error"] is None for query in written[0]] == [True] * 5 + [False]
