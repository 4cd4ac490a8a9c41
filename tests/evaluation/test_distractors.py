"""Distractors: other fields of the same size, drawn again alike, that no query is about."""

import base64
import re
from itertools import pairwise

import cv2
import numpy as np
import pytest
import tifffile

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation import protocol as module
from napari_cmrir.evaluation.queries import Distractors, find_distractor_images
from napari_cmrir.evaluation.report.page import write_report
from napari_cmrir.evaluation.report.tables import evaluation_tables
from napari_cmrir.images.intensity import Intensity

GREY = Intensity(low=(0,), high=(200,))


@pytest.fixture
def picture(tmp_path):
    """An image that grows by 100 from row to row."""
    tifffile.imwrite(
        tmp_path / "a_SHG.tif", np.repeat(100 * np.arange(200, dtype=np.uint16)[:, None], 220, 1)
    )
    return tmp_path / "a_SHG.tif"


def test_they_have_the_size_and_the_range_of_the_modality_and_differ():
    drawn = list(Distractors(12, 72, (), GREY, None, 3))
    assert len({source.name for source in drawn}) == 12
    assert {source.pixels.shape for source in drawn} == {(72, 72, 1)}
    assert all(0 <= source.pixels.min() < source.pixels.max() <= 200 for source in drawn)
    for one, other in pairwise(drawn):
        assert abs(np.corrcoef(one.pixels.ravel(), other.pixels.ravel())[0, 1]) < 0.9


@pytest.mark.parametrize(
    ("full", "dtype"), [(255.0, np.uint8), (65535.0, np.uint16), (None, np.float32), (1.0, np.float32)]
)
def test_generated_ones_have_the_type_that_the_range_of_the_modality_has(full, dtype):
    assert Distractors(1, 64, (), GREY, full, 3).draw(0).dtype == dtype


def test_the_same_settings_draw_the_same():
    one, two, other = (Distractors(3, 64, (), GREY, None, seed).draw(2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_every_second_one_is_cut_from_the_images_turned_and_zoomed(picture):
    drawn = Distractors(20, 64, (picture,), GREY, None, 0)
    turns = []
    for number in range(0, 20, 2):
        pixels = drawn.draw(number)[..., 0].astype(float) / 100
        slope = np.array([part[28:36, 28:36].mean() for part in np.gradient(pixels)])
        assert 0.79 < np.hypot(*slope) < 1.26
        turns.append(np.degrees(np.arctan2(*slope)))
    assert np.ptp(turns) > 90
    assert drawn.draw(1).max() <= 200


def test_images_of_the_pairs_are_refused(pairs):
    folder = pairs[0].paths[1].parent
    with pytest.raises(InputError, match="is of a pair that is searched for; give folders of other images"):
        find_distractor_images([folder], "BF", pairs)
    assert find_distractor_images([], "BF", pairs) == ()


def test_they_are_searched_and_never_the_answer(grey_model, pairs, measure, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 6)  # several times to the repository
    asked = {"query": "full", "kinds": ("within",), "poses": ("untransformed",), "report_shortlist": True}
    alone = measure(grey_model, pairs[:2], tmp_path, **asked)
    among = measure(grey_model, pairs[:2], tmp_path, distractors=9, register_all=5, **asked)
    assert [result.field for result in among.results] == [result.field for result in alone.results]
    assert {summary.fields for summary in among.summaries()} == {4 + 9}
    assert {hit.image.split("/")[0] for result in among.results for hit in result.hits} > {"distractor"}
    for summary in among.summaries():
        assert summary.success[1].value == summary.screening[1].value == summary.registered.value == 1
        assert summary.exhaustive is None
    assert all(result.exhaustive_rank is None for result in among.results)


def test_the_stage_that_lost_a_query_and_the_page_need_no_further_runs(grey_model, pairs, measure, tmp_path):
    report = measure(
        grey_model,
        pairs[:2],
        tmp_path,
        query="full",
        kinds=("within",),
        poses=("untransformed",),
        distractors=3,
        register_all=5,
    )
    for summary in report.summaries():
        assert summary.screening[1].value == summary.registered.value == 1
        assert summary.shortlist is summary.exhaustive is None
        assert summary.lost == {"shortlist": 0, "reranking": 0}
    assert "screening recall@30" in evaluation_tables(report.summaries())["Stage that lost a query"][0]
    page = jobs.run(write_report(report, tmp_path / "written"))["report.html"].read_text()
    shown = re.findall(r"base64,([^\"]+)\"/><polygon[^>]+/></svg><figcaption>\d\. distractor/(\d+)<", page)
    assert shown
    for picture, number in shown:
        pixels = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_GRAYSCALE)
        searched = [report.distractors[modality].draw(int(number)).mean(2) for modality in ("SHG", "BF")]
        alike = [
            np.corrcoef(pixels.ravel(), one.ravel())[0, 1] for one in searched if one.shape == pixels.shape
        ]
        assert max(alike) > 0.95
