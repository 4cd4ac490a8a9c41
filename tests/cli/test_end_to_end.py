"""The whole way in small: train, represent, index, query, info; and what interrupting leaves."""

import json
import re
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from napari_cmrir.images.geometry import Region
from napari_cmrir.images.readers import open_image, read_image
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model
from napari_cmrir.search.query import search
from napari_cmrir.search.settings import SearchSettings

pytestmark = pytest.mark.core

INTERRUPTED_BEFORE_STEP = """
    import signal
    from napari_cmrir.representations.comir.training.trainer import Trainer
    train_step = Trainer.train_step
    def interrupted(self):
        if self.step == {step}:
            signal.raise_signal(signal.SIGINT)
        return train_step(self)
    Trainer.train_step = interrupted
"""


def test_train_says_what_it_made(info, model):
    card = info(model)
    assert card["modalities"] == ["SHG", "BF"]
    assert card["trained_on"] == [f"sample-{seed:03d}" for seed in range(4)]
    assert card["settings"]["steps"] == 2
    assert np.isfinite(card["last loss"])
    assert card["fingerprint"] == load_model(model).fingerprint


def test_info_is_readable_without_json(call, model, repository):
    assert "modalities: SHG, BF" in call("info", model).out
    assert "  indexed: 4" in call("info", repository).out


def test_images_without_a_partner_are_named(call, tmp_path, pairs):
    for path in [*pairs.glob("sample-000_*.tif"), pairs / "sample-001_BF.tif"]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ended = call(
        "train", tmp_path, "--modalities", "SHG", "BF", "-o", tmp_path / "m.safetensors", "--steps", 1
    )
    assert ended.status == 0
    assert "without a partner: sample-001_BF.tif" in ended.err
    assert "1 pairs" in ended.out


