"""The demo: what it writes, what it says, and what it leaves alone."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from napari_cmrir.cli.demo import Plan, Truth, demonstrate, judgement
from napari_cmrir.errors import InputError
from napari_cmrir.images.geometry import Region, corner_error, cut
from napari_cmrir.images.readers import read_image
from napari_cmrir.jobs import run
from napari_cmrir.search.hits import Hit, SearchResult

SMALL = Plan(3, 3, 6, image_side=256, query_side=128, steps=40, widths=(16, 32, 64), words=100)
MADE = {
    "demo.json",
    "hits.json",
    "hits.png",
    "images",
    "model.safetensors",
    "pairs",
    "partners",
    "query_SHG.tif",
    "tissue.cmrir",
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What a small demo returned, its folder and its progress."""
    out, progress = tmp_path_factory.mktemp("demo") / "out", []
    result, truth = run(demonstrate(out, SMALL), progress.append)
    return result, truth, out, progress


@pytest.mark.slow
class TestSmallDemo:
    def test_writes_all_it_promises(self, shown):
        _, _, out, _ = shown
        assert {path.name for path in out.iterdir()} == MADE
        names = {
            folder: sorted(p.name for p in (out / folder).iterdir()) for folder in ("images", "partners")
        }
        assert len(list((out / "pairs").iterdir())) == 6
        assert len(names["images"]) == 6
        assert names["partners"] == [name.replace("_BF", "_SHG") for name in names["images"]]

    def test_first_hit_is_right(self, shown):
        result, truth, _, _ = shown
        assert result.hits[0].image == truth.image
        assert corner_error(result.hits[0].box, truth.box) < 3
        assert judgement(result, truth).startswith("Right: ")

    def test_query_lies_turned_in_the_partner_and_in_no_training_image(self, shown):
        _, truth, out, _ = shown
        query, image = read_image(out / "query_SHG.tif"), Path(truth.image)
        partner = read_image(out / "partners" / image.name.replace("_BF", "_SHG"))
        pixels, inside = cut(partner, Region.from_corners(truth.box))
        assert inside.all()
        assert np.abs(pixels.astype(int) - query).max() <= 1
        assert 8 <= abs(truth.rotation_degrees) <= 28
        assert not (out / "pairs" / image.name).exists()

    def test_hits_are_written_as_a_query_writes_them(self, shown, call, tmp_path):
        result, _, out, _ = shown
        (query,) = json.loads((out / "hits.json").read_text())["queries"]
        assert query["hits"] == [hit.as_dict() for hit in result.hits]
        answers = tmp_path / "again.json"
        call("query", out / "tissue.cmrir", out / "query_SHG.tif", "--modality", "SHG", "--json", answers)
        (again,) = json.loads(answers.read_text())["queries"]
        assert again | {"seconds": 0} == query | {"seconds": 0}

    def test_picture_can_be_opened(self, shown):
        picture = cv2.imread(str(shown[2] / "hits.png"))
        assert picture.shape[1] > picture.shape[0] > 600

    def test_progress_runs_from_0_to_100_percent_without_a_step_back(self, shown):
        done = [progress.done for progress in shown[3]]
        assert done == sorted(done)
        assert done[0] == 0
        assert done[-1] >= 99
        assert {(progress.total, progress.unit) for progress in shown[3]} == {(100, "%")}

    def test_again_with_the_same_seed_ranks_the_same_and_leaves_foreign_files(self, shown):
        result, _, out, _ = shown
        for name in ("notes.txt", "images/own_BF.tif"):
            (out / name).write_text("keep me")
        again, _ = run(demonstrate(out, SMALL))
        assert [hit.as_dict() for hit in again.hits] == [hit.as_dict() for hit in result.hits]
        assert (out / "notes.txt").read_text() == (out / "images" / "own_BF.tif").read_text() == "keep me"


def test_interrupted_the_demo_leaves_only_what_the_next_one_replaces(call_process, tmp_path):
    prelude = """
        import signal
        from napari_cmrir.images.synthetic import sample_pairs as samples
        write_sample_folder = samples.write_sample_folder
        def interrupted(folder, seeds, *arguments):
            if seeds == [2]:
                signal.raise_signal(signal.SIGINT)
            return write_sample_folder(folder, seeds, *arguments)
        samples.write_sample_folder = interrupted
    """
    for _ in range(2):
        ended = call_process(["demo", "--out", tmp_path], prelude)
        assert ended.status == 130
        assert "starts over" in ended.err
        assert "Traceback" not in ended.err
        left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
        pairs = [f"sample-00{seed}_{modality}.tif" for seed in range(2) for modality in ("BF", "SHG")]
        assert left == ["demo.json", *pairs]


def test_demo_refuses_a_folder_with_files_of_the_same_names(call, tmp_path):
    (tmp_path / "hits.json").write_text("mine")
    ended = call("demo", "--out", tmp_path)
    assert ended.status == 2
    assert ended.err.count("\n") == 1
    assert "hits.json is not from a demo" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["hits.json"]


def test_demo_refuses_a_file_as_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        run(demonstrate(tmp_path / "file", SMALL))


class TestJudgement:
    """One line on hits in a.tif and b.tif, the query of 100 x 100 px."""

    box = Region.from_rectangle(0, 0, 100, 100).corners()

    def judge(self, *images, shift=(0, 0), turn=0.0, truth="/x/a.tif"):
        hits = tuple(
            Hit(rank, image, 0.5, self.box + shift, turn, 0.5, 0, {}) for rank, image in enumerate(images, 1)
        )
        comir = np.zeros((1, 100, 100), np.uint8)
        result = SearchResult(hits, 0.1, {}, comir, np.ones((100, 100), bool))
        return judgement(result, Truth(truth, self.box, 350.0))

    def test_right(self):
        line = self.judge("/x/a.tif", "/x/b.tif", shift=(3, 4), turn=-8.0)
        assert line.startswith("Right: ")
        assert "off by 5.0 px, its rotation by 2.0°" in line
        assert "\n" not in line

    def test_right_image_but_place_off_by_more_than_a_tenth(self):
        assert self.judge("/x/a.tif", shift=(6, 8.1)).startswith("Right image, wrong place: ")

    def test_wrong_with_the_rank_of_the_right_one(self):
        assert self.judge("/x/b.tif", "/x/a.tif").endswith("a.tif, which is hit 2.")

    def test_wrong_without_the_right_one(self):
        assert self.judge("/x/b.tif").endswith("a.tif, which is not among the hits.")
