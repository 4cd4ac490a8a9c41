"""Tables of images: a repository's, with their states and what is unusual, and the files of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QSize, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QTableWidget, QTableWidgetItem

from napari_cmrir.napari.form_fields import draw_hint
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.pictures import as_pixmap, comir_thumbnails

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QPaintEvent

    from napari_cmrir.images.discovery import Pair

__all__ = ["ImageTable", "KnownImage", "PairTable", "read_images"]

_COLUMNS = (
    ("Image", "The stored CoMIR, and the file's name"),
    ("State", "indexed: it is searched; represented: its CoMIR is stored; pending: not read yet; failed"),
    ("Note", "Why it could not be used, or what is unusual about it"),
    ("Size", "Height and width in pixels"),
)
_NOTE = 2  # its column, which is shown if there is one
_HINT = (
    "No image is indexed here yet.\n\nChoose images and a model, and press Index. The model starter needs no"
    " training."
)
_SIDE = 32
_SCROLLING_MILLISECONDS = 50  # rows that are scrolled past faster than this get no thumbnail
_AT_ONCE, _KEPT = 64, 4096  # thumbnails read at once (a window's rows), and kept in memory


@dataclass(frozen=True)
class KnownImage:
    """Record of an image in a repository.

    Parameters
    ----------
    name : str
        The file's name.
    path : str
        Where it is; empty for an array.
    state : str
        indexed, represented, pending or failed.
    size : str
        Height and width in px, where they are known.
    reason : str
        Why it failed.
    comir : Path or None
        Its stored CoMIR.
    """

    name: str
    path: str
    state: str
    size: str
    reason: str
    comir: Path | None = None


def read_images(folder: Path) -> list[KnownImage]:
    """Read the records of all images of a repository, finished or not.

    Parameters
    ----------
    folder : Path
        The repository.

    Raises
    ------
    InputError
        It is not a repository.
    """
    from napari_cmrir.repository.catalogue import Catalogue

    with closing(Catalogue(folder)) as catalogue:
        return [
            KnownImage(
                row.name,
                row.absolute_path or "",
                row.state,
                f"{row.height} x {row.width}" if row.height else "",
                row.reason or "",
                folder / row.comir if row.comir else None,
            )
            for row in catalogue.images("failed", "pending", "indexed")
        ]


class ImageTable(QTableView):
    """Table of a repository's images; it can hold millions, and its columns sort."""

    def __init__(self) -> None:
        super().__init__()
        self._images = _Images()
        sorted_images = QSortFilterProxyModel(self)
        sorted_images.setSourceModel(self._images)
        self._images.setParent(self)
        self.setModel(sorted_images)
        self.setSortingEnabled(True)
        self.sortByColumn(-1, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setToolTip("The repository's images, their state, and why one could not be used")
        self.setAccessibleName("Images")
        self.setMinimumHeight(110)
        self.setIconSize(QSize(_SIDE, _SIDE))
        self.verticalHeader().setDefaultSectionSize(_SIDE + 4)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setDefaultSectionSize(60)
        header.setStretchLastSection(True)
        self.setColumnHidden(_NOTE, True)
        self.setColumnWidth(0, 150)
        self.setColumnWidth(1, 68)
        self.setColumnWidth(_NOTE, 130)
        self._images.noted.connect(partial(self.setColumnHidden, _NOTE, False))

    def show_images(self, images: Sequence[KnownImage]) -> None:
        """Show these images.

        Parameters
        ----------
        images : sequence of KnownImage
            In the order to show them.
        """
        self._images.replace(images)
        if any(map(attrgetter("reason"), images)):
            self.setColumnHidden(_NOTE, False)

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the images, or a hint on how to index some."""
        super().paintEvent(event)
        if not self.images:
            draw_hint(self, _HINT)

    @property
    def images(self) -> Sequence[KnownImage]:
        """The shown records."""
        return self._images.images


_Key = tuple[Path | None, str]  # an image: the path of its CoMIR, and its own, which may change


class _Images(QAbstractTableModel):
    noted = Signal()
    """Signal: something is known to say about an image."""

    def __init__(self) -> None:
        super().__init__()
        self.images: Sequence[KnownImage] = ()
        self._pictures = _Pictures(self)
        self._pictures.arrived.connect(self._show_pictures)

    def replace(self, images: Sequence[KnownImage]) -> None:
        self._pictures.forget_missing()
        if images and len(images) == len(self.images):  # while indexing: the view stays where it is
            self.images = images
            self.dataChanged.emit(self.index(0, 0), self.index(len(images) - 1, len(_COLUMNS) - 1))
            return
        self.beginResetModel()
        self.images = images
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self.images)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(_COLUMNS)

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> str | None:
        if orientation != Qt.Orientation.Horizontal:
            return None
        name, tip = _COLUMNS[section]
        return {Qt.ItemDataRole.DisplayRole: name, Qt.ItemDataRole.ToolTipRole: tip}.get(role)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> str | QPixmap | None:
        image = self.images[index.row()]
        if role == Qt.ItemDataRole.DecorationRole and index.column() == 0:
            return self._pictures.of(image)
        if role == Qt.ItemDataRole.DisplayRole:
            return (image.name, image.state, self._note(image), image.size)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return "\n".join(filter(None, (self._note(image), image.path or image.name)))
        return None

    def _note(self, image: KnownImage) -> str:
        return image.reason or self._pictures.note(image)

    def _show_pictures(self) -> None:
        if self.images:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self.images) - 1, len(_COLUMNS) - 1))
        if self._pictures.has_notes:
            self.noted.emit()


class _Pictures(QObject):
    """Thumbnails of CoMIRs, and notes on their images, read in another thread, only for visible rows."""

    arrived = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._known: dict[_Key, tuple[QPixmap, str]] = {}
        self._wanted: dict[_Key, None] = {}
        self._missing: set[_Key] = set()
        self._inquiry = DebouncedQuery(self, _SCROLLING_MILLISECONDS)
        self._inquiry.answered.connect(self._take)

    def of(self, image: KnownImage) -> QPixmap:
        """Return the thumbnail, or an empty picture while it is read or if there is none."""
        key = image.comir, image.path
        if key in self._known:
            return self._known[key][0]
        if image.comir is not None and key not in self._wanted:
            self._wanted[key] = None
            self._inquiry.ask(partial(_read, list(self._wanted)[-_AT_ONCE:]))
        return _empty()

    def note(self, image: KnownImage) -> str:
        """Return what is unusual about an image, as far as it is known."""
        key = image.comir, image.path
        return self._known[key][1] if key in self._known else ""

    @property
    def has_notes(self) -> bool:
        return any(note for _, note in self._known.values())

    def forget_missing(self) -> None:
        """Look again for thumbnails that were not there yet."""
        for key in self._missing:
            self._known.pop(key, None)
        self._missing.clear()

    def _take(self, read: Sequence[tuple[_Key, NDArray[np.uint8] | None, str]]) -> None:
        if len(self._known) > _KEPT:
            self._known.clear()
        for key, pixels, note in read:
            self._known[key] = _empty() if pixels is None else as_pixmap(pixels), note
            if pixels is None:
                self._missing.add(key)
        self._wanted.clear()
        self.arrived.emit()


def _read(wanted: Sequence[_Key]) -> list[tuple[_Key, NDArray[np.uint8] | None, str]]:
    """Read the thumbnails of CoMIRs, how their images were read, and whether these are still there."""
    from napari_cmrir.repository.pyramids import read_notes

    pictures = comir_thumbnails([comir for comir, _ in wanted if comir is not None], _SIDE)
    read = []
    for comir, path in wanted:
        pixels = None if comir is None else pictures[comir]
        notes = [] if comir is None or pixels is None else [read_notes(comir).get("read", "")]
        if path and "://" not in path and not Path(path).exists():
            notes.insert(0, "not where it was; Relocate finds it in another folder")
        read.append(((comir, path), pixels, "; ".join(filter(None, notes))))
    return read


def _empty() -> QPixmap:
    picture = QPixmap(_SIDE, _SIDE)
    picture.fill(Qt.GlobalColor.transparent)
    return picture


_ROW, _SEEN_ROWS = 20, 4  # px and number of the rows of pairs that are seen at once
_MOST_ROWS = 1000  # of the table of pairs: more would stop the window


class PairTable(QTableWidget):
    """Which file is paired with which, and below it the files that have no partner."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.setAccessibleName("Pairs found")
        self.setToolTip("What is paired with what; a double-click opens the pair")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setTabKeyNavigation(False)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(_ROW)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.hide()

    def show_pairs(self, pairs: Sequence[Pair], alone: Sequence[Path], names: tuple[str, str]) -> None:
        """Replace the rows; no rows hide the table.

        Parameters
        ----------
        pairs : sequence of Pair
            In the order of the rows.
        alone : sequence of Path
            Files without a partner.
        names : tuple of two str
            The modalities.
        """
        rows = [(pair.identifier, *(path.name for path in pair.paths)) for pair in pairs[:_MOST_ROWS]]
        for path in alone[: _MOST_ROWS - len(rows)]:
            stem = path.stem.removesuffix(".ome").casefold()
            is_second = stem.endswith(f"_{names[1].casefold()}")
            rows.append(("no partner", *(("", path.name) if is_second else (path.name, ""))))
        self.clearContents()
        self.setHorizontalHeaderLabels(["Pair", *names])
        self.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, text in enumerate(row):
                item = QTableWidgetItem(text)
                item.setToolTip(text)
                if number >= len(pairs):
                    item.setFlags(Qt.ItemFlag.NoItemFlags)  # grey: training leaves it out
                self.setItem(number, column, item)
        self.setCurrentCell(0 if pairs else -1, 0)
        header = self.horizontalHeader().sizeHint().height() + 2 * self.frameWidth()
        self.setFixedHeight(header + _ROW * min(len(rows), _SEEN_ROWS))
        self.setVisible(bool(rows))
