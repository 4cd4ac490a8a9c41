"""The dock widget "Find region": search with a region of an image, and see the hits as layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Shapes
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
)

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress
from napari_cmrir.search.settings import SearchSettings
from napari_cmrir.widgets.background import Inquiry, JobPanel
from napari_cmrir.widgets.card import RepositoryCard, read_repository_card
from napari_cmrir.widgets.choosers import LayerCombo, PathEdit
from napari_cmrir.widgets.coordinates import Outline, drawn_outline, hit_transform, region_and_mask
from napari_cmrir.widgets.dock import Dock
from napari_cmrir.widgets.hit_layers import AddedLayers
from napari_cmrir.widgets.results_table import ResultsTable
from napari_cmrir.widgets.snapshot import ImageSnapshot

if TYPE_CHECKING:
    import napari.viewer

    from napari_cmrir.search.hits import SearchResult

__all__ = ["FindWidget"]

_HITS, _MOST_HITS = 5, 100
_DOUBTFUL = 0.5


@dataclass(frozen=True, eq=False)
class _Found:
    """The hits, and what is needed to show them."""

    result: SearchResult
    pictures: dict[int, NDArray[Any]]
    unread: list[str]


class FindWidget(Dock):
    """Draw a region on an image, find its tissue in a repository, walk through the hits.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer that it is added to.
    """

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__(viewer)
        self.added = AddedLayers(viewer)
        self._transform: dict[str, Any] = {}
        self._card: RepositoryCard | None = None
        self._make_query_fields(viewer)
        self._make_result_fields()
        self._lay_out()
        self._connect()

    def _make_query_fields(self, viewer: napari.viewer.Viewer) -> None:
        self.repository = PathEdit(
            ["folder"], "Repository", "The indexed images to search: a folder NAME.cmrir"
        )
        self.about = QLabel()
        self.about.setWordWrap(True)
        self.about.setToolTip("What the repository holds")
        self.image = LayerCombo(viewer, Image, "The image that the region to find lies in")
        self.region = LayerCombo(
            viewer,
            Shapes,
            "The layer with the region: the selected shape, else the one drawn last",
            none="the whole image",
        )
        self.new_region = QPushButton("New region")
        self.new_region.setToolTip("Add a layer that lies on the image, and draw a rectangle with the mouse")
        self.modality = QComboBox()
        self.modality.setToolTip("The modality of the image that the region lies in")
        self.hits = QSpinBox()
        self.hits.setRange(1, _MOST_HITS)
        self.hits.setValue(_HITS)
        self.hits.setToolTip("How many images to show, the best first")
        self.rotation = QSpinBox()
        self.rotation.setRange(0, 180)
        self.rotation.setValue(round(SearchSettings().max_rotation))
        self.rotation.setPrefix("± ")
        self.rotation.setSuffix("°")
        self.rotation.setToolTip("How far the tissue may be turned against the image, either way")

    def _make_result_fields(self) -> None:
        self.panel = JobPanel(
            "Find", "Cancel", "Search the repository with this region", "Stop the search and show nothing"
        )
        self.table = ResultsTable()
        self.side_by_side = QCheckBox("Side by side")
        self.side_by_side.setChecked(True)
        self.side_by_side.setToolTip("Show every hit in a cell of napari's grid, else the chosen one only")
        self.remove = QPushButton("Remove results")
        self.remove.setToolTip(
            "Remove every layer that this widget added: hits, match boxes and regions; your own layers stay"
        )

    def _lay_out(self) -> None:
        region = QHBoxLayout()
        region.addWidget(self.region, 1)
        region.addWidget(self.new_region)
        numbers = QHBoxLayout()
        numbers.addWidget(self.rotation, 1)
        numbers.addWidget(QLabel("hits"))
        numbers.addWidget(self.hits, 1)
        form = QFormLayout()
        form.addRow("Repository", self.repository)
        form.addRow("", self.about)
        form.addRow("Image", self.image)
        form.addRow("Region", region)
        form.addRow("Modality", self.modality)
        form.addRow("Rotation", numbers)
        below = QHBoxLayout()
        below.addWidget(self.side_by_side)
        below.addStretch(1)
        below.addWidget(self.remove)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.panel)
        layout.addWidget(self.table, 1)
        layout.addLayout(below)

    def _connect(self) -> None:
        self._inquiry = Inquiry(self)
        self._inquiry.answered.connect(self._show_card)
        self._inquiry.refused.connect(self.about.setText)
        self.repository.changed.connect(self._read_card)
        self.new_region.clicked.connect(self.add_region)
        self.panel.start_requested.connect(self.find)
        self.table.hit_chosen.connect(self.added.bring_up)
        self.side_by_side.toggled.connect(self.added.lay_side_by_side)
        self.remove.clicked.connect(self.remove_results)
        self.session.repository_changed.connect(self._propose_repository)
        if self.session.repository is not None:
            self._propose_repository(self.session.repository)

    def add_region(self) -> None:
        """Add a layer to draw a region of the chosen image on."""
        image = self.image.layer
        if image is None:
            self.panel.refuse(InputError("No image is chosen; open the image that the region lies in."))
        else:
            self.region.choose(self.added.add_region(image))

    def find(self) -> None:
        """Start the search that the fields describe."""
        try:
            repository, modality = self._repository(), self._modality()
            snapshot, outline = self._query()
        except InputError as error:
            self.panel.refuse(error)
            return
        job = partial(
            _find, repository, snapshot, outline, modality, self.hits.value(), float(self.rotation.value())
        )
        self.panel.run("Finding the region", job, self._show)

    def remove_results(self) -> None:
        """Remove every layer that this widget added, and no other."""
        self.added.remove_all()
        self.table.show_hits(())
        self.panel.tell("")

    def _repository(self) -> Path:
        if self.repository.path is None:
            raise InputError(
                "No repository is chosen; index images in the widget Index images, or choose one."
            )
        return self.repository.path

    def _modality(self) -> str:
        if not self.modality.currentText():
            card = read_repository_card(self._repository())  # says what is wrong with the repository
            return card.other_modality
        return self.modality.currentText()

    def _query(self) -> tuple[ImageSnapshot, Outline | None]:
        image, shapes = self.image.layer, self.region.layer
        if image is None:
            raise InputError("No image is chosen; open the image that the region lies in.")
        outline = None
        if shapes is not None:
            outline = drawn_outline(shapes, _chosen_shape(shapes), image, self.viewer.dims)
        snapshot = ImageSnapshot.of(image, self.viewer.dims, outline.plane if outline else None)
        if outline is not None:
            region_and_mask(outline, snapshot.shape)  # refuses at once what is no region of the image
        self._transform = hit_transform(image, snapshot.plane)
        return snapshot, outline

    def _show(self, found: _Found) -> None:
        hits = found.result.hits
        self.added.show_hits(hits, found.pictures, self._transform)
        self.added.lay_side_by_side(self.side_by_side.isChecked())
        self.table.show_hits(hits)
        count = f"{len(hits)} hit{'' if len(hits) == 1 else 's'} in {found.result.seconds:.1f} s"
        doubtful = not hits or hits[0].confidence < _DOUBTFUL
        self.panel.tell(f"{count} · no reliable match" if doubtful else count)
        if found.unread:
            show_warning(" ".join(found.unread))

    def _propose_repository(self, path: Path) -> None:
        self.repository.set_paths(path)
        self._read_card()  # the same repository may have grown

    def _read_card(self) -> None:
        self._inquiry.forget()
        self.about.setText("")
        if self.repository.path is not None:
            self._inquiry.ask(partial(read_repository_card, self.repository.path))

    def _show_card(self, card: RepositoryCard) -> None:
        fields = f" in {card.fields} fields" if card.fields > card.images else ""
        plural = "" if card.images == 1 else "s"
        self.about.setText(f"{card.images} {card.modality} image{plural}{fields}")
        before = self.modality.currentText()
        self.modality.clear()
        self.modality.addItems(card.modalities)
        self.modality.setCurrentText(before if before in card.modalities else card.other_modality)


def _chosen_shape(shapes: Shapes) -> int:
    """The selected shape, else the one drawn last."""
    if not len(shapes.data):
        raise InputError(f"{shapes.name} holds no region yet; draw a rectangle on it.")
    selected = [index for index in shapes.selected_data if index < len(shapes.data)]
    return int(selected[0]) if len(selected) == 1 else len(shapes.data) - 1


def _find(
    repository_path: Path,
    snapshot: ImageSnapshot,
    outline: Outline | None,
    modality: str,
    n_hits: int,
    max_rotation: float,
) -> Job[_Found]:
    """Search, and read the images of the hits."""
    yield Progress(0, None, "%", "Opening the repository")
    from napari_cmrir.repository.store import open_repository
    from napari_cmrir.search.query import search

    pixels = snapshot.read()
    region = mask = None
    if outline is not None:
        region, mask = region_and_mask(outline, snapshot.shape)
    turned = abs(region.rotation_degrees) if region is not None else 0.0
    settings = SearchSettings(hits=n_hits, max_rotation=min(max_rotation + turned, 180.0))
    yield Progress(0, None, "%", "Opening the repository")
    with open_repository(repository_path) as repository:
        result = yield from search(repository, pixels, modality, region=region, mask=mask, settings=settings)
    pictures, unread = yield from _read_pictures(result)
    return _Found(result, pictures, unread)


def _read_pictures(result: SearchResult) -> Job[tuple[dict[int, NDArray[Any]], list[str]]]:
    from napari_cmrir.images.readers import read_image

    pictures: dict[int, NDArray[Any]] = {}
    unread: list[str] = []
    for done, hit in enumerate(result.hits):
        yield Progress(done, len(result.hits), "hits", f"Reading {Path(hit.image).name}")
        try:
            pictures[hit.rank] = read_image(hit.image)
        except InputError as error:
            unread.append(str(error))
    return pictures, unread
