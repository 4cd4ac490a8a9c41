"""Matchers look at the first hits again: what they are shown, and what becomes of their answers."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import ClassVar

import cv2
import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, corner_error, cut, rotation_difference
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.build import build_repository
from napari_cmrir.representations.base import train
from napari_cmrir.search.matchers import MATCHERS, Match, Matcher, match_hits, matcher_named, similarity_match
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

pytestmark = pytest.mark.core

REGION = Region((150, 140), 120, 100, 12)


class Shift(Matcher):
    """Finds the shift of the query by correlation, within the margin."""

    def match(self, query, mask, place):
        grey = [np.rint(image.mean(0)).astype(np.uint8) for image in (query, place)]
        scores = cv2.matchTemplate(grey[1], grey[0], cv2.TM_CCOEFF_NORMED)
        _, score, _, (x, y) = cv2.minMaxLoc(scores)
        return Match(score, np.array([[1.0, 0, y], [0, 1, x], [0, 0, 1]]))


class Told(Matcher):
    """Says what it is told, and keeps what it was shown."""

    answers: ClassVar[list] = []
    seen: ClassVar[list] = []

    def match(self, query, mask, place):
        self.seen.append((query, mask, place))
        return self.answers.pop(0)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(MATCHERS, "_loaded", {**MATCHERS._loaded, "shift": Shift, "told": Told})
    matcher_named.cache_clear()
    Told.seen, Told.answers = [], []


def tissue_of(seed):
    """Grey tissue, (y, x)."""
    return np.rint(sample_pair(seed + 40, 288).bf.mean(2)).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of brightfield tissue, the third with pixels of half the size."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(4):
        pixels, size = tissue_of(seed), 1.0
        if seed == 2:
            pixels, size = cv2.resize(pixels, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), 0.5
        resolution = (1e4 / size, 1e4 / size)
        tifffile.imwrite(folder / f"{seed}.tif", pixels, resolution=resolution, resolutionunit="CENTIMETER")
    return [folder / f"{seed}.tif" for seed in range(4)]


@pytest.fixture(scope="module")
def model():
    """A model whose CoMIRs are the images, at 1 µm a pixel."""
    pixels = tissue_of(0)[..., None]
    return run(train([(pixels, pixels)], ("A", "B"), representation="original", pixel_size=1.0))


@pytest.fixture(scope="module")
def tissue(tmp_path_factory, model, images):
    folder = tmp_path_factory.mktemp("repository")
    return run(build_repository(images, model, "B", folder / "tissue.cmrir"))


def query_of(seed):
    pixels, _ = cut(tissue_of(seed)[..., None], REGION)
    return pixels


def off_by(hit, degrees, shift):
    """A hit whose pose is a little wrong: turned about its centre, then shifted."""
    centre = hit.box.mean(0)
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = (hit.box - centre) @ np.array([[cos, -sin], [sin, cos]]).T + centre + shift
    return replace(hit, box=turned, rotation_degrees=hit.rotation_degrees + degrees)


@pytest.mark.parametrize("match_on", ["comirs", "images"])
@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_wrong_pose_is_corrected(tissue, match_on, seed, mirrored):
    """Of an image, and of one that is stored at half its resolution; the box is in the file's pixels."""
    pixels = query_of(seed)[:, ::-1] if mirrored else query_of(seed)
    settings = SearchSettings(mirror=True, matcher="shift", match_on=match_on)
    plain = run(search(tissue, pixels, "A", pixel_size=1.0, settings=replace_matcher(settings, "")))
    right = plain.hits[0]
    assert (right.image[-5:], right.mirrored) == (f"{seed}.tif", mirrored)
    wrong = off_by(right, 0, (9.0, -6.0))
    assert corner_error(wrong.box, right.box) > 10
    query = plain.comir, pixels, plain.mask
    hits, warnings = run(match_hits(tissue, query, [wrong], settings))
    assert warnings == []
    assert hits[0].scores["matcher"] > 0.9
    assert corner_error(hits[0].box, right.box) < 1.2  # whole pixels, in two images twice as many


def replace_matcher(settings, name):
    return settings.model_copy(update={"matcher": name})


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_rotation_and_a_scale_are_composed_with_the_pose(tissue, mirrored):
    """The matcher finds the place turned by 5 degrees about its middle, and larger by a tenth."""
    pixels = query_of(0)[:, ::-1] if mirrored else query_of(0)
    settings = SearchSettings(mirror=True, matcher="told", matched=1)
    plain = run(search(tissue, pixels, "A", pixel_size=1.0, settings=replace_matcher(settings, "")))
    hit = plain.hits[0]
    cos, sin = 1.1 * np.cos(np.radians(5)), 1.1 * np.sin(np.radians(5))
    height, width = plain.mask.shape
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    margin = np.ceil([height / 4, width / 4])
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    matrix[:2, 2] = middle + margin - matrix[:2, :2] @ middle
    Told.answers = [Match(7.0, matrix)]
    (found,), _ = run(match_hits(tissue, (plain.comir, pixels, plain.mask), [hit], settings))
    assert np.allclose(found.box.mean(0), hit.box.mean(0))
    turn = -5 if mirrored else 5  # in the image, a mirrored query turns the other way
    assert rotation_difference(found.rotation_degrees, hit.rotation_degrees + turn) < 1e-6
    assert found.scale == pytest.approx(1.1 * hit.scale)
    expected = off_by(hit, turn, 0).box
    expected = (expected - expected.mean(0)) * 1.1 + expected.mean(0)
    assert np.allclose(found.box, expected)


