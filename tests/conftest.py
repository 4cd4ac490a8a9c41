"""Which tests can be collected where napari and Qt are not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

WITHOUT = ("napari", "qtpy", "magicgui", "superqt", "PySide6", "PyQt6")

if find_spec("napari") is None:  # these modules import it, npe2 or ome-zarr, which a core environment lacks
    collect_ignore_glob = [
        "napari/*",
        "repository/test_pyramids.py",
        "repository/test_pyramids_in_napari.py",
        "test_packaging.py",
    ]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-napari", action="store_true", help="fail where napari or Qt is installed")


def pytest_configure(config: pytest.Config) -> None:
    present = [name for name in WITHOUT if find_spec(name) is not None]
    if config.getoption("--no-napari") and present:
        raise pytest.UsageError(f"The core must be tested without {', '.join(present)}.")
