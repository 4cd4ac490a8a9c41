"""The upper part of CoMIR model: choose image pairs, and show them before training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image
from qtpy.QtCore import QEvent, Qt, Signal
from qtpy.QtGui import QPalette
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.images.discovery import PairFiles
from napari_cmrir.napari.coordinates import ImageSnapshot
from napari_cmrir.napari.dock import PluginLayers
from napari_cmrir.napari.form_fields import LayerCombo, PathEdit, WrappedLabel
from napari_cmrir.napari.image_table import PairTable
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.landmark_pairs import LandmarkPairs
from napari_cmrir.napari.pair_finder import PairFinder
from napari_cmrir.napari.summaries import KnownModalities
from napari_cmrir.settings import PAIR_PATTERN

if TYPE_CHECKING:
    import napari.viewer
    from numpy.typing import NDArray

    from napari_cmrir.images.discovery import Pair
    from napari_cmrir.pairing.pair_files import FoundPair
    from napari_cmrir.representations.comir.training.pair_checks import PairProblem

__all__ = ["PairSource"]

_PAIR = Qt.ItemDataRole.UserRole
_FOLDER, _LAYERS, _NOT_ALIGNED, _LANDMARKS = range(4)  # indexes of the sources
_SOURCES = (
    "Files of image pairs",
    "Two layers of the viewer",
    "Two folders, not aligned",
    "Two layers, by landmarks",
)
_STEPS = (
    "You have <b>aligned pairs</b>: choose their folder, then press Train."
    f" No pairs? <a href='{_NOT_ALIGNED}'>Find them in two folders</a>, or"
    f" <a href='{_LANDMARKS}'>make one by landmarks</a>. To search without any training, choose the model"
    " starter in Index images.",
    "You have <b>two aligned images open</b>: choose both layers, then press Train."
    f" Not aligned? <a href='{_LANDMARKS}'>Align them by landmarks</a>.",
    "You have <b>images of both modalities, not aligned</b>: drop a folder of each, press Find pairs, look at"
    " the table, press Train; then Index in Index images, and Find in Find region. Both docks are filled in."
    " A double-click on a row opens its images, to search with; set Rotation in Find region where partners"
    " are turned further.",
    "You have <b>two images open that show the same tissue</b>: press New landmarks, click on the same place"
    " in one image and in the other, three times or more, and press Save pair; then Train, or the next pair.",
)
_OVERFITS = (
    "A model of one pair overfits: it knows this tissue, and little else; ten pairs or more are better."
)
_MOST_PIXELS = 2**27  # of an image that landmarks are set on: 400 MB as RGB; a larger one is opened by napari


class _Steps(QLabel):
    """What to do first; links have the colour of the text, as no blue can be read in both themes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.show_html(html)

    def show_html(self, html: str) -> None:
        self._html = html
        colour = self.palette().color(QPalette.ColorRole.WindowText).name()
        self.setText(f"<style>a {{ color: {colour} }}</style>{html}")

    def changeEvent(self, event: QEvent) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QEvent.Type.StyleChange:
            self.show_html(self._html)


