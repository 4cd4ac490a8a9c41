"""What cannot be done is one notification that says what is wrong and what to do, in every dock."""

import json
import shutil
import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from napari.components import ViewerModel
from safetensors import safe_open
from safetensors.numpy import save_file

from napari_cmrir.images.geometry import Region
from napari_cmrir.images.readers import read_image
from napari_cmrir.jobs import run
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.napari.model_dock import ModelWidget
from napari_cmrir.repository.build import build_repository
from napari_cmrir.repository.maintenance import writer_lock
from napari_cmrir.representations.base import load_model

CASES = []


@dataclass
class Place:
    """What a user has: images, a model, a repository, and an empty folder."""

    empty: Path
    pairs: Path
    model: Path
    repository: Path
    viewer: ViewerModel
    until_then: ExitStack

    def copy(self):
        """Give a copy of the repository, to spoil."""
        return Path(shutil.copytree(self.repository, self.empty / "copy.cmrir"))

    def file(self):
        """Give a file that holds no image."""
        path = self.empty / "notes_BF.tif"
        path.write_text("not pixels")
        return path

    def newer_model(self):
        """Give a model that a later version wrote."""
        with safe_open(self.model, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads(file.metadata()["napari-cmrir"])
        path = self.empty / "newer.safetensors"
        save_file(tensors, path, {"napari-cmrir": json.dumps(header | {"format": 99})})
        return path

    def pair(self, first, second):
        """Give a folder with one pair of these pixels."""
        for pixels, modality in ((first, "SHG"), (second, "BF")):
            tifffile.imwrite(self.empty / f"a_{modality}.tif", pixels)
        return self.empty


@pytest.fixture
def place(tmp_path, pairs_folder, model_path, repository_path):
    with ExitStack() as until_then:
        yield Place(tmp_path, pairs_folder, model_path, repository_path, ViewerModel(), until_then)


def refused(widget_class, wrong, advice):
    """Enter a case: it fills a dock's fields in, and returns what the user then does."""

    def enter(case):
        CASES.append(pytest.param(widget_class, case, wrong, advice, id=case.__name__))
        return case

    return enter


def noise(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width), np.uint8)


def search(find, place, pixels=None, region=None):
    """Fill Find region in, and draw a region."""
    shg = read_image(place.pairs / "sample-001_SHG.tif")[..., 0]
    image = place.viewer.add_image(shg if pixels is None else pixels)
    find.repository.set_paths(place.repository)
    find.image.choose(image)
    if region is not None:
        find.new_region.click()
        find.region.layer.add_rectangles([region.corners()])
    return find.find


def index(widget, place):
    """Fill Index images in: brightfield images into a new repository."""
    widget.images.set_paths(place.pairs)
    widget.model.set_paths(place.model)
    widget.modality.addItems(["SHG", "BF"])
    widget.modality.setCurrentText("BF")
    widget.output.set_paths(place.empty / "new.cmrir")
    return widget.index


def train(widget, place, pairs=None):
    """Fill CoMIR model in."""
    widget.pairs.folder.set_paths(place.pairs if pairs is None else pairs)
    widget.steps.setValue(1)
    widget.output.set_paths(place.empty / "m.safetensors")
    return widget.train


@refused(FindWidget, "No repository is chosen", "index images in the widget Index images, or choose one")
def no_repository(find, place):
    search(find, place)
    find.repository.line.clear()
    return find.find


@refused(FindWidget, "is not a repository", "give a folder made by")
def a_folder_that_is_no_repository(find, place):
    search(find, place)
    find.repository.set_paths(place.empty)
    return find.find


@refused(FindWidget, "newer than this napari-cmrir reads", "update napari-cmrir")
def a_newer_repository(find, place):
    search(find, place)
    find.repository.set_paths(place.copy())
    catalogue = sqlite3.connect(find.repository.path / "catalogue.sqlite")
    catalogue.execute("PRAGMA user_version = 99")
    catalogue.close()
    return find.find


@refused(FindWidget, "is not a catalogue or is damaged", "restore it from a copy")
def a_damaged_repository(find, place):
    search(find, place)
    find.repository.set_paths(place.copy())
    for file in find.repository.path.glob("catalogue.sqlite*"):
        file.unlink()
    (find.repository.path / "catalogue.sqlite").write_bytes(b"rubbish" * 1000)
    return find.find


@refused(FindWidget, "misses its model.safetensors", "restore it from a copy or index again")
def a_repository_without_its_model(find, place):
    search(find, place)
    find.repository.set_paths(place.copy())
    (find.repository.path / "model.safetensors").unlink()
    return find.find


@refused(FindWidget, "No image is chosen", "open the image that the region lies in")
def no_image(find, place):
    find.repository.set_paths(place.repository)
    return find.find


@refused(FindWidget, "No image is chosen", "open the image that the region lies in")
def a_region_of_no_image(find, place):
    return find.new_region.click


@refused(FindWidget, "holds no region yet", "draw a rectangle on it")
def nothing_drawn(find, place):
    search(find, place)
    find.new_region.click()
    return find.find


