"""What holds for every verb: instant help, exit statuses, one line for a mistake."""

import shutil

import numpy as np
import pytest
import tifffile

from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder

VERBS = [
    "demo",
    "train",
    "represent",
    "index",
    "query",
    "pair",
    "info",
    "import-checkpoint",
    "evaluate",
    "study",
    "datasets",
]
HEAVY = {"cv2", "dask", "napari", "numpy", "qtpy", "scipy", "sklearn", "torch", "zarr"}
SHG_BF = ("--modalities", "SHG", "BF")


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_loads_nothing_heavy(verb, call_process):
    prelude = """
        import atexit, sys
        atexit.register(lambda: print("loaded:", *{name.split(".")[0] for name in sys.modules}))
    """
    ended = call_process([verb, "--help"] if verb else ["--help"], prelude)
    text, loaded = ended.out.split("loaded:")
    assert ended.status == 0
    assert "Usage: napari-cmrir" in text
    assert "napari_cmrir" in loaded.split()
    assert not HEAVY & set(loaded.split())


def test_help_names_all_verbs(call):
    ended = call("--help")
    assert ended.status == 0
    assert [verb for verb in VERBS if f" {verb} " not in ended.out] == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Give a command"),
        (["fetch"], "No such command 'fetch'"),
        (["train"], "Missing argument"),
        (["train", "pairs", "-o", "m.safetensors"], "Missing option '--modalities'"),
        (["train", "pairs", "--modalities", "SHG"], "requires 2 arguments"),
        (["train", "pairs", *SHG_BF, "-o", "m.safetensors", "--steps", "0"], "--steps"),
        (["train", "pairs", *SHG_BF, "-o", "m.safetensors", "--preset", "best"], "--preset"),
        (
            ["query", "a.cmrir", "b.tif", "--modality", "SHG", "--region", "1", "2", "3"],
            "requires 4 arguments",
        ),
        (["query", "a.cmrir", "b.tif", "--modality", "SHG", "--rerank", "best"], "--rerank"),
        (["query", "a.cmrir", "b.tif", "--modality", "SHG", "-k", "0"], "-k"),
        (["demo", "--seed", "-1"], "--seed"),
        (["info", "a.cmrir", "--colour"], "No such option: --colour"),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments, complaint, call):
    ended = call(*arguments)
    assert_complains(ended, complaint)
    assert "--help'" in ended.err


def assert_complains(ended, *parts):
    assert ended.status == 2
    assert ended.err.startswith("napari-cmrir: ")
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("\n")
    assert [part for part in parts if part not in ended.err] == []


class TestTrain:
    def call(self, call, tmp_path, *folders, modalities=("SHG", "BF")):
        model = tmp_path / "new" / "model.safetensors"
        ended = call("train", *folders, "--modalities", *modalities, "-o", model, "--steps", 1)
        assert not model.parent.exists()
        return ended

    def test_folder_that_does_not_exist(self, call, tmp_path):
        assert_complains(self.call(call, tmp_path, tmp_path / "nowhere"), "nowhere does not exist")

    def test_folder_without_pairs_says_what_was_expected_and_found(self, call, tmp_path, pairs):
        folder = tmp_path / "half"
        folder.mkdir()
        shutil.copy(pairs / "sample-000_BF.tif", folder)
        expected = ("<identifier>_SHG.<ext>", "<identifier>_BF.<ext>")
        assert_complains(self.call(call, tmp_path, folder), *expected, "found sample-000_BF.tif")

    def test_modality_that_no_file_has(self, call, tmp_path, pairs):
        ended = self.call(call, tmp_path, pairs, modalities=("SHG", "AF"))
        assert_complains(ended, "<identifier>_AF.<ext>")

    def test_partners_of_unequal_size(self, call, tmp_path, pairs):
        folder = shutil.copytree(pairs, tmp_path / "unequal")
        tifffile.imwrite(folder / "sample-001_SHG.tif", np.zeros((160, 150), np.uint16))
        assert_complains(self.call(call, tmp_path, folder), "sample-001", "160 x 150", "160 x 160")

    def test_file_that_is_no_image(self, call, tmp_path, pairs):
        folder = shutil.copytree(pairs, tmp_path / "broken")
        (folder / "sample-002_BF.tif").write_text("not pixels")
        assert_complains(self.call(call, tmp_path, folder), "sample-002_BF.tif is not an image")

    def test_folder_as_model_file(self, call, tmp_path, pairs):
        assert_complains(call("train", pairs, *SHG_BF, "-o", tmp_path), f"{tmp_path} is a folder")

    def test_place_that_cannot_be_written_to(self, call, tmp_path, pairs):
        (tmp_path / "file").touch()
        ended = call("train", pairs, *SHG_BF, "-o", tmp_path / "file" / "model.safetensors", "--steps", 10**6)
        assert_complains(ended, f"cannot be written into {tmp_path / 'file'}")


