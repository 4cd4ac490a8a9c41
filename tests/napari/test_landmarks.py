"""The source "Two layers, by landmarks" of the dock CoMIR model, in a real viewer."""

import numpy as np
import pytest
import tifffile
from napari.layers import Points

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.napari.model_dock import ModelWidget
from napari_cmrir.pairing.pair_files import FoundPair, read_table, write_table
from napari_cmrir.registration.affine import apply, box_difference
from napari_cmrir.representations.model_file import sample_model

DEGREES = 25.0
PLACES = np.array([[60.0, 70], [240, 80], [100, 250], [230, 230], [160, 150]])


def true_map():
    """From pixels of the first image to pixels of the turned second one."""
    region = Region((159.5, 159.5), 240, 240, DEGREES)
    corners = region.corners()
    steps = np.stack(((corners[3] - corners[0]) / 240, (corners[1] - corners[0]) / 240), 1)
    there = np.eye(3)
    there[:2, :2], there[:2, 2] = steps, corners[0] + steps @ (0.5, 0.5)
    return np.linalg.inv(there)


@pytest.fixture(scope="module")
def tissue():
    pair = sample_pair(33, 320)
    return pair.shg[..., 0], cut(pair.bf, Region((159.5, 159.5), 240, 240, DEGREES))[0]


@pytest.fixture
def landmarks(dock, viewer, tissue, tmp_path):
    """The dock with both images open: the second in micrometres, and turned in the world."""
    viewer.add_image(tissue[0], name="shg")
    viewer.add_image(tissue[1], name="bf", rgb=True, scale=(0.5, 0.5), rotate=10, translate=(0, 400))
    model = dock(ModelWidget)
    model.pairs.source.setCurrentIndex(3)
    widget = model.pairs.landmarks
    for combo, name in zip(widget.images, ("shg", "bf"), strict=True):
        combo.setCurrentText(name)
    widget.output.set_paths(tmp_path / "by-hand")
    widget.new.click()
    return model


def put(model, number, first, second, wait_for):
    """Add a landmark to each layer at pixels of its image, as clicks do."""
    widget = model.pairs.landmarks
    for layer, place in zip(widget._points, (first, second), strict=True):
        wait_for(lambda layer=layer: model.viewer.layers.selection.active is layer and layer.mode == "add")
        layer.add(place)
    wait_for(lambda: widget.table.rowCount() == number + 1)


def column(model, which):
    table = model.pairs.landmarks.table
    return [table.item(row, which).text() for row in range(table.rowCount())]


def test_landmarks_give_residuals_an_outlier_and_a_pair_that_training_takes(
    landmarks, viewer, tmp_path, wait_for
):
    widget, places = landmarks.pairs.landmarks, apply(true_map(), PLACES)
    points = [layer for layer in viewer.layers if isinstance(layer, Points)]
    assert [layer.name for layer in points] == ["Landmarks of shg", "Landmarks of bf"]
    widget.save.click()
    assert "0 landmarks are too few" in landmarks.pairs.landmarks.panel.message.text()
    for number in range(4):
        put(landmarks, number, PLACES[number], places[number], wait_for)
    wait_for(lambda: column(landmarks, 2) == ["yes"] * 4)
    assert max(float(text.split()[0]) for text in column(landmarks, 1)) < 0.1
    assert widget.told.text().startswith("4 landmarks, error 0.0 px")
    put(landmarks, 4, PLACES[4], places[4] + 40, wait_for)
    wait_for(lambda: column(landmarks, 2) == ["yes"] * 4 + ["outlier"])
    assert float(column(landmarks, 1)[4].split()[0]) == pytest.approx(40 * 2**0.5, abs=0.2)
    assert not np.array_equal(points[0].face_color[4], points[0].face_color[0])
    assert list(points[1].features["landmark"]) == [1, 2, 3, 4, 5]

    points[1].data = np.vstack((points[1].data[:4], places[4:]))  # dragged to where it belongs
    wait_for(lambda: column(landmarks, 2) == ["yes"] * 5)
    widget.save.click()
    wait_for(lambda: landmarks.pairs.found.text() == "1 pair found")
    (row,) = read_table(tmp_path / "by-hand")
    assert row.accepted
    assert row.reason == "5 landmarks, error 0.0 px"
    assert box_difference(row.matrix, true_map(), (320, 320)) < 1e-3
    ours, theirs = (tifffile.imread(next((tmp_path / "by-hand").glob(f"*_{m}.tif"))) for m in ("SHG", "BF"))
    assert ours.shape == theirs.shape[:2]
    assert landmarks.pairs.chosen().folders == (tmp_path / "by-hand",)
    assert viewer.layers["shg"].visible

    landmarks.remove.click()
    wait_for(lambda: not any(isinstance(layer, Points) for layer in viewer.layers))
    assert {layer.name for layer in viewer.layers} == {"shg", "bf"}


