"""Measure the time that napari itself takes in the window's thread for the layers of a hit.

    python scripts/with_display.py python benchmarks/add_layers.py

Prints the computing time of each call, and of the longest event that follows from it (mostly drawing). The
calls are those of Find region in the same order, on similar layers: a query image with its region, then an
image and a box beside them in the grid. No part of the plugin runs. A hit is shown three times, because the
first time includes what napari loads only once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import napari
import numpy as np
from napari.layers import Image, Shapes
from qtpy.QtCore import QEventLoop, QTimer

_BOX = np.array([[10, 10], [10, 100], [100, 100], [100, 10]])
_MICROMETRES: dict[str, Any] = {"scale": (0.5, 0.5), "units": ("um", "um")}
_MILLISECONDS = 300  # for the event loop to run after a call


def main() -> None:
    """Add, show and remove layers, one call after another."""
    viewer: Any = napari.Viewer(show=False)
    viewer.window._qt_window.resize(1366, 768)
    viewer.window._qt_window.show()
    measure = Measure()
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> np.ndarray:
        return rng.integers(0, 255, shape, dtype=np.uint8)

    query = measure(
        "add the viewer's first image", lambda: viewer.add_image(pixels(256, 256), **_MICROMETRES)
    )
    query.name_overlay.visible = True
    region = measure("add its first Shapes layer", lambda: viewer.add_shapes(ndim=2, **_MICROMETRES))
    measure("draw a rectangle", lambda: region.add_rectangles([_BOX]))
    for time_ in ("first", "second", "third"):
        print(f"The {time_} hit")
        show_hit(viewer, measure, pixels(384, 384, 3))
    viewer.close()


def show_hit(viewer: Any, measure: Measure, pixels: np.ndarray) -> None:
    """Show a hit as Find region does, and remove it again."""
    image = measure("make an image layer", lambda: Image(pixels, rgb=True, name="hit", **_MICROMETRES))
    measure("add it", lambda: viewer.layers.append(image))
    box = measure("make a Shapes layer with features and text, hidden", make_box)
    measure("add it", lambda: viewer.layers.append(box))
    viewer.canvas.grid.stride = -2
    measure("lay out the grid", lambda: setattr(viewer.canvas.grid, "enabled", True))
    measure("fit the view", viewer.reset_view)
    measure("select the image", lambda: setattr(viewer.layers.selection, "active", image))
    measure("show its name", lambda: setattr(image.name_overlay, "visible", True))
    measure("show the box", lambda: setattr(box, "visible", True))
    measure("change the image", lambda: setattr(image, "data", pixels[::-1]))
    measure("change the box", lambda: setattr(box, "data", [(_BOX + 5, "polygon")]))

    def remove() -> None:
        with viewer.layers.batched_update():
            viewer.canvas.grid.enabled = False
            viewer.layers.remove(image)
            viewer.layers.remove(box)

    measure("remove both, and the grid", remove)


def make_box() -> Shapes:
    """Make a match box."""
    text = {"string": "{rank}: {score:.2f}", "size": 12, "anchor": "center"}
    features = {"rank": [1], "score": [0.5]}
    box = Shapes([_BOX], shape_type="polygon", features=features, text=text, edge_width=4, **_MICROMETRES)
    box.visible = False
    return box


class Measure:
    """Times a call, and the longest turn of the event loop that follows."""

    def __init__(self) -> None:
        self._longest = self._last = 0.0
        self._ticks = QTimer()
        self._ticks.timeout.connect(self._tick)
        self._ticks.start(1)

    def __call__(self, what: str, call: Callable[[], Any]) -> Any:
        start = time.thread_time()
        result = call()
        called = time.thread_time() - start
        self._longest, self._last = 0.0, time.thread_time()
        loop = QEventLoop()
        QTimer.singleShot(_MILLISECONDS, loop.quit)
        loop.exec()
        print(f"  {what}: {1000 * called:.0f} ms, then {1000 * self._longest:.0f} ms at once")
        return result

    def _tick(self) -> None:
        now = time.thread_time()
        self._longest, self._last = max(self._longest, now - self._last), now


if __name__ == "__main__":
    main()
