"""The dock widget "Find region": search with a region of an image, and walk through the hits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image, Shapes
from napari.utils.notifications import show_warning
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
)

from napari_cmrir.errors import InputError
from napari_cmrir.napari.coordinates import ImageSnapshot
from napari_cmrir.napari.copy_commands import CopyButton, Language, file_of, kept_folder, query_text
from napari_cmrir.napari.dock import ScrolledDock, SettingsForm
from napari_cmrir.napari.form_fields import HelpButton, LayerCombo, PathEdit, WrappedLabel, offer_modalities
from napari_cmrir.napari.hit_placement import Placement
from napari_cmrir.napari.hit_view import HitView
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.region_query import (
    Found,
    Query,
    chosen_shape,
    drawn_outline,
    find,
    region_and_polygon,
    with_modality,
)
from napari_cmrir.napari.shared_state import default
from napari_cmrir.napari.summaries import KnownModalities, RepositorySummary, read_repository_summary
from napari_cmrir.search.settings import SearchSettings

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Layer

__all__ = ["FindWidget"]

_MOST_HITS = 100  # of the dock's list; the command line has no limit
_KEY, _WHOLE_KEY = "Shift-F", "Shift-Z"
_SAY_MILLISECONDS = 50  # while a shape is dragged, its size is said no more often
_NO_REPOSITORY = (
    "Choose a repository: the indexed images to search.\n\nNo images are indexed yet? Open 2. Index images;"
    " its model can be starter, which needs no training. Or try File > Open Sample >"
    " CoMIR Image Retrieval > Ready to search."
)
_NO_IMAGE = "Open the image that holds the region: drop its file into napari."
_NO_REGION = "Press New region, draw a rectangle on the image, and press Find."
_READY = "Press Find: the hits appear here."


class FindWidget(ScrolledDock):
    """Draw a region on an image, find its tissue in a repository, and walk through the hits.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer that it is added to.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self._make_query_fields(viewer)
        self.panel = JobPanel(
            "Fin&d",
            "C&ancel",
            f"Search the repository with this region ({_KEY} does the same)",
            "Stop the search and show nothing",
        )
        self.copy = CopyButton("this search", self._write)
        self.view = HitView(viewer)
        self._lay_out()
        self._connect()
        self.bind_key(_KEY, self.find)
        self.bind_key(_WHOLE_KEY, self.view.added.toggle_whole)
        self._watch()
        self._hint()

    def _make_query_fields(self, viewer: napari.viewer.Viewer) -> None:
        self.repository = PathEdit(
            ["folder"], "Repository", "The indexed images to search: a folder NAME.cmrir; drop it here"
        )
        self.about = WrappedLabel("What the repository holds")
        self.image = LayerCombo(viewer, Image, "The image that the region to find lies in")
        self.assumed = WrappedLabel("The pixel size that the last search assumed, and how to enter it")
        self.assumed.hide()
        self.region = LayerCombo(
            viewer,
            Shapes,
            "The layer with the region: the selected shape, else the one drawn last",
            none="the whole image",
        )
        self.region.setAccessibleName("Region")
        self.new_region = QPushButton("New re&gion")
        self.new_region.setToolTip(
            "Add a layer that lies on the image, and draw a rectangle with the mouse; while hits are shown,"
            " it is searched as soon as it is drawn"
        )
        self.what = WrappedLabel("The part of the image that Find searches for")
        self.modality = QComboBox()
        self.modality.setAccessibleName("Modality")
        self.modality.setToolTip("The modality of the image that the region lies in")
        self._settings = SettingsForm(
            SearchSettings,
            ["hits", "max_rotation", "mirror"],
            {"max_rotation": "Rotation", "mirror": "mirrored"},
            parent=self,
        )
        self.hits: Any = self._settings.field("hits")
        self.rotation: Any = self._settings.field("max_rotation")
        self.mirror: Any = self._settings.field("mirror")
        self.hits.setMaximum(_MOST_HITS)
        self.hits.setValue(default("hits", 5))
        self.rotation.setValue(default("max_rotation", round(SearchSettings().max_rotation)))
        self.rotation.setPrefix("± ")

    def _lay_out(self) -> None:
        region = QHBoxLayout()
        region.addWidget(self.region, 1)
        region.addWidget(self.new_region)
        wanted, poses = QHBoxLayout(), QHBoxLayout()
        wanted.addWidget(self.modality, 1)
        wanted.addWidget(QLabel("hits"))
        wanted.addWidget(self.hits)
        poses.addWidget(self.rotation, 1)
        poses.addWidget(self.mirror)
        form = QFormLayout()
        form.addRow("Repository", self.repository)
        form.addRow("", self.about)
        form.addRow("Image", self.image)
        form.addRow(self.assumed)
        form.addRow("Region", region)
        form.addRow("", self.what)
        form.addRow("Modality", wanted)
        form.addRow("Rotation", poses)
        self.panel.add_button(self.copy)
        self.panel.add_button(HelpButton("searching"))
        layout = QVBoxLayout(self.content)
        layout.addLayout(form)
        layout.addWidget(self.panel)
        layout.addWidget(self.view, 1)
        self.make_reachable()

    def _connect(self) -> None:
        self._card: RepositorySummary | None = None
        self._searched: tuple[Layer | None, ...] = ()
        self._watched: Shapes | None = None
        self._saying = QTimer(self)
        self._saying.setSingleShot(True)
        self._saying.timeout.connect(self._say_what)
        for changed in (self.image.layer_changed, self.region.layer_changed):
            changed.connect(self._watch)
        self.image.layer_changed.connect(self._propose_modality)
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.selection.events.active):
            event.connect(self._take_up)
        self._inquiry = DebouncedQuery(self)
        self._inquiry.answered.connect(self._show_card)
        self._inquiry.refused.connect(self.about.setText)
        self.repository.changed.connect(self._read_card)
        for chosen in (self.repository.changed, self.image.layer_changed):
            chosen.connect(self._hide_assumed)
        self.new_region.clicked.connect(self.add_region)
        self.panel.start_requested.connect(self.find)
        self.view.removed.connect(self._forget_results)
        self.view.told.connect(self.panel.tell)
        self.copy.copied.connect(self._tell_copied)
        self.session.repository_changed.connect(self._propose_repository)
        self.remember("find", rotation=self.rotation, mirror=self.mirror, hits=self.hits, view=self.view.how)
        self.remember("find", repository=self.repository)
        if self.session.repository is not None:
            self._propose_repository(self.session.repository)

    def add_region(self) -> None:
        """Add a layer for drawing a region of the chosen image."""
        image = self.image.layer
        if image is None:
            self.panel.refuse(InputError("No image is chosen; open the image that the region lies in."))
        else:
            layer = self.view.added.add_region(image)
            self.region.choose(layer)
            if self.view.found is not None:
                layer.events.data.connect(self._find_drawn)

    def begin(self, searched: str) -> None:
        """Let the user draw at once, if an image of another modality is chosen, and no region.

        Parameters
        ----------
        searched : str
            Modality of the images to search.
        """
        image = self.image.layer
        is_query = image is not None and KnownModalities((searched,)).guess(image.name, 0) != searched
        if is_query and self.region.layer is None:
            self.add_region()

    def _find_drawn(self, event: Any) -> None:
        """Search with the first shape of a region that was begun while hits were shown."""
        if event.action == "added":
            event.source.events.data.disconnect(self._find_drawn)
            QTimer.singleShot(0, self.find)  # napari is still drawing

    def stop_jobs(self) -> None:
        """Stop the jobs, and stop following the viewer."""
        self.view.added.close()
        self._saying.stop()
        self._unwatch()
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.selection.events.active):
            event.disconnect(self._take_up)
        super().stop_jobs()

    def find(self) -> None:
        """Start the search with the settings of the fields."""
        try:
            query = self.query()
        except InputError as error:
            self.panel.refuse(error)
        else:
            self._searched = self.image.layer, self.region.layer
            self.panel.run("Finding the region", partial(find, query), self._show)

    def query(self) -> Query:
        """Return the search with the settings of the fields.

        Raises
        ------
        InputError
            Something is missing, or the region is none of the image.
        """
        repository, modality = self._repository(), self.modality.currentText()
        image, shapes = self.image.layer, self.region.layer
        if image is None:
            raise InputError("No image is chosen; open the image that the region lies in.")
        outline = None
        if shapes is not None:
            outline = drawn_outline(shapes, chosen_shape(shapes), image, self.viewer.dims)
        snapshot = ImageSnapshot.of(image, self.viewer.dims, outline.plane if outline else None)
        placement = Placement.of(image, snapshot.plane)
        settings = self._settings.value()
        query = Query(
            repository,
            snapshot,
            outline,
            modality,
            settings.hits,
            settings.max_rotation,
            settings.mirror,
            placement,
        )
        query.region_and_polygon()  # raises at once if the shape is no region of the image
        return query

    def _repository(self) -> Path:
        if self.repository.path is None:
            raise InputError(
                "No repository is chosen; index images in the widget Index images, or choose one."
            )
        return self.repository.path

    def _write(self, language: Language) -> Callable[[], str]:
        query = self.query()

        def text() -> str:
            return query_text(language, with_modality(query), file_of(query.image, kept_folder()))

        return text

    def _tell_copied(self, text: str) -> None:
        self.panel.tell(f"Copied: {text.splitlines()[0]}")

    def _show(self, found: Found) -> None:
        hits = found.result.hits
        self.view.show_found(found, self._searched)
        self.panel.tell(f"{len(hits)} hit{'' if len(hits) == 1 else 's'} in {found.result.seconds:.1f} s")
        assumptions = found.result.assumptions
        self._show_assumed(found, " ".join(assumptions))
        for warning in found.result.warnings:
            if warning not in assumptions:
                show_warning(warning)

    def _show_assumed(self, found: Found, assumed: str) -> None:
        """Show warnings that apply to every search of this image in the dock, without a notification."""
        if assumed and found.query.pixel_size is None:
            layer = f"viewer.layers[{found.query.image.name!r}]"
            assumed += f" In the console: {layer}.scale = 0.5, 0.5; {layer}.units = 'um'"
        self.assumed.setText(assumed)
        self.assumed.setVisible(bool(assumed))

    def _hide_assumed(self) -> None:
        self.assumed.hide()

    def _forget_results(self) -> None:
        self.panel.tell("")

    def _take_up(self, _: object = None) -> None:
        """Take the Shapes layer that the user has made or chosen as the region, and propose an image."""
        active = self.viewer.layers.selection.active
        if isinstance(active, Shapes) and active in self.region.layers and _may_be_region(active):
            self.region.choose(active)
        self._propose_image()

    def _propose_image(self) -> None:
        """Choose an image of another modality than the one searched, unless the user has chosen one."""
        if self._card is None or self.image.is_chosen or self.image.layer is None:
            return
        modalities = {layer: self._guess(layer) for layer in self.image.layers}
        if modalities[self.image.layer] == self._card.modality:
            fitting = [layer for layer, one in modalities.items() if one not in (None, self._card.modality)]
            if fitting:
                self.image.choose(fitting[0])

    def _propose_modality(self) -> None:
        """Choose the modality that fits the image, by its name and channels."""
        guess = self._guess(self.image.layer)
        if guess is not None:
            self.modality.setCurrentText(guess)

    def _guess(self, image: Image | None) -> str | None:
        if self._card is None or image is None:
            return None
        path = image.source.path
        name = image.name if path is None else f"{image.name} {Path(path).stem}"
        return self._card.modalities.guess(name, 3 if image.rgb else 1)

    def _watch(self) -> None:
        """Follow the shapes of the chosen layer."""
        shapes = self.region.layer
        if shapes is not self._watched:
            self._unwatch()
            self._watched = shapes
            if shapes is not None:
                shapes.events.data.connect(self._say_soon)
                shapes.events.highlight.connect(self._say_soon)
        self._say_soon()

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._watched.events.data.disconnect(self._say_soon)
            self._watched.events.highlight.disconnect(self._say_soon)
            self._watched = None

    def _say_soon(self, _: object = None) -> None:
        if not self._saying.isActive():
            self._saying.start(_SAY_MILLISECONDS)

    def _say_what(self) -> None:
        """Say which pixels will be searched for, and what comes next."""
        image, shapes = self.image.layer, self.region.layer
        text = ""
        if image is not None:
            try:
                height, width = ImageSnapshot.of(image, self.viewer.dims).shape
                kind = "the whole image"
                if shapes is not None:
                    outline = drawn_outline(shapes, chosen_shape(shapes), image, self.viewer.dims)
                    region, polygon = region_and_polygon(outline, (height, width))
                    drawn = np.ptp(outline.points, axis=0)
                    sides = (region.height, region.width) if polygon is None else drawn
                    (height, width), kind = map(round, sides), outline.kind
                text = f"Searches {width} x {height} px of {image.name} ({kind})"
            except InputError as error:
                text = str(error)
        self.what.setText(text)
        self._hint()

    def _hint(self) -> None:
        image, shapes = self.image.layer, self.region.layer
        if self.repository.path is None:
            hint = _NO_REPOSITORY
        elif image is None:
            hint = _NO_IMAGE
        else:
            hint = _READY if shapes is not None and len(shapes.data) else _NO_REGION
        self.view.list.set_hint(hint)

    def _propose_repository(self, path: Path) -> None:
        self.repository.set_paths(path)
        self._read_card()  # images may have been added to the same repository

    def _read_card(self) -> None:
        self._inquiry.forget()
        self._card = None
        self.about.setText("")
        self._hint()
        if self.repository.path is not None:
            self._inquiry.ask(partial(read_repository_summary, self.repository.path))

    def _show_card(self, card: RepositorySummary) -> None:
        fields = f" in {card.fields} fields" if card.fields > card.images else ""
        plural = "" if card.images == 1 else "s"
        self.about.setText(f"{card.images} {card.modality} image{plural}{fields}")
        self._card = card
        offer_modalities(self.modality, card.modalities, otherwise=card.other_modality)
        self._propose_image()
        self._propose_modality()
        self._hint()


def _may_be_region(shapes: Shapes) -> bool:
    """Whether a layer is empty, or holds a shape that encloses an area."""
    return not len(shapes.data) or bool({"rectangle", "ellipse", "polygon"} & set(shapes.shape_type))
