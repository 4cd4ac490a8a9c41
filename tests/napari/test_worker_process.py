"""The process beside napari: what comes back from it, how it is stopped, and what it survives."""

import os
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import PairFiles
from napari_cmrir.jobs import run
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.model_file import read_header
from napari_cmrir.representations.training_settings import TrainingSettings


def test_a_job_is_done_in_another_process_with_its_progress_and_its_result(
    pairs_folder, model_path, tmp_path
):
    messages = []
    job = in_worker_process(tasks.index, [pairs_folder], model_path, "BF", tmp_path / "new.cmrir")
    indexed = run(job, lambda progress: messages.append(progress.message))
    assert (indexed.images, indexed.failures) == (4, {})
    assert "Loading the model" in messages
    with open_repository(indexed.path) as repository:
        assert len(repository) == 4


def test_a_refusal_comes_back_as_one(tmp_path):
    with pytest.raises(InputError, match=r"none\.cmrir"):
        run(in_worker_process(tasks.verify, tmp_path / "none.cmrir"))


def test_a_fault_comes_back_with_its_traceback():
    with pytest.raises(AttributeError, match="close") as fault:
        run(in_worker_process(os.getpid))  # no job
    assert "worker_process.py" in fault.value.__notes__[0]


def test_a_process_that_dies_is_told_in_words_and_the_next_job_gets_a_new_one(model_path, tmp_path):
    with pytest.raises(InputError, match=r"ended unexpectedly \(exit status 7\)"):
        run(in_worker_process(os._exit, 7))
    with pytest.raises(InputError, match=r"none\.cmrir"):
        run(in_worker_process(tasks.verify, tmp_path / "none.cmrir"))


def test_a_job_that_does_not_stop_is_ended_by_force():
    job = in_worker_process(time.sleep, 1000)  # takes no notice of anything
    next(job)
    next(job)
    start = time.monotonic()
    job.close()
    assert time.monotonic() - start < 2


def test_where_napari_dies_training_ends_by_itself_and_can_go_on(pairs_folder, tmp_path, wait_for):
    output = tmp_path / "left.safetensors"
    settings = TrainingSettings(widths=(8, 16), steps=100_000, batch_size=4, patch_size=64)
    program = f"""
        import os, psutil
        from pathlib import Path
        from napari_cmrir.images.discovery import PairFiles
        from napari_cmrir.representations.training_settings import TrainingSettings
        from napari_cmrir.napari.jobs import tasks
        from napari_cmrir.napari.jobs.worker_process import in_worker_process

        settings = TrainingSettings.model_validate({settings.model_dump()!r})
        for progress in in_worker_process(
            tasks.train, PairFiles((Path({str(pairs_folder)!r}),)), ("SHG", "BF"), settings,
            Path({str(output)!r}), False
        ):
            if progress.unit == "steps":
                print(psutil.Process().children()[0].pid, flush=True)
                os._exit(3)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    wait_for(lambda: not _runs(int(ended.stdout)))
    run(tasks.keep_best(PairFiles((pairs_folder,)), ("SHG", "BF"), settings, output))
    assert read_header(output)["provenance"]["steps_done"] > 0


def _runs(number):
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
