import hashlib
import io
import zipfile

import pytest
import tifffile

from napari_cmrir import jobs
from napari_cmrir.errors import InputError
from napari_cmrir.evaluation.datasets import fetch_dataset, place_image
from napari_cmrir.images.discovery import find_pairs


def fetch(record, folder):
    record.asked.clear()
    return jobs.run(fetch_dataset(folder, server=record.address))


def test_the_record_is_fetched_checked_and_laid_out_as_pairs(record, tmp_path):
    seen = []
    dataset = jobs.run(fetch_dataset(tmp_path, server=record.address), seen.append)
    assert dataset.parts == {"test": 2, "test-transformed": 2, "train": 4}
    assert dataset.unplaced == ()
    assert [p.identifier for p in find_pairs(tmp_path / "train", ("SHG", "BF"))] == ["1B_A2", "1B_A5"]
    assert [p.identifier for p in find_pairs(tmp_path / "test", ("SHG", "BF"))] == ["1B_B1"]
    assert tifffile.imread(tmp_path / "test-transformed" / "1B_B1_BF.tif")[0, 0].tolist() == [7, 7, 7]
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path.parent / "evil_SHG.tif").exists()
    sizes = [progress.done for progress in seen if progress.unit == "MB" and progress.total]
    assert sizes
    assert sizes[-1] == len(record.content) / 1e6
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_there_is_not_fetched_again(record, tmp_path):
    fetch(record, tmp_path)
    (tmp_path / "train" / "1B_A5_BF.tif").unlink()
    assert fetch(record, tmp_path).parts["train"] == 4
    assert [path for path, _ in record.asked] == ["/api/records/3874362"]
    assert (tmp_path / "train" / "1B_A5_BF.tif").exists()


def test_a_broken_download_goes_on_where_it_stopped(record, tmp_path):
    record.cut_after = 700_000
    with pytest.raises(InputError, match=r"127\.0\.0\.1.*repeat the command"):
        fetch(record, tmp_path)
    partial = tmp_path / "downloads" / "HighRes_Splits.zip.part"
    there = partial.read_bytes()
    assert 400_000 < len(there) <= 700_000
    assert record.content.startswith(there)
    record.cut_after = None
    assert fetch(record, tmp_path).parts["train"] == 4
    assert record.asked[-1][1] == f"bytes={len(there)}-"
    assert (tmp_path / "downloads" / "HighRes_Splits.zip").read_bytes() == record.content


def test_whoever_stops_the_job_keeps_what_was_downloaded(record, tmp_path):
    job = fetch_dataset(tmp_path, server=record.address)
    while next(job).total is None:
        pass
    job.close()
    assert (tmp_path / "downloads" / "HighRes_Splits.zip.part").stat().st_size > 0


def test_a_wrong_checksum_is_refused_and_the_next_run_starts_afresh(record, tmp_path):
    right, record.checksum = record.checksum, "md5:" + "0" * 32
    with pytest.raises(InputError, match="differs from the published one; run the command again"):
        fetch(record, tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []
    record.checksum = right
    assert fetch(record, tmp_path).parts["test"] == 2
    assert record.asked[-1][1] is None


def test_a_damaged_file_is_fetched_again(record, tmp_path):
    fetch(record, tmp_path)
    (tmp_path / "downloads" / "HighRes_Splits.zip").write_bytes(b"damaged")
    fetch(record, tmp_path)
    assert len(record.asked) == 2
    assert (tmp_path / "downloads" / "HighRes_Splits.zip").read_bytes() == record.content


def test_without_network_one_sentence_says_so(record, tmp_path):
    with type(record)() as gone:
        address = gone.address
    with pytest.raises(InputError, match=r"127\.0\.0\.1:\d+ cannot be reached; check the network"):
        jobs.run(fetch_dataset(tmp_path, server=address))


def test_a_record_that_is_not_there_is_told(record, tmp_path):
    with pytest.raises(InputError, match=r"There is no record 10\.5281/zenodo\.7"):
        jobs.run(fetch_dataset(tmp_path, doi="10.5281/zenodo.7", server=record.address))


def test_the_source_and_its_licence_lie_beside_the_images(record, tmp_path):
    dataset = fetch(record, tmp_path)
    assert dataset.licence == "cc-by-4.0"
    source = (tmp_path / "SOURCE.txt").read_text(encoding="utf-8")
    assert "Eliceiri, Li and Keikhosravi" in source
    assert "https://doi.org/10.5281/zenodo.3874362\nLicence: cc-by-4.0" in source


def test_a_data_set_of_patches_is_one_archive_with_a_folder_for_each_modality(record, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for letter in "AB":
            for kind in "RT":
                name = f"Zurich_patches/fold1/patch_tlevel2/{letter}/test/zh5_03_02_{kind}.tif"
                file.writestr(name, record.tiff(9, letter == "B"))
        file.writestr("Zurich_patches/fold1/patch_tlevel2/info_test.csv", "Filename")
    record.content = buffer.getvalue()
    record.checksum = "md5:" + hashlib.md5(record.content).hexdigest()
    dataset = jobs.run(fetch_dataset(tmp_path, "nir_rgb", server=record.address))
    assert sum(dataset.parts.values()) == 4
    assert [path for path, _ in record.asked if "Balvan" in path] == []
    transformed = next(part for part in dataset.parts if part.endswith("-transformed"))
    (pair,) = find_pairs(tmp_path / transformed, ("NIR", "RGB"))
    assert (pair.identifier, pair.paths[0].name) == ("zh5_03_02", "zh5_03_02_NIR.tif")
    assert dataset.licence == ""
    assert "Licence: see there" in (tmp_path / "SOURCE.txt").read_text(encoding="utf-8")


def test_a_record_without_the_archive_says_what_it_has(record, tmp_path):
    with pytest.raises(InputError, match=r"has no file Eliceiri\*; it has Balvan_patches.zip, Zurich"):
        jobs.run(fetch_dataset(tmp_path, "shg_bf_patches", server=record.address))


def test_an_unknown_data_set_is_told_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="There is no data set 'cats'; choose one of shg_bf, shg_bf_patches"):
        jobs.run(fetch_dataset(tmp_path, "cats"))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("1B_A1_SHG.tif", "images/1B_A1_SHG.tif"),
        ("a/b/Validation1Set/sa-95_bf.TIFF", "a-b-validation1/sa-95_BF.tiff"),
        ("TestSet/1B_A1_SHG_T.tif", "test-transformed/1B_A1_SHG.tif"),
        ("TestSet/R_1B_A1_SHG.tif", "test/1B_A1_SHG.tif"),
        ("TestSet/info.csv", None),
        ("TestSet/overview.tif", None),
        (".hidden/1B_A1_SHG.tif", None),
        ("../1B_A1_SHG.tif", None),
    ],
)
def test_places_of_images(name, place):
    found = place_image(name)
    assert (found and found.as_posix()) == place
