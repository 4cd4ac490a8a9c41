from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_cmrir.pairing import judgement
from napari_cmrir.pairing.candidates import Answer, Candidate, Journal, Seen
from napari_cmrir.pairing.judgement import PoseEvidence, judge, one_partner_each
from napari_cmrir.pairing.pair_files import FoundPair
from napari_cmrir.search.settings import PairingSettings
from napari_cmrir.settings import Comparison

pytestmark = pytest.mark.core
TURNED = np.array([[0.0, -1, 299], [1, 0, 0], [0, 0, 1]])
BOX = np.zeros((4, 2))


class Folder:
    """A folder whose images have 300 x 300 px."""

    class repository:  # noqa: N801
        class model:  # noqa: N801
            comparison = Comparison()

    def shape(self, image):
        return (300, 300)

    def comir(self, image):
        return image


def seen(matrix):
    return Seen("there", 0.1, 0.5, np.asarray(matrix, float), BOX)


@pytest.fixture
def judged(monkeypatch):
    """Judge a candidate whose poses are confirmed by so many of 15 parts, and are kept unrefined."""

    def run(candidate, agreeing, known=None, **settings):
        def refine(first, second, matrix, high_pass_px, affine):
            return PoseEvidence(matrix, 0.3, agreeing, 15)

        monkeypatch.setattr(judgement, "refine_pose", refine)
        return judge(candidate, Folder(), Folder(), PairingSettings(**settings), known)

    return run


def candidate(forward=TURNED, backward=None):
    back = np.linalg.inv(TURNED) if backward is None else backward
    return Candidate("a.tif", "b.tif", seen(forward), None if backward is False else seen(back))


def test_poses_that_agree_both_ways_make_a_pair(judged):
    pair = judged(candidate(), 9)
    assert pair.accepted
    assert pair.reason == "found both ways; 9 of 15 parts agree"


def test_few_parts_make_none(judged):
    pair = judged(candidate(), 3)
    assert not pair.accepted
    assert pair.reason == "only 3 of 15 parts agree with the pose"


def test_searches_that_differ_in_the_pose_make_none(judged):
    moved = np.linalg.inv(TURNED)
    moved[0, 2] += 40
    pair = judged(candidate(backward=moved), 8)
    assert not pair.accepted
    assert "differ in the pose" in pair.reason


def test_being_the_best_hit_of_each_other_counts(judged):
    best = Candidate("a.tif", "b.tif", seen(TURNED), seen(np.linalg.inv(TURNED)), True, True)
    assert judged(best, 7).confidence > judged(candidate(), 7).confidence
    assert judged(best, 7).accepted
    assert not judged(best, 4).accepted


def test_one_search_alone_has_to_be_sure(judged):
    one_way = candidate(backward=False)
    assert "one way only: a.tif is not among the hits of b.tif" in judged(one_way, 8).reason
    assert judged(one_way, 14).accepted


def test_a_small_common_area_makes_none(judged):
    far = TURNED.copy()
    far[0, 2] += 220
    pair = judged(candidate(far, np.linalg.inv(far)), 14)
    assert "common area is only 80 x 300 px" in pair.reason or "300 x 80 px" in pair.reason


def test_a_known_pose_is_judged_without_a_search(judged):
    lost = Candidate("a.tif", "b.tif", None, None)
    assert judged(lost, 12, known=TURNED).accepted
    assert not judged(lost, 3, known=TURNED).accepted


def row(first, second, matrix, sure):
    return FoundPair(Path(first), Path(second), True, sure, np.asarray(matrix, float), "found")


def test_the_more_confident_partner_is_kept():
    pairs = [row("a", "b", np.eye(3), 0.96), row("a", "c", np.eye(3), 0.99), row("d", "b", np.eye(3), 0.97)]
    kept = one_partner_each(pairs, Folder(), Folder())
    assert [pair.accepted for pair in kept] == [False, True, True]
    assert kept[0].reason == "a belongs to c with more confidence"


def test_two_parts_of_one_image_have_a_partner_each():
    apart = [[1, 0, 0], [0, 1, 280], [0, 0, 1]]
    pairs = [row("a", "slide", np.eye(3), 0.96), row("b", "slide", apart, 0.99)]
    assert all(pair.accepted for pair in one_partner_each(pairs, Folder(), Folder()))


def test_a_journal_forgets_only_a_line_that_was_not_written_whole(tmp_path):
    journal = Journal(tmp_path / "searches.jsonl")
    journal.add("one", Answer((seen(TURNED),)))
    journal.add("two", Answer((), "no tissue"))
    with journal.path.open("a") as file:
        file.write('{"key": "three", "hi')
    again = Journal(journal.path)
    np.testing.assert_array_equal(again.get("one").hits[0].matrix, TURNED)
    assert again.get("two").error == "no tissue"
    assert again.get("three") is None
    again.add("three", Answer(()))
    assert Journal(journal.path).get("three") is not None