def test_the_place_is_upright_as_the_query(tissue):
    settings = SearchSettings(matcher="told", matched=1)
    Told.answers = [None]
    result = run(search(tissue, query_of(1), "A", pixel_size=1.0, settings=settings))
    ((query, mask, place),) = Told.seen
    assert query is result.comir
    assert place.shape[1:] == tuple(side + 2 * -(-side // 4) for side in mask.shape)
    inner = place[:, 30:-30, 25:-25].astype(float)
    assert np.abs(inner - query).mean() < 4


def test_the_first_hits_are_ordered_by_the_matcher(tissue):
    plain = run(search(tissue, query_of(1), "A", pixel_size=1.0))
    Told.answers = [Match(3.0), None, Match(9.0)]
    settings = SearchSettings(matcher="told", matched=3)
    result = run(search(tissue, query_of(1), "A", pixel_size=1.0, settings=settings))
    before = [hit.image for hit in plain.hits]
    assert [hit.image for hit in result.hits] == [before[2], before[0], before[1], before[3]]
    assert [hit.rank for hit in result.hits] == [1, 2, 3, 4]
    assert [hit.scores.get("matcher") for hit in result.hits] == [9.0, 3.0, None, None]
    assert list(result.ranking) == [hit.field for hit in result.hits]  # what an evaluation ranks
    assert np.allclose(result.hits[0].box, plain.hits[2].box)
    assert not result.reliable  # the confidence is that of the registration, which prefers another image


def test_of_few_hits_the_matcher_still_chooses_among_the_first_five(tissue):
    every = run(search(tissue, query_of(1), "A", pixel_size=1.0))
    Told.answers = [Match(1.0), Match(2.0), Match(3.0), Match(2.5)]
    settings = SearchSettings(hits=1, matcher="told")
    result = run(search(tissue, query_of(1), "A", pixel_size=1.0, settings=settings))
    assert [hit.image for hit in result.hits] == [every.hits[2].image]
    assert len(result.ranking) == 4


def test_a_matcher_that_fails_is_named_and_loses_no_hit(tissue):
    class Fails(Matcher):
        def match(self, query, mask, place):
            raise ZeroDivisionError("by nothing")

    MATCHERS._loaded["fails"] = Fails
    plain = run(search(tissue, query_of(1), "A", pixel_size=1.0))
    settings = SearchSettings(matcher="fails")
    result = run(search(tissue, query_of(1), "A", pixel_size=1.0, settings=settings))
    assert [hit.image for hit in result.hits] == [hit.image for hit in plain.hits]
    assert sum("was not matched: ZeroDivisionError: by nothing" in text for text in result.warnings) == 4
    assert result.reliable == plain.reliable


def test_an_image_that_is_gone_is_named_and_keeps_its_place(images, model, tmp_path):
    moved = [tmp_path / path.name for path in images]
    for old, new in zip(images, moved, strict=True):
        new.write_bytes(old.read_bytes())
    repository = run(build_repository(moved, model, "B", tmp_path / "a.cmrir"))
    settings = SearchSettings(matcher="shift", match_on="images")
    first = run(search(repository, query_of(3), "A", pixel_size=1.0, settings=settings)).hits
    moved[3].unlink()
    result = run(search(repository, query_of(3), "A", pixel_size=1.0, settings=settings))
    assert [hit.image for hit in result.hits] == [hit.image for hit in (*first[1:], first[0])]
    assert any("3.tif was not matched: " in warning for warning in result.warnings)


def test_a_matcher_that_is_unknown_is_refused_before_the_search(tissue):
    with pytest.raises(InputError, match="There is no matcher 'magic'; choose one of vismatch"):
        run(search(tissue, query_of(0), "A", settings=SearchSettings(matcher="magic")))
    assert Told.seen == []


def test_points_that_agree_by_chance_are_no_match():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 60, 2)) * 200
    assert similarity_match(first, second) is None
    turned = first @ np.array([[0, -1], [1, 0]]) + 200
    assert similarity_match(first, turned) is None  # the place is upright already
    assert similarity_match(first, np.zeros_like(first)) is None
    second[:25] = first[:25] * 1.1 + 3
    match = similarity_match(first, second)
    assert match.score == pytest.approx(25, abs=1)
    assert np.allclose(match.matrix, [[1.1, 0, 3], [0, 1.1, 3], [0, 0, 1]], atol=0.02)


@pytest.mark.skipif(find_spec("vismatch") is not None, reason="vismatch is installed")
def test_without_vismatch_the_message_says_what_to_install():
    with pytest.raises(InputError, match=r'pip install "napari-cmrir\[vismatch\]"'):
        matcher_named("vismatch:sift-nn")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vismatch") is None, reason="vismatch is not installed")
def test_a_matcher_of_vismatch_corrects_a_pose(tissue):
    settings = SearchSettings(matcher="vismatch:sift-nn", matched=1)
    plain = run(search(tissue, query_of(0), "A", pixel_size=1.0))
    wrong = off_by(plain.hits[0], 4, (5.0, -4.0))
    (hit,), _ = run(match_hits(tissue, (plain.comir, query_of(0), plain.mask), [wrong], settings))
    assert corner_error(hit.box, plain.hits[0].box) < 1
    assert rotation_difference(hit.rotation_degrees, plain.hits[0].rotation_degrees) < 0.5
    with pytest.raises(InputError, match="vismatch has no matcher 'magic'; choose one of "):
        matcher_named("vismatch:magic")


def test_settings_without_a_matcher_import_none_of_it():
    """A search does not load vismatch unless it is asked to."""
    code = "import napari_cmrir.search.matchers, sys; sys.exit('vismatch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
