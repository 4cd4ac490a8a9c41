"""The source "Two layers, by landmarks" of the dock CoMIR model: a pair made by hand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from napari.layers import Image, Points
from numpy.typing import NDArray
from qtpy.QtCore import QTimer, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.jobs import Job
from napari_cmrir.napari.coordinates import ImageSnapshot, map_points, plane_of, transform_of
from napari_cmrir.napari.copy_commands import file_of, kept_folder
from napari_cmrir.napari.form_fields import LayerCombo, PathEdit, WrappedLabel, draw_hint
from napari_cmrir.napari.jobs import tasks
from napari_cmrir.napari.jobs.job_panel import JobPanel
from napari_cmrir.napari.jobs.worker_process import in_worker_process
from napari_cmrir.napari.jobs.workers import DebouncedQuery, UiStepQueue
from napari_cmrir.napari.shared_state import shared_state_of

if TYPE_CHECKING:
    import napari.viewer
    from qtpy.QtGui import QPaintEvent

    from napari_cmrir.pairing.landmarks import LandmarkFit

__all__ = ["LandmarkPairs"]

Motion = Literal["similarity", "affine"]

_RIGHT, _OUTLIER = "#ffcc00", "#d55e00"  # distinguishable for the colour-blind
_NUMBERS = "#00e000"  # seen on black, on white and on stained tissue
_SHARE = 25  # of an image's longer side is the diameter of a landmark
_HINT = "No landmarks yet.\nChoose two images, press New landmarks,\nand click on the same places of both."


@dataclass(frozen=True, eq=False)
class _Fitted:
    """The map that a pair is cut with, and why."""

    matrix: NDArray[np.float64]
    reason: str


class LandmarkPairs(QWidget):
    """Landmarks on two image layers, the map that they give, and the pair that it cuts.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers the landmarks lie on.
    """

    changed = Signal()
    """The folder for the pairs was changed."""
    saved = Signal(Path)
    """A pair was written to this folder."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer, self._session = viewer, shared_state_of(viewer)
        self._points: tuple[Points, Points] | None = None
        self._images: tuple[Image, Image] | None = None
        self._fitted: _Fitted | None = None
        self._fit: LandmarkFit | None = None
        self._modalities = ("", "")
        self._counts = (0, 0)
        self._update = QTimer(self)  # napari is still changing a layer when it says that it changed
        self._update.setSingleShot(True)
        self._update.timeout.connect(self._show_fit)
        self._saving = DebouncedQuery(self, 0)
        self._turns = UiStepQueue(self)
        self._make_fields(viewer)
        self._lay_out()
        self._connect()

    def _make_fields(self, viewer: napari.viewer.Viewer) -> None:
        self.images = (
            LayerCombo(viewer, Image, "Image of the first modality"),
            LayerCombo(viewer, Image, "Image of the second modality, anywhere in the viewer"),
        )
        for combo, which in zip(self.images, ("First", "Second"), strict=True):
            combo.setAccessibleName(f"{which} image of the landmarks")
        self.motion = QComboBox()
        self.motion.addItems(["similarity", "affine"])
        self.motion.setAccessibleName("Map of the landmarks")
        self.motion.setToolTip(
            "similarity: shift, rotation, size and mirroring; affine: also stretched and sheared"
        )
        self.new = QPushButton("New landmarks")
        self.new.setToolTip(
            "Add a Points layer on each image; click on a place in the first image, then on the same place"
            " in the second, and so on, three times or more"
        )
        self.table = _LandmarkTable()
        self.told = WrappedLabel("How well the landmarks agree, in pixels of the second image")
        self.panel = JobPanel(
            "Refine",
            "Cancel",
            "Refine the map by correlation of the images, with the model in use, else with the starter",
            "Stop, and keep the map of the landmarks",
        )
        self.output = PathEdit(
            ["folder"],
            "Folder for the pair",
            "Receives the aligned pair as <identifier>_<MODALITY>.tif, and its row of pairs.csv",
        )
        self.save = QPushButton("Save pair")
        self.save.setToolTip("Cut both images to what they share, aligned pixel by pixel, and save them")

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for row in (self.images, (self.motion, self.new), (self.output, self.save)):
            line = QHBoxLayout()
            for number, widget in enumerate(row):
                line.addWidget(widget, 1 if number == 0 or row is self.images else 0)
            if row[0] is self.output:
                layout.addWidget(self.table)
                layout.addWidget(self.told)
                layout.addWidget(self.panel)
            layout.addLayout(line)

    def _connect(self) -> None:
        self.new.clicked.connect(self.start)
        self.motion.currentTextChanged.connect(self._show_fit)
        self.panel.start_requested.connect(self.refine)
        self.save.clicked.connect(self.save_pair)
        self.output.changed.connect(self.changed)
        self._saving.answered.connect(self._show_saved)
        self._saving.refused.connect(lambda reason: self.panel.refuse(InputError(reason)))

    def set_modalities(self, modalities: tuple[str, str]) -> None:
        """Set the modalities that the files of a pair are named by."""
        self._modalities = modalities

    def folder(self) -> Path:
        """Return the folder of saved pairs.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.output.path is None or not self.output.path.is_dir():
            raise InputError("No pair is saved yet; set landmarks, and press Save pair.")
        return self.output.path

    def begin(self, first: Image, second: Image, output: Path) -> None:
        """Set landmarks on two layers, for a pair of this folder.

        Parameters
        ----------
        first, second : Image
            Layers of the viewer.
        output : Path
            The folder of pairs.
        """
        for combo, layer in zip(self.images, (first, second), strict=True):
            combo.choose(layer)
        self.output.set_paths(output)
        self.start()

    def start(self) -> None:
        """Add a Points layer on each chosen image, in place of earlier ones."""
        first, second = (combo.layer for combo in self.images)
        if first is None or second is None or first is second:
            error = InputError("Landmarks take two different image layers; open an image of each modality.")
            self.panel.refuse(error)
            return
        self.remove_layers()
        self._images, layers = (first, second), []
        for image in self._images:
            layer = _points_on(image)
            self._viewer.add_layer(layer)
            layer.events.data.connect(self._changed)
            layers.append(layer)
        self._points = layers[0], layers[1]
        self._activate(0)
        self._show_fit()

    def remove_layers(self) -> None:
        """Remove the landmarks, and show both images again."""
        for layer in self._points or ():
            layer.events.data.disconnect(self._changed)
        self._turns.add([partial(self._remove, layer) for layer in self._points or ()])
        for image in self._images or ():
            image.visible = True
        self._points = self._images = self._fit = self._fitted = None
        self._counts = (0, 0)
        self.table.setRowCount(0)
        self.told.setText("")

    def _remove(self, layer: Points) -> None:
        if layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def refine(self) -> None:
        """Refine the map of the landmarks by correlation."""
        try:
            fitted, sources = self._ready(), self._sources()
        except InputError as error:
            self.panel.refuse(error)
            return
        model = self._session.model or Path("starter")
        motion = self.motion.currentText()
        job = partial(_refine, sources, fitted.matrix, self._modalities, model, motion)
        self.panel.run("Refining the landmarks", job, partial(self._take_refined, fitted))

    def save_pair(self) -> None:
        """Cut the pair, and write it to the folder."""
        try:
            fitted, sources = self._ready(), self._sources()
            if self.output.path is None:
                raise InputError("No folder is given for the pair; choose one.")
        except InputError as error:
            self.panel.refuse(error)
            return
        self.panel.tell("Saving …")
        self._saving.ask(partial(_save, self.output.path, sources, fitted, self._modalities))

    def _ready(self) -> _Fitted:
        if self._fitted is None:
            raise InputError(self.told.text() or "There are no landmarks; press New landmarks.")
        return self._fitted

    def _sources(self) -> tuple[Path | ImageSnapshot, Path | ImageSnapshot]:
        """What the two images are read from: the file that the plugin opened, or the layer."""
        assert self._images is not None  # `_ready` was asked first
        found = []
        for image in self._images:
            file = image.metadata.get("napari-cmrir", {}).get("file")
            found.append(Path(file) if file else ImageSnapshot.of(image, self._viewer.dims))
        return found[0], found[1]

    def _changed(self, _: Any = None) -> None:
        self._update.start(0)

    def _show_fit(self, *_: object) -> None:
        """Fit the landmarks, and show residuals and outliers; then ask for the next landmark."""
        from napari_cmrir.pairing.landmarks import fit_landmarks

        self._fit = self._fitted = None
        if self._points is None or not all(layer in self._viewer.layers for layer in self._points):
            return
        try:
            first, second = self._landmarks()
            self._fit = fit_landmarks(first, second, self._motion)
        except InputError as error:
            self.told.setText(str(error))
        else:
            used = int((~self._fit.outliers).sum())
            reason = f"{used} landmarks, error {self._fit.error:.1f} px"
            wrong = [str(number + 1) for number in np.flatnonzero(self._fit.outliers)]
            if wrong:
                reason += f"; without landmark {', '.join(wrong)}, which the others contradict"
            self._fitted = _Fitted(self._fit.matrix, reason)
            self.told.setText(f"{reason}.")
        self.table.show_fit(max(len(layer.data) for layer in self._points), self._fit)
        for layer in self._points:
            _colour(layer, self._fit)
        self._ask_for_next()

    @property
    def _motion(self) -> Motion:
        return "affine" if self.motion.currentText() == "affine" else "similarity"

    def _landmarks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The landmarks in pixels of each image, (n, 2)."""
        assert self._points is not None
        assert self._images is not None
        found = []
        for layer, image in zip(self._points, self._images, strict=True):
            axes = list(plane_of(image, self._viewer.dims).axes)
            data = np.asarray(layer.data, np.float64).reshape(-1, layer.ndim)
            found.append(map_points(data, layer, image)[:, axes] if len(data) else np.zeros((0, 2)))
        return found[0], found[1]

    def _ask_for_next(self) -> None:
        """After a landmark was added, activate the layer of the image that has fewer."""
        assert self._points is not None
        counts = len(self._points[0].data), len(self._points[1].data)
        added, self._counts = sum(counts) > sum(self._counts), counts
        active = self._viewer.layers.selection.active
        if added and active in self._points and active.mode == "add":
            self._activate(1 if counts[1] < counts[0] else 0)

    def _activate(self, which: int) -> None:
        """Let clicks add landmarks on one image; hide the other where it lies on it."""
        assert self._points is not None
        assert self._images is not None
        if _overlap(*self._images):
            for number, (image, layer) in enumerate(zip(self._images, self._points, strict=True)):
                image.visible = layer.visible = number == which
        self._viewer.layers.selection.active = self._points[which]
        self._points[which].mode = "add"

    def _take_refined(self, before: _Fitted, refined: tuple[NDArray[np.float64], int, int] | None) -> None:
        if refined is None:
            self.panel.tell("Not refined: the correlation does not confirm the landmarks.")
        elif self._fitted is before:  # no landmark was changed meanwhile
            matrix, agreeing, parts = refined
            reason = f"{before.reason}; refined by correlation, {agreeing} of {parts} parts agree"
            self._fitted = _Fitted(matrix, reason)
            self.told.setText(f"{reason}.")
            self.panel.tell("Refined; Save pair takes this map.")
        else:
            self.panel.tell("The landmarks have changed; refine again.")

    def _show_saved(self, name: str) -> None:
        folder = self.folder()
        self.panel.tell(f"Saved: {name}")
        for image in self._images or ():
            image.visible = True
        self.saved.emit(folder)


