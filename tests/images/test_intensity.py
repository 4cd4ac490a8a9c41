from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity, choose_intensity, stain_white, to_grey
from napari_cmrir.images.synthetic.sample_pairs import sample_pair


def test_linear_scaling_by_hand():
    intensity = Intensity(low=(10, 0), high=(20, 100))
    pixels = np.array([[[10, 50], [20, 100]], [[15, 0], [0, 250]]], np.uint8)
    scaled = intensity.apply(pixels)
    assert (scaled.dtype, scaled.shape, intensity.channels) == (np.float32, (2, 2, 2), 2)
    np.testing.assert_allclose(scaled, [[[0, 1], [0.5, -0.5]], [[0.5, 1], [0, 2]]])


def test_log_is_the_papers_on_the_unit_interval_up_to_its_range():
    x = np.linspace(0, 1, 11)
    scaled = Intensity(transform="log", low=(0,), high=(1,)).apply(x.reshape(1, -1))
    np.testing.assert_allclose(scaled[0, 0], np.log(1 + x) / np.log(2), atol=1e-6)


@pytest.mark.parametrize("transform", ["linear", "log"])
@given(pixels=arrays(np.float32, (3, 4, 1), elements=st.floats(width=32)))
def test_any_float_gives_finite_values_in_range(transform, pixels):
    scaled = Intensity(transform=transform, low=(-3,), high=(5,)).apply(pixels)
    assert np.isfinite(scaled).all()
    assert scaled.min() >= -1
    assert scaled.max() <= 2
    assert (scaled[0][np.isnan(pixels[..., 0])] == 0).all()
    order = np.argsort(pixels[..., 0][~np.isnan(pixels[..., 0])])
    assert (np.diff(scaled[0][~np.isnan(pixels[..., 0])][order]) >= 0).all()


def test_scaling_does_not_write_into_the_image():
    pixels = np.full((4, 4, 1), 7.0, np.float32)
    Intensity(transform="log", low=(0,), high=(1,)).apply(pixels)
    assert (pixels == 7).all()


def test_percentiles_are_pooled_over_images():
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0, 50, (100, 100, 1)), rng.uniform(50, 100, (100, 100, 1))
    chosen = choose_intensity(iter([first, second]))
    pooled = np.concatenate([first.ravel(), second.ravel()])
    np.testing.assert_allclose((*chosen.low, *chosen.high), np.percentile(pooled, (0.1, 99.9)))
    assert chosen.transform == "linear"


def test_large_images_are_thinned_evenly():
    pixels = np.random.default_rng(0).normal(1000, 100, (900, 1700)).astype(np.uint16)
    chosen = choose_intensity([pixels])
    np.testing.assert_allclose((*chosen.low, *chosen.high), np.percentile(pixels, (0.1, 99.9)), rtol=0.08)


def test_channels_are_scaled_apart():
    pixels = np.random.default_rng(0).uniform(0, 1, (50, 50, 3)) * [10, 100, 1000]
    chosen = choose_intensity([pixels])
    np.testing.assert_allclose(chosen.high, [10, 100, 1000], rtol=0.02)


def test_dark_images_with_few_bright_structures_get_the_logarithm():
    rng = np.random.default_rng(0)
    shg = rng.poisson(20, (200, 200, 1)).astype(np.uint16)
    shg[50:60] += 3000
    assert choose_intensity([shg]).transform == "log"
    assert choose_intensity([np.dstack([shg] * 3)]).transform == "log"  # grey, stored as RGB
    assert choose_intensity([3100 - shg]).transform == "linear"
    rgb = shg * np.array([1, 2, 3], np.uint16)
    assert choose_intensity([rgb]).transform == "linear"


def test_grey_and_colour_may_mix():
    grey = np.random.default_rng(0).integers(0, 255, (20, 20, 1)).astype(np.uint8)
    colour = grey // np.array([1, 2, 3], np.uint8)
    assert choose_intensity([grey, grey.repeat(3, axis=2)]).channels == 1
    assert choose_intensity([grey, colour]).channels == 3


@pytest.mark.parametrize("value", [0, 7, np.nan, np.inf])
def test_constant_and_unreal_images_have_a_range(value):
    pixels = np.full((6, 6, 1), value, np.float32)
    chosen = choose_intensity([pixels])
    assert chosen.high[0] - chosen.low[0] == 1
    assert np.isfinite(chosen.apply(pixels)).all()


