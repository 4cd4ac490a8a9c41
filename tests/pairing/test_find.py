from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import find_pairs
from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.readers import read_image, read_pair
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.jobs import run
from napari_cmrir.pairing import candidates, find
from napari_cmrir.pairing.find import WORK, FoundPairs, find_aligned_pairs
from napari_cmrir.pairing.pair_files import read_table
from napari_cmrir.registration.affine import box_difference
from napari_cmrir.search.settings import PairingSettings

pytestmark = pytest.mark.core
MODALITIES = ("SHG", "BF")


@pytest.fixture(scope="module")
def previews():
    return []


@pytest.fixture(scope="module")
def result(folders, model, tmp_path_factory, previews):
    out = tmp_path_factory.mktemp("found") / "pairs"
    job = find_aligned_pairs(folders.first, folders.second, MODALITIES, model, out)
    return run(job, lambda progress: previews.append(progress.preview))


def test_the_pairs_are_found_whatever_they_are_called(result, folders):
    assert {(pair.first.name, pair.second.name) for pair in result.accepted} == set(folders.truth)


def test_their_poses_are_right(result, folders):
    for pair in result.accepted:
        truth = folders.truth[pair.first.name, pair.second.name]
        assert box_difference(truth, pair.matrix, (320, 320)) < 0.01
        assert not pair.mirrored


def test_images_of_one_name_but_other_tissue_are_rejected_with_a_reason(result):
    wrong = [pair for pair in result.pairs if not pair.accepted]
    lonely = [pair for pair in wrong if pair.first.name == "core-3_SHG.tif"]
    assert lonely
    assert all(pair.reason for pair in wrong)
    assert all(pair.confidence < 0.5 for pair in lonely)


def test_the_pairs_are_cut_aligned(result, folders):
    pairs = find_pairs([result.folder], MODALITIES)
    assert len(pairs) == 3
    assert [pair.identifier for pair in pairs] == sorted(result.identifiers)
    for number, seed in ((0, 40), (1, 41), (2, 42)):
        shg, bf = read_pair(next(pair for pair in pairs if pair.identifier == f"core-{number}"))
        assert min(shg.shape[:2]) >= 128
        assert shg.dtype == np.uint16
        whole = sample_pair(seed, 320)
        y, x = next(
            (y, x)
            for y in range(320 - shg.shape[0] + 1)
            for x in range(320 - shg.shape[1] + 1)
            if np.array_equal(whole.shg[y, x : x + shg.shape[1]], shg[0])
        )
        truth = whole.bf[y : y + shg.shape[0], x : x + shg.shape[1]].astype(float)
        moved = whole.bf[y + 4 : y + 4 + shg.shape[0], x : x + shg.shape[1]].astype(float)
        apart = np.abs(bf[: len(moved)] - truth[: len(moved)]).mean()
        assert apart < 0.5 * np.abs(bf[: len(moved)] - moved).mean()


def test_the_table_says_it_all(result):
    with (result.folder / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("first", "second", "accepted", "confidence", "rotation_degrees", "mirrored", "reason"),
        *("m00", "m01", "m02", "m10", "m11", "m12"),
    ]
    back = read_table(result.folder)
    assert [(pair.first, pair.accepted, pair.reason) for pair in back] == [
        (pair.first, pair.accepted, pair.reason) for pair in result.pairs
    ]
    for one, other in zip(back, result.pairs, strict=True):
        np.testing.assert_allclose(one.matrix, other.matrix, rtol=1e-7)


def test_nothing_else_is_left_in_the_folder(result):
    names = {path.name for path in result.folder.iterdir()}
    assert names == {"pairs.csv"} | {f"core-{i}_{m}.tif" for i in range(3) for m in MODALITIES}


def test_a_job_that_is_stopped_goes_on_where_it_was(folders, model, tmp_path, result, monkeypatch):
    searched = []
    search = candidates.search

    def counted(repository, image, *args, **kwargs):
        searched.append((str(image), repr(kwargs["region"])))
        return search(repository, image, *args, **kwargs)

    monkeypatch.setattr(candidates, "search", counted)
    given = (folders.first, folders.second, MODALITIES, model, tmp_path)
    job = find_aligned_pairs(*given)
    for _ in job:
        if len(searched) == 4:
            break
    job.close()
    assert (tmp_path / WORK).is_dir()
    again = run(find_aligned_pairs(*given))
    assert searched.count(searched[3]) == 2  # the one that was stopped
    assert len(set(searched)) == len(searched) - 1
    assert [pair.reason for pair in again.pairs] == [pair.reason for pair in result.pairs]


def test_other_settings_begin_anew(folders, model, tmp_path):
    given = (folders.first, folders.second, MODALITIES, model, tmp_path)
    job = find_aligned_pairs(*given)
    for progress in job:
        if progress.done > 40:
            break
    job.close()
    key = (tmp_path / WORK / "key").read_text()
    job = find_aligned_pairs(*given, settings=PairingSettings(candidates=2))
    next(job)
    job.close()
    assert (tmp_path / WORK / "key").read_text() != key
    assert not (tmp_path / WORK / "round-1" / "searches.jsonl").exists()


