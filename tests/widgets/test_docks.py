"""The three dock widgets in a real viewer, from pairs on disk to boxed hits, and their errors."""

import time
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Shapes

from napari_cmrir.comir.model import read_header
from napari_cmrir.images.geometry import Region
from napari_cmrir.images.readers import read_image
from napari_cmrir.images.samples import write_sample_folder
from napari_cmrir.repository.store import open_repository
from napari_cmrir.widgets.find import FindWidget
from napari_cmrir.widgets.index import IndexWidget
from napari_cmrir.widgets.model import ModelWidget


@pytest.fixture
def dock(viewer):
    """Put a widget into the viewer as napari does."""

    def add(widget_class):
        widget = widget_class(viewer)
        viewer.window.add_dock_widget(widget, name=widget_class.__name__)
        return widget

    return add


@pytest.fixture
def query_layer(viewer, pairs_folder):
    """An SHG image that is indexed as brightfield, 0.5 um a pixel and somewhere on the stage."""
    pixels = read_image(pairs_folder / "sample-001_SHG.tif")[..., 0]
    return viewer.add_image(
        pixels, name="query", scale=(0.5, 0.5), translate=(1000, 2000), units=("um", "um"), rotate=30
    )


@pytest.fixture
def find(dock, repository_path, query_layer, wait_for):
    """The Find region widget with a repository, ready to search."""
    widget = dock(FindWidget)
    widget.repository.set_paths(repository_path)
    wait_for(lambda: widget.modality.count() == 2)
    return widget


def names(viewer):
    return [layer.name for layer in viewer.layers]


def draw(layer, image, region):
    """Add a rectangle over pixels of the image, through napari's own conversion."""
    world = [image.data_to_world(corner) for corner in region.corners()]
    layer.add_rectangles([layer.world_to_data(point) for point in world])


def test_training_on_a_folder_makes_a_model_that_the_others_propose(
    dock, pairs_folder, tmp_path, wait_for, notifications
):
    model, index = dock(ModelWidget), dock(IndexWidget)
    model.folder.set_paths(pairs_folder)
    wait_for(lambda: model.found.text() == "4 pairs found")
    model.steps.setValue(1)
    model.output.set_paths(tmp_path / "new")
    model.panel.start_button.click()
    wait_for(lambda: not model.panel.is_running)
    path = tmp_path / "new.safetensors"
    header = read_header(path)
    assert (header["modalities"], header["settings"]["steps"]) == (["SHG", "BF"], 1)
    assert "SHG + BF" in model.card.text()
    assert "4 pairs" in model.card.text()
    assert index.model.path == path
    wait_for(lambda: index.modality.count() == 2)
    assert notifications == []


def test_training_on_two_layers(viewer, dock, pairs_folder, tmp_path, wait_for):
    for name in ("BF", "SHG"):
        viewer.add_image(read_image(pairs_folder / f"sample-002_{name}.tif").squeeze(), name=name)
    widget = dock(ModelWidget)
    widget.source.setCurrentIndex(1)
    for combo, name in zip(widget.layers, ("SHG", "BF"), strict=True):
        combo.choose(viewer.layers[name])
    assert widget.found.text() == "1 pair: SHG and BF"
    widget.steps.setValue(1)
    widget.output.set_paths(tmp_path / "layers.safetensors")
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    intensities = read_header(tmp_path / "layers.safetensors")["intensities"]
    assert {name: len(values["low"]) for name, values in intensities.items()} == {"SHG": 1, "BF": 3}