class _LandmarkTable(QTableWidget):
    """Residual of each landmark, and whether the others contradict it."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setHorizontalHeaderLabels(["Landmark", "Residual", "Use"])
        self.setAccessibleName("Landmarks")
        self.setToolTip(
            "How far each landmark of the second image lies from where the map of the others puts it; one"
            " that the others contradict is marked and does not count"
        )
        self.setMinimumHeight(120)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().hide()
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)

    def show_fit(self, count: int, fit: LandmarkFit | None) -> None:
        """Show the residuals of landmarks, or their numbers where they have no map."""
        self.setRowCount(count)
        for row in range(count):
            texts = [str(row + 1), "", ""]
            if fit is not None:
                texts[1:] = f"{fit.residuals[row]:.1f} px", "outlier" if fit.outliers[row] else "yes"
            for column, text in enumerate(texts):
                self.setItem(row, column, QTableWidgetItem(text))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the landmarks, or say how to set some."""
        super().paintEvent(event)
        if not self.rowCount():
            draw_hint(self, _HINT)


def _points_on(image: Image) -> Points:
    """Make an empty Points layer that lies exactly on an image."""
    sides = image.extent.data[1][-2:] - image.extent.data[0][-2:]
    return Points(
        ndim=image.ndim,
        name=f"Landmarks of {image.name}",
        size=max(3.0, float(sides.max()) / _SHARE),
        face_color=_RIGHT,
        border_color="black",
        features={"landmark": np.zeros(0, int)},
        text={"string": "{landmark}", "color": _NUMBERS, "anchor": "upper_left"},
        **transform_of(image),
    )