class PairSource(QWidget):
    """Chooses the pairs to train on, and shows them.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose layers can be chosen.
    """

    proposed = Signal(object)
    """Signal: a proposed path for the model file."""
    refused = Signal(str)
    """Signal: why a pair cannot be shown."""

    def __init__(self, viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = viewer
        self._pairs: Sequence[Pair] = ()
        self._shown = PluginLayers(viewer, self)
        self._make_fields(viewer)
        self._lay_out()
        self._inquiry = DebouncedQuery(self)
        self._pictures, self._whole = DebouncedQuery(self, 0), DebouncedQuery(self, 0)
        self._connect()

    def _make_fields(self, viewer: napari.viewer.Viewer) -> None:
        self.source = QComboBox()
        self.source.addItems(_SOURCES)
        self.source.setToolTip(
            "Where the image pairs come from; those of two folders that are not aligned are found first"
        )
        self.steps = _Steps(_STEPS[_FOLDER])
        self.steps.setWordWrap(True)
        self.steps.setToolTip("Where to begin with what you have; a link chooses another source")
        self.folder = PathEdit(
            ["folder"],
            "Folder of image pairs",
            "Holds <identifier>_<MODALITY>.tif files of both modalities, aligned pixel by pixel;"
            " drop it here",
        )
        self.second = PathEdit(
            ["folder"],
            "Second folder, if each modality has its own",
            "The folder of the second modality, whose files have the names of their partners; or empty",
        )
        self.pattern = QLineEdit(PAIR_PATTERN)
        self.pattern.setToolTip(
            "How the files of pairs are named, without suffix: <identifier> is what both have in common,"
            " <MODALITY> one of the two names below, * anything; such as <MODALITY>-<identifier>*"
        )
        self.pattern.setAccessibleName("File names of pairs")
        self.layers = (
            LayerCombo(viewer, Image, "Image of the first modality"),
            LayerCombo(viewer, Image, "Image of the second modality, aligned pixel by pixel with the first"),
        )
        for combo, which in zip(self.layers, ("First", "Second"), strict=True):
            combo.setAccessibleName(f"{which} layer")
        self.finder, self.landmarks = PairFinder(), LandmarkPairs(viewer)
        self.modalities = (QLineEdit("SHG"), QLineEdit("BF"))
        for edit, which in zip(self.modalities, ("first", "second"), strict=True):
            edit.setToolTip(f"Name of the {which} modality, as the file names end in it")
            edit.setAccessibleName(f"{which} modality")
        self.found = WrappedLabel("What training will read")
        self.table = PairTable()
        self.show_pair = QPushButton("Show")
        self.show_pair.setToolTip("Open both images of this pair as layers, one on the other")
        self.check = QPushButton("Chec&k")
        self.check.setToolTip("Read all pairs and list problems for the training")
        self.problems = QListWidget()
        self.problems.setToolTip("Problems of the pairs; choose a line to see the pair")
        self.problems.setAccessibleName("Problems of the pairs")
        self.problems.setMaximumHeight(80)
        self.problems.setWordWrap(True)
        self.problems.hide()

    def _lay_out(self) -> None:
        two_layers = QWidget()
        row = QHBoxLayout(two_layers)
        row.setContentsMargins(0, 0, 0, 0)
        for combo in self.layers:
            row.addWidget(combo, 1)
        files = QWidget()
        rows = QVBoxLayout(files)
        rows.setContentsMargins(0, 0, 0, 0)
        named = QHBoxLayout()
        named.addWidget(QLabel("named"))
        named.addWidget(self.pattern, 1)
        for part in (self.folder, self.second):
            rows.addWidget(part)
        rows.addLayout(named)
        self._rows = {
            _FOLDER: files,
            _LAYERS: two_layers,
            _NOT_ALIGNED: self.finder,
            _LANDMARKS: self.landmarks,
        }
        names = QHBoxLayout()
        for edit in self.modalities:
            names.addWidget(edit)
        self._look_at = QWidget()
        look = QHBoxLayout(self._look_at)
        look.setContentsMargins(0, 0, 0, 0)
        look.addStretch(1)
        look.addWidget(self.show_pair)
        look.addWidget(self.check)
        self._look_at.hide()
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow(self.steps)
        form.addRow("Pairs", self.source)
        form.addRow("", files)
        form.addRow("", two_layers)
        form.addRow(self.finder)
        form.addRow(self.landmarks)
        for source, row in self._rows.items():
            row.setVisible(source == _FOLDER)
        form.addRow("Modalities", names)
        form.addRow("", self.found)
        form.addRow(self.table)
        form.addRow("", self._look_at)
        form.addRow(self.problems)

    def _connect(self) -> None:
        self._inquiry.answered.connect(self._show_pairs)
        self._inquiry.refused.connect(self.found.setText)
        self._pictures.answered.connect(self._open_pair)
        self._pictures.refused.connect(self.refused)
        self.source.currentIndexChanged.connect(self._show_source)
        self.source.currentIndexChanged.connect(self.look)
        for changed in (self.folder.changed, self.second.changed, self.pattern.textChanged):
            changed.connect(self.look)
        for edit in self.modalities:
            edit.textChanged.connect(self.look)
        for combo in self.layers:
            combo.layer_changed.connect(self._look_at_layers)
        self.finder.changed.connect(self._look_at_found)
        self.finder.show_requested.connect(self._open_found)
        self.finder.refused.connect(self.refused)
        self.finder.correct_requested.connect(self._open_unaligned)
        self.landmarks.changed.connect(self._look_at_landmarks)
        self.landmarks.saved.connect(self._take_saved)
        self.steps.linkActivated.connect(lambda number: self.source.setCurrentIndex(int(number)))
        self._whole.answered.connect(self._begin_landmarks)
        self._whole.refused.connect(self.refused)
        self.show_pair.clicked.connect(lambda: self.open_pair(self.table.currentRow()))
        self.table.cellDoubleClicked.connect(lambda row, _: self.open_pair(row))
        self.problems.itemClicked.connect(lambda item: self.open_pair(item.data(_PAIR)))

    @property
    def names(self) -> tuple[str, str]:
        """The two modalities."""
        first, second = (edit.text().strip() for edit in self.modalities)
        return first, second

    @property
    def searched(self) -> Path | None:
        """The folder of the second modality that pairs are found in, if that is the source."""
        return self.finder.folders[1].path if self.source.currentIndex() == _NOT_ALIGNED else None

    def chosen(self) -> PairFiles | tuple[ImageSnapshot, ImageSnapshot]:
        """Return the files, or the two layers.

        Raises
        ------
        InputError
            Nothing is chosen, or one layer twice.
        """
        source = self.source.currentIndex()
        if source == _FOLDER:
            if self.folder.path is None:
                raise InputError("No folder of image pairs is chosen; choose one to train on.")
            return self._files()
        if source == _NOT_ALIGNED:
            return PairFiles((self.finder.found(),))
        if source == _LANDMARKS:
            return PairFiles((self.landmarks.folder(),))
        first, second = (combo.layer for combo in self.layers)
        if first is None or second is None or first is second:
            raise InputError("Training takes two different image layers; open both modalities of a tissue.")
        dims = self._viewer.dims
        return ImageSnapshot.of(first, dims), ImageSnapshot.of(second, dims)

    def _files(self) -> PairFiles:
        folders = (*self.folder.paths, *self.second.paths)
        return PairFiles(folders, self.pattern.text().strip() or PAIR_PATTERN)

    def look(self) -> None:
        """Look for the pairs, and show their number or why there are none."""
        self._inquiry.forget()
        self.found.setText("")
        self._offer((), ())
        self.show_problems(())
        self.finder.set_modalities(self.names)
        self.landmarks.set_modalities(self.names)
        source = self.source.currentIndex()
        if source == _LAYERS:
            self._propose_layers()
            first, second = (combo.layer for combo in self.layers)
            if first is not None and second is not None and first is not second:
                self.found.setText(f"1 pair: {first.name} and {second.name}. {_OVERFITS}")
                self.proposed.emit(Path.home() / f"{'-'.join(self.names)}.safetensors")
            return
        fields = {_NOT_ALIGNED: self.finder.output, _LANDMARKS: self.landmarks.output}
        folder = fields.get(source, self.folder).path
        if source == _NOT_ALIGNED and not any(pair.accepted for pair in self.finder.pairs):
            return
        if folder is not None:
            home = Path.home() / "model.safetensors"  # the root of the disk has no name
            self.proposed.emit(folder.with_name(f"{folder.name}.safetensors") if folder.name else home)
            files = self._files() if source == _FOLDER else PairFiles((folder,))
            self._inquiry.ask(partial(_find, files, self.names))

    def _propose_layers(self) -> None:
        """Choose two different layers, by the modalities in their names, unless the user has chosen one."""
        if any(combo.is_chosen for combo in self.layers):
            return
        left, known = self.layers[0].layers, KnownModalities(self.names)
        for combo, modality in zip(self.layers, self.names, strict=True):
            named = [layer for layer in left if known.guess(layer.name, 0) == modality]
            others = [layer for layer in left if known.guess(layer.name, 0) is None]
            for layer in (*named, *others)[:1]:
                left = [one for one in left if one is not layer]
                combo.blockSignals(True)
                combo.choose(layer)
                combo.blockSignals(False)

    def _show_source(self, source: int) -> None:
        for one, row in self._rows.items():
            row.setVisible(one == source)
        self.steps.show_html(_STEPS[source])

    def _look_at_layers(self) -> None:
        if self.source.currentIndex() == _LAYERS:
            self.look()

    def _look_at_found(self) -> None:
        if self.source.currentIndex() == _NOT_ALIGNED:
            self.look()

    def _look_at_landmarks(self) -> None:
        if self.source.currentIndex() == _LANDMARKS:
            self.look()

    def _open_unaligned(self, pair: FoundPair) -> None:
        """Open the two whole images of a found pair beside each other, to set landmarks on them."""
        self._whole.ask(partial(_read_whole, pair))

    def _begin_landmarks(self, read: tuple[FoundPair, Sequence[NDArray[Any]]]) -> None:
        pair, images = read
        layers, left = [], 0.0
        self.landmarks.remove_layers()
        for path, modality, pixels in zip((pair.first, pair.second), self.names, images, strict=True):
            rgb = pixels.shape[2] == 3
            layer = Image(
                pixels if rgb else pixels[..., 0],
                rgb=rgb,
                name=f"{path.stem} {modality}",
                translate=(0, left),
                metadata={"napari-cmrir": {"file": str(path)}},
            )
            layers.append(self._viewer.add_layer(layer))
            left += 1.05 * pixels.shape[1]
        self.source.setCurrentIndex(_LANDMARKS)
        folder = self.finder.output.path
        assert folder is not None  # the table was read from it
        self.landmarks.begin(layers[0], layers[1], folder)
        self._viewer.reset_view()

    def _take_saved(self, folder: Path) -> None:
        """Show the pair that was saved: in the table of found pairs, if it is one of theirs."""
        if folder == self.finder.output.path:
            self.landmarks.remove_layers()
            self.source.setCurrentIndex(_NOT_ALIGNED)
            self.finder.read()
        else:
            self.look()

    def _open_found(self, pair: FoundPair) -> None:
        """Open the two images of a found pair, registered, as layers."""
        self._pictures.ask(partial(_cut, pair))

    def show_problems(self, problems: Sequence[PairProblem]) -> None:
        """List the problems of the pairs.

        Parameters
        ----------
        problems : sequence of PairProblem
            None hides the list.
        """
        self.problems.clear()
        for problem in problems:
            item = QListWidgetItem(problem.sentence)
            item.setToolTip(problem.sentence)
            item.setData(_PAIR, problem.number)
            self.problems.addItem(item)
        self.problems.setVisible(bool(problems))

    def open_pair(self, number: int) -> None:
        """Open both images of a pair as layers on top of each other.

        Parameters
        ----------
        number : int
            Which of the pairs found; nothing happens where there is none.
        """
        if 0 <= number < len(self._pairs):
            self.table.selectRow(number)
            self._pictures.ask(partial(_read, self._pairs[number]))

    def remove_layers(self) -> None:
        """Remove the layers of opened pairs."""
        self._shown.remove_all()
        self.landmarks.remove_layers()

    def _show_pairs(self, found: tuple[Sequence[Pair], Sequence[Path], str]) -> None:
        pairs, alone, refusal = found
        left_out = f"; {len(alone)} without a partner left out: {alone[0].name}" if alone else ""
        dots = " …" if len(alone) > 1 else ""
        self.found.setText(
            refusal or f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''} found{left_out}{dots}"
        )
        self._offer(pairs, alone)

    def _offer(self, pairs: Sequence[Pair], alone: Sequence[Path]) -> None:
        self._pairs = pairs
        self.table.show_pairs(pairs, alone, self.names)
        self._look_at.setVisible(bool(pairs))

    def _open_pair(self, read: tuple[str, Sequence[NDArray[Any]], float | None]) -> None:
        identifier, images, pixel_size = read
        known: dict[str, Any] = {"scale": [pixel_size] * 2, "units": ["um"] * 2} if pixel_size else {}
        self._shown.remove_all()
        # the first is added first: Find region takes it as the query
        for name, pixels, blending in zip(self.names, images, ("opaque", "additive"), strict=True):
            rgb = pixels.shape[2] == 3
            shown = pixels if rgb else pixels[..., 0]
            keywords = {"rgb": rgb, "name": f"{identifier} {name}", "blending": blending, **known}
            self._shown.put(name, shown, partial(Image, shown, **keywords))


