"""The list of hits: a thumbnail, what it is, and how sure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPalette
from qtpy.QtWidgets import (
    QAbstractItemView,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
)

from napari_cmrir.widgets.painting import as_pixmap, draw_hint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qtpy.QtGui import QPaintEvent

    from napari_cmrir.search.hits import Hit

__all__ = ["HitList", "hit_tip"]

_SIDE, _GAP, _BAR = 56, 6, 5
_RANK = Qt.ItemDataRole.UserRole
_LINES = Qt.ItemDataRole.UserRole + 1
_CONFIDENCE = Qt.ItemDataRole.UserRole + 2
_HINT = "No hits yet.\nChoose a repository and an image, draw a region on it, and press Find."


class HitList(QListWidget):
    """Ranked hits; the chosen one is told by `hit_chosen`, and the arrow keys walk them."""

    hit_chosen = Signal(int)
    """The rank of the hit that was chosen, with the mouse or the keyboard."""

    def __init__(self) -> None:
        super().__init__()
        self.setItemDelegate(_Rows(self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setUniformItemSizes(True)
        self.setToolTip("The hits; choose one to see it, walk them with the arrow keys")
        self.setAccessibleName("Hits")
        self.setMinimumHeight(2 * (_SIDE + _GAP))
        self.currentItemChanged.connect(self._tell)

    def show_hits(self, hits: Sequence[Hit]) -> None:
        """Show these hits in place of those before.

        Parameters
        ----------
        hits : sequence of Hit
            Best first.
        """
        self.blockSignals(True)
        self.clear()
        for hit in hits:
            name = Path(hit.image).name
            lines = (
                f"{hit.rank} · {name}",
                f"score {hit.score:.3f} · {hit.rotation_degrees:+.0f}° · sure {hit.confidence:.0%}",
            )
            item = QListWidgetItem(f"{lines[0]}, {lines[1]}")
            item.setData(_RANK, hit.rank)
            item.setData(_LINES, lines)
            item.setData(_CONFIDENCE, hit.confidence)
            item.setToolTip(hit_tip(hit))
            self.addItem(item)
        self.blockSignals(False)

    def show_thumbnail(self, rank: int, pixels: NDArray[np.uint8]) -> None:
        """Give a hit its thumbnail.

        Parameters
        ----------
        rank : int
            Of the hit.
        pixels : ndarray, (y, x, 3), uint8
            The thumbnail.
        """
        item = self._item(rank)
        if item is not None:
            item.setData(Qt.ItemDataRole.DecorationRole, as_pixmap(pixels))

    def choose(self, rank: int) -> None:
        """Choose a hit, as the user would.

        Parameters
        ----------
        rank : int
            Of the hit; nothing happens where there is none.
        """
        item = self._item(rank)
        if item is not None:
            self.setCurrentItem(item)

    @property
    def rank(self) -> int | None:
        """The chosen hit's."""
        item = self.currentItem()
        return None if item is None else int(item.data(_RANK))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the hits, or say how to get some."""
        super().paintEvent(event)
        if not self.count():
            draw_hint(self, _HINT)

    def _item(self, rank: int) -> QListWidgetItem | None:
        items = (self.item(row) for row in range(self.count()))
        return next((item for item in items if item.data(_RANK) == rank), None)

    def _tell(self, item: QListWidgetItem | None, _: Any) -> None:
        if item is not None:
            self.hit_chosen.emit(int(item.data(_RANK)))


def hit_tip(hit: Hit) -> str:
    """Say all there is to know of a hit, for a tooltip.

    Parameters
    ----------
    hit : Hit
        The hit.
    """
    y, x = hit.box.mean(axis=0)
    return (
        f"{hit.image}\nThe match's centre is at y {y:.0f}, x {x:.0f}."
        f"\nScore {hit.score:.3f}: agreement of the registered representations; 1 is perfect, 0 is chance."
        f"\nConfidence {hit.confidence:.0%}: the probability that no wrong image would score as high."
        f"\nThe region is turned {hit.rotation_degrees:+.1f}° counter-clockwise to lie on the hit."
    )


class _Rows(QStyledItemDelegate):
    """Draws a hit: the thumbnail, two lines, and a bar for its confidence."""

    def sizeHint(self, *_: Any) -> QSize:  # noqa: N802
        return QSize(_SIDE + 120, _SIDE + _GAP)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Any) -> None:
        widget = option.widget
        painter.save()
        bare = QStyleOptionViewItem(option)
        widget.style().drawPrimitive(QStyle.PrimitiveElement.PE_PanelItemViewItem, bare, painter, widget)
        colour = widget.palette().color(QPalette.ColorRole.Text)
        if option.state & QStyle.StateFlag.State_Selected:
            shade = QColor(colour)
            shade.setAlphaF(0.25)
            painter.fillRect(option.rect, shade)
        frame = option.rect.adjusted(_GAP, _GAP // 2, -_GAP, -(_GAP // 2))
        self._draw_thumbnail(painter, QRect(frame.left(), frame.top(), _SIDE, _SIDE), index)
        self._draw_lines(painter, frame.adjusted(_SIDE + _GAP, 0, 0, 0), colour, option, index)
        painter.restore()

    def _draw_thumbnail(self, painter: QPainter, place: QRect, index: Any) -> None:
        picture = index.data(Qt.ItemDataRole.DecorationRole)
        if picture is None:
            return
        size = picture.size().scaled(place.size(), Qt.AspectRatioMode.KeepAspectRatio)
        target = QRect(place.topLeft(), size)
        target.moveCenter(place.center())
        painter.drawPixmap(target, picture)

    def _draw_lines(
        self, painter: QPainter, place: QRect, colour: QColor, option: QStyleOptionViewItem, index: Any
    ) -> None:
        first, second = index.data(_LINES)
        confidence = float(index.data(_CONFIDENCE))
        height = (place.height() - _BAR - 2) // 2
        painter.setPen(colour)
        font = option.font
        for line, text in enumerate((first, second)):
            font.setBold(line == 0)
            painter.setFont(font)
            row = QRect(place.left(), place.top() + line * height, place.width(), height)
            shown = QFontMetrics(font).elidedText(text, Qt.TextElideMode.ElideMiddle, row.width())
            painter.drawText(row, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, shown)
        bar = QRect(place.left(), place.bottom() - _BAR, place.width(), _BAR)
        pale = QColor(colour)
        pale.setAlphaF(0.2)
        painter.fillRect(bar, pale)
        pale.setAlphaF(0.8)
        painter.fillRect(QRect(bar.topLeft(), QSize(round(bar.width() * confidence), _BAR)), pale)