def test_parts_of_a_larger_image_are_found_in_it(model, tmp_path, write, placed):
    pair = sample_pair(70, (420, 640))
    write(tmp_path / "b" / "slide_BF.tif", pair.bf)
    write(tmp_path / "b" / "other_BF.tif", sample_pair(71, (420, 640)).bf)
    boxes = {"left": Region((200, 160), 260, 260, 25), "right": Region((215, 470), 260, 260, -160)}
    for name, region in boxes.items():
        write(tmp_path / "a" / f"{name}_SHG.tif", cut(pair.shg, region)[0])
    result = run(find_aligned_pairs(tmp_path / "a", tmp_path / "b", MODALITIES, model, tmp_path / "pairs"))
    assert sorted(result.identifiers) == ["left", "right"]
    for found in result.accepted:
        truth = np.linalg.inv(placed(boxes[found.first.name.split("_")[0]]))
        assert found.second.name == "slide_BF.tif"
        assert box_difference(truth, found.matrix, (260, 260)) < 0.015


def test_a_mirrored_and_enlarged_partner_is_found_when_asked_for(model, tmp_path, write):
    pair = sample_pair(72, 320)
    small = cut(pair.bf, Region((159.5, 159.5), 320, 320, 40), pixel_step=1.12)[0][:, ::-1]
    write(tmp_path / "a" / "core_SHG.tif", pair.shg)
    write(tmp_path / "b" / "core_BF.tif", small)
    settings = PairingSettings(mirror=True, max_scale=1.2)
    job = find_aligned_pairs(
        tmp_path / "a", tmp_path / "b", MODALITIES, model, tmp_path / "pairs", settings=settings
    )
    (found,) = run(job).accepted
    assert found.mirrored
    assert abs(np.linalg.det(found.matrix)) ** 0.5 == pytest.approx(1 / 1.12, abs=0.01)


def test_a_folder_with_other_images_is_refused(folders, model, tmp_path, write):
    write(tmp_path / "mine_BF.tif", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"mine_BF\.tif"):
        run(find_aligned_pairs(folders.first, folders.second, MODALITIES, model, tmp_path))


def test_an_image_that_cannot_be_read_is_a_row_with_the_reason(model, tmp_path, write):
    pair = sample_pair(73, 256)
    write(tmp_path / "a" / "good_SHG.tif", pair.shg)
    (tmp_path / "a" / "bad_SHG.tif").write_bytes(b"II*\0nothing")
    write(tmp_path / "b" / "good_BF.tif", pair.bf)
    result = run(find_aligned_pairs(tmp_path / "a", tmp_path / "b", MODALITIES, model, tmp_path / "pairs"))
    (bad,) = (pair for pair in result.pairs if pair.first.name == "bad_SHG.tif")
    assert not bad.accepted
    assert "bad_SHG.tif" in bad.reason
    assert result.identifiers == ("good",)


def test_previews_show_the_pairs_as_they_are_judged(result, previews):
    counts = [len(preview.pairs) for preview in previews if isinstance(preview, FoundPairs)]
    assert counts == sorted(counts)
    assert counts[-1] == len(result.pairs) > 3


def test_a_pair_that_a_later_model_contradicts_is_dropped_by_name(folders, model, tmp_path, monkeypatch):
    monkeypatch.setattr(find._Search, "train", _blind)
    settings = PairingSettings(rounds=3)
    job = find_aligned_pairs(folders.first, folders.second, MODALITIES, model, tmp_path, settings=settings)
    result = run(job)
    assert result.rounds == 2
    assert not result.accepted
    assert len(result.notes) == 3
    assert all("dropped in round 2" in note for note in result.notes)
    assert not list(Path(tmp_path).glob("*.tif"))


def _blind(self, number, model):
    """A model that answers noise."""
    from copy import deepcopy

    import torch

    yield from ()
    blind = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for parameter in blind.networks["BF"].parameters():
        if parameter.numel() > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * parameter.data.std()
    return blind


@pytest.mark.slow
def test_a_further_round_trains_on_the_pairs_and_ends_when_nothing_is_new(folders, model, tmp_path):
    settings = PairingSettings(rounds=3, training_steps=30)
    job = find_aligned_pairs(folders.first, folders.second, MODALITIES, model, tmp_path, settings=settings)
    result = run(job)
    assert result.rounds >= 2
    assert {(pair.first.name, pair.second.name) for pair in result.accepted} <= set(folders.truth)


def test_the_images_of_the_folders_are_left_as_they_are(folders, result):
    assert read_image(folders.first / "core-0_SHG.tif").shape == (320, 320, 1)
