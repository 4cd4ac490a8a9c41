import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from napari_cmrir.bag_of_words import bags as module
from napari_cmrir.bag_of_words.bags import BagIndex, count_words
from napari_cmrir.bag_of_words.settings import BagSettings

FIELDS = ([0, 0, 1], [1, 2], [3, 3, 3, 3, 1])


def index_of(fields, size, settings):
    return BagIndex.from_bags([count_words(np.array(f), size) for f in fields], size, settings)


def test_count_words_leaves_out_no_word_and_saturates():
    bag = count_words(np.array([[5, -1], [5, 2]]), 6)
    assert bag.words.tolist() == [2, 5]
    assert bag.counts.tolist() == [1, 2]
    assert count_words(np.zeros(70_000, np.int32), 3).counts.tolist() == [65_535]
    assert len(count_words(np.full(3, -1), 3).words) == 0


def test_tf_idf_cosine_by_hand():
    index = index_of(FIELDS, 5, BagSettings.paper())
    assert index.document_frequency.tolist() == [1, 3, 1, 1, 0]
    a = np.log(3)  # idf of words 0, 2 and 3; word 1 is in all fields: ln 1 = 0
    np.testing.assert_allclose(index.idf, [a, 0, a, a, 0], rtol=1e-6)
    np.testing.assert_allclose(index.lengths, [2 * a, a, 4 * a], rtol=1e-6)
    query = count_words(np.array([0, 2, 2, 1]), 5)  # weights (a, 0, 2 a): length sqrt(5) a
    np.testing.assert_allclose(index.scores(query), [1 / np.sqrt(5), 2 / np.sqrt(5), 0], rtol=1e-6)
    assert index.rank(query).tolist() == [1, 0, 2]


def test_hidden_filter_drops_words_from_the_product_but_not_from_the_length():
    fields = [[0, 1]] * 95 + [[0, 2]] * 4 + [[3, 2]]  # df: 99, 95, 5, 1 of 100
    settings = BagSettings(word_frequency=(0.02, 0.97), term="count", idf="log")
    index = index_of(fields, 4, settings)
    idf = np.log(100 / np.array([99, 95, 5, 1]))
    query = count_words(np.array([2, 3]), 4)
    length = np.hypot(idf[2], idf[3])
    expected = idf[2] ** 2 / (length * length)  # word 3 is in one field of 100: dropped, yet in both lengths
    assert index.scores(query)[99] == pytest.approx(expected, rel=1e-5)


def test_where_the_filter_leaves_no_word_all_count():
    index = index_of([[0, 1], [1, 0, 0]], 2, BagSettings(word_frequency=(0.01, 0.9)))
    assert index.rank(count_words(np.array([0, 0, 0, 1]), 2)).tolist() == [1, 0]


