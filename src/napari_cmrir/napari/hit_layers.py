"""Layers that a search adds to the viewer and removes again, and layers that explain a hit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import run
from napari_cmrir.napari.coordinates import transform_of
from napari_cmrir.napari.hit_placement import (
    ShownHit,
    View,
    change_steps,
    fits,
    line_width,
    make_box,
    make_image,
    show_name,
)
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.jobs.workers import UiStepQueue

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_cmrir.napari.hit_placement import Placement
    from napari_cmrir.napari.region_query import Found
    from napari_cmrir.search.explain import Explanation
    from napari_cmrir.search.hits import Hit

__all__ = ["AddedLayers", "Shown", "explain", "make_region_layer"]


@dataclass(frozen=True, eq=False)
class Shown:
    """The compared CoMIRs of a region and a hit, and their agreement.

    Parameters
    ----------
    rank : int
        Rank of the hit.
    explanation : Explanation
        Everything in the frame of the region.
    """

    rank: int
    explanation: Explanation

    @property
    def sentence(self) -> str:
        """The share of the region that agrees."""
        agreement, mask = self.explanation.agreement, self.explanation.mask
        share = float((agreement[mask] > 0.5).mean()) if mask.any() else 0.0
        return f"Hit {self.rank}: {share:.0%} of the region agrees (correlation above 0.5)."

    def layers(self, placement: Placement, region: Region) -> list[Callable[[], Image]]:
        """Return the images of the layers, with the agreement on top.

        Parameters
        ----------
        placement : Placement
            How the query's image lies in the world.
        region : Region
            What was searched for, in its pixels.
        """
        frame = placement.registered(region, Region.whole(self.explanation.mask.shape).corners())
        maps: tuple[tuple[str, NDArray[Any], dict[str, Any]], ...] = (
            ("CoMIR of the region", self.explanation.query[0], {}),
            (f"CoMIR of hit {self.rank}", self.explanation.field[0], {}),
            (
                f"Agreement with hit {self.rank}",
                self.explanation.agreement,
                {"colormap": "PiYG", "contrast_limits": (-1, 1), "opacity": 0.8},
            ),
        )
        return [partial(_layer, name, placement, pixels, {**frame, **more}) for name, pixels, more in maps]


def explain(found: Found, hit: Hit) -> Shown:
    """Compare a region with a hit, pixel by pixel.

    Parameters
    ----------
    found : Found
        The query and its hits.
    hit : Hit
        One of them.

    Returns
    -------
    Shown
        In the frame of the region.

    Raises
    ------
    InputError
        The repository has changed since the search, or cannot be opened.
    """
    job = in_worker_process(tasks.explain, found.query.repository, found.result, hit)
    return Shown(hit.rank, run(job))


def _layer(name: str, placement: Placement, pixels: NDArray[Any], keywords: dict[str, Any]) -> Image:
    from napari.layers import Image

    return Image(
        placement.expanded(pixels), name=name, metadata={"napari-cmrir": {"is_result": True}}, **keywords
    )


_REGION_COLOUR = "#ffcc00"
_GRID_STRIDE = -2  # an image and the box on it share a cell, counted from the top of the layer list
_BLINK_MILLISECONDS = 500


def make_region_layer(image: Image) -> Shapes:
    """Make an empty Shapes layer that lies exactly on an image, to draw a rectangle.

    Parameters
    ----------
    image : Image
        The image to draw on.
    """
    layer = Shapes(
        ndim=image.ndim,
        name=f"Region of {image.name}",
        edge_color=_REGION_COLOUR,
        face_color="transparent",
        opacity=1,
        edge_width=line_width(image.extent.data[1][-2:] - image.extent.data[0][-2:]),
        **transform_of(image),
    )
    layer.mode = "add_rectangle"
    return layer


class AddedLayers(QObject):
    """All layers that the widget Find region has added to a viewer.

    Layers are added and changed one at a time, between turns of the window's event loop.

    Parameters
    ----------
    viewer : Viewer
        The viewer.
    parent : QObject
        Ends with it.
    """

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._view: View = "beside"
        self._hit: list[Layer] = []
        self._kept: list[Layer] = []
        self._others: list[Layer] = []
        self._doomed: list[Layer] = []
        self._grid_before: tuple[bool, int] | None = None
        self._turns = UiStepQueue(self)
        self._hidden: list[Callable[[], object]] = []
        self._opacity = 1.0
        self._blinking = QTimer(self)
        self._blinking.setInterval(_BLINK_MILLISECONDS)
        self._blinking.timeout.connect(self._blink)

    @property
    def is_busy(self) -> bool:
        """Whether layers are still being added or changed."""
        return self._turns.is_busy

    def add_region(self, image: Image) -> Shapes:
        """Add an empty region layer above the layers of the user and below the hits.

        Parameters
        ----------
        image : Image
            The image to draw on.
        """
        layer = make_region_layer(image)
        own = [self._viewer.layers.index(hit) for hit in self._results()]
        self._viewer.layers.insert(min(own, default=len(self._viewer.layers)), layer)
        self._viewer.layers.selection.active = layer
        return layer

    def show(self, shown: ShownHit) -> None:
        """Show a hit in the layers of the previous one, unless that hit is kept.

        Parameters
        ----------
        shown : ShownHit
            The hit.
        """
        there = self._present(self._hit)
        if len(there) == 2 and fits(there[0], shown):
            steps = change_steps(there[0], there[1], shown)
            view_changed = shown.view != self._view
            if view_changed:
                steps = [partial(self._hide_box, there[1]), *steps]
        else:
            steps = []
            self._doom(there)
            self._hit = []
            for make in (make_image, make_box):
                steps += [partial(self._make_hit, make, shown), self._add_hit]
            view_changed = True
        self._view = shown.view
        steps += [partial(self._hide_kept, shown), self._lay_out]
        if view_changed:
            steps.append(self._viewer.reset_view)
        self._take([*steps, self._select_hit, self._reveal, self._reveal])

    def show_others(self, layers: Sequence[Callable[[], Layer]]) -> None:
        """Replace the layers that explain a hit.

        Parameters
        ----------
        layers : sequence of callable
            Each makes a layer.
        """
        steps: list[Callable[[], object]] = []
        self._doom(self._others)
        self._others = []
        for make in layers:
            steps += [partial(self._make_other, make), self._add_other]
        self._take([*steps, self._select_other])

    def keep(self) -> bool:
        """Keep the shown hit when another one is chosen; return whether a hit was shown."""
        kept = self._present(self._hit)
        self._kept += kept
        self._hit = []
        return bool(kept)

    def set_opacity(self, share: float) -> None:
        """Blend the hit with the layers below.

        Parameters
        ----------
        share : float
            0 shows the query alone, 1 the hit.
        """
        self._opacity = share
        for layer in self._present(self._hit)[:1]:
            layer.opacity = share

    def blink(self, on: bool) -> None:
        """Show and hide the hit alternately, or show it.

        Parameters
        ----------
        on : bool
            Whether it blinks.
        """
        if on:
            self._blinking.start()
        else:
            self._blinking.stop()
            for layer in self._present(self._hit):
                layer.visible = True

    def make_room(self) -> None:
        """Remove all layers of the last search except the shown hit's, which the next hit reuses."""
        self._doom([*self._kept, *self._others])
        self._kept, self._others = [], []
        self._take([])

    def remove_hits(self) -> None:
        """Remove the hits' layers, even if they were renamed, and restore the grid.

        The regions that the user drew stay.
        """
        self._doom(self._results())
        self._hit, self._kept, self._others, self._hidden = [], [], [], []
        self._take([self._grid_back])

    def _make_hit(self, make: Callable[[ShownHit], Layer], shown: ShownHit) -> None:
        layer = make(shown)
        if isinstance(layer, Image):
            layer.opacity = self._opacity if shown.view == "registered" else 1.0
            self._hidden = [partial(show_name, layer)]
        else:
            self._hide_box(layer)
        self._hit.append(layer)

    def _add_hit(self) -> None:
        with _without_grid(self._viewer):
            self._viewer.layers.append(self._hit[-1])

    def _make_other(self, make: Callable[[], Layer]) -> None:
        self._others.append(make())

    def _add_other(self) -> None:
        self._viewer.layers.append(self._others[-1])

    def _hide_kept(self, shown: ShownHit) -> None:
        """Show kept hits in the grid only: registered hits would cover each other."""
        for layer in self._present(self._kept):
            layer.visible = shown.view == "beside"
        for layer in self._present(self._hit)[:1]:
            layer.opacity = self._opacity if shown.view == "registered" else 1.0

    def _lay_out(self) -> None:
        grid = _grid(self._viewer)
        if self._view == "registered":
            self._grid_back()
        elif self._grid_before is None:
            self._grid_before = grid.enabled, grid.stride
            _set_grid(grid, True, _GRID_STRIDE)

    def _grid_back(self) -> None:
        if self._grid_before is not None:
            _set_grid(_grid(self._viewer), *self._grid_before)
            self._grid_before = None

    def _hide_box(self, box: Layer) -> None:
        """Hide a layer while napari draws the grid or other layers for the first time."""
        if box.visible:
            box.visible = False
            self._hidden.append(partial(self._show_box, box))

    def _show_box(self, box: Layer) -> None:
        box.visible = all(layer.visible for layer in self._present(self._hit) if layer is not box)

    def _reveal(self) -> None:
        """Show one layer that was hidden for later."""
        if self._hidden:
            self._hidden.pop(0)()

    def _select_hit(self) -> None:
        for layer in self._present(self._hit)[:1]:
            self._viewer.layers.selection.active = layer

    def _select_other(self) -> None:
        for layer in self._present(self._others)[-1:]:
            self._viewer.layers.selection.active = layer

    def _blink(self) -> None:
        layers = self._present(self._hit)
        is_lit = any(layer.visible for layer in layers)
        for layer in layers:
            layer.visible = not is_lit

    def _results(self) -> list[Layer]:
        return self._present([*self._hit, *self._kept, *self._others])

    def _present(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers that the user has not removed."""
        there = {id(layer) for layer in self._viewer.layers}
        return [layer for layer in layers if id(layer) in there]

    def _doom(self, layers: Sequence[Layer]) -> None:
        """Remove layers before any other step, even if the queued steps are replaced."""
        self._doomed += self._present(layers)

    def _take(self, steps: Iterable[Callable[[], object]]) -> None:
        """Remove the queued layers one in each turn (see `PluginLayers`), then do the steps."""
        self._turns.take([*(partial(self._remove, layer) for layer in self._doomed), *steps])

    def _remove(self, layer: Layer) -> None:
        self._doomed = [one for one in self._doomed if one is not layer]
        if self._present([layer]):
            self._viewer.layers.remove(layer)


@contextmanager
def _without_grid(viewer: Viewer) -> Iterator[None]:
    """Change layers with the grid off: with the grid, napari lays it out again for every change."""
    grid = _grid(viewer)
    enabled = grid.enabled
    grid.enabled = False
    try:
        yield
    finally:
        grid.enabled = enabled


def _set_grid(grid: Any, enabled: bool, stride: int) -> None:
    """Set both at once, so that napari lays out the scene once instead of twice."""
    with grid.events.stride.blocker() if enabled != grid.enabled else nullcontext():
        grid.stride = stride
    grid.enabled = enabled


def _grid(viewer: Viewer) -> Any:
    canvas = getattr(viewer, "canvas", None)  # napari 0.9
    return viewer.grid if canvas is None else canvas.grid
