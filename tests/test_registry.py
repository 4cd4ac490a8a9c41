"""The registry: built-ins, decorators, entry points, broken ones."""

from __future__ import annotations

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.registry import Registry

pytestmark = pytest.mark.core

BUILT_IN = {"fraction": "fractions:Fraction"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of two modules: one is sound, the other cannot be imported."""
    (tmp_path / "sound_shapes.py").write_text("def disc(radius):\n    return 3 * radius * radius\n")
    (tmp_path / "broken_shapes.py").write_text("raise RuntimeError('no such library')\n")
    metadata = tmp_path / "some_shapes-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-shapes\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[test.shapes]\ndisc = sound_shapes:disc\nring = broken_shapes:ring\nfraction = sound_shapes:disc\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("shape", "test.shapes", BUILT_IN)
    for name in ("sound_shapes", "broken_shapes"):
        sys.modules.pop(name, None)


def test_a_built_in_needs_no_entry_point_loaded(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert installed["fraction"](1, 2).denominator == 2
    assert "sound_shapes" not in sys.modules


def test_an_entry_point_is_found_and_a_broken_one_names_its_package(installed):
    with pytest.warns(UserWarning, match="left out") as caught:
        assert installed["disc"](2) == 12
    messages = sorted(str(warning.message) for warning in caught)
    assert messages[0].startswith("The shape 'fraction' of the package some-shapes is left out (the name is")
    assert "'ring' of the package some-shapes" in messages[1]
    assert "no such library" in messages[1]
    assert list(installed) == ["fraction", "disc"]
    assert list(installed.extensions()) == ["disc"]


@pytest.mark.filterwarnings("ignore:The shape")
def test_an_unknown_name_lists_those_there_are(installed):
    with pytest.raises(InputError, match="There is no shape 'ring'; choose one of fraction, disc"):
        installed["ring"]


def test_a_thread_waits_for_the_listing_that_another_one_began(installed, tmp_path):
    """Its entry point's module reports that it is being imported, and goes on when it is told to."""
    began, go_on = threading.Event(), threading.Event()
    threading.began, threading.go_on = began, go_on
    (tmp_path / "sound_shapes.py").write_text(
        "import threading\nthreading.began.set()\nassert threading.go_on.wait(60)\ndisc = int\n"
    )
    with ThreadPoolExecutor(2) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = pool.submit(installed.__contains__, "disc")
        assert began.wait(60)
        second = pool.submit(installed.__contains__, "disc")
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        go_on.set()
        assert (first.result(60), second.result(60)) == (True, True)
    del threading.began, threading.go_on


def test_a_decorated_function_is_registered_once():
    registry = Registry("shape", "test.none", BUILT_IN)
    registry.register("dot")(len)
    assert registry["dot"] is len
    with pytest.raises(ValueError, match="already"):
        registry.register("fraction")