def test_stopping_training_is_quick_and_leaves_a_checkpoint_to_go_on_from(
    dock, pairs_folder, tmp_path, wait_for
):
    widget = dock(ModelWidget)
    widget.folder.set_paths(pairs_folder)
    widget.steps.setValue(1000)
    output = tmp_path / "long.safetensors"
    widget.output.set_paths(output)
    widget.train()
    wait_for(lambda: "steps · Training" in widget.panel.message.text())
    started = time.monotonic()
    widget.panel.stop_button.click()
    wait_for(lambda: not widget.panel.is_running)
    assert time.monotonic() - started < 10  # one step of the fast preset on a busy core
    assert Path(f"{output}.checkpoint").exists()
    assert not output.exists()
    widget.output.changed.emit()
    assert not widget.resume.isHidden()
    assert widget.resume.isChecked()


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda widget, folder: None, "No folder of image pairs is chosen"),
        (lambda widget, folder: widget.folder.set_paths(folder / "none"), "does not exist"),
        (lambda widget, folder: widget.source.setCurrentIndex(1), "two different image layers"),
    ],
)
def test_a_training_that_cannot_start_is_one_notification(
    dock, tmp_path, wait_for, notifications, prepare, sentence
):
    widget = dock(ModelWidget)
    widget.output.set_paths(tmp_path / "m.safetensors")
    prepare(widget, tmp_path)
    widget.train()
    wait_for(lambda: not widget.panel.is_running)
    assert len(notifications) == 1
    assert notifications[0][0] == "error"
    assert sentence in notifications[0][1]
    assert list(tmp_path.iterdir()) == []


def test_the_expected_file_names_are_said_while_choosing(dock, pairs_folder, wait_for):
    widget = dock(ModelWidget)
    widget.modalities[0].setText("MPM")
    widget.folder.set_paths(pairs_folder)
    wait_for(lambda: "<identifier>_MPM.<ext>" in widget.found.text())
    widget.modalities[0].setText("SHG")
    wait_for(lambda: widget.found.text() == "4 pairs found")


def test_a_loaded_model_shows_its_card_and_a_foreign_file_is_refused(
    dock, model_path, tmp_path, notifications
):
    widget = dock(ModelWidget)
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not a model")
    widget.load.set_paths(foreign)
    assert [severity for severity, _ in notifications] == ["error"]
    assert "is not a CoMIR model" in notifications[0][1]
    widget.load.set_paths(model_path)
    assert model_path.name in widget.card.text()
    assert widget.session.model == model_path


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


def test_a_region_is_found_and_shown_as_boxed_layers(viewer, find, query_layer, repository_path, wait_for):
    region = Region((60, 64), 80, 72, 12)
    find.hits.setValue(3)
    find.new_region.click()
    drawn = find.region.layer
    assert drawn.mode == "add_rectangle"
    assert viewer.layers.selection.active is drawn
    draw(drawn, query_layer, region)
    find.panel.start_button.click()
    wait_for(lambda: not find.panel.is_running)

    assert names(viewer)[:2] == ["query", "Region of query"]
    hits = {layer.name: layer for layer in list(viewer.layers)[2:]}
    assert len(hits) == 6
    assert find.table.rowCount() == 3
    for row in range(3):
        file = find.table.item(row, 4).text()
        image, box = hits[f"{row + 1} · {file}"], hits[f"{row + 1} · {file} · match"]
        assert isinstance(image, Image)
        assert isinstance(box, Shapes)
        np.testing.assert_array_equal(image.data, read_image(image.metadata["napari-cmrir"]["image"]))
        assert box.features.loc[0, "rank"] == row + 1
        assert box.text.values[0].startswith(f"{row + 1}:  {box.features.loc[0, 'score']:.2f}")
        assert f"{box.features.loc[0, 'score']:.3f}" == find.table.item(row, 1).text()
        np.testing.assert_allclose(image.affine.affine_matrix, np.eye(3))
        np.testing.assert_allclose(image.scale, (0.5, 0.5))
        np.testing.assert_allclose(image.data_to_world((5, 6)), box.data_to_world((5, 6)))
        found = Region.from_corners(box.data[0])
        assert (found.height, found.width) == pytest.approx((80, 72), abs=1e-3)


