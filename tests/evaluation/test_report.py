import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.report.comparison import compare_evaluations, read_evaluation
from napari_cmrir.evaluation.report.page import best_and_worst, write_report
from napari_cmrir.evaluation.report.tables import as_markdown, evaluation_tables

VOID = {"meta", "br", "image", "polygon", "path", "use", "rect", "circle", "line", "link", "img", "style"}


class Page(HTMLParser):
    """What is in a page, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.addresses = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag, **wanted):
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


@pytest.fixture(scope="module")
def written(report, tmp_path_factory):
    return jobs.run(write_report(report, tmp_path_factory.mktemp("written")))


def test_two_runs_write_the_same_but_for_the_seconds(grey_model, pairs, measure, tmp_path):
    asked = {"kinds": ("cross",), "poses": ("transformed",), "query": "patch", "hits": 1}
    texts, rows = [], []
    for name in ("first", "second"):
        report = measure(grey_model, pairs[:2], seed=3, **asked)
        files = jobs.run(write_report(report, tmp_path / name))
        content = json.loads(files["evaluation.json"].read_text())
        assert len(content.pop("seconds")["queries"]) == 8
        texts.append(json.dumps(content))
        lines = list(csv.DictReader(io.StringIO(files["queries.csv"].read_text())))
        assert all(float(line.pop("seconds")) > 0 for line in lines)
        rows.append(lines)
    assert texts[0] == texts[1]
    assert rows[0] == rows[1]
    other = json.dumps(measure(grey_model, pairs[:2], seed=4, **asked).as_dict())
    assert json.loads(other)["queries"] != json.loads(texts[0])["queries"]


def test_the_json_holds_every_query_and_no_path_of_this_machine(report, written, tmp_path_factory):
    text = written["evaluation.json"].read_text()
    content = json.loads(text)
    assert str(tmp_path_factory.getbasetemp()) not in text
    assert len(content["conditions"]) == 16
    assert len(content["queries"]) == len(content["seconds"]["queries"]) == len(report.results) == 96
    for condition in content["conditions"]:
        wanted = {name: condition[name] for name in ("query", "repository", "pose", "size")}
        ranks = [query["rank"] for query in content["queries"] if query["condition"] == wanted]
        assert condition["success"]["1"]["count"] == ranks.count(1)
        assert condition["queries"] == len(ranks) == 6


def test_the_csv_holds_every_query(report, written):
    rows = list(csv.DictReader(io.StringIO(written["queries.csv"].read_text())))
    assert len(rows) == 96
    for row, result in zip(rows, report.results, strict=True):
        assert (row["field"], row["rank"]) == (result.field, str(result.rank))
        assert row["first_image"] == result.hits[0].image


def test_the_page_is_whole_and_needs_nothing_else(report, written):
    text = written["report.html"].read_text()
    page = Page(text)
    assert page.open == []
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "<script" not in text
    plots = [
        svg for svg in page.of("svg") if "matplotlib" in text and "width" in svg and "pt" in svg["width"]
    ]
    assert len(plots) == 4
    assert len(page.of("details")) == 16 + 1
    rows = {"cross": 6, "within": 4}  # of the six queries of a cell
    shown = sum(rows[condition.kind] for condition, _ in report.conditions())
    assert len(page.of("div", **{"class": "row"})) == shown


def test_the_gallery_shows_the_query_and_marks_where_it_was_cut(report, written, pairs):
    """The first picture is the best query's; the second the right field with the true box."""
    text = written["report.html"].read_text()
    _, results = next(report.conditions())
    best = best_and_worst(results)[0][0]
    row = text[text.index('<div class="row">') :]
    pictures = [
        cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        for data in re.findall(r"data:image/jpeg;base64,([\w+/=]+)", row)[:2]
    ]
    assert [picture.shape for picture in pictures] == [(72, 72, 3)] * 2
    points = re.search(r'class="true" points="([^"]*)"', row).group(1)
    drawn = np.array([point.split(",") for point in points.split()], float)
    np.testing.assert_allclose(drawn[:, ::-1], np.array(best.box) + 0.5, atol=0.051)


def test_best_and_worst_do_not_overlap(report):
    for _, results in report.conditions():
        best, worst = best_and_worst(results, 4)
        shown = [result.field for result in best + worst]
        assert len(shown) == len(set(shown)) == len(results)
        assert max(result.rank for result in best) <= min(result.rank for result in worst)
        assert worst[0].rank == max(result.rank for result in results)


def test_tables_name_every_cell_and_give_intervals(report):
    found, findable, located, _, fault = evaluation_tables(report.summaries()).values()
    assert len(found) == len(findable) == len(located) == len(fault) == 17
    assert found[1][0] == "SHG(T) in BF, full"
    assert re.fullmatch(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", found[1][2])
    lines = as_markdown(found).splitlines()
    assert len({len(line) for line in lines}) == 1


def test_comparing_takes_the_same_queries_only(report, written, grey_model, pairs, measure):
    ours = read_evaluation(written["evaluation.json"].parent)
    rows = compare_evaluations(ours, report.as_dict())
    assert len(rows) == 1 + 16 * 2
    assert {tuple(row[4:]) for row in rows[1:]} == {("0", "0", "1.0000")}
    few = measure(grey_model, pairs[:2], query="full", kinds=("cross",), poses=("transformed",))
    with pytest.raises(InputError, match="have different queries"):
        compare_evaluations(ours, few.as_dict())
    with pytest.raises(InputError, match="is not the evaluation"):
        read_evaluation(written["queries.csv"])
