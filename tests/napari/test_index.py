"""The dock Index images in a real viewer."""

import shlex
import shutil

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt

from napari_cmrir.cli.main import main
from napari_cmrir.jobs import Progress, run
from napari_cmrir.napari.copy_commands import CopyButton
from napari_cmrir.napari.find_dock import FindWidget
from napari_cmrir.napari.index_dock import IndexWidget
from napari_cmrir.napari.pictures import comir_thumbnails
from napari_cmrir.repository.build import Estimate, build_repository
from napari_cmrir.repository.repository import open_repository
from napari_cmrir.representations.base import load_model


def test_indexing_makes_a_repository_that_find_region_proposes(
    dock, pairs_folder, model_path, tmp_path, wait_for
):
    damaged = tmp_path / "damaged_BF.tif"
    damaged.write_bytes(b"II*\0")
    index, find = dock(IndexWidget), dock(FindWidget)
    index.session.model = model_path
    index.images.set_paths(*(pairs_folder / f"sample-00{i}_BF.tif" for i in (0, 1)), damaged)
    wait_for(lambda: index.found.text() == "3 images found; the first has 128 x 128 px, 3 channels")
    wait_for(lambda: index.modality.currentText() == "BF")
    index.output.set_paths(tmp_path / "two")
    index.panel.start_button.click()
    wait_for(lambda: not index.panel.is_running)
    assert index.panel.message.text().startswith("2 images searchable, 1 could not be indexed")
    assert "damaged_BF.tif: " in index.failures.toPlainText()
    with open_repository(tmp_path / "two.cmrir") as repository:
        assert len(repository) == 2
    assert find.repository.path == tmp_path / "two.cmrir"
    wait_for(lambda: find.about.text() == "2 BF images")
    wait_for(lambda: len(index.table.images) == 3)
    states = {image.name: (image.state, image.size) for image in index.table.images}
    assert states["damaged_BF.tif"][0] == "failed"
    assert states["sample-000_BF.tif"] == ("indexed", "128 x 128")
    assert find.modality.currentText() == "SHG"


def test_an_indexing_that_cannot_start_is_one_notification(dock, pairs_folder, tmp_path, notifications):
    widget = dock(IndexWidget)
    widget.index()
    widget.images.set_paths(pairs_folder)
    widget.index()
    assert [message.split(";")[0] for _, message in notifications] == [
        "No images are chosen",
        "No model is chosen",
    ]


def test_indexing_that_is_paused_goes_on(dock, pairs_folder, model_path, tmp_path, wait_for):
    widget = dock(IndexWidget)
    widget.session.model = model_path
    widget.images.set_paths(pairs_folder)
    wait_for(lambda: widget.modality.currentText() == "BF" and "4 images found" in widget.found.text())
    widget.output.set_paths(tmp_path / "four")
    widget.index()
    wait_for(lambda: " of 4 images" in widget.panel.message.text())
    widget.panel.stop()
    wait_for(lambda: not widget.panel.is_running)
    assert widget.panel.message.text().startswith("Paused")
    widget.index()
    wait_for(lambda: not widget.panel.is_running)
    assert widget.panel.message.text() == "4 images searchable: four.cmrir"


def test_what_indexing_will_take_is_said_while_it_runs(dock):
    widget = dock(IndexWidget)
    expected = Estimate(900, 3_000_000_000, 5400.0, 99_000_000_000)
    widget.panel.progressed.emit(Progress(0, 900, "images", "Whatever it says", expected))
    widget.panel.progressed.emit(Progress(0, 900, "images", "Representing"))
    assert widget.speed.text() == "900 images to index: about 90 minutes and 3.0 GB of 99.0 GB free"


def test_words_of_a_message_are_no_estimate(dock):
    widget = dock(IndexWidget)
    before = widget.speed.text()
    widget.panel.progressed.emit(Progress(0, 900, "images", "900 images to index: about time"))
    assert widget.speed.text() == before


def test_the_table_shows_the_stored_comirs(dock, repository_path, wait_for):
    widget = dock(IndexWidget)
    widget.output.set_paths(repository_path)
    wait_for(lambda: len(widget.table.images) == 4)
    cell = widget.table.model().index(2, 0)
    assert cell.data(Qt.ItemDataRole.DecorationRole).toImage().pixelColor(16, 16).alpha() == 0
    wait_for(lambda: cell.data(Qt.ItemDataRole.DecorationRole).toImage().pixelColor(16, 16).alpha() == 255)
    picture = cell.data(Qt.ItemDataRole.DecorationRole).toImage()
    drawn = [[picture.pixelColor(x, y).red() for x in range(32)] for y in range(32)]
    with open_repository(repository_path) as repository:
        comir = repository.comir(2)[0].astype(float)
    blocks = comir.reshape(32, 4, 32, 4).mean((1, 3))
    assert np.corrcoef(np.ravel(drawn), blocks.ravel())[0, 1] > 0.99


def test_a_comir_that_is_gone_has_no_picture(tmp_path):
    assert comir_thumbnails([tmp_path / "gone.ome.zarr"], 32) == {tmp_path / "gone.ome.zarr": None}


