"""Which tests can be collected where napari and Qt are not installed, and which run in one process."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

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


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process for their fixtures, and the windows for their display."""
    folder = Path(__file__).parent / "napari"
    for item in items:
        group = "napari" if folder in item.path.parents else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
