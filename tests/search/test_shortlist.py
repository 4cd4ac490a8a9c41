"""The bank of rotations: words of the query as it would be seen turned."""

import numpy as np
import pytest

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import ensure_index
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.search.shortlist import fill_outside, word_rotations, word_scores


@pytest.fixture(autouse=True)
def words(repository):
    run(ensure_index(repository, "words"))


def test_the_best_rotation_counts_field_by_field(repository, partners):
    result = run(search(repository, partners["tissue-21"], "SHG"))
    each = [word_scores(repository, result.comir, result.mask, [turn]) for turn in (0, -20, 20)]
    both = word_scores(repository, result.comir, result.mask, [0, -20, 20])
    np.testing.assert_allclose(both, np.max(each, 0), atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_undo_those_of_the_query(repository, searched, quarters):
    """A query turned by a quarter has, turned back by permuted descriptors, the words it had."""
    comir = run(search(repository, searched["tissue-23"], "BF")).comir
    mask = np.ones(comir.shape[1:], bool)
    upright = word_scores(repository, comir, mask)
    lying = np.ascontiguousarray(np.rot90(comir, -quarters, (1, 2)))
    turned = word_scores(repository, lying, mask, [90.0 * quarters])
    np.testing.assert_allclose(turned, upright, atol=0.02)
    assert np.argmax(turned) == np.argmax(upright)


def test_the_bank_finds_what_lies_on_its_side(repository, searched):
    """Same modality, turned by 90 degrees: lost on upright words, first with the bank."""
    settings = SearchSettings(max_rotation=180, rerank="none", hits=1)
    for name in ("tissue-20", "tissue-24"):
        query = np.ascontiguousarray(np.rot90(searched[name]))
        assert run(search(repository, query, "BF", settings=settings)).hits[0].image == name


def test_a_small_repository_is_registered_whole_without_a_bank(repository, partners):
    whole = run(search(repository, partners["tissue-22"], "SHG"))
    assert len(whole.shortlist) == len(repository)
    assert whole.words.shape == (0,)
    assert all("words" not in hit.scores for hit in whole.hits)
    listed = SearchSettings(register_all=0, shortlist_by="words", shortlist=3)
    some = run(search(repository, partners["tissue-22"], "SHG", settings=listed))
    assert len(some.shortlist) == 3
    bank = word_scores(repository, whole.comir, whole.mask, word_rotations(listed))
    np.testing.assert_array_equal(some.words, bank)


def test_words_do_not_see_what_lies_outside_a_turned_outline(repository, searched):
    comir = run(search(repository, searched["tissue-21"], "BF")).comir
    y, x = np.ogrid[:256, :256]
    mask = (y - 128) ** 2 + (x - 120) ** 2 < 90**2
    other = np.where(mask, comir, 255 - comir)
    one, two = (
        word_scores(repository, fill_outside(pixels, mask), mask, [0, 30]) for pixels in (comir, other)
    )
    np.testing.assert_array_equal(one, two)


def test_angles_of_the_bank_reach_the_largest_rotation_and_no_further():
    for reach in (10.0, 30.0, 47.0, 170.0):
        angles = np.sort(word_rotations(SearchSettings(max_rotation=reach)))
        assert angles[0] == -reach
        assert angles[-1] == reach
        assert np.diff(angles).max() <= 15
    circle = np.sort(np.mod(word_rotations(SearchSettings(max_rotation=180)), 360))
    np.testing.assert_allclose(np.diff(circle), 15)


def test_a_turned_cut_has_the_words_of_the_place_it_was_cut_from(repository, searched):
    pixels = searched["tissue-25"]
    place = Region((128, 128), 170, 170, 30)
    query, _ = cut(pixels, place)
    asked = SearchSettings(rerank="none", hits=6)
    bank = run(search(repository, query, "BF", settings=asked))
    upright = run(
        search(repository, query, "BF", settings=asked.model_copy(update={"word_rotation_step": 0}))
    )
    field = next(hit.field for hit in bank.hits if hit.image == "tissue-25")
    assert bank.words[field] > upright.words[field]


def test_a_mirrored_query_is_shortlisted_if_asked_for(repository, searched):
    flipped = searched["tissue-22"][:, ::-1].copy()
    asked = SearchSettings(register_all=0, shortlist_by="words", shortlist=1, mirror=True)
    found = run(search(repository, flipped, "BF", settings=asked)).hits[0]
    assert (found.image, found.mirrored) == ("tissue-22", True)
