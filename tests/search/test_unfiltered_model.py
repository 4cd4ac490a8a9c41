"""A search compares CoMIRs as the model says: under its high pass, or without one, and with its weights."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.explain import explain
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import Comparison, ScoreWeights

SIDE = 320
REGISTERED = SearchSettings(max_rotation=6, fine_rescore=False)
SCREENED = SearchSettings(max_rotation=6, register_all=0, n_screened=2)


@pytest.fixture(scope="module")
def images():
    """Images that differ by a slow variation only, under a fine texture that they share."""
    rng = np.random.default_rng(1)
    shared = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 4, mode="wrap")
    slow = [gaussian_filter(rng.normal(size=(SIDE, SIDE)), 45, mode="wrap") for _ in range(4)]
    return [
        np.clip(127 + 20 * shared / shared.std() + 35 * s / s.std(), 0, 255).astype(np.float32)[..., None]
        for s in slow
    ]


@pytest.fixture(scope="module", params=[0.0, 16.0])
def repository(request, tmp_path_factory, images, identity_model):
    model = identity_model()
    model.settings = model.settings.model_copy(update={"high_pass": request.param})
    small = RepositorySettings(vocabulary=VocabularySettings(size=100, samples=5000, iterations=2))
    folder = tmp_path_factory.mktemp("unfiltered") / "a.cmrir"
    sources = [Source(f"slow-{i}", image) for i, image in enumerate(images)]
    built = run(build_repository(sources, model, "B", folder, small))
    built.model = model
    return built


@pytest.mark.parametrize("which", range(4))
def test_the_slow_variation_decides_only_where_training_kept_it(repository, images, which):
    query = images[which][60:230, 80:260]
    hits = run(search(repository, query, "A", settings=REGISTERED)).hits
    margin = hits[0].score - hits[1].score
    if repository.model.comparison.high_pass_px:
        assert margin < 0.12
    else:
        assert hits[0].image == f"slow-{which}"
        assert margin > 0.2
        np.testing.assert_allclose(hits[0].box[0], (59.5, 79.5), atol=0.6)


@pytest.mark.parametrize("which", range(4))
def test_screening_compares_what_training_compared(repository, images, which):
    found = run(search(repository, images[which][60:230, 80:260], "A", settings=SCREENED))
    best, second = np.sort(found.screening)[:-3:-1]
    if repository.model.comparison.high_pass_px:
        assert best - second < 0.15
    else:
        assert found.screening.argmax() == which
        assert best > 0.9  # the query lies half a pixel of the thumbnails beside their grid
        assert best - second > 0.2


def test_the_explanation_compares_what_the_search_compared(repository, images):
    result = run(search(repository, images[0][60:230, 80:260], "A", settings=REGISTERED))
    other = next(hit for hit in result.hits if hit.image != "slow-0")
    agreement = explain(repository, result, other).agreement
    assert (agreement.mean() > 0.8) == bool(repository.model.comparison.high_pass_px)


def test_the_terms_of_a_score_have_the_weights_of_the_model(repository, images, monkeypatch):
    def scores(fine_rescore):
        settings = REGISTERED.model_copy(update={"fine_rescore": fine_rescore})
        hits = run(search(repository, images[0][60:230, 80:260], "A", settings=settings)).hits
        return {hit.image: hit.score for hit in hits}

    correlations = scores(fine_rescore=False)
    assert scores(fine_rescore=True) != pytest.approx(correlations, abs=0.01)
    of_correlation = Comparison(repository.model.comparison.high_pass_px, ScoreWeights(1, 0, 0))
    monkeypatch.setattr(type(repository.model), "comparison", of_correlation)
    assert scores(fine_rescore=True) == pytest.approx(correlations, abs=1e-6)