class TestIndex:
    def test_modality_that_the_model_does_not_have(self, call, tmp_path, pairs, model):
        new = tmp_path / "new.cmrir"
        ended = call("index", pairs, "--model", model, "--modality", "AF", "-o", new)
        assert_complains(ended, "SHG and BF, not on AF")
        assert not new.exists()

    def test_folder_without_images(self, call, tmp_path, model):
        new = tmp_path / "new.cmrir"
        (tmp_path / "notes").mkdir()
        ended = call("index", tmp_path / "notes", "--model", model, "--modality", "BF", "-o", new)
        assert_complains(ended, "notes holds no image")
        assert not new.exists()

    def test_file_that_is_no_model(self, call, tmp_path, pairs):
        new, other = tmp_path / "new.cmrir", tmp_path / "other.safetensors"
        other.write_text("not weights")
        ended = call("index", pairs, "--model", other, "--modality", "BF", "-o", new)
        assert_complains(ended, "other.safetensors is not a model")
        assert not new.exists()

    def test_model_file_of_another_program(self, call, tmp_path, pairs):
        from safetensors.numpy import save_file

        other = tmp_path / "other.safetensors"
        save_file({"weights": np.zeros(3, np.float32)}, other)
        ended = call("index", pairs, "--model", other, "--modality", "BF", "-o", tmp_path / "new.cmrir")
        assert_complains(ended, "other.safetensors", "not a model of napari-cmrir")

    def test_repository_built_with_another_model(self, call, info, tmp_path, pairs, repository):
        other, before = tmp_path / "other.safetensors", info(repository)
        call("train", pairs, *SHG_BF, "-o", other, "--steps", 1, "--seed", 1)
        ended = call("index", pairs, "--model", other, "--modality", "BF", "-o", repository)
        assert_complains(ended, "was built with another model")
        assert info(repository) == before

    def test_images_of_which_none_can_be_read(self, call, tmp_path, model):
        (tmp_path / "a_BF.tif").write_text("not pixels")
        ended = call("index", tmp_path, "--model", model, "--modality", "BF", "-o", tmp_path / "new.cmrir")
        assert_complains(ended, "a_BF.tif", "not an image")

    def test_an_image_that_cannot_be_read_is_named_and_the_others_are_indexed(
        self, call, info, tmp_path, model
    ):
        write_sample_folder(tmp_path, [5], 160)
        (tmp_path / "broken_BF.tif").write_text("not pixels")
        new = tmp_path / "new.cmrir"
        ended = call("index", tmp_path, "--model", model, "--modality", "BF", "-o", new)
        assert ended.status == 2
        assert "Not indexed" in ended.err
        assert "broken_BF.tif" in ended.err
        assert "1 BF images searchable" in ended.out
        assert info(new)["images"] == {"indexed": 1, "failed": 1}


class TestQuery:
    @pytest.mark.parametrize(
        ("region", "complaint"),
        [
            ((200, 10, 64, 64), "outside the image of 160 x 160 pixels"),
            ((-90, -90, 64, 64), "outside the image"),
            ((130, 130, 100, 100), "% of the region lie inside the image"),
            ((10, 10, 31, 64), "at least 32 x 32"),
            ((10, 10, 64, 0), "empty"),
        ],
    )
    def test_region_that_cannot_be_found(self, region, complaint, call, tmp_path, pairs, repository):
        answers = tmp_path / "hits.json"
        image = pairs / "sample-000_SHG.tif"
        ended = call("query", repository, image, "--modality", "SHG", "--region", *region, "--json", answers)
        assert_complains(ended, complaint)
        assert not answers.exists()

    def test_modality_that_the_model_does_not_have(self, call, pairs, repository):
        ended = call("query", repository, pairs / "sample-000_SHG.tif", "--modality", "AF")
        assert_complains(ended, "SHG and BF, not on AF")

    def test_file_that_is_no_image(self, call, tmp_path, repository):
        (tmp_path / "notes.tif").write_text("not pixels")
        ended = call("query", repository, tmp_path / "notes.tif", "--modality", "SHG")
        assert_complains(ended, "notes.tif is not an image")

    def test_image_that_does_not_exist(self, call, tmp_path, repository):
        ended = call("query", repository, tmp_path / "nowhere.tif", "--modality", "SHG")
        assert_complains(ended, "nowhere.tif does not exist")

    def test_folder_that_is_no_repository(self, call, pairs):
        ended = call("query", pairs, pairs / "sample-000_SHG.tif", "--modality", "SHG")
        assert_complains(ended, "pairs is not a repository")


class TestRepresent:
    def test_file_that_is_no_image(self, call, tmp_path, model):
        (tmp_path / "notes.tif").write_text("not pixels")
        ended = call("represent", model, tmp_path / "notes.tif", "--modality", "SHG", "-o", tmp_path / "new")
        assert_complains(ended, "notes.tif is not an image")
        assert not (tmp_path / "new").exists()

    def test_modality_that_the_model_does_not_have(self, call, tmp_path, pairs, model):
        ended = call("represent", model, pairs, "--modality", "AF", "-o", tmp_path / "new")
        assert_complains(ended, "SHG and BF, not on AF")
        assert not (tmp_path / "new").exists()


class TestInfo:
    def test_path_that_does_not_exist(self, call, tmp_path):
        assert_complains(call("info", tmp_path / "nowhere"), "There is no", "nowhere")

    def test_file_that_is_no_model(self, call, pairs):
        assert_complains(call("info", pairs / "sample-000_BF.tif"), "is not a model")

    def test_damage_is_found(self, call, tmp_path, repository):
        copy = shutil.copytree(repository, tmp_path / "copy.cmrir")
        assert call("index", "--words", "-o", copy).status == 0
        assert call("info", copy, "--verify").status == 0
        thumbnails = next((copy / "indexes" / "thumbnails").iterdir())
        content = bytearray(thumbnails.read_bytes())
        content[-1] ^= 1
        thumbnails.write_bytes(content)
        ended = call("info", copy, "--verify")
        assert ended.status == 1
        assert thumbnails.name in ended.err