@refused(FindWidget, "A line encloses no region", "draw a rectangle, an ellipse or a polygon")
def a_line(find, place):
    search(find, place)
    find.new_region.click()
    find.region.layer.add_lines([[10, 10], [90, 90]])
    return find.find


@refused(FindWidget, "too small to be found", "draw one of at least 32 x 32")
def a_small_region(find, place):
    return search(find, place, region=Region((60, 60), 20, 20))


@refused(FindWidget, "lies outside the image", "draw it over the image")
def a_region_beside_the_image(find, place):
    return search(find, place, region=Region((600, 60), 50, 50))


@refused(FindWidget, "of the region lie inside the image", "draw it inside the image")
def a_region_mostly_beside_the_image(find, place):
    return search(find, place, region=Region((0, 0), 100, 100))


@refused(FindWidget, "has one constant value", "draw it over tissue")
def a_constant_region(find, place):
    return search(find, place, np.full((128, 128), 7, np.uint8))


@refused(FindWidget, "larger than all searched fields", "draw a smaller one")
def a_region_larger_than_any_image(find, place):
    return search(find, place, noise(400, 400))


@refused(FindWidget, "has 3 channels", "check that the image is of the modality given")
def an_image_of_the_other_modality(find, place):
    return search(find, place, read_image(place.pairs / "sample-001_BF.tif"))


@refused(IndexWidget, "No images are chosen", "choose a folder or files")
def no_images(widget, place):
    return widget.index


@refused(IndexWidget, "cannot be read: No such file", "check the file and index again")
def images_that_are_not_there(widget, place):
    index(widget, place)
    widget.images.set_paths(place.empty / "none")
    return widget.index


@refused(IndexWidget, "holds no image", "give a folder with TIFF")
def a_folder_without_images(widget, place):
    index(widget, place)
    (place.empty / "images").mkdir()
    widget.images.set_paths(place.empty / "images")
    return widget.index


@refused(IndexWidget, "The image could not be indexed; ", "notes_BF.tif is not an image that can be read")
def an_unreadable_image(widget, place):
    index(widget, place)
    widget.images.set_paths(place.file())
    return widget.index


@refused(IndexWidget, "shows nothing but empty glass", "if that is wrong")
def an_image_of_empty_glass(widget, place):
    index(widget, place)
    glass = np.full((1200, 256, 3), 240, np.uint8)  # of several fields
    tifffile.imwrite(place.empty / "glass_BF.tif", glass, photometric="rgb")
    widget.images.set_paths(place.empty / "glass_BF.tif")
    return widget.index


@refused(IndexWidget, "is a repository, not a folder of images", "give the images themselves")
def a_repository_as_images(widget, place):
    index(widget, place)
    widget.images.set_paths(place.repository)
    return widget.index


@refused(IndexWidget, "No model is chosen", "train or load one in the widget CoMIR model")
def no_model(widget, place):
    index(widget, place)
    widget.model.line.clear()
    return widget.index


@refused(IndexWidget, "is not a model", "give a .safetensors file that 'train' wrote")
def a_file_that_is_no_model(widget, place):
    index(widget, place)
    widget.model.set_paths(place.file())
    return widget.index


@refused(IndexWidget, "was written by a newer napari-cmrir", "upgrade this one")
def a_newer_model(widget, place):
    index(widget, place)
    widget.model.set_paths(place.newer_model())
    return widget.index


@refused(IndexWidget, "was built with another model", "give the same model, or another repository to write")
def another_model_than_the_repositorys(widget, place):
    index(widget, place)
    model = load_model(place.model)
    with torch.no_grad():
        next(model.networks["BF"].parameters()).add_(1)
    model.save(place.empty / "other.safetensors")
    widget.model.set_paths(place.empty / "other.safetensors")
    widget.output.set_paths(place.copy())
    return widget.index


@refused(IndexWidget, "holds BF images, not SHG", "give BF as modality, or another repository to write")
def another_modality_than_the_repositorys(widget, place):
    index(widget, place)
    widget.modality.setCurrentText("SHG")
    widget.output.set_paths(place.copy())
    return widget.index


@refused(IndexWidget, "is being written by process", "wait for it to end or stop it")
def a_repository_that_is_being_written(widget, place):
    index(widget, place)
    widget.output.set_paths(place.copy())
    place.until_then.enter_context(writer_lock(widget.output.path / "writer.lock"))
    return widget.index


@refused(IndexWidget, "holds other files and is not a repository", "give a new folder")
def a_folder_of_other_files_as_repository(widget, place):
    index(widget, place)
    widget.output.set_paths(place.empty / "mine.cmrir")
    widget.output.path.mkdir()
    (widget.output.path / "diary.txt").touch()
    return widget.index


@refused(IndexWidget, "Not a directory", "check the path and its permissions")
def a_repository_where_nothing_can_be_written(widget, place):
    index(widget, place)
    widget.output.set_paths(place.file() / "new.cmrir")
    return widget.index


@refused(IndexWidget, "is not a repository", "give a folder made by")
def verifying_what_is_no_repository(widget, place):
    widget.output.set_paths(place.empty)
    return widget.verify.click


