import sys

import pytest

HOLES = """
import numpy as np
from napari_cmrir.representations.devices import trim_malloc

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

arrays = [np.ones(8000) for _ in range(3000)]  # 64 kB each, which the C library takes from its heap
arrays = arrays[::100]
before = resident()
trim_malloc()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the GNU C library is Linux's")
def test_memory_between_what_stays_is_given_back(run_python):
    ended = run_python(HOLES)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 100e6
