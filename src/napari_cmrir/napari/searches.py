"""The searches of Find region as jobs: one, or several, of whose answers one is chosen and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFileDialog, QMenu, QPushButton

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job, Progress, step_of
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.pictures import open_large
from napari_cmrir.napari.region_query import LabelOutline, Outline, Query, region_and_polygon
from napari_cmrir.napari.shared_state import behind_proxy
from napari_cmrir.napari.summaries import read_repository_summary
from napari_cmrir.search.checks import pixels_per_searched
from napari_cmrir.search.query import window_read

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_cmrir.images.geometry import Region
    from napari_cmrir.napari.find_dock import FindWidget
    from napari_cmrir.search.hits import Hit, SearchResult
    from napari_cmrir.search.settings import SearchSettings

__all__ = [
    "Answer",
    "AnswerCombo",
    "FolderSearched",
    "Found",
    "MoreButton",
    "describe_label",
    "describe_region",
    "find",
    "find_each",
    "find_folder",
    "with_modality",
]


@dataclass(frozen=True, eq=False)
class Found:
    """A query and its result.

    Parameters
    ----------
    query : Query
        The query.
    region : Region
        What was searched for, in the pixels of the image.
    result : SearchResult
        The hits.
    """

    query: Query
    region: Region
    result: SearchResult


def with_modality(query: Query) -> Query:
    """Fill in the usual modality of a query if none was chosen; reads the repository.

    Parameters
    ----------
    query : Query
        The query.

    Raises
    ------
    InputError
        As `summaries.read_repository_summary`.
    """
    if query.modality:
        return query
    return replace(query, modality=read_repository_summary(query.repository).other_modality)


def find(query: Query) -> Job[Found]:
    """Search a repository.

    Parameters
    ----------
    query : Query
        The query.

    Yields
    ------
    Progress
        In percent.

    Returns
    -------
    Found
        The hits.

    Raises
    ------
    InputError
        As `search.query.search` and `repository.store.open_repository`.
    """
    yield Progress(0, None, "%", "Reading the region")
    query = with_modality(query)
    region, polygon = query.region_and_polygon()
    searched = read_repository_summary(query.repository).pixel_size
    step = pixels_per_searched(searched, query.pixel_size)
    window = query.image.read_window(*window_read(region, query.image.shape, step))
    result = yield from in_worker_process(
        tasks.search,
        query.repository,
        window,
        query.modality,
        None if polygon is not None else region,
        polygon,
        query.pixel_size,
        query.settings,
        query.outline.pixels if isinstance(query.outline, LabelOutline) else None,
    )
    return Found(query, result.region or region, result)


Answer = tuple[Query, Found | InputError]
"""One of several queries, and what it has found, or why it could not be searched."""


def find_each(queries: Sequence[Query], *, each_label: bool = False) -> Job[list[Answer]]:
    """Search a repository with several queries, one after another; the model is loaded once.

    Parameters
    ----------
    queries : sequence of Query
        The queries.
    each_label : bool
        Whether every label of the first query's Labels layer is a query.

    Yields
    ------
    Progress
        In searches.

    Returns
    -------
    list of (Query, Found or InputError)
        What each has found, or why it could not be searched.

    Raises
    ------
    InputError
        None could be searched.
    """
    yield Progress(0, None, "searches", "Reading the regions")
    first = queries[0]
    if each_label and isinstance(outline := first.outline, LabelOutline):
        queries = [
            replace(first, outline=replace(outline, label=label), name=f"Label {label}")
            for label in outline.labels()
        ]
    answers: list[Answer] = []
    for number, query in enumerate(queries):
        try:
            answers.append((query, (yield from step_of(find(query), number, len(queries), "searches"))))
        except InputError as error:
            answers.append((query, error))
    errors = [answer for _, answer in answers if isinstance(answer, InputError)]
    if len(errors) == len(answers):
        raise errors[0] if errors else InputError(f"{first.image.name} has no label on it; paint one.")
    return answers


def describe_region(outline: Outline | LabelOutline | None, name: str, shape: tuple[int, int]) -> str:
    """Say in words which pixels of an image will be searched for.

    Parameters
    ----------
    outline : Outline, LabelOutline or None
        The region; ``None`` is the whole image.
    name : str
        The image's.
    shape : tuple of two int
        Height and width of the image, in px.

    Raises
    ------
    InputError
        As `region_and_polygon`.
    """
    (height, width), kind = shape, "the whole image"
    if isinstance(outline, LabelOutline):
        return f"Searches label {outline.label} of {outline.name} on {name}"
    if outline is not None:
        region, polygon = region_and_polygon(outline, shape)
        drawn = np.ptp(outline.points, axis=0)
        sides = (region.height, region.width) if polygon is None else drawn
        (height, width), kind = map(round, sides), outline.kind
    return f"Searches {width} x {height} px of {name} ({kind})"


def describe_label(outline: LabelOutline, name: str) -> str:
    """Say which pixels of an image a label is; call it outside the window's thread, as it reads them."""
    region = outline.region
    return f"Searches {region.width:.0f} x {region.height:.0f} px of {name} (label {outline.label})"


