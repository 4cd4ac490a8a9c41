import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_cmrir.bag_of_words.descriptors.features import describe
from napari_cmrir.bag_of_words.descriptors.surf import surf, turn_descriptors
from napari_cmrir.bag_of_words.settings import DescriptorSettings
from napari_cmrir.errors import InputError

PAPER = DescriptorSettings.paper()


def paper(**changed):
    return PAPER.model_copy(update=changed)


def box_sum(image, top, bottom, left, right):
    """Sum of an image of square pixels over a box with any borders; outside, its edge goes on."""

    def cover(first, last):
        pixels = np.arange(int(np.floor(first + 0.5)), int(np.ceil(last + 0.5)) + 1)
        share = np.minimum(pixels + 0.5, last) - np.maximum(pixels - 0.5, first)
        return pixels[share > 0], share[share > 0]

    rows, in_rows = cover(top, bottom)
    columns, in_columns = cover(left, right)
    rows, columns = np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1)
    return in_rows @ image[np.ix_(rows, columns)] @ in_columns


def part_by_sign(slope):
    rising = np.clip(slope / 2e-4 + 0.5, 0, 1)
    return 1 - rising, rising


def literal_surf(image, y, x, width, extended=False):
    """One upright SURF descriptor, sample by sample as Bay et al. write it."""
    s = width / 20
    descriptor = []
    for region_y in range(4):
        for region_x in range(4):
            sums = np.zeros(8 if extended else 4)
            for i in range(5 * region_y, 5 * region_y + 5):
                for j in range(5 * region_x, 5 * region_x + 5):
                    v, u = (i - 9.5) * s, (j - 9.5) * s
                    cy, cx = y + v, x + u
                    dx = box_sum(image, cy - s, cy + s, cx, cx + s) - box_sum(
                        image, cy - s, cy + s, cx - s, cx
                    )
                    dy = box_sum(image, cy, cy + s, cx - s, cx + s) - box_sum(
                        image, cy - s, cy, cx - s, cx + s
                    )
                    dx, dy = dx / (2 * s * s) / np.ptp(image), dy / (2 * s * s) / np.ptp(image)
                    weight = np.exp(-(u**2 + v**2) / (2 * (3.3 * s) ** 2))
                    if extended:
                        falls, rises = part_by_sign(dy)
                        split_x = [dx * falls, dx * rises, abs(dx) * falls, abs(dx) * rises]
                        falls, rises = part_by_sign(dx)
                        split_y = [dy * falls, dy * rises, abs(dy) * falls, abs(dy) * rises]
                        sums += weight * np.array(split_x + split_y)
                    else:
                        sums += weight * np.array([dx, dy, abs(dx), abs(dy)])
            descriptor.extend(sums)
    descriptor = np.array(descriptor)
    return descriptor / np.linalg.norm(descriptor)


@pytest.fixture(scope="module")
def tissue():
    """Smooth noise of 90 x 75 px with some detail, 8 bit."""
    noise = torch.from_numpy(np.random.default_rng(3).random((1, 1, 98, 83)))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, stride=1)[0, 0].numpy()
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 235
    return (smooth + np.random.default_rng(4).random(smooth.shape) * 20).astype(np.uint8)


@pytest.mark.parametrize("extended", [False, True])
def test_agrees_with_the_literal_descriptor_inside_and_at_the_border(tissue, extended):
    features = surf(tissue, paper(extended=extended))
    for number in np.random.default_rng(0).choice(len(features), 24, replace=False):
        y, x, width = features.points[number].astype(float)
        expected = literal_surf(tissue.astype(float), y, x, width, extended)
        np.testing.assert_allclose(features.descriptors[number], expected, atol=1e-5)


def test_counts_of_the_paper():
    settings = DescriptorSettings.paper()
    assert len(surf(np.zeros((1, 834, 834), np.uint8), settings)) == 43_264
    assert len(surf(np.zeros((1, 256, 256), np.uint8), settings)) == 4_096


