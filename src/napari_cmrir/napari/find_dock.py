"""The dock widget "Find region": search with a region of an image, and walk through the hits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Labels, Shapes
from napari.utils.notifications import show_warning
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QCheckBox,
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
    LabelOutline,
    Outline,
    Query,
    RegionCombo,
    drawn_outline,
    drawn_shapes,
    outline_of,
)
from napari_cmrir.napari.searches import (
    Answer,
    AnswerCombo,
    Found,
    MoreButton,
    describe_label,
    describe_region,
    find,
    find_each,
    with_modality,
)
from napari_cmrir.napari.shared_state import behind_proxy, default
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
        self.more = MoreButton(self)
        self._lay_out()
        self._connect()
        self.bind_key(_KEY, self.find)
        self.bind_key(_WHOLE_KEY, self.view.added.toggle_whole)
        self.region.watch()
        self._hint()

    def _make_query_fields(self, viewer: napari.viewer.Viewer) -> None:
        self.repository = PathEdit(
            ["folder"], "Repository", "The indexed images to search: a folder NAME.cmrir; drop it here"
        )
        self.about = WrappedLabel("What the repository holds")
        self.image = LayerCombo(viewer, Image, "The image that the region to find lies in")
        self.assumed = WrappedLabel("The pixel size that the last search assumed, and how to enter it")
        self.assumed.hide()
        self.region = RegionCombo(viewer)
        self.new_region = QPushButton("New re&gion")
        self.new_region.setToolTip(
            "Add a layer that lies on the image, and draw a rectangle with the mouse; while hits are shown,"
            " it is searched as soon as it is drawn"
        )
        self.what = WrappedLabel("The part of the image that Find searches for")
        self.each = QCheckBox("each region")
        self.each.setToolTip(
            "Search for each by itself, in one job; a list above the hits chooses whose to show"
        )
        self.each.hide()
        self.modality = QComboBox()
        self.modality.setAccessibleName("Modality")
        self.modality.setToolTip("The modality of the image that the region lies in")
        self.answers = AnswerCombo()
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
        form.addRow("", self.each)
        form.addRow("Modality", wanted)
        form.addRow("Rotation", poses)
        self.panel.add_button(self.copy)
        self.panel.add_button(self.more)
        self.panel.add_button(HelpButton("searching"))
        layout = QVBoxLayout(self.content)
        layout.addLayout(form)
        layout.addWidget(self.panel)
        layout.addWidget(self.answers)
        layout.addWidget(self.view, 1)
        self.make_reachable()

    def _connect(self) -> None:
        self._card: RepositorySummary | None = None
        self._measure = DebouncedQuery(self, 0)
        for said in (self._measure.answered, self._measure.refused):
            said.connect(self.what.setText)
        self.answers.chosen.connect(self._show_answer)
        self._saying = QTimer(self)
        self._saying.setSingleShot(True)
        self._saying.timeout.connect(self._say_what)
        for changed in (self.image.layer_changed, self.region.region_changed, self.each.toggled):
            changed.connect(self._say_soon)
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
        self.view.wider.clicked.connect(self._find_wider)
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
        self.region.unwatch()
        for event in (self.viewer.layers.events.inserted, self.viewer.layers.selection.events.active):
            event.disconnect(self._take_up)
        super().stop_jobs()

    def find(self) -> None:
        """Start the search with the settings of the fields, or one for each region."""
        image, regions = self.image.layer, self.region.layer
        try:
            query = self.query()
            if not self._is_each():
                show = partial(self._show, searched=(image, regions))
                self.panel.run("Finding the region", partial(find, query), show)
                return
            shapes = drawn_shapes(regions) if isinstance(regions, Shapes) else []
            queries = [
                self.query_of(image, self._outline_of(number), f"Region {number + 1}") for number in shapes
            ]
        except InputError as error:
            self.panel.refuse(error)
        else:
            make_job = partial(find_each, queries or [query], each_label=not queries)
            show_each = partial(self.show_each, searched=[(image, regions)], shapes=shapes)
            self.panel.run("Searching", make_job, show_each)

    def _find_wider(self) -> None:
        """Search the full circle and the mirrored region, too; the fields say so."""
        self.rotation.setValue(180)
        self.mirror.setChecked(True)
        self.find()

    def query(self) -> Query:
        """Return the search with the settings of the fields.

        Raises
        ------
        InputError
            Something is missing, or the region is none of the image.
        """
        self.chosen_repository()
        return self.query_of(self.image.layer, self._outline_of())

    def settings(self) -> SearchSettings:
        """Return the settings of the fields."""
        return self._settings.value()

    def query_of(self, image: Image | None, outline: Outline | LabelOutline | None, name: str = "") -> Query:
        """Return the search for a region of an image.

        Parameters
        ----------
        image : Image or None
            The image.
        outline : Outline, LabelOutline or None
            The region; ``None`` is the whole image.
        name : str
            What it is called among several queries.

        Raises
        ------
        InputError
            As `query`.
        """
        repository, settings = self.chosen_repository(), self.settings()
        if image is None:
            raise InputError("No image is chosen; open the image that the region lies in.")
        snapshot = ImageSnapshot.of(image, self.viewer.dims, outline.plane if outline else None)
        query = Query(
            repository,
            snapshot,
            outline,
            self.modality.currentText(),
            settings.hits,
            settings.max_rotation,
            settings.mirror,
            Placement.of(image, snapshot.plane),
            name,
            _preferences(),
        )
        if isinstance(outline, Outline):
            query.region_and_polygon()  # raises at once if the shape is no region of the image
        return query

    def _outline_of(self, number: int | None = None) -> Outline | LabelOutline | None:
        """The chosen region, or a shape by its number."""
        image, regions = self.image.layer, self.region.layer
        if image is None or regions is None:
            return None
        if number is not None:
            return drawn_outline(regions, number, image, self.viewer.dims)
        return outline_of(regions, image, self.viewer.dims)

    def _is_each(self) -> bool:
        return self.each.isVisibleTo(self.content) and self.each.isChecked()

    def chosen_repository(self) -> Path:
        """Return the repository to search, or raise `InputError` where none is chosen."""
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

    def _show(self, found: Found, searched: Sequence[Layer | None]) -> None:
        hits = found.result.hits
        self.answers.show_answers([(found.query, found)], [searched])
        self.panel.tell(f"{len(hits)} hit{'' if len(hits) == 1 else 's'} in {found.result.seconds:.1f} s")
        for warning in found.result.warnings:
            if warning not in found.result.assumptions:
                show_warning(warning)

    def show_each(
        self,
        answers: Sequence[Answer],
        searched: Sequence[Sequence[Layer | None]],
        shapes: Sequence[int] = (),
    ) -> None:
        """Show the hits of the first of several queries, and offer those of the others.

        The parameters are those of `AnswerCombo.show_answers`.
        """
        self.answers.show_answers(answers, searched, shapes)
        reliable = sum(found.result.reliable for found in self.answers.found)
        failed = [f"{query.name}: {answer}" for query, answer in answers if isinstance(answer, InputError)]
        self.panel.tell(" ".join([f"{reliable} of {len(answers)} searches have a reliable match.", *failed]))

    def _show_answer(self, found: Found, searched: Sequence[Layer | None]) -> None:
        self.view.export.show_answers(self.answers.found)
        self.view.show_found(found, searched)
        self._show_assumed(found, " ".join(found.result.assumptions))

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
        self.answers.forget()

    def _take_up(self, _: object = None) -> None:
        """Take the Shapes layer that the user has made or chosen as the region, and propose an image."""
        self.region.take_up(behind_proxy(self.viewer).layers.selection.active)
        self._propose_image()

    def _propose_image(self) -> None:
        """Choose an image of another modality than the one searched, unless the user has chosen one."""
        if self._card is None or self.image.is_chosen or self.image.layer is None:
            return
        modalities = {layer: self.guess(layer) for layer in self.image.layers}
        if modalities[self.image.layer] == self._card.modality:
            fitting = [layer for layer, one in modalities.items() if one not in (None, self._card.modality)]
            if fitting:
                self.image.choose(fitting[0])

    def _propose_modality(self) -> None:
        """Choose the modality that fits the image, by its name and channels."""
        guess = self.guess(self.image.layer)
        if guess is not None:
            self.modality.setCurrentText(guess)

    def guess(self, image: Image | None) -> str | None:
        """Return the modality that fits an image's name and channels, if one does."""
        if self._card is None or image is None:
            return None
        path = image.source.path
        name = image.name if path is None else f"{image.name} {Path(path).stem}"
        return self._card.modalities.guess(name, 3 if image.rgb else 1)

    def _say_soon(self, _: object = None) -> None:
        if not self._saying.isActive():
            self._saying.start(_SAY_MILLISECONDS)

    def _say_what(self) -> None:
        """Say which pixels will be searched for, and what comes next."""
        image, regions = self.image.layer, self.region.layer
        self._measure.forget()
        self._offer_each()
        text = ""
        if image is not None:
            try:
                outline, shape = self._outline_of(), ImageSnapshot.of(image, self.viewer.dims).shape
                text = describe_region(outline, image.name, shape)
                if self._is_each():
                    count = len(drawn_shapes(regions)) if isinstance(regions, Shapes) else 0
                    which = f"{count} regions" if count else "each label"
                    text = f"Searches {which} on {image.name}, one by one"
                elif isinstance(outline, LabelOutline):
                    self._measure.ask(partial(describe_label, outline, image.name))
            except InputError as error:
                text = str(error)
        self.what.setText(text)
        self.answers.choose_shape(regions)
        self._hint()

    def _offer_each(self) -> None:
        """Offer to search for several regions at once, where the chosen layer holds several."""
        regions = self.region.layer
        is_labels = isinstance(regions, Labels)
        several = is_labels or (isinstance(regions, Shapes) and len(drawn_shapes(regions)) > 1)
        self.each.setVisible(several)
        self.each.setText("each label" if is_labels else "each region")
        self.each.setToolTip(
            f"Search for every {'label' if is_labels else 'shape, or every selected one'} in turn, and list"
            " the hits of each"
        )

    def _hint(self) -> None:
        image, regions = self.image.layer, self.region.layer
        if self.repository.path is None:
            hint = _NO_REPOSITORY
        elif image is None:
            hint = _NO_IMAGE
        else:
            hint = _READY if regions is not None and len(regions.data) else _NO_REGION
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


def _preferences() -> dict[str, str]:
    """The settings of a search that the plugin's preferences change, by name."""
    usual = SearchSettings().model_dump(include={"effort", "scheduler", "matcher", "match_on"})
    return {name: value for name, kept in usual.items() if (value := default(name, kept)) != kept}
