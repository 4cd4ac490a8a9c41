"""The digest of the code follows every room that answers a query."""

import shutil
from pathlib import Path

import pytest

import napari_cmrir
from napari_cmrir.evaluation.records import code_digest

PACKAGE = Path(napari_cmrir.__file__).parent


@pytest.mark.parametrize(
    "file",
    [
        "search/query.py",
        "registration/coarse_to_fine.py",
        "representations/comir/inference.py",
        "bag_of_words/descriptors/surf.py",
        "fitted_values.json",
    ],
)
def test_the_digest_changes_with_what_decides_an_answer(file, tmp_path, monkeypatch):
    copy = shutil.copytree(PACKAGE, tmp_path / "napari_cmrir", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(napari_cmrir, "__file__", str(copy / "__init__.py"))
    before = code_digest.__wrapped__()
    with (copy / file).open("a") as changed:
        changed.write("\n")
    assert code_digest.__wrapped__() != before