def _colour(layer: Points, fit: LandmarkFit | None) -> None:
    """Number the landmarks, and mark those that the others contradict."""
    count = len(layer.data)
    layer.features = {"landmark": np.arange(1, count + 1)}
    if count:
        is_wrong = np.zeros(count, bool) if fit is None else fit.outliers
        layer.face_color = np.where(is_wrong, _OUTLIER, _RIGHT)


def _overlap(first: Image, second: Image) -> bool:
    """Whether two images lie on each other in the world."""
    (low, high), (other_low, other_high) = (layer.extent.world[:, -2:] for layer in (first, second))
    return bool((np.minimum(high, other_high) - np.maximum(low, other_low) > 0).all())


def _file(source: Path | ImageSnapshot) -> Path:
    if isinstance(source, Path):
        return source
    return file_of(source, kept_folder(), re.sub(r"[^\w.-]+", "-", source.name).strip("-") or "image")


def _refine(
    sources: tuple[Path | ImageSnapshot, Path | ImageSnapshot],
    matrix: NDArray[np.float64],
    modalities: tuple[str, str],
    model: Path,
    motion: str,
) -> Job[tuple[NDArray[np.float64], int, int] | None]:
    files = _file(sources[0]), _file(sources[1])
    return (yield from in_worker_process(tasks.refine, files, matrix, modalities, model, motion))


def _save(
    folder: Path,
    sources: tuple[Path | ImageSnapshot, Path | ImageSnapshot],
    fitted: _Fitted,
    modalities: tuple[str, str],
) -> str:
    from napari_cmrir.pairing.pair_files import FoundPair
    from napari_cmrir.pairing.review import put_pair

    first, second = (_file(source) for source in sources)
    pair = FoundPair(first, second, True, 1.0, fitted.matrix, fitted.reason)
    return put_pair(folder, pair, modalities)
