"""A package outside src that adds one of everything through entry points, used end to end."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import napari_cmrir as cmrir
from napari_cmrir.bag_of_words.descriptors.features import DESCRIPTORS
from napari_cmrir.bag_of_words.settings import DescriptorSettings, VocabularySettings
from napari_cmrir.cli.main import app
from napari_cmrir.evaluation.protocol import EvaluationRun
from napari_cmrir.evaluation.records import EvaluationSettings
from napari_cmrir.evaluation.retrievers.base import RETRIEVERS, Ours, compare_retrievers
from napari_cmrir.images.formats.base import IMAGE_FORMATS
from napari_cmrir.images.synthetic.sample_pairs import sample_pair, write_sample_folder
from napari_cmrir.repository.field_indexes import FIELD_INDEXES
from napari_cmrir.repository.settings import RepositorySettings
from napari_cmrir.representations.base import REPRESENTATIONS
from napari_cmrir.search.matchers import MATCHERS
from napari_cmrir.search.rerankers import RERANKERS
from napari_cmrir.search.settings import SearchSettings

pytestmark = pytest.mark.core

PACKAGE = Path(__file__).parent / "extension_package"
REGISTRIES = (DESCRIPTORS, FIELD_INDEXES, IMAGE_FORMATS, MATCHERS, REPRESENTATIONS, RERANKERS, RETRIEVERS)
BOTH = ("SHG", "BF")


@pytest.fixture(autouse=True)
def _installed(tmp_path_factory, monkeypatch):
    """Install the package as pip would: its modules and its metadata lie on the path."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    site = tmp_path_factory.mktemp("site")
    metadata = site / "cmrir_extras-1.0.dist-info"
    metadata.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(about)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for folder in (PACKAGE, site):
        monkeypatch.syspath_prepend(str(folder))
    for registry in REGISTRIES:
        registry.reload()
    yield
    monkeypatch.undo()
    for registry in REGISTRIES:
        registry.reload()
    for name in [name for name in sys.modules if name.startswith("cmrir_extras")]:
        del sys.modules[name]


@pytest.fixture
def pairs(tmp_path):
    return write_sample_folder(tmp_path / "pairs", range(4), 160, BOTH)


def test_the_descriptor_names_the_words_of_a_search(pairs, tmp_path):
    model = cmrir.run(cmrir.train(pairs, BOTH, representation="original"))
    settings = RepositorySettings(
        descriptor=DescriptorSettings(name="block-means"),
        vocabulary=VocabularySettings(size=50, samples=2000, iterations=3),
    )
    images = [pair.paths[1] for pair in pairs]
    repository = cmrir.run(cmrir.build_repository(images, model, "BF", tmp_path / "a.cmrir", settings))
    assert repository.settings.descriptor.name == "block-means"
    asked = cmrir.read_image(images[2])
    found = cmrir.run(cmrir.query(repository, asked, "BF", settings=SearchSettings(rerank="bow")))
    assert found.hits[0].image == str(images[2])
    assert found.hits[0].scores["bow"] > 0.99


def test_the_representation_is_trained_indexed_and_queried_by_the_command_line(pairs, tmp_path):
    folder, model = pairs[0].paths[0].parent, tmp_path / "edges.safetensors"
    repository, found = tmp_path / "edges.cmrir", tmp_path / "hits.json"
    for line in (
        f"train {folder} --modalities SHG BF --representation edges -o {model}",
        f"index {folder} --model {model} --modality BF -o {repository}",
        f"query {repository} {pairs[1].paths[1]} --modality BF --json {found}",
    ):
        answer = CliRunner().invoke(app, line.split(), catch_exceptions=False)
        assert answer.exit_code == 0, answer.output
    assert cmrir.load_model(model).name == "edges"
    best = json.loads(found.read_text())["queries"][0]["hits"][0]
    assert best["image"] == str(pairs[1].paths[1])
    assert best["score"] > 0.98


def test_the_retriever_is_compared_with_ours_on_the_same_queries(pairs, tmp_path):
    model = cmrir.run(cmrir.train(pairs, BOTH, representation="original"))
    settings = EvaluationSettings(
        field_size=160, query="full", kinds=("within",), poses=("untransformed",), hits=1
    )
    evaluation = EvaluationRun(model, BOTH, settings, "cpu")
    for pair in pairs:
        evaluation.add(pair)
    retrievers = {
        "ours": Ours(tmp_path / "ours", "cpu", model=model),
        "brightness": RETRIEVERS["brightness"](tmp_path / "brightness"),
    }
    ranks = cmrir.run(compare_retrievers(retrievers, evaluation))
    for name in retrievers:
        assert len(ranks[name]) == 2
        for condition, found in ranks[name].items():
            assert found == [1, 1, 1, 1], (name, condition)


