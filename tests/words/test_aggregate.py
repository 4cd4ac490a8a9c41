import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.words import aggregate as module
from napari_cmrir.words.aggregate import AggregateIndex, aggregate
from napari_cmrir.words.vocabulary import Vocabulary


@pytest.fixture
def vocabulary():
    words = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    return Vocabulary(words / np.linalg.norm(words, axis=1, keepdims=True))


def descriptors(seed, number=200):
    values = np.random.default_rng(seed).normal(size=(number, 16)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_agrees_with_the_formula(vocabulary):
    values = descriptors(1)
    expected = np.zeros((5, 16))
    for value in values:
        word = np.argmin(((vocabulary.words - value) ** 2).sum(axis=1))
        expected[word] += value - vocabulary.words[word]
    expected = np.sign(expected) * np.sqrt(np.abs(expected))
    expected *= 127 / np.linalg.norm(expected, axis=1, keepdims=True)
    found = aggregate(values, vocabulary)
    assert found.dtype == np.int8
    assert np.abs(found - expected.ravel()).max() <= 0.51


def test_empty_descriptors_and_unused_words_give_nothing(vocabulary):
    assert not aggregate(np.zeros((7, 16), np.float32), vocabulary).any()
    assert not aggregate(np.zeros((0, 16), np.float32), vocabulary).any()
    one = descriptors(2, 1)
    padded = np.concatenate([one, np.zeros((9, 16), np.float32)])
    np.testing.assert_array_equal(aggregate(padded, vocabulary), aggregate(one, vocabulary))
    assert np.count_nonzero(aggregate(one, vocabulary).reshape(5, 16).any(axis=1)) == 1


def test_scores_are_cosines_of_the_differences_to_the_mean(vocabulary, monkeypatch):
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 200)  # two fields a piece
    vectors = np.stack([aggregate(descriptors(seed, 40), vocabulary) for seed in range(9)])
    index = AggregateIndex(vectors)
    queries = np.stack([aggregate(descriptors(seed, 40), vocabulary) for seed in (3, 20)])
    mean = vectors.mean(axis=0)
    fields, asked = vectors - mean, queries - mean
    expected = (asked @ fields.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(fields, axis=1)
    np.testing.assert_allclose(index.scores_of(queries), expected, atol=1e-5)
    np.testing.assert_allclose(index.scores(queries[1]), expected[1], atol=1e-5)
    assert index.scores(queries[0]).argmax() == 3


def test_small_and_empty_indices(vocabulary):
    vector = aggregate(descriptors(0), vocabulary)
    assert AggregateIndex(vector[None]).scores(vector)[0] == pytest.approx(1)
    assert not AggregateIndex(np.stack([vector, vector])).scores(vector).any()
    assert AggregateIndex(np.zeros((0, 80), np.int8)).scores(vector).shape == (0,)


def test_works_from_a_memory_map(vocabulary, tmp_path):
    vectors = np.stack([aggregate(descriptors(seed), vocabulary) for seed in range(4)])
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = AggregateIndex(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    np.testing.assert_array_equal(mapped.scores(vectors[2]), AggregateIndex(vectors).scores(vectors[2]))


def test_a_query_of_another_vocabulary_is_refused(vocabulary):
    index = AggregateIndex(np.zeros((3, 80), np.int8))
    with pytest.raises(InputError, match="own vocabulary"):
        index.scores(np.zeros(96, np.int8))
