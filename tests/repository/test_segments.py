import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_cmrir.bag_of_words.bags import BagIndex, count_words
from napari_cmrir.bag_of_words.settings import BagSettings
from napari_cmrir.errors import InputError
from napari_cmrir.repository.field_indexes import WordIndex, bag_index
from napari_cmrir.repository.segments import Joined, map_fields, map_tensors, write_fields, write_tensors

N_WORDS = 12


def make_bags(seed, n):
    generator = np.random.default_rng(seed)
    return [count_words(generator.integers(0, N_WORDS, generator.integers(0, 9)), N_WORDS) for _ in range(n)]


def make_fields(first, n):
    return [(first + i, 0, 64 * i, 100, 90) for i in range(n)]


def as_tensors(bags):
    index = BagIndex.from_bags(bags, N_WORDS, BagSettings())
    return {"indptr": index.indptr, "words": index.words, "counts": index.counts}


@pytest.fixture
def parts(tmp_path):
    for name, n in [("a", 5), ("b", 1), ("c", 7)]:
        write_tensors(tmp_path / name, as_tensors(make_bags(n, n)))
    return [map_tensors(tmp_path / name) for name in "abc"]


def split(keep):
    return np.split(keep, [5, 6])


def test_fields_are_mapped_as_they_were_written(tmp_path):
    write_fields(tmp_path / "a", make_fields(3, 4))
    fields = map_fields(tmp_path / "a")
    assert isinstance(fields.base, np.memmap) or isinstance(fields, np.memmap)
    assert fields.tolist() == make_fields(3, 4)
    assert fields["image"].tolist() == [3, 4, 5, 6]


def test_safetensors_itself_reads_them(tmp_path):
    from safetensors.numpy import load_file

    bags = make_bags(0, 4)
    write_tensors(tmp_path / "a", as_tensors(bags))
    np.testing.assert_array_equal(load_file(tmp_path / "a")["words"], np.concatenate([b.words for b in bags]))


def test_fields_without_words_are_mapped_too(tmp_path):
    write_tensors(tmp_path / "a", as_tensors([count_words(np.array([-1]), N_WORDS)] * 2))
    assert map_tensors(tmp_path / "a")["indptr"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "scribbled"])
def test_a_damaged_segment_is_named(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_fields(path, make_fields(0, 3))
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "scribbled": b"\xff" * len(content)}[damage])
    with pytest.raises(InputError, match=r"a\.safetensors is missing or damaged"):
        map_fields(path)


def test_mapped_bags_rank_as_all_bags_in_memory_do(parts):
    index = bag_index(list(zip(parts, split(np.ones(13, bool)), strict=True)), N_WORDS, BagSettings())
    bags = make_bags(5, 5) + make_bags(1, 1) + make_bags(7, 7)
    in_memory = BagIndex.from_bags(bags, N_WORDS, BagSettings())
    for query in make_bags(9, 3):
        np.testing.assert_array_equal(index.scores(query), in_memory.scores(query))


def test_fields_that_are_left_out_do_not_count(parts):
    keep = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1], bool)
    bags = make_bags(5, 5) + make_bags(1, 1) + make_bags(7, 7)
    index = bag_index(list(zip(parts, split(keep), strict=True)), N_WORDS, BagSettings())
    kept = BagIndex.from_bags([bags[i] for i in np.flatnonzero(keep)], N_WORDS, BagSettings())
    np.testing.assert_array_equal(index.document_frequency, kept.document_frequency)
    for query in make_bags(9, 3):
        np.testing.assert_array_equal(index.scores(query), kept.scores(query))


def test_selected_and_joined_bags_are_those_of_the_fields_kept(parts):
    keep = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1], bool)
    index = WordIndex()
    chosen = [index.select(part, np.empty(0), kept) for part, kept in zip(parts, split(keep), strict=True)]
    bags = make_bags(5, 5) + make_bags(1, 1) + make_bags(7, 7)
    wanted = as_tensors([bags[i] for i in np.flatnonzero(keep)])
    for name, values in index.join(chosen).items():
        np.testing.assert_array_equal(values, wanted[name])


@given(
    st.lists(hnp.arrays(np.int64, st.integers(0, 5)), min_size=1, max_size=5),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_joined_arrays_slice_as_their_concatenation(parts, start, stop):
    np.testing.assert_array_equal(Joined(parts)[start:stop], np.concatenate(parts)[start:stop])
