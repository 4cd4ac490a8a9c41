"""Two functions on two threads."""

import threading

import pytest
import torch

from napari_cmrir.representations.devices import run_parallel

CPU = torch.device("cpu")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_both_are_under_way_at_once(two_threads: None) -> None:
    meeting = threading.Barrier(2, timeout=20)  # broken unless both come
    run_parallel(meeting.wait, meeting.wait, CPU)


def test_each_has_half_of_the_threads_and_the_caller_keeps_all(two_threads: None) -> None:
    assert run_parallel(torch.get_num_threads, torch.get_num_threads, CPU) == (1, 1)
    assert torch.get_num_threads() == 2


def test_one_thread_does_one_after_the_other() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        here = threading.get_ident()
        assert run_parallel(threading.get_ident, threading.get_ident, CPU) == (here, here)
    finally:
        torch.set_num_threads(before)


def test_an_error_is_raised_after_both_have_ended(two_threads: None) -> None:
    ended = threading.Event()

    def fail() -> None:
        raise ValueError("no")

    def last() -> None:
        threading.Event().wait(0.05)
        ended.set()

    with pytest.raises(ValueError, match="no"):
        run_parallel(fail, last, CPU)
    assert ended.is_set()
