"""Queries whose pixels are of another size than those searched come back in the right places and units."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, cut, rotation_difference
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.checks import pixel_step, searched_pixel_size
from napari_cmrir.search.explain import explain
from napari_cmrir.search.hits import affine_matrix
from napari_cmrir.search.query import search

SIDE = 320
MICROMETRES = 0.5
"""Side of the pixels of the images searched."""


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(7)
    textures = [
        sum(gaussian_filter(rng.normal(size=(SIDE, SIDE)), width, mode="wrap") * width for width in (4, 9))
        for _ in range(3)
    ]
    return [np.clip(127 + 75 * t / t.std(), 0, 255).astype(np.float32)[..., None] for t in textures]


def build(folder, images, model, image_size):
    small = RepositorySettings(vocabulary=VocabularySettings(size=100, samples=5000, iterations=2))
    sources = [Source(f"texture-{i}", image, image_size) for i, image in enumerate(images)]
    built = run(build_repository(sources, model, "B", folder / "a.cmrir", small))
    built.model = model
    return built


@pytest.fixture(scope="module")
def repository(tmp_path_factory, images, identity_model):
    return build(tmp_path_factory.mktemp("sizes"), images, identity_model(MICROMETRES), MICROMETRES)


@pytest.mark.parametrize("degrees", [0, -17])
@pytest.mark.parametrize("zoom", [2.0, 0.5])
def test_a_known_pose_is_recovered_at_another_pixel_size(repository, images, zoom, degrees):
    """The query's pixels are `zoom` times as large as those searched."""
    place = Region((150, 170), 150, 130, degrees)
    query, _ = cut(images[1], place, pixel_step=zoom)
    result = run(search(repository, query, "A", pixel_size=MICROMETRES * zoom))
    best = result.hits[0]
    assert result.warnings == ()
    assert best.image == "texture-1"
    assert rotation_difference(best.rotation_degrees, degrees) < 0.2
    np.testing.assert_allclose(best.box, place.corners(), atol=0.75)
    lengths = np.linalg.norm(affine_matrix(result.region, best)[:2, :2], axis=0)
    np.testing.assert_allclose(lengths, zoom, rtol=1e-3)
    wrong = run(search(repository, query, "A", pixel_size=MICROMETRES)).hits[0]
    assert wrong.score < best.score / 2


def test_a_region_with_a_mask_is_where_it_was_drawn_in_a_finer_image(repository, images):
    fine, _ = cut(images[2], Region.whole(images[2].shape), pixel_step=0.5)
    region = Region((2 * 150.5, 2 * 170.5), 2 * 120, 2 * 100, 20)
    mask = np.zeros(fine.shape[:2], bool)
    mask[:, : int(region.centre[1]) + 30] = True
    result = run(search(repository, fine, "A", region=region, mask=mask, pixel_size=MICROMETRES / 2))
    best = result.hits[0]
    assert best.image == "texture-2"
    np.testing.assert_allclose(best.box, (region.corners() + 0.5) / 2 - 0.5, atol=0.75)
    assert 0.5 < result.mask.mean() < 0.95
    shown = explain(repository, result, best)
    assert np.median(shown.agreement[shown.mask]) > 0.9


def test_boxes_are_in_the_pixels_of_an_image_that_was_resampled_when_indexed(
    tmp_path, images, identity_model
):
    finer = [cut(image, Region.whole(image.shape), pixel_step=0.5)[0] for image in images]
    searched = build(tmp_path, finer, identity_model(MICROMETRES), MICROMETRES / 2)
    place = Region((150, 170), 120, 130, 10)
    query, _ = cut(images[0], place)
    result = run(search(searched, query, "A", pixel_size=MICROMETRES))
    best = result.hits[0]
    assert best.image == "texture-0"
    np.testing.assert_allclose(best.box, (place.corners() + 0.5) * 2 - 0.5, atol=1.5)
    shown = explain(searched, result, best)
    assert np.median(shown.agreement[shown.mask]) > 0.9


def test_where_the_model_knows_no_pixel_size_that_of_the_images_counts(tmp_path, images, identity_model):
    searched = build(tmp_path, images[:2], identity_model(None), MICROMETRES)
    assert searched_pixel_size(searched) == MICROMETRES
    assert pixel_step(searched, 2 * MICROMETRES) == (0.5, [])


def test_an_unknown_pixel_size_is_told(repository, tmp_path, images, identity_model):
    query = images[0][50:200, 60:200]
    (sentence,) = run(search(repository, query, "A")).warnings
    assert sentence.startswith("The pixel size of the region's image is unknown")
    assert "0.5 µm" in sentence
    unknown = build(tmp_path, images[:2], identity_model(None), None)
    assert run(search(unknown, query, "A")).warnings == ()
    (sentence,) = run(search(unknown, query, "A", pixel_size=1.0)).warnings
    assert sentence.startswith("The pixel size of the searched images is unknown")


def test_sizes_are_judged_as_they_are_searched(repository, images):
    with pytest.raises(InputError, match="62 x 62 pixels, too small to be found; draw one of at least 64"):
        run(search(repository, images[0][:62, :62], "A", pixel_size=MICROMETRES / 2))
    assert run(search(repository, images[0][:20, :20], "A", pixel_size=MICROMETRES * 2)).hits
    with pytest.raises(InputError, match="larger than all searched fields"):
        run(search(repository, images[0], "A", pixel_size=MICROMETRES * 3))
    with pytest.raises(InputError, match="A pixel size of -1 µm is not possible"):
        run(search(repository, images[0], "A", pixel_size=-1))
