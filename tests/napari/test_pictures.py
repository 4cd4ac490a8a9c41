"""Pictures of hits: thumbnails are upright, and of what is large only what is looked at is read."""

import numpy as np
import pytest
import tifffile

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.napari.hit_files import cut_from_file, cut_upright
from napari_cmrir.napari.pictures import LazyLevel, read_picture, thumbnail

MIRRORED = [1, 0, 3, 2]


@pytest.fixture
def slide(tmp_path):
    """A brightfield image of two levels, 4200 px wide."""
    tissue = sample_pair(3, 256).bf
    pixels = np.tile(tissue, (1, 17, 1))[:, :4200]
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path) as file:
        tiled = {"photometric": "rgb", "tile": (128, 128)}
        file.write(pixels, subifds=1, metadata={"axes": "YXS"}, **tiled)
        file.write(pixels[::2, ::2], subfiletype=1, **tiled)
    return path


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_thumbnail_shows_the_match_as_the_query_lies(slide, mirrored):
    region = Region((128, 900), 112, 168, 25)
    upright, _ = cut(read_image(slide), region, pixel_step=3)
    box = region.corners()[MIRRORED] if mirrored else region.corners()
    shown = thumbnail(str(slide), box)
    expected = upright[:, ::-1] if mirrored else upright
    assert shown.shape == expected.shape == (37, 56, 3)
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.99
    assert np.corrcoef(shown.ravel(), expected[:, ::-1].ravel())[0, 1] < 0.9


@pytest.mark.parametrize(
    "region",
    [
        Region((128, 2000), 100, 90, 33),
        Region((10, 20), 100, 160, -40),
        Region((230, 4180), 80, 100, 0),
    ],
)
def test_cutting_from_a_file_gives_what_cutting_from_the_whole_image_gives(slide, region):
    whole = cut_upright(read_image(slide), region.corners(), 1.5)
    np.testing.assert_array_equal(cut_from_file(str(slide), region.corners(), 1.5), whole)


def test_the_levels_that_a_large_image_holds_are_read_where_they_are_looked_at(viewer, slide):
    picture = read_picture(str(slide))
    assert [type(level) for level in picture.levels] == [LazyLevel, LazyLevel]
    assert [level.shape for level in picture.levels] == [(256, 4200, 3), (128, 2100, 3)]
    pixels = read_image(slide)
    finest = picture.levels[0]
    np.testing.assert_array_equal(finest[100:200, 3000:3100], pixels[100:200, 3000:3100])
    np.testing.assert_array_equal(finest[::16, ::16], pixels[::16, ::16])
    np.testing.assert_array_equal(np.asarray(picture.levels[1]), pixels[::2, ::2])
    assert picture.rgb
    layer = viewer.add_image(picture.levels, multiscale=True, rgb=True)
    assert layer.get_value((50, 3000), world=False)[1].tolist() == pixels[50, 3000].tolist()