def _find(files: PairFiles, modalities: tuple[str, str]) -> tuple[Sequence[Pair], Sequence[Path], str]:
    """Find the pairs, the files without a partner, and why there is no pair if there is none."""
    try:
        pairs, refusal = files.pairs(modalities), ""
    except InputError as error:
        pairs, refusal = [], str(error)
    try:
        return pairs, files.alone(modalities), refusal
    except InputError as error:
        raise InputError(refusal or str(error)) from None


def _read(pair: Pair) -> tuple[str, Sequence[NDArray[Any]], float | None]:
    from napari_cmrir.images.readers import open_image, read_pair

    with closing(open_image(pair.paths[0])) as first:
        return pair.identifier, read_pair(pair), first.pixel_size


def _cut(pair: FoundPair) -> tuple[str, Sequence[NDArray[Any]], float | None]:
    """Cut the two images of a found pair to their common area."""
    from napari_cmrir.images.readers import open_image
    from napari_cmrir.pairing.pair_files import cut_pair

    assert pair.matrix is not None  # the table shows only pairs that have a pose
    with closing(open_image(pair.first)) as first, closing(open_image(pair.second)) as second:
        ours, registered, _ = cut_pair(first, second, pair.matrix)
        return pair.first.stem, (ours, registered), first.pixel_size


def _read_whole(pair: FoundPair) -> tuple[FoundPair, Sequence[NDArray[Any]]]:
    """Read the two images of a found pair whole."""
    from napari_cmrir.images.readers import open_image, read_image

    for path in (pair.first, pair.second):
        with closing(open_image(path)) as image:
            height, width = image.shape[:2]
        if height * width > _MOST_PIXELS:
            raise InputError(
                f"{path.name} is too large to open here; open both images in napari, and choose the source"
                f" {_SOURCES[_LANDMARKS]}."
            )
    return pair, [read_image(path) for path in (pair.first, pair.second)]