def test_the_image_format_is_found_in_folders_indexed_and_queried(tmp_path):
    for seed in range(3):
        np.save(tmp_path / f"tissue{seed}_BF.npy", sample_pair(seed, 160).bf)
    images = cmrir.find_images([tmp_path], "BF")
    assert [path.name for path in images] == ["tissue0_BF.npy", "tissue1_BF.npy", "tissue2_BF.npy"]
    pixels = [cmrir.read_image(path) for path in images]
    assert (pixels[1] == sample_pair(1, 160).bf).all()
    pairs = [(image, image) for image in pixels]
    model = cmrir.run(cmrir.train(pairs, BOTH, representation="original"))
    repository = cmrir.run(cmrir.build_repository([tmp_path], model, "BF", tmp_path / "a.cmrir"))
    found = cmrir.run(cmrir.query(repository, pixels[1], "BF"))
    assert found.hits[0].image == str(images[1])


def test_the_field_index_is_built_read_extended_and_verified(pairs, tmp_path):
    model = cmrir.run(cmrir.train(pairs, BOTH, representation="original"))
    images, path = [pair.paths[1] for pair in pairs], tmp_path / "a.cmrir"
    cmrir.run(cmrir.build_repository(images[:3], model, "BF", path)).close()
    for some in (images[:3], images):
        cmrir.run(cmrir.build_repository(some, model, "BF", path)).close()
        cmrir.run(cmrir.build_index(path, "contrast"))
        with cmrir.open_repository(path) as repository:
            contrast = np.concatenate([part["contrast"] for part in repository.index("contrast")])
            assert len(contrast) == len(some)
            expected = [repository.comir(field).std() for field in range(len(repository))]
            assert contrast == pytest.approx(expected)
    assert cmrir.run(cmrir.verify_repository(path)) == []
    file = next((path / "indexes" / "contrast").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert any("contrast" in problem for problem in cmrir.run(cmrir.verify_repository(path)))


def test_the_reranker_orders_the_hits_of_a_query(pairs, tmp_path):
    model = cmrir.run(cmrir.train(pairs, BOTH, representation="original"))
    images = [pair.paths[1] for pair in pairs]
    repository = cmrir.run(cmrir.build_repository(images, model, "BF", tmp_path / "a.cmrir"))
    turned = np.ascontiguousarray(np.rot90(cmrir.read_image(images[2])))
    wide = {"max_rotation": 180.0}
    plain = cmrir.run(cmrir.query(repository, turned, "BF", settings=SearchSettings(**wide))).hits[0]
    settings = SearchSettings(rerank="upright", **wide)
    hit = cmrir.run(cmrir.query(repository, turned, "BF", settings=settings)).hits[0]
    assert (hit.image, abs(round(hit.rotation_degrees))) == (plain.image, 90)
    assert hit.score == pytest.approx(plain.score / 2, abs=0.02)
    with pytest.raises(cmrir.InputError, match="There is no reranker 'magic'; choose one of none, bow, reg"):
        cmrir.run(cmrir.query(repository, turned, "BF", settings=SearchSettings(rerank="magic")))


def test_the_matcher_counts_the_points_of_the_first_hits(pairs, tmp_path):
    model, found = tmp_path / "original.safetensors", tmp_path / "hits.json"
    cmrir.run(cmrir.train(pairs, BOTH, representation="original", output=model))
    images = [pair.paths[1] for pair in pairs]
    cmrir.run(cmrir.build_repository(images, cmrir.load_model(model), "BF", tmp_path / "a.cmrir")).close()
    line = f"query {tmp_path / 'a.cmrir'} {images[2]} --modality BF --region 20 30 100 90"
    for more in ("--matcher sift-points", "--matcher sift-points:0.7 --match-on images"):
        answer = CliRunner().invoke(app, [*line.split(), *more.split(), "--json", str(found)])
        assert answer.exit_code == 0, answer.output
        best = json.loads(found.read_text())["queries"][0]["hits"][0]
        assert best["image"] == str(images[2])
        assert np.abs(np.array(best["box"])[0] - (19.5, 29.5)).max() < 0.2
        assert best["matcher"] >= 10
        assert f"{best['matcher']:.4g}" in answer.output
    answer = CliRunner().invoke(app, [*line.split(), "--matcher", "magic"])
    assert answer.exit_code == 2
    words = " ".join(answer.output.replace("│", " ").split())
    assert "There is no matcher 'magic'; choose one of vismatch, sift-points." in words


def test_without_the_package_its_names_are_unknown(monkeypatch):
    assert "edges" in REPRESENTATIONS
    monkeypatch.undo()
    REPRESENTATIONS.reload()
    with pytest.raises(cmrir.InputError, match="choose one of comir, comir-any, cyclegan, original, pix2pix"):
        REPRESENTATIONS["edges"]


@pytest.mark.parametrize(
    "file", ["pyproject.toml", *sorted(p.name for p in PACKAGE.glob("cmrir_extras/*.py"))]
)
def test_the_documentation_shows_the_files_as_they_are(file):
    shown = (PACKAGE.parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")
    path = PACKAGE / file if file.endswith(".toml") else PACKAGE / "cmrir_extras" / file
    language = "toml" if file.endswith(".toml") else "python"
    assert f"```{language}\n{path.read_text(encoding='utf-8')}```" in shown
