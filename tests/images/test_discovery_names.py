"""Which files of a folder are the images of a modality, and how the refusals are worded."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
import tifffile
import zarr

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_images, find_pairs, require_images, unpaired_images
from napari_cmrir.images.lazy_image import unreadable
from napari_cmrir.images.readers import open_image, read_image
from napari_cmrir.settings import ReadingSettings


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _found(folder, modality, other=None):
    return [path.relative_to(folder).as_posix() for path in find_images([folder], modality, other)]


@pytest.mark.parametrize(
    ("names", "modality", "other", "expected"),
    [
        (["a_BF.tif", "a_pol_BF.tif", "b_BF.tif", "b_pol_BF.tif"], "BF", None, ["a_BF.tif", "b_BF.tif"]),
        (["a_BF.tif", "a_pol_BF.tif"], "BF", "pol_BF", ["a_BF.tif"]),
        (["a_BF.tif", "a_pol_BF.tif"], "pol_BF", "BF", ["a_pol_BF.tif"]),
        (
            ["1B_BF.tif", "1B_2_BF.tif", "c_left_BF.tif"],
            "BF",
            None,
            ["1B_2_BF.tif", "1B_BF.tif", "c_left_BF.tif"],
        ),
        (["a_BF.tif", "b_BF.tif"], "SHG", None, []),
        (["a_BF.tif", "b_BF.tif"], "SHG", "BF", []),
        (["core_1.tif", "core_2.tif"], "SHG", None, ["core_1.tif", "core_2.tif"]),
        (["slide_new.tif"], "SHG", None, ["slide_new.tif"]),
        (["BF/t0.tif", "SHG/t0.tif"], "BF", "SHG", ["BF/t0.tif"]),
        (["bf/t0.tif", "shg/t0.tif"], "SHG", None, ["shg/t0.tif"]),
        (["SHG/t0.tif", "t1.tif"], "BF", "SHG", ["t1.tif"]),
    ],
)
def test_the_images_of_a_modality(tmp_path, names, modality, other, expected):
    _touch(tmp_path, *names)
    assert _found(tmp_path, modality, other) == expected


def test_a_folder_of_another_modality_is_refused_in_words(tmp_path):
    _touch(tmp_path, "a_BF.tif", "b_BF.tif")
    with pytest.raises(InputError, match=r"holds no SHG image: .*\(a_BF\.tif, b_BF\.tif\)"):
        require_images([tmp_path], "SHG")


def test_images_named_in_the_other_case_are_told(tmp_path):
    _touch(tmp_path, "a_BF.tif", "a_SHG.tif", "b_bf.tif", "b_shg.tif")
    assert [pair.identifier for pair in find_pairs([tmp_path], ("BF", "SHG"))] == ["a"]
    assert [path.name for path in unpaired_images([tmp_path], ("BF", "SHG"))] == ["b_bf.tif", "b_shg.tif"]


def test_every_ending_that_is_read_singly_is_found_in_a_folder(tmp_path):
    endings = (
        "tif",
        "tiff",
        "btf",
        "btif",
        "tf2",
        "tf8",
        "qptiff",
        "lsm",
        "stk",
        "bif",
        "svs",
        "ndpi",
        "scn",
    )
    for ending in endings:
        tifffile.imwrite(tmp_path / f"a_{ending}_BF.{ending}", np.zeros((8, 8), np.uint8))
    assert len(find_images([tmp_path], "BF")) == len(endings)


@pytest.mark.skipif(not hasattr(os, "link"), reason="there are no hard links")
def test_hard_links_are_one_image(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    os.link(tmp_path / "a.tif", tmp_path / "b.tif")
    assert _found(tmp_path, None) == ["a.tif"]


def test_refusals_say_what_to_do(tmp_path):
    zarr.save_array(str(tmp_path / "plain.zarr"), np.zeros((8, 8), np.uint8))
    (tmp_path / "a.czi").write_bytes(b"ZISRAWFILE" + bytes(500))
    (tmp_path / "a.nd2").write_bytes(b"\xda\xce\xbe\x0a" + bytes(500))
    (tmp_path / "link").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "link" / "to").symlink_to(tmp_path / "real", target_is_directory=True)
    for name, words in [
        ("plain.zarr", "plain Zarr array without OME metadata"),
        ("a.czi", "pip install bioio bioio-czi"),
        ("a.nd2", "pip install bioio bioio-nd2"),
    ]:
        with pytest.raises(InputError, match=words) as error:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
    with pytest.raises(InputError, match="the link to to a folder; links to folders are not followed"):
        find_images([tmp_path / "link"])


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "cannot be opened .*close it in other programs"),
        (errno.EBUSY, "cannot be opened"),
        (errno.EIO, "cannot be reached .*check its drive or network"),
        (errno.ESTALE, "cannot be reached"),
        (errno.ETIMEDOUT, "cannot be reached"),
    ],
)
def test_locked_files_and_lost_drives(number, words):
    with pytest.raises(InputError, match=rf"slide\.svs {words}"):
        raise unreadable("slide.svs", OSError(number, os.strerror(number)))


def test_a_channel_named_by_a_number_goes_before_its_number(tmp_path):
    names = {"Channel": {"Name": ["3", "488", "0", "640"]}}
    stack = np.arange(4, dtype=np.uint8)[:, np.newaxis, np.newaxis] + np.zeros((4, 8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata={"axes": "CYX", **names})
    for channel, value in [("488", 1), (488, 1), ("0", 2), (3, 0), (1, 1)]:
        image = open_image(tmp_path / "a.ome.tif", ReadingSettings(channels=(channel,)))
        assert int(image[:1, :1].max()) == value
        image.close()
