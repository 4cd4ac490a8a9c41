"""Screening: as the plain sum over pixels says, and the answer of a clean query is never lost."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, rotate

from napari_cmrir.jobs import run
from napari_cmrir.registration.coarse_to_fine import rotations
from napari_cmrir.registration.correlation import RotatedTemplates, high_pass, own_pixels
from napari_cmrir.repository.build import Source, build_repository
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.search.shortlist import cut_template, screen_scores

BAND = 2.0


def textures(n, height=32, width=32, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(n, channels, height, width)), (0, 0, 0.7, 0.7))
    return torch.from_numpy(128 + 60 * smooth / smooth.std()).float()


def detail_of(image):
    return high_pass(image[None], torch.ones(image.shape[-2:]), BAND)[0]


def plain(query, field):
    """Best correlation of an upright query with a field's detail, pixel by pixel; a quarter may hang over."""
    query = (query - query.mean((-2, -1), keepdims=True)).astype(float)
    query /= np.sqrt((query**2).sum())
    _, height, width = query.shape
    frame = height + height // 8, width + width // 8
    down, across = round(height / 4), round(width / 4)
    padded = np.pad(field, ((0, 0), (down, down), (across, across)))
    floor = 0.1 * height * width * (field**2).sum(0).mean()
    best = -np.inf
    top, left = (frame[0] - height) // 2, (frame[1] - width) // 2
    for y in range(padded.shape[1] - frame[0] + 1):
        for x in range(padded.shape[2] - frame[1] + 1):
            part = padded[:, y + top : y + top + height, x + left : x + left + width]
            best = max(best, (part * query).sum() / np.sqrt(max((part**2).sum(), floor)))
    return best


@pytest.mark.parametrize(("height", "width", "channels"), [(12, 12, 1), (9, 14, 2), (17, 8, 1), (24, 31, 1)])
def test_scores_are_the_plain_correlation(height, width, channels):
    fields = textures(4, 30, 37, channels)
    query = detail_of(fields[2])[:, 3 : 3 + height, 5 : 5 + width]
    template = cut_template(query, torch.ones(height, width), [0.0], BAND)
    scores = screen_scores(template, fields, precision=torch.float32)
    expected = [plain(query.numpy(), detail_of(field).numpy()) for field in fields]
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert scores.argmax() == 2
    assert scores[2] > 0.98