def test_represent_resamples_to_the_pixel_size_of_the_model_and_writes_it(call, tmp_path, model):
    half = replace(load_model(model), pixel_size=0.5)
    half.save(tmp_path / "half.safetensors")
    image = tmp_path / "core_BF.tif"
    pixels = sample_pair(110, 100).bf
    tifffile.imwrite(image, pixels, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    ended = call("represent", tmp_path / "half.safetensors", image, "--modality", "BF", "-o", tmp_path)
    assert ended.status == 0, ended.err
    assert "resampled from 1 to 0.5" in ended.err
    with tifffile.TiffFile(tmp_path / "core_BF_CoMIR.tif") as file:
        assert file.pages[0].shape == (200, 200)
        assert file.pages[0].get_resolution("MICROMETER") == (2.0, 2.0)
    ended = call(
        "represent", tmp_path / "half.safetensors", image, "--modality", "BF", "-o", tmp_path, "--pyramid"
    )
    assert ended.status == 0, ended.err
    with closing(open_image(tmp_path / "core_BF_CoMIR.ome.zarr")) as comir:
        assert (comir.shape, comir.pixel_size) == ((200, 200, 1), 0.5)


def test_index_stores_what_represent_writes(call, tmp_path, pairs, model, repository):
    ended = call("represent", model, pairs, "--modality", "BF", "-o", tmp_path)
    assert ended.status == 0
    written = [tmp_path / f"sample-{seed:03d}_BF_CoMIR.tif" for seed in range(4)]
    assert ended.out.split() == [str(path) for path in written]
    with open_repository(repository) as opened:
        stored = {opened.image_name(field): opened.comir(field)[0] for field in range(len(opened))}
    for path in written:
        comir = tifffile.imread(path)
        assert comir.dtype == np.uint8
        assert comir.shape == (160, 160)
        assert np.array_equal(comir, stored[path.name.replace("_CoMIR", "")])


def test_index_leaves_the_other_modality_out_and_adds_only_what_is_new(call, info, repository, pairs, model):
    before = info(repository)
    assert before["modality"] == "BF"
    assert before["images"] == {"indexed": 4}
    ended = call("index", pairs, "--model", model, "--modality", "BF", "-o", repository)
    assert ended.status == 0
    assert info(repository) == before


def test_query_writes_the_hits_of_every_image(call, tmp_path, pairs, repository):
    images, answers = [pairs / f"sample-00{seed}_SHG.tif" for seed in (2, 0)], tmp_path / "new" / "hits.json"
    ended = call("query", repository, *images, "--modality", "SHG", "-k", 3, "--json", answers)
    assert ended.status == 0
    content = json.loads(answers.read_text())
    assert list(content) == ["queries"]
    assert [query["image"] for query in content["queries"]] == [str(image) for image in images]
    for query, image in zip(content["queries"], images, strict=True):
        keys = ["image", "region", "rotation_degrees", "seconds", "error", "hits", "reliable", "warnings"]
        assert list(query) == keys
        assert (query["region"], query["rotation_degrees"]) == ([0, 0, 160, 160], 0)
        assert query["seconds"] > 0
        assert image.name in ended.out
        assert_are_hits(query["hits"], 3, (160, 160))


@pytest.mark.parametrize("rerank", ["none", "bow", "registration"])
def test_query_looks_for_a_region_under_every_ranking(rerank, call, tmp_path, pairs, repository):
    image, answers = pairs / "sample-001_SHG.tif", tmp_path / "hits.json"
    arguments = ["--modality", "SHG", "--region", 40, 30, 64, 96, "--rerank", rerank, "--json", answers]
    ended = call("query", repository, image, *arguments)
    assert ended.status == 0
    (query,) = json.loads(answers.read_text())["queries"]
    assert query["region"] == [40, 30, 64, 96]
    assert_are_hits(query["hits"], 4, (64, 96))


def test_a_query_of_finer_pixels_is_brought_to_those_searched(call, tmp_path, pairs, model):
    repository, fine, answers = tmp_path / "a.cmrir", tmp_path / "fine_BF.tif", tmp_path / "hits.json"
    call("index", pairs, "--model", model, "--modality", "BF", "--pixel-size", 0.5, "-o", repository)
    tifffile.imwrite(fine, tifffile.imread(pairs / "sample-001_BF.tif").repeat(2, 0).repeat(2, 1))
    arguments = ["--modality", "BF", "--region", 80, 60, 128, 192, "--max-rotation", 10, "--json", answers]
    assert call("query", repository, fine, *arguments, "--pixel-size", 0.25).status == 0
    (query,) = json.loads(answers.read_text())["queries"]
    assert query["warnings"] == []
    assert query["hits"][0]["image"].endswith("sample-001_BF.tif")
    expected = [[39.5, 29.5], [39.5, 125.5], [103.5, 125.5], [103.5, 29.5]]
    assert np.allclose(query["hits"][0]["box"], expected, atol=1)
    assert (
        "The pixel size of the region's image is unknown" in call("query", repository, fine, *arguments).out
    )
    refused = call("query", repository, fine, *arguments, "--pixel-size", 0)
    assert (refused.status, refused.err.count("--pixel-size cannot be 0")) == (2, 1)


def test_a_region_of_an_indexed_image_is_found_where_it_is(call, tmp_path, pairs, repository):
    image, answers = pairs / "sample-001_BF.tif", tmp_path / "hits.json"
    arguments = ["--modality", "BF", "--region", 40, 30, 64, 96, "--max-rotation", 10, "--json", answers]
    assert call("query", repository, image, *arguments).status == 0
    first = json.loads(answers.read_text())["queries"][0]["hits"][0]
    assert first["image"] == str(image)
    assert first["score"] > 0.9
    assert np.allclose(first["box"], [[39.5, 29.5], [39.5, 125.5], [103.5, 125.5], [103.5, 29.5]], atol=1)
    assert first["rotation_degrees"] == pytest.approx(0, abs=0.5)


def test_timings_are_printed_when_asked_for(call, pairs, repository):
    ended = call("query", repository, pairs / "sample-001_SHG.tif", "--modality", "SHG", "--timings")
    assert ended.status == 0
    assert re.search(r"comir \d\.\d{3} s  .*rerank \d", ended.out)


def assert_are_hits(hits, number, size):
    """Hits as the contract has them: keys, ranks, order, and boxes of the query's size and rotation."""
    assert [hit["rank"] for hit in hits] == [*range(1, number + 1)]
    assert len({hit["image"] for hit in hits}) == number
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits:
        assert set(hit) >= {"rank", "image", "score", "box", "rotation_degrees", "confidence"}
        assert (hit["mirrored"], hit["scale"]) == (False, 1)
        assert hit["image"].endswith("_BF.tif")
        assert 0 <= hit["confidence"] <= 1
        box = np.array(hit["box"])
        assert box.shape == (4, 2)
        right, down = box[1] - box[0], box[3] - box[0]
        assert (np.hypot(*down), np.hypot(*right)) == pytest.approx(size, abs=0.01)
        turned = np.degrees(np.arctan2(-right[0], right[1]))
        assert turned == pytest.approx(hit["rotation_degrees"], abs=0.05)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_model(call_process, tmp_path, pairs):
    def train(name, *more, prelude=""):
        arguments = ["train", pairs, "--modalities", "SHG", "BF", "-o", tmp_path / name, "--steps", 4, *more]
        return call_process(arguments, prelude)

    stopped = train("stopped.safetensors", prelude=INTERRUPTED_BEFORE_STEP.format(step=2))
    assert stopped.status == 130
    assert "--resume continues" in stopped.err
    assert "Traceback" not in stopped.err
    assert [path.name for path in tmp_path.iterdir()] == ["stopped.safetensors.checkpoint"]

    resumed = train("stopped.safetensors", "--resume", prelude=INTERRUPTED_BEFORE_STEP.format(step=1))
    assert resumed.status == 0, resumed.err  # step 1 lay behind it
    assert [path.name for path in tmp_path.iterdir()] == ["stopped.safetensors"]

    assert train("whole.safetensors").status == 0
    whole, stopped = (load_model(tmp_path / name) for name in ("whole.safetensors", "stopped.safetensors"))
    assert [entry["step"] for entry in stopped.history] == [entry["step"] for entry in whole.history]
    assert [entry["loss"] for entry in stopped.history] == [entry["loss"] for entry in whole.history]
    assert stopped.fingerprint == whole.fingerprint


def test_a_checkpoint_of_another_training_is_not_gone_on_with(call, call_process, tmp_path, pairs):
    arguments = ["train", pairs, "--modalities", "SHG", "BF", "-o", tmp_path / "m.safetensors", "--steps", 2]
    assert call_process(arguments, INTERRUPTED_BEFORE_STEP.format(step=1)).status == 130
    ended = call(*arguments, "--seed", 1, "--resume")
    assert ended.status == 2
    assert "belongs to a training of other pairs or settings" in ended.err
    assert not (tmp_path / "m.safetensors").exists()


def test_interrupted_indexing_goes_on_where_it_was(call, call_process, info, tmp_path, pairs, model):
    arguments = ["index", pairs, "--model", model, "--modality", "BF", "-o", tmp_path / "new.cmrir"]
    prelude = """
        import signal
        from napari_cmrir.repository import tasks as representing
        open_source = representing.open_source
        def interrupted(source, *options):
            if source.name == "sample-002_BF.tif":
                signal.raise_signal(signal.SIGINT)
            return open_source(source, *options)
        representing.open_source = interrupted
    """
    ended = call_process(arguments, prelude)
    assert ended.status == 130
    assert "continues with the remaining images" in ended.err
    unfinished = call("info", tmp_path / "new.cmrir")
    assert unfinished.status == 2
    assert "none of 4 images is searchable yet" in unfinished.err
    assert call(*arguments).status == 0
    assert info(tmp_path / "new.cmrir")["images"] == {"indexed": 4}
    assert call("info", tmp_path / "new.cmrir", "--verify").status == 0


def test_hits_are_exported_for_other_programs(call, tmp_path, pairs, repository):
    image = pairs / "sample-001_BF.tif"
    files = {name: tmp_path / "out" / name for name in ("hits.json", "hits.csv", "hits.geojson")}
    options = ["--json", files["hits.json"], "--csv", files["hits.csv"], "--geojson", files["hits.geojson"]]
    region = ["--region", 40, 30, 64, 96]
    ended = call(
        "query",
        repository,
        image,
        "--modality",
        "BF",
        "-k",
        2,
        *region,
        *options,
        "--transforms",
        tmp_path / "t",
    )
    assert ended.status == 0
    hits = json.loads(files["hits.json"].read_text())["queries"][0]["hits"]
    assert len(files["hits.csv"].read_text().splitlines()) == 1 + 2
    features = json.loads(files["hits.geojson"].read_text())["features"]
    assert [feature["properties"]["image"] for feature in features] == [hit["image"] for hit in hits]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        f"1-sample-001_BF-hit{rank}.{ending}" for rank in (1, 2) for ending in ("elastix.txt", "tfm", "txt")
    ]
    matrix = np.loadtxt(tmp_path / "t" / "1-sample-001_BF-hit1.txt")
    corners = np.array([[39.5, 29.5, 1], [39.5, 125.5, 1], [103.5, 125.5, 1], [103.5, 29.5, 1]])
    assert np.allclose((corners @ matrix.T)[:, :2], hits[0]["box"], atol=2e-3)


