import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.repository.maintenance import writer_lock

HOLD = """
import sys, time
from pathlib import Path
from napari_cmrir.repository.maintenance import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), tmp_path / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_the_message_names_the_writer(tmp_path, holder):
    with pytest.raises(InputError, match=f"process {holder.pid} on "), writer_lock(tmp_path / "lock"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_releases_the_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with writer_lock(tmp_path / "lock"):
        pass


def test_another_thread_of_the_same_process_is_refused(tmp_path):
    refusals = []

    def try_to_write():
        with pytest.raises(InputError) as refusal, writer_lock(tmp_path / "lock"):
            pass
        refusals.append(str(refusal.value))

    with writer_lock(tmp_path / "lock"):
        thread = threading.Thread(target=try_to_write)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} " in refusals[0]


def test_a_released_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with writer_lock(tmp_path / "lock"):
            pass
    with pytest.raises(FileNotFoundError), writer_lock(tmp_path / "lock"):
        (tmp_path / "missing").unlink()
    with writer_lock(tmp_path / "lock"):
        pass