@dataclass(frozen=True)
class FolderSearched:
    """What the search for all images of a folder has found.

    Parameters
    ----------
    table : Path
        The written hits.
    searched, reliable : int
        Images that were searched for, and those with a reliable match.
    failures : dict
        Why others could not be searched for, by file name.
    """

    table: Path
    searched: int
    reliable: int
    failures: dict[str, str]

    @property
    def sentence(self) -> str:
        """All of it in words."""
        failed = [f"{name}: {reason}" for name, reason in self.failures.items()]
        told = f"{self.reliable} of {self.searched} images have a reliable match. Written: {self.table}"
        return told + (f"; not searched for: {' '.join(failed)}" if failed else "")


def find_folder(
    repository: Path, folder: Path, modality: str, settings: SearchSettings, table: Path
) -> Job[FolderSearched]:
    """Search a repository for every image of a folder, and write the hits as a table.

    Parameters
    ----------
    repository : Path
        The repository to search.
    folder : Path
        The folder.
    modality : str
        Of its images.
    settings : SearchSettings
        Of each search.
    table : Path
        The CSV to write, as ``napari-cmrir query --csv`` does.

    Yields
    ------
    Progress
        In images.

    Raises
    ------
    InputError
        The folder has no image, none could be searched for, or the table cannot be written.
    """
    from napari_cmrir.images.readers import find_images
    from napari_cmrir.search.hits import write_hits

    yield Progress(0, None, "images", "Reading the folder")
    images = find_images([folder], modality)
    answers: list[tuple[str, SearchResult]] = []
    failures: dict[str, str] = {}
    for number, image in enumerate(images):
        job = in_worker_process(tasks.search_file, repository, image, modality, settings)
        try:
            answers.append((str(image), (yield from step_of(job, number, len(images), "images"))))
        except InputError as error:
            failures[image.name] = str(error)
    if not answers:
        raise InputError(next(iter(failures.values())))
    reliable = sum(result.reliable for _, result in answers)
    written = write_hits(table.with_suffix(".csv"), [(name, result.hits) for name, result in answers])
    return FolderSearched(written, len(images), reliable, failures)


class AnswerCombo(QComboBox):
    """Chooses whose hits are shown; hidden unless there were several searches."""

    chosen = Signal(object, object)
    """Signal: what the chosen search has found, and the layers that it searched with."""

    def __init__(self) -> None:
        super().__init__()
        self._found: list[tuple[Found, Sequence[Layer | None], int | None]] = []
        self.setAccessibleName("Hits of")
        self.setToolTip("Which region or image the hits below are of; a click on its shape chooses it, too")
        self.hide()
        self.currentIndexChanged.connect(self._tell)

    @property
    def found(self) -> list[Found]:
        """What the searches have found."""
        return [found for found, _, _ in self._found]

    def show_answers(
        self,
        answers: Sequence[Answer],
        searched: Sequence[Sequence[Layer | None]],
        shapes: Sequence[int] = (),
    ) -> None:
        """Replace the answers, and choose the first.

        Parameters
        ----------
        answers : sequence of Answer
            Of all searches; those that failed are left out.
        searched : sequence of sequence of Layer or None
            Layers of the image and of the region of each search; or one for all.
        shapes : sequence of int
            Number of each search's shape in its layer, if shapes were searched.
        """
        self._found = [
            (
                found,
                searched[number] if number < len(searched) else searched[-1],
                shapes[number] if number < len(shapes) else None,
            )
            for number, (_, found) in enumerate(answers)
            if isinstance(found, Found)
        ]
        self.blockSignals(True)
        self.clear()
        for found in self.found:
            best = f"{found.result.hits[0].confidence:.0%}" if found.result.hits else "no hit"
            self.addItem(f"{found.query.name}: {best}")
        self.blockSignals(False)
        self.setVisible(len(answers) > 1)
        self._tell(0)

    def choose_shape(self, layer: Layer | None) -> None:
        """Choose the search of the shape that is selected in a layer, if there was one.

        Parameters
        ----------
        layer : Layer or None
            The layer.
        """
        if isinstance(layer, Shapes) and len(layer.selected_data) == 1:
            for row, (_, searched, shape) in enumerate(self._found):
                if shape in layer.selected_data and any(one is layer for one in searched):
                    self.setCurrentIndex(row)

    def forget(self) -> None:
        """Forget the answers."""
        self._found = []
        self.hide()

    def _tell(self, row: int) -> None:
        if 0 <= row < len(self._found):
            found, searched, _ = self._found[row]
            self.chosen.emit(found, searched)


