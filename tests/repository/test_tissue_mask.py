import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_cmrir.repository.comirs import find_tissue


def _slide(glass, dark, bright, noise=0.5, channels=3):
    """A slide of 80 x 100 cells with a patch of textured tissue; the patch."""
    rng = np.random.default_rng(0)
    patch = np.zeros((80, 100), bool)
    patch[20:55, 30:80] = True
    texture = gaussian_filter(rng.random((80, 100, channels)), (1.5, 1.5, 0))
    texture = (texture - texture.min()) / np.ptp(texture)
    slide = np.where(patch[..., None], dark + (bright - dark) * texture, glass)
    return slide + rng.normal(0, noise, slide.shape), patch


@pytest.mark.parametrize(("glass", "dark", "bright"), [(240, 80, 220), (3, 20, 200), (60000, 20000, 50000)])
def test_glass_is_found_in_bright_and_dark_field(glass, dark, bright):
    slide, patch = _slide(glass, dark, bright, noise=glass / 1000)
    tissue = find_tissue(slide)
    assert tissue[patch].all()
    assert tissue[~patch].mean() < 0.1


def test_uneven_light_hides_no_tissue():
    slide, patch = _slide(240, 80, 220)
    slide *= 1 - 0.05 * (np.mgrid[:80, :100][1] / 100)[..., None]
    assert find_tissue(slide)[patch].all()


def test_without_glass_all_is_tissue():
    rng = np.random.default_rng(1)
    assert find_tissue(rng.random((50, 60, 1))).all()
    halves = np.full((50, 60, 1), 100.0)  # a value in the middle of all others is no glass
    halves[:, :20], halves[:, 40:] = rng.uniform(0, 80, (50, 20, 1)), rng.uniform(120, 200, (50, 20, 1))
    assert find_tissue(halves).all()


def test_constant_images_and_nan_are_no_tissue():
    assert not find_tissue(np.full((9, 9, 3), 7)).any()
    assert not find_tissue(np.full((9, 9, 1), np.nan)).any()
