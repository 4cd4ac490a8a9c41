import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_cmrir.bag_of_words.bags import BagIndex, count_words
from napari_cmrir.bag_of_words.settings import BagSettings
from napari_cmrir.errors import InputError
from napari_cmrir.repository.segments import Joined, join_bags, map_segment, write_segment

N_WORDS = 12


def make_bags(seed, n):
    generator = np.random.default_rng(seed)
    return [count_words(generator.integers(0, N_WORDS, generator.integers(0, 9)), N_WORDS) for _ in range(n)]


def make_fields(first, n):
    return [(first + i, 0, 64 * i, 100, 90) for i in range(n)]


@pytest.fixture
def segments(tmp_path):
    for name, n in [("a", 5), ("b", 1), ("c", 7)]:
        write_segment(tmp_path / name, make_fields(10, n), make_bags(n, n))
    return [map_segment(tmp_path / name) for name in "abc"]


def test_a_segment_is_mapped_as_it_was_written(tmp_path):
    bags = make_bags(0, 4)
    write_segment(tmp_path / "a", make_fields(3, 4), bags)
    segment = map_segment(tmp_path / "a")
    assert isinstance(segment.words, np.memmap)
    assert segment.fields.tolist() == make_fields(3, 4)
    assert segment.fields["image"].tolist() == [3, 4, 5, 6]
    for i, bag in enumerate(bags):
        entries = slice(segment.indptr[i], segment.indptr[i + 1])
        np.testing.assert_array_equal(segment.words[entries], bag.words)
        np.testing.assert_array_equal(segment.counts[entries], bag.counts)


def test_safetensors_itself_reads_a_segment(tmp_path):
    from safetensors.numpy import load_file

    bags = make_bags(0, 4)
    write_segment(tmp_path / "a", make_fields(3, 4), bags)
    np.testing.assert_array_equal(load_file(tmp_path / "a")["words"], np.concatenate([b.words for b in bags]))


def test_fields_without_words_are_mapped_too(tmp_path):
    write_segment(tmp_path / "a", make_fields(0, 2), [count_words(np.array([-1]), N_WORDS)] * 2)
    assert map_segment(tmp_path / "a").indptr.tolist() == [0, 0, 0]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "scribbled"])
def test_a_damaged_segment_is_named(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_segment(path, make_fields(0, 3), make_bags(1, 3))
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "scribbled": b"\xff" * len(content)}[damage])
    with pytest.raises(InputError, match=r"a\.safetensors is missing or damaged"):
        map_segment(path)


def test_mapped_segments_rank_as_all_bags_in_memory_do(segments):
    index = join_bags(segments, np.ones(13, bool), N_WORDS, BagSettings())
    in_memory = BagIndex.from_bags(
        make_bags(5, 5) + make_bags(1, 1) + make_bags(7, 7), N_WORDS, BagSettings()
    )
    for query in make_bags(9, 3):
        np.testing.assert_array_equal(index.scores(query), in_memory.scores(query))


def test_fields_that_are_left_out_do_not_count(segments):
    keep = np.array([1, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 1], bool)
    bags = make_bags(5, 5) + make_bags(1, 1) + make_bags(7, 7)
    index = join_bags(segments, keep, N_WORDS, BagSettings())
    kept = BagIndex.from_bags([bags[i] for i in np.flatnonzero(keep)], N_WORDS, BagSettings())
    np.testing.assert_array_equal(index.document_frequency, kept.document_frequency)
    for query in make_bags(9, 3):
        np.testing.assert_array_equal(index.scores(query), kept.scores(query))


@given(
    st.lists(hnp.arrays(np.int64, st.integers(0, 5)), min_size=1, max_size=5),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_joined_arrays_slice_as_their_concatenation(parts, start, stop):
    np.testing.assert_array_equal(Joined(parts)[start:stop], np.concatenate(parts)[start:stop])
