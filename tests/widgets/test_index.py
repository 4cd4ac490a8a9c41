"""The dock Index images in a real viewer."""

from napari_cmrir.repository.store import open_repository
from napari_cmrir.widgets.find import FindWidget
from napari_cmrir.widgets.index import IndexWidget


def test_indexing_makes_a_repository_that_find_region_proposes(
    dock, pairs_folder, model_path, tmp_path, wait_for
):
    damaged = tmp_path / "damaged_BF.tif"
    damaged.write_bytes(b"II*\0")
    index, find = dock(IndexWidget), dock(FindWidget)
    index.session.model = model_path
    index.images.set_paths(*(pairs_folder / f"sample-00{i}_BF.tif" for i in (0, 1)), damaged)
    wait_for(lambda: index.found.text() == "3 images found")
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