def test_strength_is_the_variance_of_the_unit_vector(tissue):
    features = surf(tissue, PAPER)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(features.strengths, features.descriptors.var(axis=1, ddof=1), rtol=1e-4)


def test_descriptors_of_channels_are_concatenated_and_normalised_together(tissue):
    other = np.flip(tissue, 0)
    settings = paper(block_widths=(32,))
    both = surf(np.stack([tissue, other]), settings).descriptors
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, atol=1e-5)
    for channel, image in enumerate((tissue, other)):
        part = both[:, 64 * channel : 64 * channel + 64]
        on_one_thread = surf(image, settings).descriptors
        np.testing.assert_allclose(
            part / np.linalg.norm(part, axis=1, keepdims=True), on_one_thread, atol=1e-4
        )


@given(
    arrays(np.uint8, (65, 65), elements=st.integers(0, 255)),
    st.integers(-5, 5),
    st.booleans(),
    st.sampled_from(["l2", "root"]),
)
@examples(max_examples=15, deadline=None)
def test_quarter_turns_permute(image, turns, extended, normalisation):
    settings = paper(block_widths=(32, 64), extended=extended, normalisation=normalisation)
    turned = surf(np.rot90(image, turns), settings).descriptors
    ours = turn_descriptors(surf(image, settings).descriptors, turns, extended)
    ours = np.rot90(ours.reshape(2, 8, 8, -1), turns, axes=(1, 2)).reshape(turned.shape)
    np.testing.assert_allclose(ours, turned, atol=2e-3 if normalisation == "root" else 1e-4)


def test_four_quarter_turns_change_nothing():
    descriptors = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    once = turn_descriptors(descriptors, 1)
    assert not np.array_equal(once, descriptors)
    np.testing.assert_array_equal(turn_descriptors(once, 3), descriptors)
    np.testing.assert_array_equal(turn_descriptors(descriptors, 4), descriptors)


def test_dominant_orientation_keeps_the_descriptor_of_a_turned_image(tissue):
    settings = paper(block_widths=(32,), orientation="dominant")
    square = tissue[:73, :73]
    here = surf(square, settings).descriptors.reshape(9, 9, 64)
    turned = np.rot90(surf(np.rot90(square), settings).descriptors.reshape(9, 9, 64), -1)
    agreement = (here * turned).sum(axis=2)
    assert np.median(agreement) > 0.999
    upright = settings.model_copy(update={"orientation": "upright"})
    moved = np.rot90(surf(np.rot90(square), upright).descriptors.reshape(9, 9, 64), -1)
    assert np.median((surf(square, upright).descriptors.reshape(9, 9, 64) * moved).sum(axis=2)) < 0.9


def test_dominant_orientation_of_a_ramp_is_the_upright_descriptor_of_the_ramp_along_x():
    y, x = np.mgrid[:129, :129].astype(float)
    middle = 8 * 16 + 8
    settings = paper(block_widths=(64,))
    along_x = surf(x, settings).descriptors[middle]
    dominant = settings.model_copy(update={"orientation": "dominant"})
    for degrees in (0, 37, 90, 200):
        angle = np.radians(degrees)
        ramp = np.cos(angle) * x + np.sin(angle) * y
        np.testing.assert_allclose(surf(ramp, dominant).descriptors[middle], along_x, atol=1e-3)