def test_the_same_query_in_the_api_gives_the_same_hits(find, query_layer, repository_path, wait_for, viewer):
    from napari_cmrir.jobs import run
    from napari_cmrir.search.query import search
    from napari_cmrir.search.settings import SearchSettings

    find.new_region.click()
    draw(find.region.layer, query_layer, Region.from_rectangle(20, 30, 64, 80))
    find.find()
    wait_for(lambda: not find.panel.is_running)
    shown = {
        layer.metadata["napari-cmrir"]["rank"]: layer.metadata["napari-cmrir"]
        for layer in viewer.layers
        if isinstance(layer, Image) and layer is not query_layer
    }
    with open_repository(repository_path) as repository:
        result = run(
            search(
                repository,
                query_layer.data,
                "SHG",
                region=Region.from_rectangle(20, 30, 64, 80),
                settings=SearchSettings(hits=5),
            )
        )
    assert [shown[hit.rank]["image"] for hit in result.hits] == [hit.image for hit in result.hits]
    for hit in result.hits:
        np.testing.assert_allclose(shown[hit.rank]["box"], hit.box, atol=0.05)
        assert shown[hit.rank]["score"] == pytest.approx(hit.score, abs=1e-3)


def test_remove_results_removes_what_was_added_and_nothing_else(viewer, find, query_layer, wait_for):
    mine = viewer.add_shapes([[[0, 0], [9, 9]]], name="1 · mine.tif")
    grid = viewer.canvas.grid
    find.region.choose(None)
    find.find()
    wait_for(lambda: find.table.rowCount() == 4)
    assert grid.enabled
    cells = {}
    for cell, indices in grid.iter_viewboxes(viewer.layers):
        for index in indices:
            cells.setdefault(cell, []).append(viewer.layers[index])
    for layer in viewer.layers:
        if "match" in layer.name:  # each box is in the cell of its image, whatever else is open
            (together,) = [group for group in cells.values() if layer in group]
            assert {one.name for one in together} == {layer.name, layer.name.removesuffix(" · match")}
    find.new_region.click()
    viewer.layers[3].name = "renamed by the user"
    viewer.layers.remove(viewer.layers[-1])
    find.remove.click()
    assert list(viewer.layers) == [query_layer, mine]
    assert not grid.enabled
    assert find.table.rowCount() == 0


def test_another_search_replaces_the_hits_and_keeps_the_region(viewer, find, query_layer, wait_for):
    find.hits.setValue(1)
    find.new_region.click()
    draw(find.region.layer, query_layer, Region((60, 64), 80, 72, 0))
    for _ in range(2):
        find.find()
        wait_for(lambda: not find.panel.is_running)
        assert names(viewer)[:2] == ["query", "Region of query"]
        assert len(viewer.layers) == 4


def test_an_ellipse_is_searched_with_what_lies_in_it(viewer, find, query_layer, wait_for):
    shapes = viewer.add_shapes(ndim=2, name="ellipse")
    world = [query_layer.data_to_world(corner) for corner in Region((60, 64), 80, 72, 0).corners()]
    shapes.add_ellipses([shapes.world_to_data(point) for point in world])
    find.region.choose(shapes)
    find.hits.setValue(1)
    find.find()
    wait_for(lambda: not find.panel.is_running)
    box = viewer.layers[-1]
    found = Region.from_corners(box.data[0])
    assert (found.height, found.width) == pytest.approx((80, 72), abs=2)


def test_a_plane_of_a_stack_with_a_layer_that_goes_meanwhile(viewer, find, pairs_folder, wait_for):
    stack = np.stack([read_image(pairs_folder / f"sample-00{i}_SHG.tif")[..., 0] for i in range(3)])
    image = viewer.add_image(stack, name="stack", scale=(4, 1, 1))
    find.image.choose(image)
    viewer.dims.set_point(0, 8)
    find.find()
    viewer.layers.remove(image)
    viewer.layers["query"].name = "another name"
    wait_for(lambda: find.table.rowCount() == 4)
    assert [find.image.itemText(i) for i in range(find.image.count())] == ["another name"]


