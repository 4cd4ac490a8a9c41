"""Damaged files: a value or one sentence, within 10 s and 2 GB each.

    python tests/images/fuzz_files.py [COUNT]

Run as a script it limits its own memory, damages COUNT files and prints what became of them.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from napari_cmrir.errors import InputError
from napari_cmrir.images.readers import read_image

LIMIT_SECONDS = 10.0
LIMIT_BYTES = 2 * 2**30


def _sources() -> list[tuple[str, bytes]]:
    spec = importlib.util.spec_from_file_location(
        "written_files", Path(__file__).with_name("written_files.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["written_files"] = module
    spec.loader.exec_module(module)
    sources = []
    with tempfile.TemporaryDirectory() as folder:
        for name, file in module.FILES.items():
            path = Path(folder, name)
            file.write(path)
            if path.is_file():
                sources.append((path.suffix, path.read_bytes()))
    return sources


SOURCES = _sources()


@st.composite
def damaged(draw: Any) -> tuple[str, bytes]:
    """Flip bytes, cut, extend or shuffle a file: its header is hit more often than its pixels."""
    suffix, whole = draw(st.sampled_from(SOURCES))
    data = bytearray(whole)
    kind = draw(st.sampled_from(["flip", "flip", "flip", "cut", "extend", "swap", "ifd"]))
    if kind == "flip":
        for _ in range(draw(st.integers(1, 12))):
            ends = draw(st.sampled_from(["start", "end", "anywhere"]))
            low, high = {"start": (0, 400), "end": (-600, -1)}.get(ends, (0, len(data) - 1))
            at = draw(st.integers(low, high)) % len(data)
            data[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    elif kind == "cut":
        data = data[: draw(st.integers(1, len(data)))]
    elif kind == "extend":
        data += draw(st.binary(min_size=1, max_size=500))
    elif kind == "swap":
        size = draw(st.integers(1, 200))
        one, other = (draw(st.integers(0, max(0, len(data) - size))) for _ in range(2))
        data[one : one + size], data[other : other + size] = (
            data[other : other + size],
            data[one : one + size],
        )
    else:  # the entries of the first directory of a small TIFF in another order, or one repeated
        little = data[:2] == b"II"
        first = int.from_bytes(data[4:8], "little" if little else "big")
        count = int.from_bytes(data[first : first + 2], "little" if little else "big")
        if data[:2] in (b"II", b"MM") and 2 <= count < 100 and first + 2 + 12 * count < len(data):
            entries = [bytes(data[first + 2 + 12 * at : first + 14 + 12 * at]) for at in range(count)]
            order = draw(st.permutations(range(count)))
            if draw(st.booleans()):
                order = [order[0], *order[:-1]]
            data[first + 2 : first + 2 + 12 * count] = b"".join(entries[at] for at in order)
    return suffix, bytes(data)


def attempt(path: Path, data: bytes) -> str:
    """Read a damaged file; give what became of it."""
    path.write_bytes(data)
    started = time.monotonic()
    try:
        read_image(path)
        outcome = "a value"
    except InputError as error:
        message = str(error)
        assert path.name in message, message
        assert "\n" not in message, message
        assert message.endswith("."), message
        outcome = "a sentence"
    assert time.monotonic() - started < LIMIT_SECONDS
    return outcome


def run(count: int) -> Counter[str]:
    """Damage so many files; the same ones each time."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=count,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],  # a file is shown as it is: shrinking it would take minutes
            suppress_health_check=list(HealthCheck),
        )
        @given(damaged())
        def each(file: tuple[str, bytes]) -> None:
            outcomes[attempt(Path(folder, f"damaged{file[0]}"), file[1])] += 1

        each()
    return outcomes


if __name__ == "__main__":
    import logging
    import resource

    logging.disable(logging.CRITICAL)
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, used + LIMIT_BYTES))
    begun = time.monotonic()
    found = run(wanted)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{sum(found.values())} files: {dict(found)}; {time.monotonic() - begun:.0f} s, peak {peak:.0f} MiB"
    )
