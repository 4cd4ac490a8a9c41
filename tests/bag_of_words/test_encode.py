import numpy as np
import pytest

from napari_cmrir.bag_of_words.bags import covered, encode_query
from napari_cmrir.bag_of_words.descriptors.features import Features
from napari_cmrir.bag_of_words.settings import BagSettings
from napari_cmrir.bag_of_words.vocabulary import Vocabulary


def features_at(points, descriptors):
    return Features(np.asarray(points, np.float32), descriptors, np.ones(len(points), np.float32))


@pytest.fixture
def vocabulary():
    words = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    return Vocabulary(words / np.linalg.norm(words, axis=1, keepdims=True))


@pytest.fixture
def features():
    generator = np.random.default_rng(1)
    descriptors = generator.normal(size=(60, 8)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    descriptors[7] = 0
    points = np.column_stack([generator.integers(0, 64, (60, 2)), np.full(60, 16)])
    return features_at(points, descriptors)


def test_paper_counts_every_feature_once(features, vocabulary):
    mask = np.ones((64, 64), bool)
    mask[:30] = False
    bag = encode_query(features, mask, vocabulary, BagSettings.paper())
    names = (features.descriptors @ vocabulary.words.T).argmax(axis=1)[np.arange(60) != 7]
    np.testing.assert_array_equal(bag.words, np.unique(names))
    np.testing.assert_array_equal(bag.counts, np.unique(names, return_counts=True)[1])


def test_blocks_count_that_lie_on_the_query(features):
    mask = np.zeros((64, 64), bool)
    mask[10:50, 20:] = True
    kept = covered(features.points, mask, 0.6)
    padded = np.pad(mask, 16)
    expected = []
    for y, x in features.points[:, :2].astype(int) + 16:
        expected.append(padded[y, x] and padded[y - 8 : y + 8, x - 8 : x + 8].mean() >= 0.6)
    np.testing.assert_array_equal(kept, expected)
    assert 0 < kept.sum() < 60


def test_a_query_smaller_than_every_block_keeps_its_best_eighth():
    y, x = np.meshgrid(np.arange(2, 32, 4), np.arange(2, 32, 4), indexing="ij")
    points = np.column_stack([y.ravel(), x.ravel(), np.full(64, 36)]).astype(np.float32)
    kept = covered(points, np.ones((32, 32), bool), 0.75)
    assert 8 <= kept.sum() < 64
    apart = np.abs(points[:, :2] - 16).max(axis=1)
    assert apart[kept].max() <= apart[~kept].min()
    assert covered(points[:0], np.ones((32, 32), bool), 0.75).shape == (0,)


def test_soft_votes_follow_the_formula(features, vocabulary):
    settings = BagSettings(query_cover=0, nearest_words=3, softness=0.5)
    bag = encode_query(features, np.ones((64, 64), bool), vocabulary, settings)
    expected = np.zeros(12)
    for descriptor in np.delete(features.descriptors, 7, axis=0):
        squares = ((vocabulary.words - descriptor) ** 2).sum(axis=1)
        nearest = squares.argsort()[:3]
        votes = np.exp(-squares[nearest] / (2 * 0.5**2))
        expected[nearest] += votes / votes.sum()
    np.testing.assert_allclose(bag.counts, expected[bag.words], rtol=1e-4)
    assert bag.counts.sum() == pytest.approx(59, rel=1e-4)


def test_without_softness_each_nearest_word_has_a_whole_vote(features, vocabulary):
    settings = BagSettings(query_cover=0, nearest_words=3)
    bag = encode_query(features, np.ones((64, 64), bool), vocabulary, settings)
    assert bag.counts.sum() == 3 * 59
