"""What cannot be found, or hardly, is told in words."""

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import run
from napari_cmrir.search.query import search


def ask(repository, pixels, modality="SHG", **asked):
    return run(search(repository, pixels, modality, **asked))


def test_a_good_query_has_no_warning(repository, partners, searched):
    assert ask(repository, partners["tissue-21"], "SHG").warnings == ()
    assert ask(repository, searched["tissue-21"], "BF").warnings == ()


def test_glass_is_told_and_never_reliable(repository):
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal(235, 3, (160, 160, 3)), 0, 255).astype(np.uint8)
    result = ask(repository, glass, "BF")
    assert not result.reliable
    assert "hardly any contrast for BF, such as glass" in result.warnings[0]


def test_a_region_of_32_px_is_searched_with_a_warning_and_one_of_31_refused(repository, searched):
    pixels = searched["tissue-20"]
    result = ask(repository, pixels, "BF", region=Region.from_rectangle(100, 90, 32, 32))
    assert len(result.hits) == 6
    assert result.warnings[0].startswith("The region is small (32 x 32 pixels")
    with pytest.raises(InputError, match="31 x 32 pixels, too small"):
        ask(repository, pixels, "BF", region=Region.from_rectangle(100, 90, 31, 32))


def test_an_outline_of_few_pixels_is_refused(repository, searched):
    mask = np.zeros((256, 256), bool)
    mask[100:115, 100:115] = True
    with pytest.raises(InputError, match="Only 225 pixels of the region count"):
        ask(repository, searched["tissue-20"], "BF", mask=mask)
    with pytest.raises(InputError, match="No pixel of the region lies in both the outline"):
        ask(repository, searched["tissue-20"], "BF", mask=mask, region=Region.from_rectangle(0, 0, 64, 64))


def test_bigger_than_any_image_is_told(repository, partners):
    tiled = np.tile(partners["tissue-21"], (2, 2, 1))
    result = ask(repository, tiled[:300, :300])
    assert "larger than all searched fields (up to 256 x 256)" in result.warnings[0]
    with pytest.raises(InputError, match="larger than all searched fields"):
        ask(repository, tiled)


def test_a_grey_image_as_a_coloured_modality_is_told(repository, partners):
    (sentence,) = ask(repository, partners["tissue-21"], "BF").warnings
    assert sentence == (
        "The image has 1 channel, but BF images have 3 and SHG images 1; check that it is BF and not SHG."
    )


def test_a_coloured_image_as_a_grey_modality_is_refused(repository, searched):
    with pytest.raises(InputError, match="3 channels but the modality has 1; check that the image is of"):
        ask(repository, searched["tissue-21"], "SHG")


def test_a_grey_copy_of_the_other_modality_is_told(repository, searched):
    grey = searched["tissue-21"].mean(-1).astype(np.uint8)
    for swapped in (grey, grey.astype(np.uint16) * 16):
        (sentence,) = ask(repository, swapped, "SHG").warnings
        assert "check that the image is SHG" in sentence


def test_an_image_with_too_many_axes_is_refused(repository):
    with pytest.raises(InputError, match="4 dimensions; give one plane"):
        ask(repository, np.zeros((2, 64, 64, 1), np.uint8))


def test_a_tissue_that_is_not_there_is_no_reliable_match(repository):
    from napari_cmrir.images.synthetic.sample_pairs import sample_pair

    absent = [ask(repository, sample_pair(seed, 256).shg[60:190, 60:190]) for seed in range(60, 66)]
    assert sum(not result.reliable for result in absent) >= 5