def test_a_doubtful_match_is_said_so(call, tmp_path, pairs, repository):
    answers = tmp_path / "hits.json"
    tiny = ["--region", 40, 30, 32, 32, "--json", answers]
    ended = call("query", repository, pairs / "sample-001_SHG.tif", "--modality", "SHG", *tiny)
    assert ended.status == 0
    (query,) = json.loads(answers.read_text())["queries"]
    assert query["reliable"] is False
    assert "No reliable match (confidence of the first hit 0." in ended.out
    assert "Not tried: rotations beyond 30°, the mirrored region, other sizes." in ended.out
    assert query["warnings"][0].startswith("The region is small (32 x 32 pixels")
    assert query["warnings"][0] in ended.out


def test_the_command_line_ranks_as_the_api_does(call, tmp_path, pairs, repository):
    """The widget's ranking is held against the API's in tests/napari."""
    image, answers = pairs / "sample-003_SHG.tif", tmp_path / "hits.json"
    for region, turn in (((20, 30, 100, 90), 10.0), (None, 30.0)):
        options = ["--json", answers, "--max-rotation", turn]
        options += [] if region is None else ["--region", *region]
        assert call("query", repository, image, "--modality", "SHG", *options).status == 0
        (query,) = json.loads(answers.read_text())["queries"]
        part = None if region is None else Region.from_rectangle(*region)
        settings = SearchSettings(max_rotation=turn)
        with open_repository(repository) as opened:
            job = search(opened, read_image(image), "SHG", region=part, settings=settings)
            result = run(job)
        assert query["hits"] == [hit.as_dict() for hit in result.hits]
        assert query["reliable"] == result.reliable
