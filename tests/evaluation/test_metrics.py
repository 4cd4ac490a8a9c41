import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.metrics import (
    Comparison,
    compare,
    mean_reciprocal_rank,
    percentile,
    share_at_most,
    wilson_interval,
)
from napari_cmrir.evaluation.queries import GridField
from napari_cmrir.evaluation.records import Condition, EvaluationSettings, Localisation, QueryResult
from napari_cmrir.evaluation.summaries import summarise
from napari_cmrir.search.settings import SearchSettings

CELL = Condition("BF", "SHG", "transformed", "full")


@pytest.mark.parametrize(("percent", "low", "high"), [(75.4, 67.5, 81.9), (51.5, 43.1, 59.8)])
def test_wilson_intervals_at_the_papers_134_queries(percent, low, high):
    interval = wilson_interval(percent / 100 * 134, 134)
    assert [round(100 * end, 1) for end in interval] == [low, high]


def test_wilson_interval_by_hand():
    # z2 = 3.8415; centre = (0.5 + z2 / 20) / (1 + z2 / 10); half as in Wilson 1927
    z2 = 1.959964**2
    half = math.sqrt(z2) / (1 + z2 / 10) * math.sqrt(0.25 / 10 + z2 / 400)
    assert wilson_interval(5, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert wilson_interval(0, 0) == (0, 1)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(case):
    count, total = case
    theirs = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson_interval(count, total) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_mcnemar_by_hand():
    # 7 differ, 6 against 1: 2 (C(7, 0) + C(7, 1)) / 2^7 = 16 / 128
    first = [True] * 6 + [False] + [True] * 3 + [False] * 2
    second = [False] * 6 + [True] + [True] * 3 + [False] * 2
    assert compare(first, second) == Comparison(6, 1, 0.125)
    assert compare(second, first) == Comparison(1, 6, 0.125)
    assert compare(first, first) == Comparison(0, 0, 1.0)
    with pytest.raises(InputError, match="the same queries; these have 2 and 1"):
        compare([True, False], [True])


def test_ranks_by_hand():
    assert mean_reciprocal_rank([1, 2, 4, None]) == (1 + 1 / 2 + 1 / 4) / 4
    assert share_at_most([1, 5, 6, None], 5).count == 2
    assert share_at_most([1, 5, 6, None], 5).total == 4
    assert percentile(range(1, 12), 90) == 10
    assert percentile([], 50) is None


def result(rank, error, degrees, shortlist=None, exhaustive=None, seconds=0.1):
    width = GridField("a", 0, 0, 0, 0, 200, 200).width
    localisation = None if error is None else Localisation(error, error / width, degrees)
    return QueryResult(
        CELL,
        "a/0-0",
        1.0,
        None,
        None,
        rank,
        shortlist_rank=shortlist,
        exhaustive_rank=exhaustive,
        localisation=localisation,
        seconds=seconds,
    )


def test_success_among_what_can_be_found_is_told_apart():
    results = [
        replace(result(rank, None, None), findable=seen) for rank, seen in ((1, True), (3, True), (1, False))
    ]
    summary = summarise(CELL, results, 50, EvaluationSettings())
    assert [(share.count, share.total) for share in summary.findable.values()] == [
        (1, 2),
        (2, 2),
        (2, 2),
        (2, 2),
    ]
    assert summary.success[1].count == 2
    assert summarise(CELL, [result(1, None, None)], 50, EvaluationSettings()).findable is None


def test_a_cell_is_summed_up():
    results = [
        result(1, 1.0, 0.5, shortlist=1, exhaustive=1, seconds=0.1),
        result(2, 4.0, 5.0, shortlist=40, exhaustive=2, seconds=0.2),
        result(20, 4.1, 170.0, shortlist=31, exhaustive=1, seconds=0.3),
        result(30, None, None, shortlist=30, exhaustive=16, seconds=0.4),
        result(None, None, None, shortlist=None, exhaustive=None, seconds=0.5),
    ]
    settings = EvaluationSettings(
        report_shortlist=True, search=SearchSettings(register_all=0, shortlist_by="words")
    )
    summary = summarise(CELL, results, 50, settings)
    assert [summary.success[k].count for k in (1, 5, 10, 15)] == [1, 2, 2, 2]
    assert summary.chance == {1: 0.02, 5: 0.1, 10: 0.2, 15: 0.3}
    assert summary.mean_reciprocal_rank == (1 + 1 / 2 + 1 / 20 + 1 / 30) / 5
    assert (summary.median_rank, summary.p90_rank) == (20, 42)  # not found counts as 50th
    assert (summary.localised, summary.median_corner_error) == (3, 4.0)
    assert (summary.within_width.count, summary.within_width.total) == (2, 3)  # 2 % of 200 px is 4 px
    assert (summary.within_degrees.count, summary.within_degrees.total) == (2, 3)
    assert [summary.shortlist[k].count for k in (10, 30, 100)] == [1, 2, 4]
    assert [summary.exhaustive[k].count for k in (1, 5, 10, 15)] == [2, 3, 3, 3]
    assert summary.lost == {"shortlist": 2, "reranking": 1}  # of ranks 20, 30, none: 31, 30, none
    whole = summarise(CELL, results, 50, EvaluationSettings(report_shortlist=True))
    assert whole.lost == {"shortlist": 1, "reranking": 2}  # all 50 are registered: only what has no rank
    assert summary.median_seconds == pytest.approx(0.3)
    assert summary.p95_seconds == pytest.approx(0.48)
