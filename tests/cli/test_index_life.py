"""What ``index`` does after the first time, and ``info --verify``."""

import json
import shutil

import pytest


@pytest.fixture
def copy(repository, pairs, tmp_path):
    """A copy of the repository beside a copy of its images."""
    shutil.copytree(pairs, tmp_path / "pairs")
    return shutil.copytree(repository, tmp_path / "copy.cmrir")


def test_an_existing_repository_has_its_own_model_and_modality(call, info, copy, tmp_path):
    shutil.copy(tmp_path / "pairs" / "sample-000_BF.tif", tmp_path / "pairs" / "other_BF.tif")
    ended = call("index", tmp_path / "pairs", "-o", copy)
    assert ended.status == 0, ended.err
    assert ended.out == f"5 BF images searchable: {copy}\n"
    assert info(copy)["images"] == {"indexed": 5}


def test_a_new_repository_needs_a_model(call, tmp_path, pairs):
    ended = call("index", pairs, "-o", tmp_path / "new.cmrir")
    assert ended.status == 2
    assert "give a --model" in ended.err
    assert not (tmp_path / "new.cmrir").exists()


def test_images_or_something_to_do_are_asked_for(call, copy):
    ended = call("index", "-o", copy)
    assert ended.status == 2
    assert "give image files or folders" in ended.err


def test_vanished_images_are_pruned_when_asked(call, info, copy, tmp_path, pairs):
    (tmp_path / "pairs" / "sample-001_BF.tif").unlink()
    hidden = pairs.with_name("hidden")
    pairs.rename(hidden)
    try:
        pruned = call("index", "-o", copy, "--prune", "--compact")
        shutil.rmtree(tmp_path / "pairs")
        away = call("index", "-o", copy, "--prune")
    finally:
        hidden.rename(pairs)
    assert pruned.status == 0, pruned.err
    assert pruned.out.startswith("1 images dropped")
    assert "3 BF images searchable" in pruned.out
    assert away.status == 2
    assert "None of the 3 images" in away.err
    assert info(copy)["images"] == {"indexed": 3}


def test_the_words_are_rebuilt_and_files_joined_when_asked(call, info, copy):
    ended = call("index", "-o", copy, "--rebuild-vocabulary", "--compact")
    assert ended.status == 0, ended.err
    assert ended.out.splitlines()[0].startswith("1 segments, ")
    assert call("info", copy, "--verify").status == 0
    assert info(copy)["indexes"] == {"thumbnails": True, "words": True}


def test_words_are_built_when_asked_or_needed(call, info, pairs, model, tmp_path):
    path = tmp_path / "new.cmrir"
    first = call("index", pairs / "sample-000_BF.tif", "--model", model, "--modality", "BF", "-o", path)
    assert first.status == 0, first.err
    assert (info(path)["indexes"], info(path)["words"]) == ({"thumbnails": True}, None)
    query = ["query", path, pairs / "sample-000_SHG.tif", "--modality", "SHG"]
    assert call(*query).status == 0
    assert info(path)["words"] is None
    assert call(*query, "--rerank", "none").status == 0
    n_words = info(path)["words"]
    assert n_words > 0
    assert call("index", pairs, "-o", path).status == 0
    assert info(path)["indexes"] == {"thumbnails": True, "words": False}
    assert call("index", "-o", path, "--words").status == 0
    assert info(path)["indexes"] == {"thumbnails": True, "words": True}
    assert info(path)["words"] == n_words, "what is added is counted in the words that there are"


def test_many_images_are_announced_with_time_and_disk(call, model, tmp_path):
    from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

    write_sample_folder(tmp_path / "many", range(9), 96)
    ended = call("index", tmp_path / "many", "--model", model, "--modality", "BF", "-o", tmp_path / "a.cmrir")
    assert ended.status == 0, ended.err
    assert "9 images to index: about " in ended.err
    assert " free." in ended.err


@pytest.mark.slow
def test_worker_processes_write_the_same_repository(call_process, call, repository, pairs, model, tmp_path):
    path, answers = tmp_path / "new.cmrir", []
    ended = call_process(
        ["index", pairs, "--model", model, "--modality", "BF", "-o", path, "--workers", "2"],
        "if __name__ != '__main__':\n    raise SystemExit",
    )
    assert ended.status == 0, ended.err
    for built in (repository, path):
        query = ["query", built, pairs / "sample-001_SHG.tif", "--modality", "SHG", "--rerank", "none"]
        assert call(*query, "--json", tmp_path / "hits.json").status == 0
        (result,) = json.loads((tmp_path / "hits.json").read_text())["queries"]
        answers.append(result["hits"])
    assert answers[0] == answers[1]


def test_no_scheduler_is_told_in_one_line(call, pairs, model, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_cmrir.repository.executors.CONNECT_SECONDS", 1)
    arguments = ["--model", model, "--modality", "BF", "-o", tmp_path / "a.cmrir"]
    ended = call("index", pairs, *arguments, "--scheduler", "tcp://127.0.0.1:1")
    assert ended.status == 2
    assert "No dask scheduler answers at tcp://127.0.0.1:1" in ended.err


def test_a_repository_that_cannot_be_opened_is_verified(call, copy, pairs):
    next((copy / "segments").iterdir()).unlink()
    assert call("info", copy).status == 2
    ended = call("info", copy, "--verify")
    assert ended.status == 1
    assert "delete it and index the images again" in ended.err
    assert call("index", pairs, "-o", copy).status == 0
    assert call("info", copy, "--verify").status == 0
