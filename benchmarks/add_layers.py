"""Measure what napari itself takes in the window's thread to add the layers that a hit is shown in.

    python scripts/with_display.py python benchmarks/add_layers.py

Prints the computing time of each call, and of what the event loop does after it (drawing). No part of this
plugin runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import napari
import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtWidgets import QApplication

_BOX = np.array([[10, 10], [10, 100], [100, 100], [100, 10]])


def main() -> None:
    """Add, change and remove layers, one call after the other."""
    viewer: Any = napari.Viewer(show=False)
    viewer.window._qt_window.resize(1366, 768)
    viewer.window._qt_window.show()
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 255, shape, dtype=np.uint8)

    def make_box() -> Shapes:
        return Shapes([_BOX], shape_type="polygon", features={"rank": [1]}, text="{rank}", edge_width=4)

    _measure("add the viewer's first image", lambda: viewer.add_image(pixels(256, 256)))
    image = _measure("make an image layer", lambda: Image(pixels(384, 384, 3), rgb=True))
    _measure("add it", lambda: viewer.layers.append(image))
    box = _measure("make the first Shapes layer with features and text", make_box)
    _measure("make another", make_box)
    _measure("add it", lambda: viewer.layers.append(box))
    viewer.canvas.grid.stride = -2
    _measure("lay out the grid", lambda: setattr(viewer.canvas.grid, "enabled", True))
    _measure("fit the view", viewer.reset_view)
    _measure("change the image", lambda: setattr(image, "data", pixels(384, 384, 3)))
    _measure("change the box", lambda: setattr(box, "data", [(_BOX + 5, "polygon")]))
    _measure("remove the image", lambda: viewer.layers.remove(image))
    viewer.close()


def _measure(what: str, call: Callable[[], Any]) -> Any:
    start = time.thread_time()
    result = call()
    called = time.thread_time()
    for _ in range(4):
        QApplication.processEvents()
    print(f"{what}: {1000 * (called - start):.0f} ms, then {1000 * (time.thread_time() - called):.0f} ms")
    return result


if __name__ == "__main__":
    main()
