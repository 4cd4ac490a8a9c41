"""The table of a repository's images: which are searched, which are not, and the reason."""

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
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from napari_cmrir.napari.form_fields import as_pixmap, draw_hint
from napari_cmrir.napari.jobs.workers import DebouncedQuery
from napari_cmrir.napari.pictures import comir_thumbnails

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QPaintEvent

__all__ = ["ImageTable", "KnownImage", "read_images"]

_COLUMNS = (
    ("Image", "The stored CoMIR, and the file's name"),
    ("State", "indexed: it is searched; represented: its CoMIR is stored; pending: not read yet; failed"),
    ("Reason", "Why it could not be used"),
    ("Size", "Height and width in pixels"),
)
_REASON = 2  # its column, which is shown if there is one
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
        self.setColumnWidth(0, 150)
        self.setColumnWidth(1, 68)
        self.setColumnWidth(_REASON, 130)

    def show_images(self, images: Sequence[KnownImage]) -> None:
        """Show these images.

        Parameters
        ----------
        images : sequence of KnownImage
            In the order to show them.
        """
        self._images.replace(images)
        self.setColumnHidden(_REASON, not any(map(attrgetter("reason"), images)))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the images, or a hint on how to index some."""
        super().paintEvent(event)
        if not self.images:
            draw_hint(self, _HINT)

    @property
    def images(self) -> Sequence[KnownImage]:
        """The shown records."""
        return self._images.images


class _Images(QAbstractTableModel):
    def __init__(self) -> None:
        super().__init__()
        self.images: Sequence[KnownImage] = ()
        self._pictures = _Pictures(self)
        self._pictures.arrived.connect(self._show_pictures)

    def replace(self, images: Sequence[KnownImage]) -> None:
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
            return self._pictures.of(image.comir)
        if role == Qt.ItemDataRole.DisplayRole:
            return (image.name, image.state, image.reason, image.size)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return "\n".join(filter(None, (image.reason, image.path or image.name)))
        return None

    def _show_pictures(self) -> None:
        if self.images:
            last = self.index(len(self.images) - 1, 0)
            self.dataChanged.emit(self.index(0, 0), last, [Qt.ItemDataRole.DecorationRole])


class _Pictures(QObject):
    """Thumbnails of CoMIRs, read in another thread, only for visible rows."""

    arrived = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._known: dict[Path, QPixmap] = {}
        self._wanted: dict[Path, None] = {}
        self._inquiry = DebouncedQuery(self, _SCROLLING_MILLISECONDS)
        self._inquiry.answered.connect(self._take)

    def of(self, comir: Path | None) -> QPixmap:
        """Return the thumbnail, or an empty picture while it is read or if there is none."""
        if comir is not None and comir in self._known:
            return self._known[comir]
        if comir is not None and comir not in self._wanted:
            self._wanted[comir] = None
            self._inquiry.ask(partial(comir_thumbnails, list(self._wanted)[-_AT_ONCE:], _SIDE))
        return _empty()

    def _take(self, pictures: dict[Path, NDArray[np.uint8] | None]) -> None:
        if len(self._known) > _KEPT:
            self._known.clear()
        for comir, pixels in pictures.items():
            self._known[comir] = _empty() if pixels is None else as_pixmap(pixels)
        self._wanted.clear()
        self.arrived.emit()


def _empty() -> QPixmap:
    picture = QPixmap(_SIDE, _SIDE)
    picture.fill(Qt.GlobalColor.transparent)
    return picture
