"""The structure of the source tree: the script that CI runs, on made-up packages and on the real one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "structure.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="needs the source checkout")


def structure(source):
    """Run the script as CI does."""
    return subprocess.run([sys.executable, SCRIPT, source], capture_output=True, text=True, check=False)


@pytest.fixture
def package(tmp_path):
    """A function that writes a package of modules, given as text by path."""

    def write(**modules):
        folder = tmp_path / "src" / "made_up"
        for name, text in {"__init__": "", **modules}.items():
            path = folder.joinpath(*name.split("__in__")[::-1]).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text + "\n" * 6)
        return tmp_path / "src"

    return write


def test_modules_that_import_in_one_direction_pass(package):
    done = structure(package(top="from made_up import bottom", bottom="import math"))
    assert done.returncode == 0, done.stdout
    assert re.search(r"^3 modules, median \d+ lines, .* 0 import circles of 0 modules$", done.stdout.strip())


@pytest.mark.parametrize(
    "local",
    [
        "def f():\n    from made_up.one import g",
        "def f():\n    from made_up import one",
        "def f():\n    import made_up.one",
        "class C:\n    def f(self):\n        from .one import g",
        "if True:\n    from . import one",
    ],
    ids=["from-module", "from-package", "import", "relative-in-method", "relative-in-branch"],
)
def test_a_circle_by_a_local_import_is_found(package, local):
    done = structure(package(one="from made_up.two import f", two=local, three="from made_up import one"))
    assert done.returncode == 1
    assert "1 import circles of 2 modules" in done.stdout
    assert "made_up.one:1 imports made_up.two" in done.stdout
    assert re.search(r"made_up\.two:\d imports made_up\.one", done.stdout)
    assert "made_up.three:" not in done.stdout


def test_a_circle_over_three_modules_is_found_once(package):
    done = structure(
        package(one="from . import two", two="from . import three", three="def f():\n    from . import one")
    )
    assert done.returncode == 1
    assert "1 import circles of 3 modules" in done.stdout


def test_a_circle_through_a_parent_package_by_a_relative_import_is_found(package):
    done = structure(package(one="from made_up.room.inner import f", inner__in__room="from ..one import g"))
    assert done.returncode == 1
    assert "made_up.room.inner:1 imports made_up.one" in done.stdout


def test_a_circle_that_only_a_type_checker_sees_passes(package):
    two = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made_up.one import g"
    assert structure(package(one="from made_up.two import f", two=two)).returncode == 0


def test_the_other_branch_of_a_type_checker_counts(package):
    two = "import typing\nif typing.TYPE_CHECKING:\n    pass\nelse:\n    from made_up.one import g"
    assert structure(package(one="from made_up.two import f", two=two)).returncode == 1


def test_a_module_over_500_lines_fails(package):
    assert structure(package(long="x = 1\n" * 494)).returncode == 0
    done = structure(package(long="x = 1\n" * 495))
    assert done.returncode == 1
    assert "made_up.long has 501 lines, more than 500." in done.stdout


def test_a_folder_without_modules_is_bad_use(tmp_path):
    assert structure(tmp_path).returncode == 2


def test_no_module_of_the_project_is_over_500_lines():
    done = structure(ROOT / "src")
    assert re.match(r"\d+ modules, ", done.stdout), done.stderr
    assert "more than 500" not in done.stdout
