"""Faults of the disk, files and other processes while indexing: each is reported and nothing is lost."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_index, build_repository
from napari_cmrir.repository.maintenance import compact_repository, verify_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.search.query import search

HOLD = """
import sys
from conftest import SMALL
from pathlib import Path
from napari_cmrir.representations.base import load_model
from napari_cmrir.repository.build import build_repository

images, model, path = sys.argv[1:]
job = build_repository([images], load_model(Path(model)), "BF", path, SMALL)
print(next(job).message, flush=True)
sys.stdin.read()
for progress in job:
    pass
"""

INDEX_WITH_SMALL_FILES = """
import resource, sys
from conftest import SMALL
from pathlib import Path
from napari_cmrir.representations.base import load_model
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_repository

images, model, path, limit = sys.argv[1:]
loaded = load_model(Path(model))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
run(build_repository([images], loaded, "BF", path, SMALL))
"""


@contextmanager
def small_disk(folder, size):
    """Mount a disk in memory of so many bytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("only root can mount a small disk, on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def state(path):
    """Open and verify a repository that an error left, and say how far it is."""
    assert run(verify_repository(path)) == []
    with suppress(InputError), open_repository(path) as repository:
        return len(repository)
    with pytest.raises(InputError, match="unfinished"):
        open_repository(path)
    return 0


def fill(disk, room):
    """Leave so many bytes free."""
    status = os.statvfs(disk)
    ballast = disk / "ballast"
    free = status.f_bavail * status.f_frsize + (ballast.stat().st_size if ballast.exists() else 0)
    ballast.write_bytes(bytes(max(0, free - room)))


def test_a_disk_that_is_full_at_any_moment_loses_nothing(folder, model, built, tmp_path, index, rankings):
    with small_disk(tmp_path / "disk", 2_000_000) as disk:
        path, complaints, reached = disk / "a.cmrir", [], [0]
        for room in range(20_000, 1_000_000, 24_000):
            (disk / "ballast").unlink(missing_ok=True)
            fill(disk, max(0, room - sum(entry.stat().st_size for entry in path.rglob("*"))))
            try:
                repository = index([folder], model, path)
                break
            except InputError as full:
                complaints.append(str(full))
            if (path / "catalogue.sqlite").exists() and (path / "model.safetensors").exists():
                reached.append(state(path))
        assert len(complaints) > 3
        assert [words for words in complaints if "is full" not in words] == []
        assert reached == sorted(reached)
        assert repository.verify() == []
        assert rankings(repository) == rankings(built)
        repository.close()

        fill(disk, 0)
        for upkeep in (build_index(path, rebuild=True), compact_repository(path)):
            with pytest.raises(InputError, match="is full"):
                run(upkeep)
        assert state(path) == 5


@pytest.mark.skipif(os.name == "nt", reason="no limits")
@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_files_that_may_not_grow_any_more_are_reported(
    folder, model, built, tmp_path, limit, run_python, index, rankings
):
    model.save(tmp_path / "model.safetensors")
    arguments = (folder, tmp_path / "model.safetensors", tmp_path / "a.cmrir", limit)
    ended = run_python(INDEX_WITH_SMALL_FILES, *arguments)
    assert re.search(r"InputError: The disk of .* is full.* make room", ended.stderr), ended.stderr
    assert rankings(index([folder], model, tmp_path / "a.cmrir")) == rankings(built)


def test_a_read_only_repository_is_searched_and_not_written_to(
    folder, model, tmp_path, index, rankings, write_image
):
    with small_disk(tmp_path / "disk", 20_000_000) as disk:
        with index([folder], model, disk / "a.cmrir") as repository:
            before = rankings(repository)
        del repository  # its segments are mapped
        write_image(folder / "core9_BF.tif", 9)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(InputError, match="cannot be written to"):
            index([folder], model, disk / "a.cmrir")
        with pytest.raises(InputError, match="cannot be written to"):
            index([folder], model, disk / "b.cmrir")
        with open_repository(disk / "a.cmrir") as repository:
            assert rankings(repository) == before
            assert repository.verify() == []


def test_a_file_that_vanishes_before_it_is_read_is_reported(folder, model, tmp_path, small, index):
    whole = (folder / "core3_BF.tif").read_bytes()

    def vanish(progress):
        (folder / "core3_BF.tif").unlink(missing_ok=True)

    repository = run(build_repository([folder], model, "BF", tmp_path / "a.cmrir", small), vanish)
    assert len(repository) == 4
    (reason,) = repository.failures.values()
    assert "core3_BF.tif cannot be read: No such file" in reason
    (folder / "core3_BF.tif").write_bytes(whole)
    assert len(index([folder], model, tmp_path / "a.cmrir")) == 5


def test_a_file_that_grows_while_it_is_read_is_reported(folder, model, tmp_path, small, index):
    messages = []

    def grow(progress):
        messages.append(progress.message)
        if messages.count("CoMIR of core3_BF.tif") == 2 and "grown" not in messages:
            messages.append("grown")
            with (folder / "core3_BF.tif").open("ab") as file:
                file.write(bytes(9))

    repository = run(build_repository([folder], model, "BF", tmp_path / "a.cmrir", small), grow)
    assert "grown" in messages
    assert len(repository) == 4
    (reason,) = repository.failures.values()
    assert reason == "core3_BF.tif changed while it was read; index it again when it is complete."
    assert len(index([folder], model, tmp_path / "a.cmrir")) == 5


def test_a_second_writer_is_refused_with_a_clear_error(folder, model, tmp_path, index, rankings, built):
    model.save(tmp_path / "model.safetensors")
    path = tmp_path / "a.cmrir"
    paths = [os.path.dirname(__file__), *sys.path]
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(tmp_path / "model.safetensors"), str(path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert first.stdout.readline() == "5 images to index\n"
        for job in (
            build_repository([folder], model, "BF", path),
            build_index(path),
            compact_repository(path),
        ):
            with pytest.raises(InputError, match=f"being written by process {first.pid} on .*; wait"):
                run(job)
    finally:
        first.communicate("go on")
    assert first.returncode == 0
    assert rankings(open_repository(path)) == rankings(built)


def test_queries_answer_while_more_is_indexed(folder, model, tmp_path, index, write_image):
    path = tmp_path / "a.cmrir"
    index([folder], model, path)
    query = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    for seed in (5, 6):
        write_image(folder / f"core{seed}_BF.tif", seed)
    answers = []
    for _ in build_repository([folder], model, "BF", path):
        with open_repository(path) as repository:
            result = run(search(repository, query, "BF"))
        answers.append({hit.image for hit in result.hits})
    assert [len(names) for names in answers] == sorted(len(names) for names in answers)
    assert {len(answers[0]), len(answers[-1])} == {5, 7}
