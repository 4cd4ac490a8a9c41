import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.cluster import KMeans

from napari_cmrir import jobs
from napari_cmrir.bag_of_words.descriptors.features import Features
from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.bag_of_words.vocabulary import (
    Vocabulary,
    keep_strongest,
    load_vocabulary,
    sample_field,
    train_vocabulary,
)
from napari_cmrir.errors import InputError


@pytest.fixture(scope="module")
def clustered():
    """3,000 unit vectors of 16 values around 40 directions."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(40, 16))
    points = centres[generator.integers(0, 40, 3000)] + generator.normal(size=(3000, 16))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def squared_distances(points, words):
    return ((points[:, None].astype(float) - words[None]) ** 2).sum(axis=2)


def test_inertia_is_that_of_scikit_learn(clustered):
    settings = VocabularySettings(size=40, iterations=50, tolerance=0)
    ours = jobs.run(train_vocabulary(clustered, settings))
    peers = [KMeans(40, init="random", n_init=1, random_state=s).fit(clustered).inertia_ for s in range(5)]
    assert ours.inertia * len(clustered) <= np.mean(peers) * 1.03
    honest = squared_distances(clustered, ours.words).min(axis=1).mean()
    assert ours.inertia == pytest.approx(honest, rel=1e-4)


def test_same_seed_same_words_and_another_seed_others(clustered):
    settings = VocabularySettings(size=30, samples=2000)
    first, again = (jobs.run(train_vocabulary(clustered, settings)).words for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = jobs.run(train_vocabulary(clustered, settings.model_copy(update={"seed": 1}))).words
    assert not np.array_equal(first, other)


def test_no_word_is_empty_though_most_descriptors_are_equal(clustered):
    points = np.concatenate([np.repeat(clustered[:1], 4000, axis=0), clustered[:100]])
    vocabulary = jobs.run(train_vocabulary(points, VocabularySettings(size=50, iterations=30)))
    names = squared_distances(points, vocabulary.words).argmin(axis=1)
    assert len(vocabulary) == 50
    assert set(names) == set(range(50))


def test_small_collection_gets_a_small_vocabulary(clustered):
    vocabulary = jobs.run(train_vocabulary(clustered[:100], VocabularySettings.paper()))
    assert len(vocabulary) == 12
    assert len(jobs.run(train_vocabulary(clustered[:3], VocabularySettings()))) == 1


def test_empty_descriptors_are_left_out(clustered):
    padded = np.concatenate([np.zeros((500, 16), np.float32), clustered])
    with_empty = jobs.run(train_vocabulary(padded, VocabularySettings(size=20)))
    np.testing.assert_array_equal(
        with_empty.words, jobs.run(train_vocabulary(clustered, VocabularySettings(size=20))).words
    )
    with pytest.raises(InputError, match="nothing to learn"):
        jobs.run(train_vocabulary(np.zeros((10, 16), np.float32)))


def test_progress_rises_to_its_total(clustered):
    steps = []
    jobs.run(train_vocabulary(clustered, VocabularySettings(size=20)), steps.append)
    done = [step.done for step in steps]
    assert done == sorted(done)
    assert 0 <= done[0] < done[-1] <= steps[-1].total


def test_assign_gives_the_nearest_words_and_none_for_empty_descriptors(clustered):
    words = clustered[:300]
    descriptors = np.concatenate([clustered[300:900], np.zeros((2, 16), np.float32)])
    vocabulary = Vocabulary(words)
    order = squared_distances(descriptors, words).argsort(axis=1)
    names = vocabulary.assign(descriptors)
    assert names.dtype == np.int32
    np.testing.assert_array_equal(names[:-2], order[:-2, 0])
    np.testing.assert_array_equal(names[-2:], [-1, -1])
    several = vocabulary.assign(descriptors, nearest=3)
    np.testing.assert_array_equal(several[:-2], order[:-2, :3])
    np.testing.assert_array_equal(several[-2:], -np.ones((2, 3)))


@pytest.fixture(scope="module")
def large():
    """A vocabulary that is searched in two levels, and descriptors like those it was learned from."""
    generator = np.random.default_rng(1)
    mixing = generator.normal(size=(6, 64)) * np.linspace(2, 0.3, 6)[:, None]
    points = (np.tanh(generator.normal(size=(24_000, 6)) @ mixing)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    settings = VocabularySettings(size=2500, iterations=6)
    return jobs.run(train_vocabulary(points[:20_000], settings)), points


def test_two_levels_agree_with_the_exact_search(large):
    vocabulary, points = large
    assert len(vocabulary.centres) > 10
    quick, exact = vocabulary.assign(points[20_000:]), vocabulary.assign(points[20_000:], exact=True)
    assert (quick == exact).mean() > 0.97
    farther = [np.linalg.norm(points[20_000:] - vocabulary.words[names], axis=1) for names in (quick, exact)]
    assert farther[0].mean() < farther[1].mean() * 1.002
    distances = 1 - points[20_000:20_200] @ vocabulary.words.T + (vocabulary.words**2).sum(axis=1) / 2
    np.testing.assert_array_equal(exact[:200], distances.argmin(axis=1))


def test_the_word_of_a_descriptor_does_not_depend_on_the_others(large):
    vocabulary, points = large
    together = vocabulary.assign(points[20_000:])
    np.testing.assert_array_equal(
        np.concatenate([vocabulary.assign(points[20_000 + i : 20_001 + i]) for i in range(100)]),
        together[:100],
    )


def test_a_large_vocabulary_assigns_alike_after_saving_and_loading(large, tmp_path):
    vocabulary, points = large
    vocabulary.save(tmp_path / "words.safetensors")
    loaded = load_vocabulary(tmp_path / "words.safetensors")
    np.testing.assert_array_equal(loaded.assign(points), vocabulary.assign(points))


def test_no_word_of_a_large_vocabulary_is_empty(large):
    vocabulary, points = large
    assert len(set(vocabulary.assign(points[:20_000]))) == 2500


def test_assign_accepts_no_descriptors_and_refuses_other_lengths(large, clustered):
    vocabulary = Vocabulary(clustered[:5])
    assert vocabulary.assign(np.zeros((0, 16), np.float32)).shape == (0,)
    assert large[0].assign(np.zeros((0, 64), np.float32)).shape == (0,)
    assert vocabulary.assign(np.zeros((0, 16), np.float32), nearest=3).shape == (0, 3)
    with pytest.raises(InputError, match="do not fit"):
        vocabulary.assign(np.zeros((4, 64), np.float32))


def test_a_vocabulary_survives_its_file(clustered, tmp_path):
    vocabulary = jobs.run(train_vocabulary(clustered, VocabularySettings(size=20, seed=5)))
    vocabulary.save(tmp_path / "words.safetensors")
    loaded = load_vocabulary(tmp_path / "words.safetensors")
    np.testing.assert_array_equal(loaded.words, vocabulary.words)
    assert loaded.settings == vocabulary.settings
    assert (loaded.inertia, loaded.trained_on) == (vocabulary.inertia, 3000)


def test_files_that_are_no_vocabulary_are_refused(tmp_path):
    (tmp_path / "text").write_text("no safetensors")
    save_file({"words": np.zeros((2, 2), np.float32)}, str(tmp_path / "other"), {"format": "else"})
    about = {"format": "napari-cmrir vocabulary 1", "vocabulary": json.dumps({})[:1]}
    save_file({"words": np.zeros((2, 2), np.float32)}, str(tmp_path / "broken"), about)
    for name in ("text", "other", "broken", "missing"):
        with pytest.raises(InputError, match="anew"):
            load_vocabulary(tmp_path / name)


def test_samples_are_balanced_by_field_and_the_strongest_are_kept(clustered):
    settings = VocabularySettings(samples=160, strongest_share=0.8)
    fields = [
        Features(np.zeros((n, 3), np.float32), clustered[:n], np.linspace(0, i + 1, n, dtype=np.float32))
        for i, n in enumerate((1000, 300))
    ]
    drawn = [sample_field(features, 2, settings, seed) for seed, features in enumerate(fields)]
    assert [len(sample) for sample in drawn] == [100, 100]
    kept = keep_strongest(drawn, settings)
    strengths = np.concatenate([sample.strengths for sample in drawn])
    threshold = np.sort(strengths)[-160]
    everything = np.concatenate([sample.descriptors for sample in drawn])
    np.testing.assert_array_equal(kept, everything[strengths >= threshold])
    np.testing.assert_array_equal(sample_field(fields[0], 2, settings, 0).points, drawn[0].points)
    assert not np.array_equal(sample_field(fields[0], 2, settings, 7).strengths, drawn[0].strengths)
