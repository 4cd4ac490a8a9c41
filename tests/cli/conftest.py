import contextlib
import io
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

from napari_cmrir.cli.main import main
from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder


@dataclass(frozen=True)
class Ended:
    """How a call of the command line ended."""

    status: int
    out: str
    err: str


def call(*arguments):
    """Call the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return Ended(left.value.code, out.getvalue(), err.getvalue())


def call_process(arguments, prelude=""):
    """Call the command line in a process of its own, after some code.

    Ctrl-C works in it, also where the tests themselves run in the background of a shell, which ignores it.
    """
    verbs = [str(argument) for argument in arguments]
    hear = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code = f"{hear}{textwrap.dedent(prelude)}\nfrom napari_cmrir.cli.main import main\nmain({verbs!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def info(path):
    return json.loads(call("info", path, "--json").out)


@pytest.fixture(scope="session", name="call")
def _call():
    return call


@pytest.fixture(scope="session", name="call_process")
def _call_process():
    return call_process


@pytest.fixture(scope="session", name="info")
def _info():
    return info


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """A folder of four pairs, to read only."""
    folder = tmp_path_factory.mktemp("cli") / "pairs"
    write_sample_folder(folder, range(4), 160)
    return folder


@pytest.fixture(scope="session")
def model(pairs):
    """A model that was trained for two steps, to read only."""
    path = pairs.parent / "model.safetensors"
    ended = call("train", pairs, "--modalities", "SHG", "BF", "-o", path, "--steps", 2)
    assert ended.status == 0, ended.err
    return path


@pytest.fixture(scope="session")
def repository(pairs, model):
    """A repository of the brightfield images, to read only."""
    path = pairs.parent / "tissue.cmrir"
    ended = call("index", pairs, "--model", model, "--modality", "BF", "-o", path)
    assert ended.status == 0, ended.err
    return path
