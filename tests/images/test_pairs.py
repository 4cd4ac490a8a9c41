from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import Pair, find_pairs, unpaired_images
from napari_cmrir.images.readers import read_pair

MODALITIES = ("SHG", "BF")


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _listed(folder, pairs):
    return [
        (pair.identifier, *(path.relative_to(folder).as_posix() for path in pair.paths)) for pair in pairs
    ]


def test_identifiers_are_compared_whole(tmp_path):
    _touch(tmp_path, "1B_B10_BF.tif", "1B_B1_SHG.tif", "1B_B1_BF.png", "1B_B2_SHG.ome.tif", "1B_B2_BF.tif")
    assert _listed(tmp_path, find_pairs([tmp_path], MODALITIES)) == [
        ("1B_B1", "1B_B1_SHG.tif", "1B_B1_BF.png"),
        ("1B_B2", "1B_B2_SHG.ome.tif", "1B_B2_BF.tif"),
    ]
    assert unpaired_images([tmp_path], MODALITIES) == [tmp_path / "1B_B10_BF.tif"]


def test_the_order_of_the_modalities_is_the_order_of_the_paths(tmp_path):
    _touch(tmp_path, "a10_SHG.tif", "a10_BF.tif", "a9_SHG.tif", "a9_BF.tif")
    pairs = find_pairs(tmp_path, ("BF", "SHG"))
    assert _listed(tmp_path, pairs) == [
        ("a9", "a9_BF.tif", "a9_SHG.tif"),
        ("a10", "a10_BF.tif", "a10_SHG.tif"),
    ]


def test_several_folders_count_as_one(tmp_path):
    _touch(tmp_path, "one/a_SHG.tif", "two/deep/a_BF.tif", "three/b_SHG.tif", "three/b_BF.tif")
    pairs = find_pairs([tmp_path / "one", tmp_path / "two", tmp_path / "three", tmp_path / "one"], MODALITIES)
    assert [pair.identifier for pair in pairs] == ["a", "b"]


def test_two_folders_of_equal_names(tmp_path):
    _touch(tmp_path, "bf/x.png", "bf/run1/y.png", "bf/z.png", "shg/x.tif", "shg/run1/y.tif", "shg/w.tif")
    folders = [tmp_path / "shg", tmp_path / "bf"]
    assert _listed(tmp_path, find_pairs(folders, MODALITIES)) == [
        ("run1/y", "shg/run1/y.tif", "bf/run1/y.png"),
        ("x", "shg/x.tif", "bf/x.png"),
    ]
    assert unpaired_images(folders, MODALITIES) == [tmp_path / "bf/z.png", tmp_path / "shg/w.tif"]


def test_files_are_named_by_a_pattern(tmp_path):
    _touch(tmp_path, "SHG-core_7-v2.tif", "bf-core_7.png", "SHG-core_8.tif", "core_9_SHG.tif")
    pattern = "<MODALITY>-<identifier>-v*"
    with pytest.raises(InputError, match=r"named SHG-<identifier>-v\*\.<ext> and BF-"):
        find_pairs(tmp_path, MODALITIES, pattern=pattern)
    (tmp_path / "bf-core_7.png").rename(tmp_path / "bf-core_7-vorher.png")
    pairs = find_pairs(tmp_path, MODALITIES, pattern=pattern)
    assert _listed(tmp_path, pairs) == [("core_7", "SHG-core_7-v2.tif", "bf-core_7-vorher.png")]
    alone = unpaired_images(tmp_path, MODALITIES, "<MODALITY>-<identifier>.<ext>")
    assert [path.name for path in alone] == ["bf-core_7-vorher.png", "SHG-core_7-v2.tif", "SHG-core_8.tif"]
    with pytest.raises(InputError, match="needs <identifier> and <MODALITY> once each"):
        find_pairs(tmp_path, MODALITIES, pattern="<identifier>")


def test_lower_case_names_match_where_there_are_no_others(tmp_path):
    _touch(tmp_path, "a_shg.tif", "a_bf.tif")
    assert [pair.identifier for pair in find_pairs([tmp_path], MODALITIES)] == ["a"]


def test_the_longer_of_two_modalities_wins(tmp_path):
    _touch(tmp_path, "a_late_BF.tif", "a_BF.tif")
    pairs = find_pairs([tmp_path], ("BF", "late_BF"))
    assert _listed(tmp_path, pairs) == [("a", "a_BF.tif", "a_late_BF.tif")]


def test_no_pair_says_what_was_expected_and_found(tmp_path):
    _touch(tmp_path, *(f"core{i}.tif" for i in range(6)))
    with pytest.raises(InputError) as error:
        find_pairs([tmp_path], MODALITIES)
    for part in (str(tmp_path), "<identifier>_SHG.<ext>", "<identifier>_BF.<ext>", "core0.tif", "2 more"):
        assert part in str(error.value)
    assert unpaired_images([tmp_path], MODALITIES) == []


def test_two_files_for_one_place_are_named(tmp_path):
    _touch(tmp_path, "a_BF.tif", "a_BF.png", "a_SHG.tif")
    with pytest.raises(InputError, match=r"a_BF\.png and .*a_BF\.tif"):
        find_pairs([tmp_path], MODALITIES)


@pytest.mark.parametrize("modalities", [("BF", "BF"), ("BF", ""), ("BF",)])
def test_modalities_have_to_differ(tmp_path, modalities):
    with pytest.raises(InputError, match="two different modalities"):
        find_pairs([tmp_path], modalities)


def test_no_folder_or_a_missing_one(tmp_path):
    with pytest.raises(InputError, match="at least one folder"):
        find_pairs([], MODALITIES)
    with pytest.raises(InputError, match="missing does not exist"):
        find_pairs([tmp_path / "missing"], MODALITIES)


def test_a_pair_is_read_in_order_and_sizes_must_agree(tmp_path):
    tifffile.imwrite(tmp_path / "a_SHG.tif", np.ones((8, 9), np.uint16))
    tifffile.imwrite(tmp_path / "a_BF.tif", np.ones((8, 9, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "b_BF.tif", np.ones((8, 10, 3), np.uint8), photometric="rgb")
    shg, bf = read_pair(Pair("a", (tmp_path / "a_SHG.tif", tmp_path / "a_BF.tif")))
    assert (shg.shape, bf.shape) == ((8, 9, 1), (8, 9, 3))
    with pytest.raises(InputError) as error:
        read_pair(Pair("b", (tmp_path / "a_SHG.tif", tmp_path / "b_BF.tif")))
    for part in ("a_SHG.tif has 8 x 9 px", "b_BF.tif has 8 x 10 px"):
        assert part in str(error.value)