@pytest.mark.parametrize("name", ["surf", "sift"])
@pytest.mark.parametrize("orientation", ["upright", "dominant"])
@pytest.mark.parametrize("normalisation", ["l2", "root"])
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 64, 64), np.uint8),
        np.full((2, 64, 64), 0.1, np.float32),
        np.full((1, 64, 64), 1e30),
        np.full((1, 64, 64), np.nan),
        np.full((1, 5, 300), 7, np.uint8),
        np.full((1, 7, 7), np.inf, np.float32),
        np.zeros((1, 3, 3), np.uint8),
        np.zeros((1, 0, 0), np.uint8),
    ],
    ids=["zero", "constant", "huge", "nan", "thin", "small-inf", "no-point", "empty"],
)
def test_constant_images_give_features_of_zero_weight_without_warning(
    image, name, orientation, normalisation
):
    settings = paper(name=name, orientation=orientation, normalisation=normalisation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = describe(image, settings)
    height, width = image.shape[1:]
    assert len(features) == 4 * len(range(4, height, 8)) * len(range(4, width, 8))
    assert features.descriptors.shape[1] == len(image) * (64 if name == "surf" else 128)
    assert not features.descriptors.any()
    assert not features.strengths.any()


def test_constant_part_of_an_image_is_empty_and_the_rest_is_not():
    image = np.full((256, 256), 200, np.uint8)
    image[:, 160:] = np.random.default_rng(0).integers(0, 256, (256, 96))
    features = surf(image, PAPER)
    reach = features.points[:, 1] + features.points[:, 2] / 2 * 1.05 + 0.5
    assert not features.descriptors[reach < 159].any()
    assert features.descriptors[reach > 162].any(axis=1).all()


def test_one_grey_level_counts():
    image = np.full((128, 128), 100, np.uint8)
    image[64, 64] = 101
    features = surf(image, PAPER)
    at_64 = (features.points[:, :2] == 60).all(axis=1)
    assert features.descriptors[at_64].any(axis=1).all()


def test_pixels_that_are_not_finite_silence_their_surroundings_only(tissue):
    image = tissue.astype(np.float32)
    image[:40] = np.nan
    features = surf(image, paper(block_widths=(32,)))
    whole = surf(tissue, paper(block_widths=(32,)))
    below = features.points[:, 0] > 40 + 17
    assert np.isfinite(features.descriptors).all()
    assert not features.descriptors[features.points[:, 0] < 40].any()
    np.testing.assert_allclose(features.descriptors[below], whole.descriptors[below], atol=1e-4)


def test_mask_drops_features_outside_and_changes_no_others(tissue):
    mask = np.zeros(tissue.shape, bool)
    mask[20:, 30:] = True
    settings = paper(block_widths=(32, 64))
    whole, part = surf(tissue, settings), surf(tissue, settings, mask)
    expected = []
    for y, x, width in whole.points.astype(int):
        rows = slice(max(y - width // 2, 0), y + width // 2)
        columns = slice(max(x - width // 2, 0), x + width // 2)
        expected.append(mask[y, x] and mask[rows, columns].mean() >= 0.75)
    assert 0 < len(part) < len(whole)
    np.testing.assert_array_equal(part.points, whole.points[expected])
    np.testing.assert_allclose(part.descriptors, whole.descriptors[expected], atol=1e-6)


def test_full_mask_keeps_the_border(tissue):
    whole = surf(tissue, PAPER)
    assert len(surf(tissue, PAPER, np.ones(tissue.shape, bool))) == len(whole)
    assert len(surf(tissue, PAPER, np.zeros(tissue.shape, bool))) == 0


def test_brightness_and_contrast_do_not_matter(tissue):
    settings = PAPER
    plain = surf(tissue, settings).descriptors
    np.testing.assert_allclose(surf(tissue * 1e-3 - 40, settings).descriptors, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (np.zeros((2, 2, 2, 2)), None),
        (np.zeros((0, 8, 8)), None),
        (np.zeros((8, 8), complex), None),
        (np.array([["a"]]), None),
        (np.zeros((8, 8)), np.ones((8, 9), bool)),
    ],
)
def test_unusable_input_is_refused_with_a_clear_error(image, mask):
    with pytest.raises(InputError, match="give"):
        surf(image, PAPER, mask)


def test_unknown_descriptor_is_refused_with_a_clear_error():
    with pytest.raises(InputError, match="surf, sift"):
        describe(np.zeros((8, 8)), DescriptorSettings(name="orb"))


def test_only_surf_descriptors_can_be_turned():
    with pytest.raises(InputError, match="upright SURF"):
        turn_descriptors(np.zeros((2, 100), np.float32), 1)
