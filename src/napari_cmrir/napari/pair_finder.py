"""The source "Two folders, not aligned" of the dock CoMIR model: the folders, and the pairs found in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QIcon, QPaintEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.napari.form_fields import PathEdit, draw_hint
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.pictures import as_pixmap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_cmrir.pairing.pair_files import FoundPair

__all__ = ["PairFinder"]

_COLUMNS = (
    (
        "Use",
        "Whether training reads this pair; tick to accept it, clear to reject it",
    ),
    ("Pair", "The first image, the second registered to it, and the two in a checkerboard"),
    ("Confidence", "Probability that both images show the same tissue in this pose"),
    ("Reason", "Why the pair was accepted or rejected"),
)
_HINT = "No pairs yet.\nChoose two folders, and press Find pairs."
_SIDE = 48  # px of each of the three pictures of a row: structures show, and three rows fit into the dock
_NUMBER = Qt.ItemDataRole.UserRole


class PairFinder(QWidget):
    """Two folders of images that are not aligned, and the table of the pairs found in them.

    The dock runs the search; this widget shows its result and changes it as the user decides.
    """

    changed = Signal()
    """A folder was changed, or a pair was accepted or rejected."""
    search_requested = Signal()
    """The user pressed *Find pairs*."""
    show_requested = Signal(object)
    """The `FoundPair` whose row was double-clicked."""
    correct_requested = Signal(object)
    """The `FoundPair` whose row is selected, to be aligned by landmarks."""
    refused = Signal(str)
    """Why a decision could not be carried out."""

    def __init__(self) -> None:
        super().__init__()
        tip = "Images of any size; drop the folder here"
        self.folders = (
            PathEdit(["folder"], "Folder of the first modality", tip),
            PathEdit(["folder"], "Folder of the second modality", tip),
        )
        self.output = PathEdit(
            ["folder"],
            "Folder for the pairs",
            "Receives the aligned pairs as <identifier>_<MODALITY>.tif, and pairs.csv",
        )
        self.find = QPushButton("Find pairs")
        self.find.setToolTip(
            "Search every image of each folder in the other with the starter model, and cut the aligned pairs"
        )
        self.table = _PairTable()
        self.correct = QPushButton("Correct by landmarks")
        self.correct.setToolTip("Open both images of the selected row, and align them by landmarks")
        self.correct.setEnabled(False)
        self._modalities = ("", "")
        self._pairs: list[FoundPair] = []
        self._reading, self._deciding = DebouncedQuery(self), DebouncedQuery(self, 0)
        self._lay_out()
        self._connect()

    def _lay_out(self) -> None:
        row = QHBoxLayout()
        row.addWidget(self.output, 1)
        row.addWidget(self.find)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        for folder in self.folders:
            form.addRow(folder)
        form.addRow(row)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self.table)
        layout.addWidget(self.correct)

    def _connect(self) -> None:
        for folder in self.folders:
            folder.changed.connect(self._propose_output)
        self.output.changed.connect(self.read)
        self.find.clicked.connect(self.search_requested)
        self.table.itemChanged.connect(self._decide)
        self.table.cellDoubleClicked.connect(self._show)
        self.table.itemSelectionChanged.connect(
            lambda: self.correct.setEnabled(bool(self.table.selectedItems()))
        )
        self.correct.clicked.connect(self._correct)
        self._reading.answered.connect(self._take)
        self._reading.refused.connect(self._take_none)
        self._deciding.answered.connect(self._take)
        self._deciding.refused.connect(self._refuse)

    def chosen(self) -> tuple[Path, Path, Path]:
        """Return the two folders of images and the folder for the pairs.

        Raises
        ------
        InputError
            If a folder is missing, or one is chosen twice.
        """
        first, second = (folder.path for folder in self.folders)
        if first is None or second is None:
            raise InputError("Two folders of images are needed, one of each modality; choose both.")
        if first == second:
            raise InputError("Both modalities have the same folder; choose another folder for one of them.")
        if self.output.path is None:
            raise InputError("No folder is given for the pairs; choose one.")
        return first, second, self.output.path

    def found(self) -> Path:
        """Return the folder of the accepted pairs.

        Raises
        ------
        InputError
            If no pair was found or accepted yet.
        """
        if self.output.path is None or not any(pair.accepted for pair in self._pairs):
            raise InputError("No pair is accepted yet; press Find pairs, or accept a pair of the table.")
        return self.output.path

    @property
    def pairs(self) -> Sequence[FoundPair]:
        """Rows of the table, in the order of ``pairs.csv``."""
        return self._pairs

    def set_modalities(self, modalities: tuple[str, str]) -> None:
        """Set the modalities that the files of a pair are named by."""
        self._modalities = modalities

    def read(self) -> None:
        """Read the table of the output folder, if there is one."""
        self._reading.forget()
        self._take_none()
        if self.output.path is not None:
            self._reading.ask(partial(_read, self.output.path))

    def _propose_output(self) -> None:
        first, second = (folder.path for folder in self.folders)
        if first is not None and second is not None and first != second:
            self.output.propose(first.with_name(f"{first.name}-{second.name}-pairs"))
        self.changed.emit()

    def _take(self, answer: tuple[list[FoundPair], list[NDArray[np.uint8] | None]]) -> None:
        self._pairs, pictures = answer
        self.table.show_pairs(self._pairs, pictures)
        self.changed.emit()

    def _take_none(self, _: object = None) -> None:
        self._pairs = []
        self.table.show_pairs([], [])
        self.changed.emit()

    def _decide(self, item: QTableWidgetItem) -> None:
        """Write or remove the files of the pair whose box was ticked or cleared."""
        number = item.data(_NUMBER)
        accepted = item.checkState() == Qt.CheckState.Checked
        if number is None or self.output.path is None or self._pairs[number].accepted == accepted:
            return
        self.table.setEnabled(False)
        self._deciding.ask(partial(_decide_and_read, self.output.path, number, accepted, self._modalities))

    def _refuse(self, reason: str) -> None:
        self.read()
        self.refused.emit(reason)

    def _show(self, row: int, _: int) -> None:
        self.show_requested.emit(self._pair(row))

    def _correct(self) -> None:
        self.correct_requested.emit(self._pair(self.table.currentRow()))

    def _pair(self, row: int) -> FoundPair:
        return self._pairs[self.table.item(row, 0).data(_NUMBER)]


class _PairTable(QTableWidget):
    """Rows of found pairs: accepted or not, pictures, confidence and reason."""

    def __init__(self) -> None:
        super().__init__(0, len(_COLUMNS))
        self.setHorizontalHeaderLabels([name for name, _ in _COLUMNS])
        for column, (_, tip) in enumerate(_COLUMNS):
            self.horizontalHeaderItem(column).setToolTip(tip)
        self.setAccessibleName("Found pairs")
        self.setToolTip("The pairs that were found; double-click a row to see both images as layers")
        self.setIconSize(QSize(3 * _SIDE, _SIDE))
        self.setMinimumHeight(160)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.verticalHeader().setDefaultSectionSize(_SIDE + 4)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setStretchLastSection(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        for column, width in enumerate((34, 3 * _SIDE + 10, 72)):
            self.setColumnWidth(column, width)

    def show_pairs(self, pairs: Sequence[FoundPair], pictures: Sequence[NDArray[np.uint8] | None]) -> None:
        """Show pairs with a partner: the accepted ones first, then by confidence."""
        self.blockSignals(True)
        shown = [number for number, pair in enumerate(pairs) if pair.matrix is not None]
        shown.sort(key=lambda number: (not pairs[number].accepted, -pairs[number].confidence))
        self.setRowCount(len(shown))
        for row, number in enumerate(shown):
            pair, picture = pairs[number], pictures[number]
            use = QTableWidgetItem()
            use.setFlags(
                Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsUserCheckable
            )
            use.setCheckState(Qt.CheckState.Checked if pair.accepted else Qt.CheckState.Unchecked)
            use.setData(_NUMBER, number)
            names = f"{pair.first.name} and {pair.second.name}"
            icon = QTableWidgetItem()
            icon.setToolTip(names)
            icon.setData(Qt.ItemDataRole.AccessibleTextRole, names)
            if picture is not None:
                icon.setIcon(QIcon(as_pixmap(picture)))
            confidence = QTableWidgetItem(f"{100 * pair.confidence:.0f} %")
            reason = QTableWidgetItem(pair.reason)
            reason.setToolTip(f"{names}\n{pair.reason}")
            items: list[Any] = [use, icon, confidence, reason]
            for column, item in enumerate(items):
                self.setItem(row, column, item)
        self.blockSignals(False)
        self.setEnabled(True)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the pairs, or say how to find some."""
        super().paintEvent(event)
        if not self.rowCount():
            draw_hint(self, _HINT)


def _read(folder: Path) -> tuple[list[FoundPair], list[NDArray[np.uint8] | None]]:
    """Read the table of a folder of pairs, and make a picture of each pair that has a pose."""
    from napari_cmrir.pairing.pair_files import TABLE, read_table
    from napari_cmrir.pairing.review import pair_picture

    pairs = read_table(folder) if (folder / TABLE).is_file() else []
    return pairs, [pair_picture(pair, _SIDE) for pair in pairs]


def _decide_and_read(
    folder: Path, number: int, accepted: bool, modalities: tuple[str, str]
) -> tuple[list[FoundPair], list[NDArray[np.uint8] | None]]:
    from napari_cmrir.pairing.review import decide

    decide(folder, number, accepted, modalities)
    return _read(folder)
