"""A really trained tiny model, a really indexed folder, and viewers whose leaks are found."""

import pytest

from napari_cmrir.images.synthetic.sample_pairs import write_sample_folder
from napari_cmrir.jobs import run
from napari_cmrir.representations.training_settings import TrainingSettings

TINY = TrainingSettings(widths=(8, 16), steps=8, batch_size=4, patch_size=64, seed=1)


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory):
    """Four generated pairs of 128 px."""
    folder = tmp_path_factory.mktemp("tissue") / "pairs"
    write_sample_folder(folder, range(4), 128)
    return folder


@pytest.fixture(scope="session")
def model_path(pairs_folder):
    """A model trained on them for eight steps."""
    from napari_cmrir.images.discovery import find_pairs
    from napari_cmrir.representations.comir.training.train import train

    path = pairs_folder.parent / "tiny.safetensors"
    run(train(find_pairs(pairs_folder, ("SHG", "BF")), ("SHG", "BF"), TINY, output=path))
    return path


@pytest.fixture(scope="session")
def repository_path(pairs_folder, model_path):
    """The four brightfield images, indexed with it."""
    from napari_cmrir.repository.build import build_repository
    from napari_cmrir.representations.base import load_model

    path = pairs_folder.parent / "tissue.cmrir"
    run(build_repository([pairs_folder], load_model(model_path), "BF", path)).close()
    return path


@pytest.fixture
def viewer(make_napari_viewer):
    """A real viewer; a widget that it leaves behind fails the test."""
    return make_napari_viewer(strict_qt="raise")


@pytest.fixture
def dock(viewer):
    """Put a widget into the viewer as napari does."""

    def add(widget_class):
        widget = widget_class(viewer)
        viewer.window.add_dock_widget(widget, name=widget_class.__name__)
        return widget

    return add


@pytest.fixture(autouse=True)
def own_choices(tmp_path):
    """Keep the choices of the one who runs the tests out of them, and theirs untouched."""
    from qtpy.QtCore import QSettings

    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "choices"))


@pytest.fixture
def notifications():
    """What napari was asked to tell the user."""
    from napari.utils.notifications import notification_manager

    told = []

    def note(notification):
        told.append((str(notification.severity), notification.message))

    notification_manager.notification_ready.connect(note)
    yield told
    notification_manager.notification_ready.disconnect(note)


@pytest.fixture
def wait_for(qtbot):
    """Let the window live until something holds."""

    def wait(condition, timeout=60_000):
        qtbot.waitUntil(lambda: bool(condition()), timeout=timeout)

    return wait


@pytest.fixture
def query_layer(viewer, pairs_folder):
    """An SHG image that is indexed as brightfield, 0.5 um a pixel and somewhere on the stage."""
    path = pairs_folder / "sample-001_SHG.tif"
    (layer,) = viewer.open(
        path,
        name="query",
        plugin="napari",
        scale=(0.5, 0.5),
        translate=(1000, 2000),
        units=("um", "um"),
        rotate=30,
    )
    return layer


@pytest.fixture
def find(dock, repository_path, query_layer, wait_for):
    """The Find region widget with a repository, ready to search."""
    from napari_cmrir.napari.find_dock import FindWidget

    widget = dock(FindWidget)
    widget.repository.set_paths(repository_path)
    wait_for(lambda: widget.modality.count() == 2)
    return widget
