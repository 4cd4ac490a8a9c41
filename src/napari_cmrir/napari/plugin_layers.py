"""Layers that a widget has added by name, to refresh and to remove: these and no others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject

from napari_cmrir.napari.jobs.quick_queries import UiStepQueue

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Image, Layer

__all__ = ["PluginLayers"]


class PluginLayers:
    """Layers of a viewer that a widget made; made, added, changed and removed in turns of the event loop.

    napari draws between two turns: several layers removed without a paint in between can end the program in
    the graphics driver (seen with napari 0.9 and software OpenGL).

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    parent : QObject
        The widget; what is left to do ends with it.
    """

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        self._viewer = viewer
        self._layers: dict[str, Image] = {}
        self._turns = UiStepQueue(parent)

    def put(self, key: str, data: Any, make: Callable[[], Image]) -> None:
        """Show data in the layer of this key, or in a new one where that does not fit or is gone.

        Parameters
        ----------
        key : str
            Which layer.
        data : ndarray
            What it shows.
        make : callable
            Makes the layer.
        """
        self._turns.add([partial(self._change_or_make, key, data, make), partial(self._add, key)])

    def remove(self, key: str) -> None:
        """Remove a layer.

        Parameters
        ----------
        key : str
            Which; nothing happens where it is gone.
        """
        layer = self._layers.pop(key, None)
        if layer is not None and self._is_there(layer):
            self._viewer.layers.remove(layer)

    def remove_all(self) -> None:
        """Remove them all, also those that are still to come."""
        self._turns.take([partial(self.remove, key) for key in self._layers])

    def _change_or_make(self, key: str, data: Any, make: Callable[[], Image]) -> None:
        layer = self._layers.get(key)
        if layer is not None and self._is_there(layer) and layer.data.shape == data.shape:
            layer.data = data
            return
        self.remove(key)
        self._layers[key] = make()

    def _add(self, key: str) -> None:
        layer = self._layers.get(key)
        if layer is not None and not self._is_there(layer):
            self._viewer.layers.append(layer)

    def _is_there(self, layer: Layer) -> bool:
        return any(one is layer for one in self._viewer.layers)
