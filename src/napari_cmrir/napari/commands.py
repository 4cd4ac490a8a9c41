"""Commands of napari's palette that act on the dock that is open, or open it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cmrir.errors import InputError

if TYPE_CHECKING:
    import napari

__all__ = ["find_region", "load_sample_model", "new_region"]


def new_region() -> None:
    """Open Find region, and add a layer to draw a region on."""
    _find_widget().add_region()


def find_region() -> None:
    """Open Find region, and find the region that is drawn."""
    _find_widget().find()


def load_sample_model() -> Path:
    """Propose the small model for generated tissue to the docks."""
    from napari_cmrir.napari.shared_state import shared_state_of
    from napari_cmrir.representations.model_file import sample_model

    shared_state_of(_viewer()).model = sample_model()
    return sample_model()


def _find_widget() -> Any:
    from napari_cmrir.napari.find_dock import FindWidget

    viewer = _viewer()
    for dock in viewer.window.dock_widgets.values():
        if isinstance(dock, FindWidget):
            return dock
    _, widget = viewer.window.add_plugin_dock_widget("napari-cmrir", "Find region")
    return widget


def _viewer() -> napari.Viewer:
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        raise InputError("No napari viewer is open; open one first.")
    return viewer