class MoreButton(QPushButton):
    """A menu of rarer searches, and of opening a large image.

    Parameters
    ----------
    dock : FindWidget
        The dock that it is a part of.
    """

    def __init__(self, dock: FindWidget) -> None:
        super().__init__("More")
        self._dock = dock
        self.setToolTip("All matches in one image, a search for many images, and opening a large one")
        self._menu = QMenu(self)
        self._menu.addAction("All matches in the chosen hit's image", self.find_places)
        self._menu.addAction("Search for all open images", self.find_open_images)
        self._menu.addAction("Search for the images of a folder…", self._ask_folder)
        self._menu.addAction("Open a large image…", self._ask_large)
        self.setMenu(self._menu)
        self._opening = DebouncedQuery(self, 0)
        self._opening.answered.connect(self._add_large)
        self._opening.refused.connect(self._refuse)

    def find_places(self) -> None:
        """Look for all places of the chosen hit's image that match, and show them."""
        dock, found = self._dock, self._dock.view.found
        if found is None or not found.result.hits:
            self._refuse("There is no hit yet; press Find, and choose the hit whose image to look through.")
            return
        hit = dock.view.chosen()
        arguments = found.query.repository, found.result, hit, found.query.settings
        job = partial(in_worker_process, tasks.find_places, *arguments)
        dock.panel.run("Looking for all matches", job, partial(self._show_places, found, hit))

    def find_open_images(self) -> None:
        """Search for each open image of the chosen modality, whole."""
        dock, modality = self._dock, self._dock.modality.currentText()
        layers = [layer for layer in dock.image.layers if dock.guess(layer) in (None, modality)][::-1]
        if not layers:
            self._refuse(f"No open image is {modality}; open the images to search for.")
            return
        try:
            queries = [dock.query_of(layer, None, layer.name) for layer in layers]
        except InputError as error:
            dock.panel.refuse(error)
        else:
            show = partial(dock.show_each, searched=[(layer, None) for layer in layers])
            dock.panel.run("Searching", partial(find_each, queries), show)

    def find_folder(self, folder: Path, table: Path) -> None:
        """Search for each image of a folder, and write the hits.

        Parameters
        ----------
        folder : Path
            The folder.
        table : Path
            The CSV to write.
        """
        dock, modality = self._dock, self._dock.modality.currentText()
        try:
            repository, settings = dock.chosen_repository(), dock.settings()
        except InputError as error:
            dock.panel.refuse(error)
        else:
            job = partial(find_folder, repository, folder, modality, settings, table)
            dock.panel.run("Searching", job, self._tell_folder)

    def open_large(self, path: Path) -> None:
        """Open an image as a layer of which only the visible part, or a region, is read.

        Parameters
        ----------
        path : Path
            The file.
        """
        self._dock.panel.tell(f"Opening {path.name} …")
        self._opening.ask(partial(open_large, path))

    def _show_places(self, found: Found, hit: Hit, places: tuple[Hit, ...]) -> None:
        if self._dock.view.found is not found:
            self._refuse("The hits have changed since; choose the one to look through again.")
            return
        self._dock.view.show_places(hit.rank, places)
        count = f"{len(places)} match{'' if len(places) == 1 else 'es'}"
        self._dock.panel.tell(f"{count} in {Path(places[0].image).name}, boxes of one layer.")

    def _tell_folder(self, searched: FolderSearched) -> None:
        self._dock.panel.tell(searched.sentence)

    def _add_large(self, keywords: dict[str, Any]) -> None:
        layer = behind_proxy(self._dock.viewer).add_image(**keywords)
        self._dock.image.choose(layer)
        self._dock.panel.tell(f"{layer.name} is open; press New region, draw a rectangle, and press Find.")

    def _refuse(self, reason: str) -> None:
        self._dock.panel.refuse(InputError(reason))

    def _ask_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Images to search for")
        if folder:
            proposed = str(Path(folder, "hits.csv"))
            table, _ = QFileDialog.getSaveFileName(self, "Hits as CSV", proposed, "CSV (*.csv)")
            if table:
                self.find_folder(Path(folder), Path(table))

    def _ask_large(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Image to open")
        if name:
            self.open_large(Path(name))
