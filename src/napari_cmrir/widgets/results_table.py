"""The table of hits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from napari_cmrir.search.hits import Hit

__all__ = ["ResultsTable"]

_COLUMNS = (
    ("", "Rank: 1 is the best"),
    ("Score", "Agreement of the registered representations: 1 is perfect, 0 is chance"),
    ("Conf.", "Confidence: the probability that no wrong image would score as high"),
    ("Rotation", "How far the region, cut out upright, is turned counter-clockwise to lie on the hit"),
    ("File", "The image that the hit lies in"),
)


class ResultsTable(QTableWidget):
    """Ranked hits, one a row; the chosen one is told by `hit_chosen`."""

    hit_chosen = Signal(int)
    """The rank of the row that was chosen, with the mouse or the keyboard."""

    def __init__(self) -> None:
        super().__init__(0, len(_COLUMNS))
        self.setHorizontalHeaderLabels([name for name, _ in _COLUMNS])
        for column, (_, tip) in enumerate(_COLUMNS):
            self.horizontalHeaderItem(column).setToolTip(tip)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setToolTip("The hits; choose one to see it")
        self.setAccessibleName("Hits")
        self.setMinimumHeight(100)
        self.verticalHeader().hide()
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(len(_COLUMNS) - 1, QHeaderView.ResizeMode.Stretch)
        self.currentCellChanged.connect(self._tell)

    def show_hits(self, hits: Sequence[Hit]) -> None:
        """Show these hits in place of those before.

        Parameters
        ----------
        hits : sequence of Hit
            Best first.
        """
        self.blockSignals(True)
        self.setRowCount(0)
        for row, hit in enumerate(hits):
            self.insertRow(row)
            texts = (
                str(hit.rank),
                f"{hit.score:.3f}",
                f"{hit.confidence:.0%}",
                f"{hit.rotation_degrees:+.1f}°",
                Path(hit.image).name,
            )
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setToolTip(hit.image)
                if column < len(texts) - 1:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                self.setItem(row, column, item)
        self.blockSignals(False)

    def _tell(self, row: int, *_: int) -> None:
        if row >= 0:
            self.hit_chosen.emit(int(self.item(row, 0).text()))