def test_a_single_bright_pixel_still_makes_a_range():
    pixels = np.zeros((100, 100, 1), np.uint8)
    pixels[3, 3] = 200
    chosen = choose_intensity([pixels])
    assert chosen.high[0] > chosen.low[0]


def test_unreal_pixels_do_not_count():
    pixels = np.random.default_rng(0).uniform(0, 1, (60, 60, 1))
    spoilt = pixels.copy()
    spoilt[0, :3, 0] = np.nan, np.inf, -np.inf
    kept = np.sort(pixels.ravel())[[3, -4]]
    assert choose_intensity([spoilt]).low[0] == pytest.approx(kept[0], abs=0.01)
    assert choose_intensity([spoilt]).high[0] == pytest.approx(kept[1], abs=0.01)


def test_channel_rules():
    one, three = Intensity(low=(0,), high=(10,)), Intensity(low=(0,) * 3, high=(10, 5, 2))
    grey = np.array([[1, 2], [3, 4]], np.uint8)
    np.testing.assert_allclose(three.apply(grey)[:, 1, 1], [0.4, 0.8, 2.0])
    np.testing.assert_array_equal(one.apply(grey[..., np.newaxis].repeat(3, axis=2)), one.apply(grey))
    coloured = grey[..., np.newaxis] * np.array([1, 1, 2], np.uint8)
    for intensity, pixels, counts in [
        (one, coloured, "3 channels .* has 1"),
        (three, coloured[..., :2], "2 channels .* has 3"),
        (one, np.zeros((2, 2, 2, 2)), "4 dimensions"),
    ]:
        with pytest.raises(InputError, match=counts):
            intensity.apply(pixels)


def test_images_of_different_kinds_and_none():
    with pytest.raises(InputError, match="2 and 3 channels"):
        choose_intensity([np.random.default_rng(0).uniform(size=(5, 5, c)) for c in (2, 3)])
    with pytest.raises(InputError, match="at least one"):
        choose_intensity([])


def test_settings_round_trip_and_are_checked():
    intensity = Intensity(transform="log", low=(1.5,), high=(9.0,))
    assert Intensity.model_validate_json(intensity.model_dump_json()) == intensity
    for low, high in [((0, 0), (1,)), ((1,), (1,)), ((), ()), ((0,), (float("inf"),))]:
        with pytest.raises(ValidationError):
            Intensity(low=low, high=high)


@pytest.mark.parametrize("cast", [(1.0, 1.0, 1.0), (0.6, 0.7, 1.0), (200.0, 180.0, 150.0)])
def test_a_stained_section_is_told_under_any_light_and_in_any_unit(cast):
    section = sample_pair(2, 192).bf.astype(np.float32) * cast
    white = stain_white(section)
    assert white == pytest.approx(np.percentile(section, 99, axis=(0, 1)), rel=0.02)
    upright = to_grey(sample_pair(2, 192).bf, stain_white(sample_pair(2, 192).bf))
    assert np.allclose(to_grey(section, white), upright, atol=1e-5)


def test_eosin_is_bright_and_haematoxylin_and_glass_are_dark():
    eosin, haematoxylin, glass = [220, 130, 180], [90, 70, 140], [240, 240, 240]
    grey = to_grey(np.array([[eosin, haematoxylin, glass]]), (240.0, 240.0, 240.0))[0, :, 0]
    assert grey.tolist() == pytest.approx([65 / 240, -15 / 240, 0], abs=1e-6)


def test_other_images_are_not_taken_for_a_stained_section():
    section = sample_pair(2, 192).bf
    assert stain_white(section[..., [1, 0, 2]]) == ()  # green tissue
    assert (
        stain_white(section[..., 0]) == stain_white(section[..., :1]) == stain_white(section[..., :2]) == ()
    )
    assert stain_white(np.repeat(section[..., :1], 3, 2)) == ()
    assert stain_white(np.zeros((8, 8, 3), np.uint8)) == stain_white(np.full((8, 8, 3), np.nan)) == ()
    street = np.random.default_rng(0).integers(40, 200, (64, 64, 1)).repeat(3, 2).astype(np.uint8)
    street[:2, :2] = [150, 40, 60]  # a tail light
    assert stain_white(street) == ()
    noise = np.random.default_rng(0).integers(238, 243, (512, 512, 3)).astype(np.uint8)
    assert stain_white(noise) == ()


def test_a_little_tissue_on_much_glass_is_told():
    slide = np.random.default_rng(0).integers(238, 243, (960, 960, 3)).astype(np.uint8)
    slide[:96, :96] = sample_pair(2, 192).bf[:96, :96]
    assert stain_white(slide)
