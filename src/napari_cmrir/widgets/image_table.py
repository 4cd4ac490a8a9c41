"""The table of a repository's images: which are searched, which are not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSortFilterProxyModel, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

__all__ = ["ImageTable", "KnownImage", "read_images"]

_COLUMNS = (
    ("Image", "The file's name"),
    ("State", "indexed: it is searched; represented: its CoMIR is stored; pending: not read yet; failed"),
    ("Size", "Height and width in pixels"),
    ("Reason", "Why it could not be used"),
)


@dataclass(frozen=True)
class KnownImage:
    """What a repository knows of an image.

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
    """

    name: str
    path: str
    state: str
    size: str
    reason: str


def read_images(folder: Path) -> list[KnownImage]:
    """Read what a repository knows of its images, finished or not.

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
            )
            for row in catalogue.images("failed", "pending", "represented", "indexed")
        ]


class ImageTable(QTableView):
    """Shows the images of a repository, millions of them if need be; the columns sort."""

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
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        header.setDefaultSectionSize(60)
        header.setStretchLastSection(True)
        self.setColumnWidth(0, 120)
        self.setColumnWidth(1, 62)
        self.setColumnWidth(2, 72)

    def show_images(self, images: Sequence[KnownImage]) -> None:
        """Show these images.

        Parameters
        ----------
        images : sequence of KnownImage
            In the order to show them.
        """
        self._images.replace(images)

    @property
    def images(self) -> Sequence[KnownImage]:
        """What is shown."""
        return self._images.images


class _Images(QAbstractTableModel):
    def __init__(self) -> None:
        super().__init__()
        self.images: Sequence[KnownImage] = ()

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

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> str | None:
        image = self.images[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (image.name, image.state, image.size, image.reason)[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return "\n".join(filter(None, (image.path or image.name, image.reason)))
        return None
