"""What an explanation shows is what the search saw."""

import numpy as np
import pytest

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import ensure_index
from napari_cmrir.search.explain import agreement_map, explain
from napari_cmrir.search.query import search
from napari_cmrir.search.shortlist import word_scores


@pytest.fixture(scope="module")
def asked(repository, searched):
    """A turned region of an indexed image, which is found for sure."""
    query, _ = cut(searched["tissue-22"], Region((128, 120), 130, 120, 14))
    y, x = np.ogrid[:130, :120]
    mask = (y - 64.5) ** 2 + (x - 59.5) ** 2 < 60**2
    return run(search(repository, query, "BF", mask=mask))


def test_both_comirs_lie_on_each_other_and_agree(repository, asked):
    seen = explain(repository, asked, asked.hits[0])
    assert seen.query.shape == seen.field.shape == asked.comir.shape
    inner = seen.mask & asked.mask
    difference = np.abs(seen.query.astype(float) - seen.field)[:, inner]
    assert np.median(difference) < 8
    assert seen.agreement[inner].mean() > 0.9
    assert (seen.agreement[~seen.mask] == 0).all()


def test_a_wrong_image_agrees_less(repository, asked):
    right, wrong = (explain(repository, asked, hit) for hit in (asked.hits[0], asked.hits[-1]))
    assert np.abs(wrong.agreement).max() <= 1
    assert wrong.agreement[wrong.mask].mean() < 0.5 * right.agreement[right.mask].mean()


def test_the_frame_is_laid_onto_the_box(repository, asked):
    hit = asked.hits[0]
    seen = explain(repository, asked, hit)
    corners = np.column_stack([Region.whole(asked.mask.shape).corners(), np.ones(4)])
    np.testing.assert_allclose((corners @ seen.affine.T)[:, :2], hit.box, atol=1e-9)


def test_the_shared_words_add_up_to_the_cosine_and_the_right_image_has_them_in_place(repository, asked):
    run(ensure_index(repository, "words"))
    cosines = word_scores(repository, asked.comir, asked.mask)
    right, wrong = (explain(repository, asked, hit).shared_words for hit in (asked.hits[0], asked.hits[-1]))
    for shared, hit in ((right, asked.hits[0]), (wrong, asked.hits[-1])):
        assert shared.weights.sum() == pytest.approx(cosines[hit.field], abs=1e-5)
        assert len(shared.words) == len(shared.points) == len(shared.weights) == len(shared.in_place)
    assert right.in_place.mean() > wrong.in_place.mean()


def test_agreement_is_that_of_numpy_in_the_middle_of_a_wide_window():
    """At one pixel, against weighted correlation written out."""
    rng = np.random.default_rng(0)
    one = rng.integers(0, 255, (2, 128, 128), np.uint8)
    other = (0.5 * one + 0.5 * rng.integers(0, 255, one.shape)).astype(np.uint8)
    y, x = np.mgrid[:128, :128] - 64.0
    weight = np.exp(-(y**2 + x**2) / (2 * 8.0**2))
    pairs = [(a.astype(float), b.astype(float)) for a, b in zip(one, other, strict=True)]

    def covariance(u, v):
        mean_u, mean_v = np.average(u, weights=weight), np.average(v, weights=weight)
        return np.average((u - mean_u) * (v - mean_v), weights=weight)

    sums = np.array([[covariance(a, a), covariance(b, b), covariance(a, b)] for a, b in pairs]).sum(0)
    expected = sums[2] / np.sqrt(sums[0] * sums[1])
    found = agreement_map(one, other, np.ones((128, 128), bool))[64, 64]
    assert found == pytest.approx(expected, abs=0.03)