def test_landmarks_are_refined_by_correlation_on_request(landmarks, wait_for):
    widget, truth = landmarks.pairs.landmarks, true_map()
    rough = apply(truth, PLACES[:3]) + np.array([[3, -2], [-2, 3], [2, 2]])
    landmarks.session.model = sample_model()
    for number in range(3):
        put(landmarks, number, PLACES[number], rough[number], wait_for)
    wait_for(lambda: widget._fitted is not None)
    before = box_difference(widget._fitted.matrix, truth, (320, 320))
    widget.panel.start_button.click()
    wait_for(lambda: not widget.panel.is_running, 200_000)
    assert "refined by correlation" in widget.told.text()
    assert box_difference(widget._fitted.matrix, truth, (320, 320)) < 0.3 * before


def test_images_that_lie_on_each_other_are_shown_in_turn(dock, viewer, tissue, wait_for):
    viewer.add_image(tissue[0], name="shg")
    viewer.add_image(tissue[1], name="bf", rgb=True)
    model = dock(ModelWidget)
    model.pairs.source.setCurrentIndex(3)
    widget = model.pairs.landmarks
    widget.new.click()
    assert widget.images[0].layer is widget.images[1].layer
    assert "two different image layers" in widget.panel.message.text()
    widget.images[0].setCurrentText("shg")
    widget.images[1].setCurrentText("bf")
    widget.new.click()
    assert (viewer.layers["shg"].visible, viewer.layers["bf"].visible) == (True, False)
    widget._points[0].add([50, 60])
    wait_for(lambda: viewer.layers["bf"].visible and not viewer.layers["shg"].visible)
    assert "1 landmarks in the first image and 0 in the second" in widget.told.text()


def test_a_found_pair_is_corrected_by_landmarks(dock, viewer, tissue, tmp_path, wait_for):
    files = tmp_path / "a.tif", tmp_path / "b.tif"
    tifffile.imwrite(files[0], tissue[0])
    tifffile.imwrite(files[1], tissue[1], photometric="rgb")
    output = tmp_path / "pairs"
    output.mkdir()
    wrong = np.array([[1.0, 0, -60], [0, 1, -30], [0, 0, 1]])
    write_table(output, [FoundPair(*files, False, 0.4, wrong, "the parts do not agree")])
    model = dock(ModelWidget)
    model.pairs.source.setCurrentIndex(2)
    finder, widget = model.pairs.finder, model.pairs.landmarks
    finder.output.set_paths(output)
    wait_for(lambda: finder.table.rowCount() == 1)
    assert not finder.correct.isEnabled()
    finder.table.selectRow(0)
    finder.correct.click()
    wait_for(lambda: model.pairs.source.currentIndex() == 3 and widget._points is not None)
    assert [image.name for image in widget._images] == ["a SHG", "b BF"]
    for number, (first, second) in enumerate(zip(PLACES[:4], apply(true_map(), PLACES[:4]), strict=True)):
        put(model, number, first, second, wait_for)
    wait_for(lambda: widget._fitted is not None)
    widget.save.click()
    wait_for(lambda: model.pairs.source.currentIndex() == 2 and finder.pairs and finder.pairs[0].accepted)
    (row,) = read_table(output)
    assert (row.first, row.second) == files
    assert box_difference(row.matrix, true_map(), (320, 320)) < 1e-3
    assert (output / "a_SHG.tif").is_file()
    wait_for(lambda: model.pairs.found.text() == "1 pair found")


def test_a_pair_is_never_written_over_files_that_no_table_names(landmarks, tmp_path, wait_for):
    widget, places = landmarks.pairs.landmarks, apply(true_map(), PLACES)
    for number in range(3):
        put(landmarks, number, PLACES[number], places[number], wait_for)
    wait_for(lambda: widget._fitted is not None)
    widget.save.click()
    wait_for(lambda: landmarks.pairs.found.text() == "1 pair found")
    (tmp_path / "by-hand" / "pairs.csv").unlink()
    widget.save.click()
    wait_for(lambda: "in no pairs.csv" in widget.panel.message.text())
