from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.images.readers import read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder
from napari_cmrir.images.synthetic.sections import lay_fibres, noise


@pytest.fixture(scope="module")
def samples():
    return [sample_pair(seed, 256) for seed in range(6)]


def test_shapes_and_types(samples):
    for sample in samples:
        assert (sample.bf.shape, sample.bf.dtype) == ((256, 256, 3), np.uint8)
        assert (sample.shg.shape, sample.shg.dtype) == ((256, 256, 1), np.uint16)


@given(st.integers(0, 2**40), st.integers(64, 130), st.integers(64, 130))
@settings(max_examples=15, deadline=None)
def test_any_seed_and_size(seed, height, width):
    sample = sample_pair(seed, (height, width))
    assert sample.bf.shape == (height, width, 3)
    assert sample.shg.shape == (height, width, 1)
    assert sample.bf.std() > 5
    assert sample.shg.std() > 5


def test_a_seed_always_gives_the_same_pixels(samples):
    again = sample_pair(2, 256)
    np.testing.assert_array_equal(again.bf, samples[2].bf)
    np.testing.assert_array_equal(again.shg, samples[2].shg)


def _correlation(a, b):
    return np.corrcoef(
        gaussian_filter(a.astype(float), 2).ravel(), gaussian_filter(b.astype(float), 2).ravel()
    )[0, 1]


def test_seeds_give_different_tissues(samples):
    shgs = [sample.shg[..., 0] for sample in samples]
    alike = [_correlation(a, b) for i, a in enumerate(shgs) for b in shgs[:i]]
    assert np.abs(alike).max() < 0.3


def _pinkness(bf):
    """High in eosin: red against green, and not in the blue of nuclei nor in white gaps."""
    red, green, blue = np.moveaxis(bf.astype(float), -1, 0)
    return (red - green) - np.abs(blue - red)


def test_both_modalities_show_the_same_collagen(samples):
    for i, sample in enumerate(samples):
        pink = gaussian_filter(_pinkness(sample.bf), 1.5)
        shg = sample.shg[..., 0].astype(float)
        inside = pink > np.percentile(pink, 80)
        assert shg[inside].mean() > 1.5 * shg[~inside].mean()
        others = [_correlation(pink, other.shg[..., 0]) for j, other in enumerate(samples) if j != i]
        assert _correlation(pink, shg) > max(others) + 0.1


def test_fat_glands_and_nuclei_give_no_second_harmonic(samples):
    for sample in samples:
        light, red, shg = sample.bf.min(axis=2), sample.bf[..., 0], sample.shg[..., 0]
        white = light > np.percentile(light, 97)  # no stain
        blue = red < np.percentile(red, 3)  # haematoxylin, as eosin lets red through
        for elsewhere in (white, blue):
            assert shg[elsewhere].mean() < 0.7 * shg.mean()


def test_the_modalities_look_different(samples):
    """Neither the picture nor its negative would do to find the partner pixel by pixel."""
    for sample in samples:
        assert abs(_correlation(sample.bf.mean(axis=2), sample.shg[..., 0])) < 0.6
    assert choose_intensity([sample.shg for sample in samples]).transform == "log"
    assert choose_intensity([sample.bf for sample in samples]).transform == "linear"


def test_fibres_run_along_the_border_of_obstacles():
    y, x = np.mgrid[:200, :200] - 100.0
    disc = (np.hypot(y, x) < 40).astype(np.float32)
    direction = lay_fibres(np.random.default_rng(0), disc).direction
    ring = np.abs(np.hypot(y, x) - 40) < 3
    radial = np.arctan2(-y, x)  # counter-clockwise on the screen
    alignment = np.abs(np.sin(direction - radial))[ring]  # 1: along the border
    assert alignment.mean() > 0.9


@pytest.mark.parametrize("grain", [0.6, 1.0, 3.0, 20.0])
def test_noise_is_normal_and_as_coarse_as_asked(grain):
    field = np.concatenate([noise(np.random.default_rng(i), (300, 200), grain) for i in range(8)])
    assert field.shape == (2400, 200)
    assert field.std() == pytest.approx(1, abs=0.15)
    lag = max(1, round(grain))  # the autocorrelation of such noise is exp(-(lag / 2 grain)^2)
    measured = np.mean(field[:, lag:] * field[:, :-lag]) / field.var()
    assert measured == pytest.approx(np.exp(-((lag / (2 * grain)) ** 2)), abs=0.12)


def test_a_sample_folder_holds_what_find_pairs_expects(tmp_path):
    written = write_sample_folder(tmp_path / "new" / "samples", [3, 12], 64, ("BF", "SHG"))
    names = sorted(path.name for path in (tmp_path / "new" / "samples").iterdir())
    assert names == ["sample-003_BF.tif", "sample-003_SHG.tif", "sample-012_BF.tif", "sample-012_SHG.tif"]
    assert find_pairs([tmp_path], ("BF", "SHG")) == written
    bf, shg = read_pair(written[1])
    np.testing.assert_array_equal(bf, sample_pair(12, 64).bf)
    np.testing.assert_array_equal(shg, sample_pair(12, 64).shg)


def test_files_are_the_same_bytes_on_each_run(tmp_path):
    first, second = (write_sample_folder(tmp_path / name, [5], 64)[0] for name in ("one", "two"))
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(first.paths, second.paths, strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: sample_pair(0, 63), "at least 64 x 64 px, not 63 x 63"),
        (lambda folder: sample_pair(0, (64, 10)), "64 x 10"),
        (lambda folder: sample_pair(-1), "-1"),
        (lambda folder: write_sample_folder(folder, [0], 64, ("IR", "VIS")), "IR and VIS"),
    ],
)
def test_unusable_sizes_seeds_and_modalities_are_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path)