def test_a_search_can_be_cancelled(viewer, find, query_layer, wait_for):
    find.find()
    find.panel.stop_button.click()
    wait_for(lambda: not find.panel.is_running)
    assert list(viewer.layers) == [query_layer]
    assert find.table.rowCount() == 0


def test_choosing_a_row_brings_the_hit_up(viewer, find, query_layer, wait_for):
    find.find()
    wait_for(lambda: find.table.rowCount() == 4)
    find.side_by_side.setChecked(False)
    assert not viewer.canvas.grid.enabled
    find.table.setCurrentCell(2, 0)
    active = viewer.layers.selection.active
    assert active.name == f"3 · {find.table.item(2, 4).text()}"
    visible = {layer.name for layer in viewer.layers if layer.visible}
    assert visible == {"query", active.name, f"{active.name} · match"}
    find.remove.click()


def refusal_without_repository(find, viewer, tmp_path):
    find.repository.line.clear()


def refusal_not_a_repository(find, viewer, tmp_path):
    find.repository.set_paths(tmp_path)


def refusal_small_region(find, viewer, tmp_path):
    find.new_region.click()
    draw(find.region.layer, viewer.layers["query"], Region((60, 60), 20, 20))


def refusal_region_outside(find, viewer, tmp_path):
    find.new_region.click()
    draw(find.region.layer, viewer.layers["query"], Region((600, 60), 50, 50))


def refusal_empty_region_layer(find, viewer, tmp_path):
    find.new_region.click()


def refusal_wrong_channels(find, viewer, tmp_path):
    colour = read_image(Path(find.repository.path).parent / "pairs" / "sample-001_BF.tif")
    viewer.add_image(colour, name="colour", rgb=True, units=("um", "um"))
    find.image.choose(viewer.layers["colour"])


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (refusal_without_repository, "No repository is chosen"),
        (refusal_not_a_repository, "not a repository"),
        (refusal_small_region, "32"),
        (refusal_region_outside, "outside the image"),
        (refusal_empty_region_layer, "holds no region yet"),
        (refusal_wrong_channels, "channel"),
    ],
)
def test_a_search_that_is_refused_is_one_notification(
    viewer, find, wait_for, notifications, tmp_path, prepare, sentence
):
    prepare(find, viewer, tmp_path)
    before = names(viewer)
    find.find()
    wait_for(lambda: not find.panel.is_running)
    assert len(notifications) == 1
    assert notifications[0][0] == "error"
    assert sentence in notifications[0][1]
    assert names(viewer) == before


def test_a_hit_whose_file_is_gone_keeps_its_row(viewer, dock, model_path, tmp_path, wait_for, notifications):
    from napari_cmrir.comir.model import load_model
    from napari_cmrir.jobs import run
    from napari_cmrir.repository.build import build_repository

    pairs = write_sample_folder(tmp_path / "moved", range(2), 128)
    path = tmp_path / "moved.cmrir"
    run(build_repository([tmp_path / "moved"], load_model(model_path), "BF", path)).close()
    viewer.add_image(read_image(pairs[0].paths[0])[..., 0], name="query")
    pairs[1].paths[1].unlink()
    find = dock(FindWidget)
    find.repository.set_paths(path)
    wait_for(lambda: find.modality.count() == 2)
    find.find()
    wait_for(lambda: find.table.rowCount() == 2)
    assert len(viewer.layers) == 3
    assert [severity for severity, _ in notifications] == ["warning"]


def test_every_field_says_what_it_is_for(dock):
    from qtpy.QtWidgets import QAbstractButton, QAbstractSpinBox, QComboBox, QLineEdit

    for widget_class in (ModelWidget, IndexWidget, FindWidget):
        widget = dock(widget_class)
        for kind in (QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox):
            for child in widget.findChildren(kind):
                if (
                    child.objectName() != "qt_spinbox_lineedit"
                    and type(child.parent()).__name__ != "QTableWidget"
                ):
                    assert child.toolTip() or child.objectName().startswith("qt_"), (widget_class, child)
