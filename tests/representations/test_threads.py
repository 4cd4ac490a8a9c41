import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from napari_cmrir.representations.devices import parallel_map


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def where(_):
    return threading.current_thread().name, torch.get_num_threads()


def test_results_keep_the_order_of_the_items(two_threads):
    assert list(parallel_map(lambda n: -n, range(50))) == [-n for n in range(50)]


def test_work_runs_on_threads_of_one_torch_thread_each_and_the_caller_keeps_its_own(two_threads):
    found = set(parallel_map(where, range(40)))
    assert {threads for _, threads in found} == {1}
    assert threading.current_thread().name not in {name for name, _ in found}
    assert torch.get_num_threads() == 2


def test_nested_and_concurrent_calls_come_to_an_end(two_threads):
    def outer(n):
        return sum(parallel_map(lambda m: n * m, range(10)))

    with ThreadPoolExecutor(4) as callers:
        sums = list(callers.map(lambda _: list(parallel_map(outer, range(8))), range(8)))
    assert sums == [[45 * n for n in range(8)]] * 8


def test_one_thread_works_in_the_caller(two_threads):
    torch.set_num_threads(1)
    assert {name for name, _ in parallel_map(where, range(5))} == {threading.current_thread().name}


def test_a_fault_reaches_the_caller(two_threads):
    def fail(n):
        raise ValueError(f"item {n}")

    with pytest.raises(ValueError, match="item 0"):
        list(parallel_map(fail, range(4)))


def test_the_pool_does_not_hang_the_search(two_threads):
    from napari_cmrir.bag_of_words.nearest_words import (
        list_centres,
        make_inverted_lists,
        nearest_by_inverted_lists,
    )

    words = torch.nn.functional.normalize(torch.randn(3000, 16, generator=torch.Generator().manual_seed(0)))
    cells = make_inverted_lists(words, list_centres(words))
    found = list(nearest_by_inverted_lists(words.repeat(5, 1), cells))
    assert sum(len(which) for which, _, _ in found) == 15_000
