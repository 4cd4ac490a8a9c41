"""The source "Two folders, not aligned" of the dock CoMIR model, in a real viewer."""

import pytest
import tifffile
from qtpy.QtCore import Qt

from napari_cmrir.images.geometry import Region, cut
from napari_cmrir.images.synthetic.sample_pairs import sample_pair
from napari_cmrir.napari.model_dock import ModelWidget
from napari_cmrir.pairing.pair_files import read_table
from napari_cmrir.representations.model_file import read_header

TURNS = {60: 0.0, 61: 40.0, 62: -75.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three generated tissues in two modalities, rotated and renamed, and one image without a partner."""
    first, second = tmp_path_factory.mktemp("unaligned-shg"), tmp_path_factory.mktemp("unaligned-bf")
    for number, (seed, degrees) in enumerate(TURNS.items()):
        pair = sample_pair(seed, 320)
        tifffile.imwrite(first / f"a{number}.tif", pair.shg[..., 0])
        turned = cut(pair.bf, Region((159.5, 159.5), 240, 240, degrees))[0]
        tifffile.imwrite(second / f"b{2 - number}.tif", turned, photometric="rgb")
    tifffile.imwrite(first / "lonely.tif", sample_pair(70, 320).shg[..., 0])
    return first, second


@pytest.fixture
def found(dock, folders, tmp_path, wait_for):
    """The dock after *Find pairs*."""
    model = dock(ModelWidget)
    model.pairs.source.setCurrentIndex(2)
    for field, folder in zip(model.pairs.finder.folders, folders, strict=True):
        field.set_paths(folder)
    model.pairs.finder.output.set_paths(tmp_path / "pairs")
    model.pairs.finder.find.click()
    wait_for(lambda: not model.panel.is_running and model.pairs.finder.table.rowCount() >= 3, 200_000)
    return model


def rows_of(model):
    """Names of the pairs and whether each is ticked, as the table shows them."""
    table = model.pairs.finder.table
    return {
        table.item(row, 1).toolTip(): table.item(row, 0).checkState() == Qt.CheckState.Checked
        for row in range(table.rowCount())
    }


def tick(model, name, accepted):
    """Tick or clear the box of a pair."""
    table = model.pairs.finder.table
    row = next(row for row in range(table.rowCount()) if table.item(row, 1).toolTip() == name)
    table.item(row, 0).setCheckState(Qt.CheckState.Checked if accepted else Qt.CheckState.Unchecked)


def test_the_found_pairs_are_shown_rejected_accepted_and_trained_on(found, viewer, tmp_path, wait_for):
    pairs, output = found.pairs, tmp_path / "pairs"
    table = pairs.finder.table
    right = [f"a{number}.tif and b{2 - number}.tif" for number in range(3)]
    assert set(right) <= rows_of(found).keys()
    assert not table.item(0, 1).icon().isNull()
    for name in right:  # whether the model is sure of them is not the question here
        tick(found, name, True)
        wait_for(lambda name=name: table.isEnabled() and rows_of(found)[name])
    wait_for(lambda: pairs.found.text() == "3 pairs found")
    tick(found, right[1], False)
    wait_for(lambda: pairs.found.text() == "2 pairs found")
    assert len(list(output.glob("*_SHG.tif"))) == len(list(output.glob("*_BF.tif"))) == 2
    rows = read_table(output)
    rejected = next(pair for pair in rows if f"{pair.first.name} and {pair.second.name}" == right[1])
    assert (rejected.accepted, rejected.reason) == (False, "rejected by the user")
    tick(found, right[1], True)
    wait_for(lambda: pairs.found.text() == "3 pairs found")

    table.cellDoubleClicked.emit(0, 1)
    wait_for(lambda: len(viewer.layers) == 2)
    assert viewer.layers[0].data.shape[:2] == viewer.layers[1].data.shape[:2]

    found.steps.setValue(1)
    found.output.set_paths(tmp_path / "model.safetensors")
    found.train()
    wait_for(lambda: not found.panel.is_running)
    assert read_header(tmp_path / "model.safetensors")["modalities"] == ["SHG", "BF"]


def test_what_is_missing_is_said_before_anything_runs(dock, folders):
    model = dock(ModelWidget)
    model.pairs.source.setCurrentIndex(2)
    model.pairs.finder.find.click()
    assert "Two folders of images are needed" in model.panel.message.text()
    for field in model.pairs.finder.folders:
        field.set_paths(folders[0])
    model.pairs.finder.find.click()
    assert "the same folder" in model.panel.message.text()
    model.train()
    assert "No pair is accepted yet" in model.panel.message.text()
    assert not model.panel.is_running