@refused(IndexWidget, "No repository is chosen", "choose where to")
def pruning_nothing(widget, place):
    return widget.prune.click


@refused(IndexWidget, "is where it was", "connect their drive, or index the folder that they are in now")
def pruning_while_the_drive_is_not_connected(widget, place):
    image = Path(shutil.copy(place.pairs / "sample-000_BF.tif", place.empty))
    path = place.empty / "one.cmrir"
    run(build_repository([image], load_model(place.model), "BF", path)).close()
    image.unlink()
    widget.output.set_paths(path)
    return widget.prune.click


@refused(ModelWidget, "No folder of image pairs is chosen", "choose one to train on")
def no_pairs(widget, place):
    train(widget, place)
    widget.pairs.folder.line.clear()
    return widget.train


@refused(ModelWidget, "does not exist", "check the path")
def pairs_that_are_not_there(widget, place):
    return train(widget, place, place.empty / "none")


@refused(ModelWidget, "two different modalities", "such as SHG and BF")
def one_modality_twice(widget, place):
    widget.pairs.modalities[1].setText("SHG")
    return train(widget, place)


@refused(ModelWidget, "no pair", "<identifier>_MPM.<ext>")
def pairs_of_other_names(widget, place):
    widget.pairs.modalities[0].setText("MPM")
    return train(widget, place)


@refused(ModelWidget, "Training takes two different image layers", "open both modalities")
def layers_that_are_not_open(widget, place):
    train(widget, place)
    widget.pairs.source.setCurrentIndex(1)
    return widget.train


@refused(ModelWidget, "128 x 128 px but its partner", "aligned pixel by pixel")
def a_pair_of_different_sizes(widget, place):
    return train(widget, place, place.pair(noise(128, 128), noise(128, 120)))


@refused(ModelWidget, "less than a patch of 128", "give larger images or a smaller patch size")
def small_images(widget, place):
    return train(widget, place, place.pair(noise(64, 64), noise(64, 64)[::-1]))


@refused(ModelWidget, "No pair can be trained on", "is constant")
def constant_images(widget, place):
    return train(widget, place, place.pair(np.zeros((128, 128), np.uint8), noise(128, 128)))


@refused(ModelWidget, "is not an image that can be read", "(OME-Zarr, TIFF, PNG or JPEG)")
def an_unreadable_pair(widget, place):
    shutil.copy(place.pairs / "sample-000_SHG.tif", place.empty / "notes_SHG.tif")
    return train(widget, place, place.file().parent)


@refused(ModelWidget, "No file is given to save the model as", "choose one")
def no_model_file(widget, place):
    train(widget, place)
    widget.output.line.clear()
    return widget.train


@refused(ModelWidget, "is a folder", "give a model file such as")
def a_folder_as_model_file(widget, place):
    train(widget, place)
    widget.output.path.mkdir()
    return widget.train


@refused(ModelWidget, "cannot be written into", "choose another place for the model")
def a_model_where_nothing_can_be_written(widget, place):
    train(widget, place)
    widget.output.set_paths(place.file() / "m.safetensors")
    return widget.train


@refused(ModelWidget, "cannot be read", "delete it to train from the start")
def a_damaged_checkpoint(widget, place):
    Path(f"{place.empty / 'm.safetensors'}.checkpoint").write_bytes(b"rubbish")
    return train(widget, place)


@refused(ModelWidget, "is not a model", "give a .safetensors file that 'train' wrote")
def loading_another_file(widget, place):
    (place.empty / "foreign.safetensors").write_bytes(b"not a model")
    return lambda: widget.use.load.set_paths(place.empty / "foreign.safetensors")


@refused(ModelWidget, "was written by a newer napari-cmrir", "upgrade this one")
def loading_a_newer_model(widget, place):
    path = place.newer_model()
    return lambda: widget.use.load.set_paths(path)


@refused(ModelWidget, "There is no model", "train one, or load an existing one")
def a_comir_without_a_model(widget, place):
    place.viewer.add_image(noise(128, 128))
    return widget.use.show_comir


@refused(ModelWidget, "has 3 channels", "check that the image is of the modality given")
def a_comir_of_the_other_modality(widget, place):
    place.viewer.add_image(read_image(place.pairs / "sample-001_BF.tif"))
    widget.session.model = place.model
    widget.use.modality.addItems(["SHG", "BF"])
    widget.use.modality.setCurrentText("SHG")
    return widget.use.show_comir


@pytest.mark.parametrize(("widget_class", "prepare", "wrong", "advice"), CASES)
def test_what_cannot_be_done_is_one_notification_that_says_what_to_do(
    qtbot, place, notifications, wait_for, widget_class, prepare, wrong, advice
):
    widget = widget_class(place.viewer)
    qtbot.addWidget(widget)
    act = prepare(widget, place)
    before = list(place.viewer.layers)
    act()
    wait_for(lambda: notifications and not widget.panel.is_running)
    ((severity, sentence),) = notifications
    assert severity == "error"
    assert wrong in sentence
    assert advice in sentence
    assert sentence.endswith(".")
    assert list(place.viewer.layers) == before
