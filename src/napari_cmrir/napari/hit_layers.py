"""Layers that a search adds to the viewer and removes again, and layers that explain a hit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer

from napari_cmrir.images.geometry import Region
from napari_cmrir.jobs import run
from napari_cmrir.napari.coordinates import transform_of, world_frame
from napari_cmrir.napari.hit_placement import (
    ShownHit,
    View,
    change_steps,
    fit_to_screen,
    fits,
    hit_features,
    line_width,
    make_box,
    make_image,
    show_text,
)
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.jobs.workers import UiStepQueue
from napari_cmrir.napari.shared_state import behind_proxy, shared_state_of

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_cmrir.napari.hit_placement import Placement
    from napari_cmrir.napari.searches import Found
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


def _make_places(shown: ShownHit, places: Sequence[Hit]) -> Shapes:
    """Make the layer of all places of a shown hit's image, a box and a row of features each."""
    boxes = [place.box if shown.view == "beside" else shown.placement.points(place.box) for place in places]
    features = hit_features(places)
    features["label"] = [f"{place.rank}:  {place.confidence:.0%}" for place in places]
    return Shapes(
        boxes,
        shape_type="polygon",
        name=f"{len(places)} matches in {shown.name.partition(' · ')[2]}",
        features=features,
        text={
            "string": "{label}",
            "color": [shown.text_colour(place.box) for place in places],
            "anchor": "upper_left",
            "size": 12,
        },
        edge_color=shown.edge_colour,
        face_color="transparent",
        opacity=1,
        metadata={"napari-cmrir": {"is_result": True, "hits": [place.as_dict() for place in places]}},
        **shown.transform,
    )


_REGION_COLOUR = "#ffcc00"
_BLINK_MILLISECONDS = 500
_ZOOM_MILLISECONDS = 60  # after the wheel has stopped for this long, lines get their width again
_MARGIN = 1.35  # how much more than the region and the match is in view
_ROW_GAP = 0.03  # between kept hits, as a share of their width


