"""One bad file does not stop the others, and outputs go where they are expected."""

from __future__ import annotations

import json
import os
import stat
import threading

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_cmrir.files import atomic_path, atomic_write
from napari_cmrir.images.synthetic.sample_pairs import sample_pair


@pytest.fixture
def queries(tmp_path):
    """Three SHG images, of which the first is cut off and the second is blank."""
    folder = tmp_path / "queries"
    folder.mkdir()
    for number in range(3):
        tifffile.imwrite(folder / f"c{number}_SHG.tif", sample_pair(number, 96).shg[..., 0])
    cut = folder / "c0_SHG.tif"
    cut.write_bytes(cut.read_bytes()[:3000])
    tifffile.imwrite(folder / "c1_SHG.tif", np.full((96, 96), 40, np.uint16))
    return folder


def test_query_answers_the_others_and_names_the_failures(call, queries, repository, tmp_path):
    names = [tmp_path / name for name in ("hits.json", "hits.csv", "hits.geojson")]
    options = ["--json", names[0], "--csv", names[1], "--geojson", names[2]]
    ended = call("query", repository, queries, "--modality", "SHG", *options)
    assert ended.status == 2
    first, second = (line for line in ended.err.splitlines() if line.startswith("napari-cmrir: "))
    assert "c0_SHG.tif" in first
    assert "c1_SHG.tif" in second
    assert "one constant value" in second
    asked = json.loads(names[0].read_text())["queries"]
    assert [bool(query["error"]) for query in asked] == [True, True, False]
    assert [len(query["hits"]) > 0 for query in asked] == [False, False, True]
    assert "c2_SHG" in names[1].read_text()
    assert all(name.exists() for name in names)


def test_represent_writes_the_others(call, queries, model, tmp_path):
    ended = call("represent", model, queries, "--modality", "SHG", "-o", tmp_path / "out")
    assert ended.status == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "c1_SHG_CoMIR.tif",
        "c2_SHG_CoMIR.tif",
    ]


def test_images_of_one_stem_are_represented_apart(call, model, tmp_path):
    for number, name in enumerate(("a/x_BF.tif", "b/x_BF.tif")):
        (tmp_path / name).parent.mkdir()
        tifffile.imwrite(tmp_path / name, sample_pair(number, 64).bf, photometric="rgb")
    Image.fromarray(sample_pair(2, 64).bf).save(tmp_path / "a/x_BF.png")
    out = tmp_path / "out"
    ended = call("represent", model, tmp_path / "a", tmp_path / "b", "--modality", "BF", "-o", out)
    assert ended.status == 0
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.tif"))
    assert made == ["a/x_BF.tif_CoMIR.tif", "b/x_BF.tif_CoMIR.tif", "x_BF.png_CoMIR.tif"]
    assert len({path.read_bytes() for path in out.rglob("*.tif")}) == 3


@pytest.mark.parametrize("pyramid", [False, True])
def test_a_later_image_of_the_same_stem_does_not_replace_the_earlier_ones_comir(
    call, model, tmp_path, pyramid
):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / "x_BF.tif", sample_pair(1, 64).bf, photometric="rgb")
    out = ["--modality", "BF", "-o", tmp_path / "out", *(["--pyramid"] if pyramid else [])]
    assert call("represent", model, tmp_path / "a/x_BF.tif", *out).status == 0
    assert call("represent", model, tmp_path / "a/x_BF.tif", *out).status == 0
    ended = call("represent", model, tmp_path / "b/x_BF.tif", *out)
    assert ended.status == 2
    assert "is the CoMIR of" in ended.err


def test_standard_output(call, repository, tmp_path):
    tifffile.imwrite(tmp_path / "a_SHG.tif", sample_pair(3, 96).shg[..., 0])
    ended = call("query", repository, tmp_path / "a_SHG.tif", "--modality", "SHG", "--json", "-")
    assert len(json.loads(ended.out)["queries"]) == 1
    assert "confidence" in ended.err
    assert not os.path.exists("-")


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "hits.json").symlink_to(tmp_path / "share" / "hits.json")
    for content in (b"first", b"second"):
        atomic_write(tmp_path / "hits.json", content)
        assert (tmp_path / "share" / "hits.json").read_bytes() == content
    assert (tmp_path / "hits.json").is_symlink()
    (tmp_path / "folder").symlink_to(tmp_path / "share", target_is_directory=True)
    with atomic_path(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert (tmp_path / "folder").is_symlink()
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["new"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_and_a_device_are_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    atomic_write(pipe, b"content")
    reader.join(10)
    assert received == [b"content"]
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)
    atomic_write(type(pipe)("/dev/null"), b"content")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
