"""Damaged files give a value or one sentence; `fuzz_files` makes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is limited as Linux can")
@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_damaged_files_give_a_value_or_one_sentence(count):
    script = Path(__file__).with_name("fuzz_files.py")
    ended = subprocess.run([sys.executable, script, str(count)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    print(ended.stdout)
    assert "a sentence" in ended.stdout
