"""The image of a hit is opened with the reading settings of the index."""

from contextlib import closing

import numpy as np
import pytest
import tifffile

from napari_cmrir.bag_of_words.settings import VocabularySettings
from napari_cmrir.errors import InputError
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.settings import ReadingSettings

SMALL = RepositorySettings(vocabulary=VocabularySettings(size=30, samples=2000, iterations=4))
TISSUE = sample_pair(31, 200)


@pytest.fixture
def slide(tmp_path):
    """A file whose largest series is a macro image, and whose second holds the tissue in its last channel."""
    path = tmp_path / "slide.ome.tif"
    grey = TISSUE.shg[..., 0]
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(np.full((700, 600), 40, np.uint8), metadata={"axes": "YX"}, photometric="minisblack")
        file.write(
            np.stack([grey * 0, grey]),
            metadata={"axes": "CYX", "Channel": {"Name": ["empty", "SHG"]}},
            photometric="minisblack",
        )
    return path


@pytest.fixture
def indexed(slide, model, tmp_path):
    settings = SMALL.model_copy(update={"reading": ReadingSettings(series=1, channels=("SHG",))})
    build = build_repository([slide], model, "SHG", tmp_path / "slides.cmrir", settings)
    with run(build) as repository:
        yield repository


def test_the_series_and_channel_that_were_indexed_are_opened(indexed):
    with closing(indexed.open_image(0)) as image:
        assert image.shape == (200, 200, 1)
        np.testing.assert_array_equal(image[:, :], TISSUE.shg)


def test_a_hit_carries_its_reading_settings(indexed):
    found = run(search(indexed, TISSUE.shg, "SHG", settings=SearchSettings(hits=1)))
    (hit,) = found.hits
    np.testing.assert_array_equal(read_image(hit.image, hit.reading), TISSUE.shg)
    assert hit.as_dict()["reading"] == {"series": 1, "channels": ["SHG"]}


def test_boxes_lie_in_the_finest_level_whichever_level_was_indexed(model, tmp_path):
    path = tmp_path / "pyramid.ome.tif"
    fine = TISSUE.shg[..., 0].repeat(2, 0).repeat(2, 1)
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(fine, subifds=1, metadata={"axes": "YX"}, photometric="minisblack")
        file.write(TISSUE.shg[..., 0], subfiletype=1, photometric="minisblack")
    settings = SMALL.model_copy(update={"reading": ReadingSettings(level=1)})
    with run(build_repository([path], model, "SHG", tmp_path / "level.cmrir", settings)) as repository:
        assert repository.fields[0]["height"] == 200
        found = run(search(repository, TISSUE.shg, "SHG", settings=SearchSettings(hits=1)))
        with closing(repository.open_image(0)) as image:
            assert image.shape == (400, 400, 1)
    np.testing.assert_allclose(found.hits[0].box[[0, 2]], [[-0.5, -0.5], [399.5, 399.5]], atol=3)


def test_an_array_cannot_be_opened(model, tmp_path):
    source = Source("tissue", TISSUE.shg)
    repository = run(build_repository([source], model, "SHG", tmp_path / "array.cmrir", SMALL))
    with repository, pytest.raises(InputError, match="no file to open"):
        repository.open_image(0)
