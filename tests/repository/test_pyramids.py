import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from napari_cmrir.errors import InputError
from napari_cmrir.repository.pyramids import open_level, write_pyramid


@pytest.fixture(scope="module")
def comir():
    return np.random.default_rng(0).integers(0, 256, (2, 300, 515), dtype=np.uint8)


@pytest.fixture(scope="module")
def pyramid(comir, tmp_path_factory):
    path = tmp_path_factory.mktemp("pyramids") / "core.ome.zarr"
    write_pyramid(path, comir, "core")
    return path


def test_full_resolution_is_kept_exactly(pyramid, comir):
    np.testing.assert_array_equal(open_level(pyramid)[:], comir)


def test_each_level_averages_four_pixels_of_the_previous_one(pyramid):
    finer, coarser = open_level(pyramid, 0)[:].astype(float), open_level(pyramid, 1)[:].astype(float)
    expected = np.mean([finer[:, i:300:2, j:514:2] for i in (0, 1) for j in (0, 1)], axis=0)
    assert coarser.shape == (2, 150, 257)
    assert np.abs(coarser - expected).max() <= 0.5


def test_levels_end_before_the_smaller_side_falls_below_64(pyramid):
    assert min(open_level(pyramid, 2).shape[1:]) == 75
    with pytest.raises(InputError, match="no level 3"):
        open_level(pyramid, 3)


@pytest.mark.parametrize("shape", [(2, 300, 515), (1, 1024, 1024), (1, 1025, 70)])
def test_a_level_is_one_file_of_pixels(tmp_path, shape):
    write_pyramid(tmp_path / "a.ome.zarr", np.ones(shape, np.uint8), "a")
    files = [path for path in (tmp_path / "a.ome.zarr" / "0").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["0", "zarr.json"]


def test_ome_zarrs_own_reader_opens_it_with_levels_that_lie_on_each_other(pyramid, comir):
    (node,) = Reader(parse_url(pyramid))()
    assert [axis["name"] for axis in node.metadata["axes"]] == ["c", "y", "x"]
    np.testing.assert_array_equal(node.data[0].compute(), comir)
    scale, translation = node.metadata["coordinateTransformations"][2]
    # The first pixel of level 2 covers pixels 0 to 3, whose centre is 1.5.
    assert scale["scale"] == [1, 4, 4]
    assert translation["translation"] == [0, 1.5, 1.5]


def test_napari_opens_it_as_an_image_of_all_levels(pyramid, comir):
    npe2 = pytest.importorskip("npe2")
    npe2.PluginManager.instance().discover()
    ((levels, *_),) = npe2.read([str(pyramid)], stack=False, plugin_name="napari")
    assert [level.shape for level in levels] == [(2, 300, 515), (2, 150, 257), (2, 75, 128)]
    np.testing.assert_array_equal(levels[0], comir)


def test_its_metadata_are_valid_ome_zarr(pyramid):
    models = pytest.importorskip("ome_zarr_models")
    image = models.open_ome_zarr(zarr.open_group(pyramid, mode="r"))
    assert type(image) is models.v05.Image


def test_one_pixel_is_a_pyramid_too(tmp_path):
    write_pyramid(tmp_path / "a.ome.zarr", np.full((1, 1, 1), 7, np.uint8), "a")
    assert open_level(tmp_path / "a.ome.zarr")[:].item() == 7


def test_a_comir_wider_than_a_shard_is_read_back(tmp_path):
    wide = np.arange(9000, dtype=np.int64).astype(np.uint8).reshape(1, 1, 9000)
    write_pyramid(tmp_path / "a.ome.zarr", wide, "a")
    np.testing.assert_array_equal(open_level(tmp_path / "a.ome.zarr")[:, :, 8000:], wide[:, :, 8000:])
