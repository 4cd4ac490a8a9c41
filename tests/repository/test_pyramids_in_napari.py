"""Stored CoMIRs open in napari by drag and drop as multiscale images."""

import numpy as np
import pytest
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDropEvent

from napari_cmrir.repository.pyramids import open_level, write_pyramid


@pytest.fixture(scope="module", params=[(300, 515), (1100, 1290)], ids=["of one chunk", "of a shard"])
def pyramid(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("pyramids") / "00000001-0123456789ab-core.tif.ome.zarr"
    comir = np.random.default_rng(0).integers(0, 256, (1, *request.param), dtype=np.uint8)
    write_pyramid(path, comir, "core.tif")
    return path


def drop(viewer, path):
    """Drop a file or folder onto the canvas, as a file manager does."""
    dropped = QMimeData()
    dropped.setUrls([QUrl.fromLocalFile(str(path))])
    button, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    event = QDropEvent(QPointF(5, 5), Qt.DropAction.CopyAction, dropped, button, keys)
    viewer.window._qt_viewer.dropEvent(event)


def assert_shows(levels, pyramid):
    assert len(levels) == len([entry for entry in pyramid.iterdir() if entry.is_dir()]) > 2
    for number, level in enumerate(levels):
        assert np.array_equal(np.asarray(level).squeeze(), open_level(pyramid, number)[0])


def test_a_comir_dropped_onto_napari_is_a_multiscale_layer(make_napari_viewer, pyramid):
    viewer = make_napari_viewer(strict_qt="raise")
    drop(viewer, pyramid)
    (layer,) = viewer.layers
    assert layer.multiscale
    assert_shows(layer.data, pyramid)
    (again,) = viewer.open(pyramid)
    assert_shows(again.data, pyramid)


def test_the_reader_of_ome_zarr_opens_it_with_its_name_and_scale(pyramid):
    reading = pytest.importorskip("napari_ome_zarr", reason="napari-ome-zarr is not installed")
    ((levels, options, *_),) = reading.napari_get_reader(str(pyramid))(str(pyramid))
    assert_shows(levels, pyramid)
    assert options["scale"][-2:] == [1.0, 1.0] or tuple(options["scale"][-2:]) == (1.0, 1.0)
