"""The core needs neither napari nor Qt: importing all of it loads none of them."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import napari_cmrir

pytestmark = pytest.mark.core

FORBIDDEN = ("napari", "qtpy", "magicgui", "superqt", "typer", "PySide6", "PyQt6", "PyQt5")

IMPORTS = """
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    loaded = sorted({forbidden!r} & {{module.split(".")[0] for module in sys.modules}})
    assert not loaded, f"{{name}} imports {{loaded}}"
"""


def core_modules() -> list[str]:
    found = pkgutil.walk_packages(napari_cmrir.__path__, "napari_cmrir.")
    names = [module.name for module in found]
    return [name for name in names if name.split(".")[1] not in ("cli", "napari")]


def test_no_core_module_imports_napari_qt_or_typer():
    modules = core_modules()
    assert len(modules) > 80
    assert "napari_cmrir.search.query" in modules
    script = IMPORTS.format(modules=modules, forbidden=set(FORBIDDEN))
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_the_command_line_imports_neither_napari_nor_qt():
    script = IMPORTS.format(modules=["napari_cmrir.cli.main"], forbidden=set(FORBIDDEN) - {"typer"})
    script += "from napari_cmrir.cli.main import app\nimport typer.main\ntyper.main.get_command(app)\n"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