def make_region_layer(image: Image) -> Shapes:
    """Make an empty Shapes layer that lies exactly on an image, to draw a rectangle.

    Parameters
    ----------
    image : Image
        The image to draw on.
    """
    return Shapes(
        ndim=image.ndim,
        name=f"Region of {image.name}",
        edge_color=_REGION_COLOUR,
        face_color="transparent",
        opacity=1,
        edge_width=line_width(image.extent.data[1][-2:] - image.extent.data[0][-2:]),
        metadata={"napari-cmrir": {"is_region": True}},
        **transform_of(image),
    )


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
        self._viewer = viewer = behind_proxy(viewer)
        self._view: View = "beside"
        self._shown: ShownHit | None = None
        self._is_whole = False
        self._hit: list[Layer] = []
        self._others: list[Layer] = []
        self._doomed: list[Layer] = []
        self._searched: list[Layer] = []
        self._kept, self._put_away = shared_state_of(viewer).left
        self._shift = 0.0
        self._turns = UiStepQueue(self)
        self._hidden: list[Callable[[], object]] = []
        self._opacity = 0.5
        self._blinking = QTimer(self)
        self._blinking.setInterval(_BLINK_MILLISECONDS)
        self._blinking.timeout.connect(self._blink)
        self._zoomed = QTimer(self)
        self._zoomed.setSingleShot(True)
        self._zoomed.setInterval(_ZOOM_MILLISECONDS)
        self._zoomed.timeout.connect(self._fit_lines)
        self._is_following = True
        _camera(viewer).events.zoom.connect(self._wait_for_zoom)

    @property
    def is_busy(self) -> bool:
        """Whether layers are still being added or changed."""
        return self._turns.is_busy

    def add_region(self, image: Image) -> Shapes:
        """Add an empty region layer below the hits, and show its image alone.

        Parameters
        ----------
        image : Image
            The image to draw on.
        """
        layer = make_region_layer(image)
        own = [self._viewer.layers.index(hit) for hit in self._results()]
        self._viewer.layers.insert(min(own, default=len(self._viewer.layers)), layer)
        self._viewer.layers.selection.active = layer
        layer.mode = "add_rectangle"
        if own:
            self._hidden = []
            for shown in self._results():
                shown.visible = False
            image.visible = True
            self._look_at(world_frame(image))
        self._fit_lines()
        return layer

    def searched(self, layers: Sequence[Layer | None]) -> None:
        """Set the layers that stay visible beside the hits; the user's others are hidden with the next hit.

        Parameters
        ----------
        layers : sequence of Layer or None
            Those of the query.
        """
        self._searched = [layer for layer in layers if layer is not None]

    def show(self, shown: ShownHit) -> None:
        """Show a hit in the layers of the previous one, unless that hit is kept.

        Parameters
        ----------
        shown : ShownHit
            The hit.
        """
        self._shown = shown = replace(shown, shift=self._shift)
        self._is_whole = False
        there = self._present(self._hit)
        if len(there) == 2 and fits(there[0], shown):
            steps = change_steps(there[0], there[1], shown)
            steps.append(partial(self._show_hit, there))
        else:
            steps = []
            self._doom(there)
            self._hit = []
            for make in (make_image, make_box):
                steps += [partial(self._make_hit, make, shown), self._add_hit]
        self._view = shown.view
        steps += [partial(self._hide_kept, shown), self._put_others_away, partial(self._look_at, shown.frame)]
        self._take([*steps, self._select_hit, self._reveal, self._reveal, self._fit_lines])

    def toggle_whole(self) -> None:
        """Zoom out to the whole images, or back to the match."""
        if self._shown is None:
            return
        self._is_whole = not self._is_whole
        if self._is_whole:
            frames = [world_frame(layer) for layer in self._viewer.layers if layer.visible]
            self._look_at(np.array([np.min(frames, axis=(0, 1)), np.max(frames, axis=(0, 1))]))
        else:
            self._look_at(self._shown.frame)

    def show_others(self, layers: Sequence[Callable[[], Layer]]) -> None:
        """Replace the layers that explain a hit.

        Parameters
        ----------
        layers : sequence of callable
            Each makes a layer.
        """
        if not layers and not self._others:
            return
        steps: list[Callable[[], object]] = []
        self._doom(self._others)
        self._others = []
        for make in layers:
            steps += [partial(self._make_other, make), self._add_other]
        self._take([*steps, self._select_other])

    def show_places(self, places: Sequence[Hit]) -> None:
        """Show all places of the shown hit's image in one layer, once the hit is drawn."""
        self._turns.add([partial(self._show_places, places)])

    def _show_places(self, places: Sequence[Hit]) -> None:
        shown, layers = self._shown, self._present(self._hit)
        if shown is not None and shown.hit.image == places[0].image and len(layers) == 2:
            self.show_others([partial(_make_places, shown, places)])
            image, box = layers
            look = partial(self._look_at, world_frame(image))
            self._turns.add([partial(setattr, box, "visible", False), look, self._fit_lines])

    def keep(self) -> bool:
        """Keep the shown hit when another one is chosen; return whether a hit was shown."""
        if self.is_busy:  # its layers are not all there yet
            return False
        kept = self._present(self._hit)
        self._kept += kept
        self._hit = []
        for image in kept[:1]:
            if self._view == "beside":
                frame = world_frame(image)
                self._shift += (1 + _ROW_GAP) * float(frame[1, 1] - frame[0, 1])
        return bool(kept)

    def set_opacity(self, share: float) -> None:
        """Blend the registered hit with the layers below.

        Parameters
        ----------
        share : float
            0 shows the query alone, 1 the hit.
        """
        self._opacity = share
        if self._view == "registered":
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
        self._kept, self._others, self._shift = [], [], 0.0
        self._take([])

    def remove_hits(self) -> None:
        """Remove the hits' layers, even if they were renamed, and show the layers that were hidden.

        The regions that the user drew stay.
        """
        self._doom(self._results())
        self._hit, self._kept, self._others, self._hidden = [], [], [], []
        was_shown, self._shown, self._shift = self._shown is not None, None, 0.0
        self._take([self._bring_back, *([self._viewer.reset_view, self._fit_lines] if was_shown else [])])

    def close(self) -> None:
        """Stop following the camera; the hits stay, for the next dock to remove."""
        self._turns.forget()
        hits = [*self._results(), *self._present(self._doomed)]
        shared_state_of(self._viewer).left = hits, self._present(self._put_away)
        self._zoomed.stop()
        if self._is_following:
            self._is_following = False
            _camera(self._viewer).events.zoom.disconnect(self._wait_for_zoom)

    def _make_hit(self, make: Callable[[ShownHit], Layer], shown: ShownHit) -> None:
        layer = make(shown)
        if isinstance(layer, Image):
            layer.opacity = self._opacity if shown.view == "registered" else 1.0
        else:
            layer.visible = False  # drawn after the image, so that no turn draws both for the first time
            self._hidden = [partial(self._show_box, layer), partial(show_text, layer, shown)]
        self._hit.append(layer)

    def _add_hit(self) -> None:
        self._viewer.layers.append(self._hit[-1])

    def _show_hit(self, layers: Sequence[Layer]) -> None:
        """Show layers that were hidden while a region was drawn."""
        if not self._blinking.isActive():
            for layer in self._present(layers):
                layer.visible = True

    def _make_other(self, make: Callable[[], Layer]) -> None:
        self._others.append(make())

    def _add_other(self) -> None:
        self._viewer.layers.append(self._others[-1])

    def _hide_kept(self, shown: ShownHit) -> None:
        """Show kept hits in the row beside the query only: registered hits would cover each other."""
        for layer in self._present(self._kept):
            layer.visible = shown.view == "beside"
        for layer in self._present(self._hit)[:1]:
            layer.opacity = self._opacity if shown.view == "registered" else 1.0

    def _put_others_away(self) -> None:
        """Hide the user's layers that were not searched: they would cover the query, or the hit beside it."""
        if not self._present(self._searched):
            return
        stay = {id(layer) for layer in (*self._searched, *self._results())}
        for layer in self._viewer.layers:
            if layer.visible and id(layer) not in stay:
                layer.visible = False
                self._put_away.append(layer)
        for layer in self._present(self._searched):
            layer.visible = True

    def _bring_back(self) -> None:
        for layer in self._present(self._put_away):
            layer.visible = True
        self._put_away = []

    def _look_at(self, frame: NDArray[np.float64]) -> None:
        """Centre the canvas on two corners of the world, and zoom so that both are in view with a margin."""
        low, high = frame
        size = np.maximum(high - low, 1e-12)
        canvas = np.array(_canvas_size(self._viewer), dtype=float)
        camera = _camera(self._viewer)
        camera.center = (*camera.center[:-2], *(low + high) / 2)
        camera.zoom = float((canvas / (_MARGIN * size)).min())

    def _wait_for_zoom(self, *_: object) -> None:
        self._zoomed.start()

    def _fit_lines(self) -> None:
        layers = [layer for layer in self._viewer.layers if isinstance(layer, Shapes) and _is_ours(layer)]
        fit_to_screen(layers, float(_camera(self._viewer).zoom))

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


def _camera(viewer: Viewer) -> Any:
    scene = getattr(viewer, "scene", None)  # napari 0.9
    return viewer.camera if scene is None else scene.camera


def _canvas_size(viewer: Viewer) -> tuple[int, int]:
    canvas = getattr(viewer, "canvas", None)  # napari 0.9
    return tuple(viewer._canvas_size if canvas is None else canvas.size)


def _is_ours(layer: Layer) -> bool:
    return "napari-cmrir" in layer.metadata