def test_paper_filter_at_134_images_drops_words_of_one_image():
    fields = [[i, 134 + i // 2] for i in range(134)]
    index = index_of(fields, 134 + 67, BagSettings.paper())
    assert not index.counting[:134].any()
    assert index.counting[134:].all()


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("settings", [BagSettings(), BagSettings(word_frequency=(0.01, 0.9))])
def test_small_repositories_still_find_themselves(number, settings):
    fields = [np.random.default_rng(i).integers(0, 50, 20) for i in range(number)]
    index = index_of(fields, 50, settings)
    for i in range(number):
        scores = index.scores(count_words(fields[i], 50))
        assert scores[i] > 0
        assert scores.argmax() == i


@pytest.mark.parametrize(
    ("term", "weight"), [("count", 9), ("sqrt", 3), ("log", 1 + np.log(9)), ("binary", 1)]
)
def test_terms(term, weight):
    index = index_of([[0] * 9 + [1]], 2, BagSettings(term=term, idf="none"))
    assert index.lengths[0] == pytest.approx(np.hypot(weight, 1), rel=1e-6)


@given(st.data())
@examples(max_examples=40, deadline=None)
def test_agrees_with_dense_vectors_for_any_size_of_pieces(data):
    size = data.draw(st.integers(1, 12))
    names = st.lists(st.integers(-1, size - 1), max_size=20)
    fields = data.draw(st.lists(names, min_size=1, max_size=9))
    query = data.draw(names)
    settings = BagSettings(
        word_frequency=data.draw(st.sampled_from([(0.0, 1.0), (0.2, 0.8)])),
        term=data.draw(st.sampled_from(["count", "sqrt"])),
        idf=data.draw(st.sampled_from(["log", "smooth"])),
    )
    index = index_of([np.array(f, int) for f in fields], size, settings)
    whole = index.scores(count_words(np.array(query, int), size))

    dense = np.array([np.bincount([w for w in f if w >= 0], minlength=size) for f in [*fields, query]])
    term = np.sqrt(dense) if settings.term == "sqrt" else dense
    df = (dense[:-1] > 0).sum(axis=0)
    ratio = len(fields) / np.maximum(df, 1)
    idf = np.where(df > 0, np.log(ratio if settings.idf == "log" else 1 + ratio), 0)
    low, high = settings.word_frequency
    counting = (df / len(fields) >= low) & (df / len(fields) <= high) & (df > 0)
    if not (counting & (idf > 0)).any():
        counting = np.ones(size, bool)
    vectors = term * idf
    norms = np.linalg.norm(vectors[:-1], axis=1) * np.linalg.norm(vectors[-1])
    expected = (vectors[:-1] * counting) @ vectors[-1] / np.where(norms > 0, norms, 1)
    np.testing.assert_allclose(whole, expected, atol=1e-5)

    before = module.ENTRIES_AT_ONCE
    module.ENTRIES_AT_ONCE = 3
    try:
        pieces = index_of([np.array(f, int) for f in fields], size, settings)
        np.testing.assert_allclose(pieces.scores(count_words(np.array(query, int), size)), whole, atol=1e-6)
    finally:
        module.ENTRIES_AT_ONCE = before


def test_works_from_memory_maps(tmp_path):
    index = index_of(FIELDS, 5, BagSettings())
    for name in ("indptr", "words", "counts"):
        np.save(tmp_path / f"{name}.npy", getattr(index, name))
    arrays = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("indptr", "words", "counts")]
    mapped = BagIndex(*arrays, 5, BagSettings())
    query = count_words(np.array([0, 3]), 5)
    np.testing.assert_array_equal(mapped.scores(query), index.scores(query))
    assert isinstance(mapped.words, np.memmap)


def test_idf_of_occurrences_weakens_words_that_burst():
    index = index_of(FIELDS, 5, BagSettings(idf="occurrences"))  # words 0 to 3 occur 2, 3, 1 and 4 times
    assert index.occurrences.tolist() == [2, 3, 1, 4, 0]
    np.testing.assert_allclose(index.idf, [*np.log1p(10 / np.array([2, 3, 1, 4])), 0], rtol=1e-6)


def test_length_over_the_counting_words_only_or_none():
    fields = [[0, 1]] * 9 + [[1, 2]]  # df: 9, 10, 1 of 10
    query = count_words(np.array([0, 1]), 3)
    filtered = {"word_frequency": (0.0, 0.95), "term": "count", "idf": "none"}
    scores = [
        index_of(fields, 3, BagSettings(**filtered, length=how)).scores(query)[0]
        for how in ("all", "counting", "none")
    ]
    np.testing.assert_allclose(scores, [1 / 2, 1, 1], rtol=1e-6)
    doubled = count_words(np.array([0, 0, 1]), 3)
    plain = index_of(fields, 3, BagSettings(**filtered, length="none"))
    assert plain.scores(doubled)[0] == pytest.approx(2)


def test_votes_are_summed_and_no_word_gets_none():
    bag = count_words(np.array([[2, 0], [-1, -1]]), 3, np.array([[0.75, 0.25], [0.5, 0.5]], np.float32))
    assert bag.words.tolist() == [0, 2]
    assert bag.counts.tolist() == [0.25, 0.75]
    scores = [index_of(FIELDS, 5, BagSettings(term=term)).scores(bag) for term in ("log", "sqrt", "count")]
    assert np.isfinite(scores).all()
    assert (np.array(scores) >= 0).all()


def test_several_queries_in_one_pass_score_as_alone():
    index = index_of(FIELDS, 5, BagSettings())
    queries = [count_words(np.array(names, int), 5) for names in ([0, 1], [3], [])]
    together = index.scores_of(queries)
    np.testing.assert_allclose(together, [index.scores(query) for query in queries], atol=1e-7)
    assert not together[2].any()


def test_an_empty_index_ranks_nothing():
    index = index_of([], 5, BagSettings())
    assert index.scores(count_words(np.array([1]), 5)).shape == (0,)


def test_a_range_that_runs_backwards_is_refused():
    with pytest.raises(ValidationError, match="low to high"):
        BagSettings(word_frequency=(0.9, 0.1))
