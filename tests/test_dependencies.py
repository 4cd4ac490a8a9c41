"""The package declares what its source imports, and nothing else; the core's imports lie in the core."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import napari_cmrir

pytestmark = pytest.mark.core

PACKAGE = Path(napari_cmrir.__file__).parent
PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
MODULE_OF = {  # where the name of the distribution is not that of the module
    "opencv-contrib-python-headless": "cv2",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
BY_ANOTHER = {"fsspec", "npe2"}  # zarr reads addresses with fsspec; npe2 is napari's, and checks the manifest
OPTIONAL = {"bioio", "torchvision"}  # used where they are installed; the extra resnet brings torchvision


def declared(requirements: list[str]) -> set[str]:
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
    return {MODULE_OF.get(name, name) for name in names - {"napari-cmrir"}}


def imported(files: list[Path]) -> set[str]:
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
    tops = {name.split(".")[0] for name in found}
    return tops - set(sys.stdlib_module_names) - {"napari_cmrir"} - OPTIONAL


CORE = declared(PROJECT["dependencies"])
GUI = declared(PROJECT["optional-dependencies"]["gui"])


def test_the_core_imports_what_it_declares_and_declares_what_it_imports():
    files = [file for file in PACKAGE.rglob("*.py") if PACKAGE / "napari" not in file.parents]
    assert imported(files) == CORE - BY_ANOTHER


def test_the_plugin_imports_what_the_extra_gui_declares():
    beyond = imported(list((PACKAGE / "napari").rglob("*.py"))) - CORE
    assert beyond <= GUI
    assert GUI - BY_ANOTHER - beyond <= {"magicgui", "pandas"}  # pandas is imported by name, by the docks


def test_no_qt_binding_is_a_dependency():
    assert not {"pyqt5", "pyqt6", "pyside2", "pyside6"} & {name.lower() for name in CORE | GUI}
