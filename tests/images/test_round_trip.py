"""What other writers write is read as it was given to them; the table is in `written_files`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_cmrir.images.readers import read_image

_SPEC = importlib.util.spec_from_file_location("written_files", Path(__file__).with_name("written_files.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
written_files = importlib.util.module_from_spec(_SPEC)

sys.modules["written_files"] = written_files
_SPEC.loader.exec_module(written_files)


@pytest.mark.parametrize("name", written_files.FILES)
def test_written_files_are_read_right(tmp_path, name):
    file = written_files.FILES[name]
    file.write(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.shape == file.pixels.shape
    assert np.abs(read.astype(np.float64) - file.pixels).max() <= file.tolerance


def test_there_are_sixty_files_at_least():
    print(f"{len(written_files.FILES)} files")
    assert len(written_files.FILES) >= 60