def test_images_are_added_to_a_repository_that_is_there(
    dock, pairs_folder, model_path, repository_path, tmp_path, wait_for
):
    copy = shutil.copytree(repository_path, tmp_path / "grows.cmrir")
    shutil.copy(pairs_folder / "sample-000_BF.tif", tmp_path / "more_BF.tif")
    tifffile.imwrite(tmp_path / "more_BF.tif", tifffile.imread(tmp_path / "more_BF.tif")[::-1])
    widget = dock(IndexWidget)
    widget.model.set_paths(model_path)
    widget.images.set_paths(tmp_path / "more_BF.tif")
    wait_for(lambda: widget.modality.currentText() == "BF")
    widget.output.set_paths(copy)
    widget.index()
    wait_for(lambda: widget.panel.message.text() == "5 images searchable: grows.cmrir")
    wait_for(lambda: len(widget.table.images) == 5)


def test_what_is_unusual_about_an_image_is_said_and_moved_images_are_found(
    dock, pairs_folder, model_path, tmp_path, wait_for
):
    folder = tmp_path / "before"
    folder.mkdir()
    pixels = tifffile.imread(pairs_folder / "sample-000_BF.tif")
    tifffile.imwrite(folder / "two_BF.tif", np.stack([pixels, pixels[::-1]]), photometric="rgb")
    shutil.copy(pairs_folder / "sample-001_BF.tif", folder / "usual_BF.tif")
    path = tmp_path / "unusual.cmrir"
    run(build_repository([folder], load_model(model_path), "BF", path)).close()
    widget = dock(IndexWidget)

    def notes():
        model = widget.table.model()
        for row in range(model.rowCount()):
            model.index(row, 0).data(Qt.ItemDataRole.DecorationRole)  # as the table does when it is painted
        return [model.index(row, 2).data() for row in range(model.rowCount())]

    widget.output.set_paths(path)
    wait_for(lambda: any(notes()))
    assert widget.table.model().headerData(2, Qt.Orientation.Horizontal) == "Note"
    assert notes() == ["page 0 of 2", ""]
    assert not widget.table.isColumnHidden(2)
    folder.rename(tmp_path / "after")
    again = dock(IndexWidget)
    again.output.set_paths(path)
    widget = again
    wait_for(lambda: all(note.startswith("not where it was") for note in notes()) and len(notes()) == 2)
    again.relocate_images(tmp_path)
    wait_for(lambda: again.panel.message.text().startswith("2 moved images found"))
    wait_for(lambda: notes() == ["page 0 of 2", ""])
    with open_repository(path) as repository:
        assert {repository.image_path(field).parent for field in range(2)} == {tmp_path / "after"}


def test_a_repository_is_verified(dock, repository_path, tmp_path, wait_for):
    copy = tmp_path / "copy.cmrir"
    shutil.copytree(repository_path, copy)
    widget = dock(IndexWidget)
    widget.output.set_paths(copy)
    for damaged, told in (
        (False, "No file is damaged."),
        (True, "The repository is damaged; see below."),
    ):
        if damaged:
            segment = next((copy / "segments").iterdir())
            segment.write_bytes(segment.read_bytes()[:-1] + b"!")
        widget.verify.click()
        wait_for(lambda told=told: widget.panel.message.text() == told)
    assert segment.name in widget.failures.toPlainText()


@pytest.mark.parametrize("change_settings", [False, True])
def test_the_copied_indexing_gives_the_same_repository(
    dock, pairs_folder, model_path, tmp_path, wait_for, change_settings
):
    widget = dock(IndexWidget)
    widget.session.model = model_path
    widget.images.set_paths(pairs_folder)
    wait_for(lambda: widget.modality.currentText() == "BF")
    widget.keep_glass.setChecked(change_settings)
    widget.pixel_size.setValue(0.25 if change_settings else 0)
    (button,) = widget.panel.findChildren(CopyButton)
    widget.output.set_paths(tmp_path / "dock.cmrir")
    widget.index()
    wait_for(lambda: widget.panel.message.text().startswith("4 images searchable"))
    with open_repository(tmp_path / "dock.cmrir") as repository:
        expected, settings = (repository.fields.copy(), repository.comir(2)), repository.settings
    assert (settings.least_tissue == 0, settings.reading.pixel_size) == (
        (True, 0.25) if change_settings else (False, None)
    )
    for language in ("command", "python"):
        widget.output.set_paths(tmp_path / f"{language}.cmrir")
        texts = []
        button.copied.connect(texts.append)
        button.copy(language)
        wait_for(lambda texts=texts: texts)
        if language == "python":
            exec(texts[0], {})
        else:
            with pytest.raises(SystemExit) as ended:
                main(shlex.split(texts[0])[1:])
            assert ended.value.code == 0
        with open_repository(tmp_path / f"{language}.cmrir") as repository:
            np.testing.assert_array_equal(repository.fields, expected[0])
            np.testing.assert_array_equal(repository.comir(2), expected[1])
            assert repository.settings == settings