@pytest.mark.parametrize("band", [BAND, 0.0])
@pytest.mark.parametrize(("height", "width", "channels"), [(30, 30, 1), (12, 31, 2), (9, 9, 1)])
def test_padded_fields_are_screened_as_without_padding(height, width, channels, band):
    sizes = [(50, 60), (18, 40), (60, 22), (8, 8), (25, 31), (63, 64)]
    fields = textures(len(sizes), 63, 64, channels)
    fields = fields * own_pixels(sizes, fields)
    query = textures(1, height, width, channels, seed=7)[0]
    template = cut_template(query, torch.ones(height, width), [-10.0, 0.0, 10.0], band)
    together = screen_scores(template, fields, precision=torch.float32, sizes=sizes)
    alone = [
        screen_scores(template, field[None, :, :tall, :wide], precision=torch.float32).item()
        for field, (tall, wide) in zip(fields, sizes, strict=True)
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_best_rotation_and_shift_count_as_in_the_registration():
    """Nearly what the FFT of the registration says, which normalises under the turned outline exactly."""
    fields = textures(12, 40, 40)
    angles = rotations(SearchSettings())
    query = detail_of(textures(1, seed=5)[0])[:, :14, :14]
    template = cut_template(query, torch.ones(14, 14), angles, BAND)
    ours = screen_scores(template, fields, precision=torch.float32)
    versions = [(turned, (turned.abs().sum(0) > 0).float()) for turned in template.turned]
    templates = RotatedTemplates(versions, (40, 40), min_overlap=0.9, centred=False)
    details = torch.stack([detail_of(field) for field in fields])
    theirs = torch.stack([scores.amax((1, 2)) for scores in templates.correlate(details)]).amax(0)
    np.testing.assert_allclose(ours, theirs, atol=0.08)


def test_half_the_precision_orders_alike():
    fields = textures(30)
    query = detail_of(fields[4])[:, 5:19, 6:20]
    template = cut_template(query, torch.ones(14, 14), rotations(SearchSettings()), BAND)
    exact = screen_scores(template, fields, precision=torch.float32)
    rough = screen_scores(template, fields, precision=torch.bfloat16)
    np.testing.assert_allclose(exact, rough, atol=0.02)
    assert exact.argmax() == rough.argmax() == 4


@settings(max_examples=40, deadline=None)
@given(
    which=st.integers(0, 59),
    degrees=st.floats(-30, 30),
    side=st.integers(13, 30),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    masked=st.booleans(),
)
def test_the_answer_of_a_clean_query_is_never_lost(which, degrees, side, at, masked):
    fields = textures(60, 64, 64)
    turned = rotate(fields[which, 0].numpy(), degrees, reshape=False, order=1, mode="reflect")
    y, x = (round(10 + share * (44 - side)) for share in at)
    part = torch.from_numpy(turned[None, y : y + side, x : x + side].copy())
    mask = torch.ones(side, side)
    if masked:
        mask[: side // 3, : side // 3] = 0
        part = part * mask
    query = high_pass(part[None], mask, BAND)[0]
    scores = screen_scores(cut_template(query, mask, rotations(SearchSettings()), BAND), fields)
    assert scores.argmax() == which


@pytest.mark.parametrize("shape", [(3, 3), (5, 40), (13, 13)])
def test_fields_smaller_than_the_query_are_scored(shape):
    query = detail_of(textures(1)[0])[:, :16, :16]
    template = cut_template(query, torch.ones(16, 16), [-6.0, 0.0, 6.0], BAND)
    scores = screen_scores(template, textures(3, *shape, seed=1))
    assert torch.isfinite(scores).all()
    assert scores.abs().max() <= 1.01


def test_what_shows_nothing_scores_nothing():
    fields = torch.cat((torch.full((1, 1, 32, 32), 90.0), textures(1)))
    query = detail_of(fields[1])[:, 4:20, 4:20]
    flat, right = screen_scores(cut_template(query, torch.ones(16, 16), [0.0], BAND), fields)
    assert abs(flat) < 0.05
    assert right > 0.95


def test_a_search_registers_what_screening_keeps(repository, partners):
    asked = SearchSettings(register_all=0, n_screened=2)
    for name in ("tissue-21", "tissue-24"):
        found = run(search(repository, partners[name], "SHG", settings=asked))
        assert found.hits[0].image == name
        assert sorted(found.shortlist) == sorted(np.argsort(-found.screening)[:2])
        assert found.hits[0].scores["screening"] == pytest.approx(found.screening.max())
        assert "screening" in found.timings


def test_a_mirrored_query_is_screened_if_asked_for(repository, searched):
    flipped = searched["tissue-22"][:, ::-1].copy()
    found = run(
        search(repository, flipped, "BF", settings=SearchSettings(register_all=0, n_screened=1, mirror=True))
    )
    assert (found.hits[0].image, found.hits[0].mirrored) == ("tissue-22", True)


def test_the_effort_says_how_many_fields_are_registered(repository, partners):
    n_fields, asked = len(repository), {"register_all": 0, "n_screened": 2}
    found = {
        effort: run(
            search(repository, partners["tissue-21"], "SHG", settings=SearchSettings(effort=effort, **asked))
        )
        for effort in ("fast", "normal", "thorough")
    }
    assert [len(found[effort].shortlist) for effort in found] == [2, 2, n_fields]
    assert {one.hits[0].image for one in found.values()} == {"tissue-21"}
    small = run(search(repository, partners["tissue-21"], "SHG", settings=SearchSettings(effort="fast")))
    assert small.screening is not None  # a fast search screens even a few fields
    assert small.hits[0].image == "tissue-21"


def test_a_search_ends_early_where_the_first_fields_hold_a_certain_match(tmp_path, model):
    slide = textures(1, 2000, 2000)[0, 0].numpy().clip(0, 255).astype(np.uint8)
    fields = RepositorySettings(field_size=256)
    built = run(build_repository([Source("slide", slide)], model, "SHG", tmp_path / "s.cmrir", fields))
    with built as repository:
        asked = SearchSettings(register_all=0, n_screened=90)
        certain = run(search(repository, slide[300:396, 200:296], "SHG", settings=asked))
        assert certain.hits[0].box.mean(0) == pytest.approx([347.5, 247.5], abs=1)
        assert certain.hits[0].confidence >= 0.99
        nothing = textures(1, 96, 96, seed=9)[0, 0].numpy().clip(0, 255).astype(np.uint8)
        absent = run(search(repository, nothing, "SHG", settings=asked))
        assert absent.hits[0].confidence < 0.5
        assert [len(one.shortlist) for one in (certain, absent)] == [60, 90]
