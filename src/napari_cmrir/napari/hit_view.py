"""The lower half of Find region: the list of hits, and the layers and actions of the chosen hit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_warning
from qtpy.QtCore import QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QPainter, QPalette
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QSlider,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.napari.form_fields import draw_hint
from napari_cmrir.napari.hit_files import ExportButton
from napari_cmrir.napari.hit_layers import AddedLayers, Shown, explain
from napari_cmrir.napari.hit_placement import ShownHit, View, degrees
from napari_cmrir.napari.jobs.workers import DebouncedQuery, StreamWorker
from napari_cmrir.napari.pictures import Picture, Thumbnail, as_pixmap, read_picture, thumbnails
from napari_cmrir.napari.summaries import doubt_of
from napari_cmrir.search.settings import untried

if TYPE_CHECKING:
    import numpy as np
    from napari import Viewer
    from napari.layers import Layer
    from numpy.typing import NDArray
    from qtpy.QtGui import QPaintEvent

    from napari_cmrir.napari.searches import Found
    from napari_cmrir.search.hits import Hit

__all__ = ["HitList", "HitView", "hit_tip"]


_SIDE, _GAP, _BAR = 56, 6, 5
_RANK = Qt.ItemDataRole.UserRole
_LINES = Qt.ItemDataRole.UserRole + 1
_CONFIDENCE = Qt.ItemDataRole.UserRole + 2


class HitList(QListWidget):
    """List of ranked hits; the arrow keys walk through them, and `hit_chosen` announces the chosen one."""

    hit_chosen = Signal(int)
    """Signal: the rank of the hit that was chosen with mouse or keyboard."""

    def __init__(self) -> None:
        super().__init__()
        self.setItemDelegate(_Rows(self))
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setUniformItemSizes(True)
        self.setToolTip("The hits; choose one with the mouse or the arrow keys")
        self.setAccessibleName("Hits")
        self.setMinimumHeight(2 * (_SIDE + _GAP))
        self._hint = ""
        self.currentItemChanged.connect(self._tell)

    def show_hits(self, hits: Sequence[Hit]) -> None:
        """Replace the shown hits.

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
                f"score {hit.score:.3f} · {degrees(hit.rotation_degrees)} · confidence {hit.confidence:.0%}",
            )
            item = QListWidgetItem(f"{lines[0]}, {lines[1]}")
            item.setData(_RANK, hit.rank)
            item.setData(_LINES, lines)
            item.setData(_CONFIDENCE, hit.confidence)
            item.setToolTip(hit_tip(hit))
            self.addItem(item)
        self.blockSignals(False)

    def set_hint(self, hint: str) -> None:
        """Set what the list says while it is empty: what comes next."""
        self._hint = hint
        self.viewport().update()

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
        """Rank of the chosen hit."""
        item = self.currentItem()
        return None if item is None else int(item.data(_RANK))

    def paintEvent(self, event: QPaintEvent) -> None:  # noqa: N802
        """Draw the hits, or a hint on how to search."""
        super().paintEvent(event)
        if not self.count():
            draw_hint(self, self._hint)

    def _item(self, rank: int) -> QListWidgetItem | None:
        items = (self.item(row) for row in range(self.count()))
        return next((item for item in items if item.data(_RANK) == rank), None)

    def _tell(self, item: QListWidgetItem | None, _: Any) -> None:
        if item is not None:
            self.hit_chosen.emit(int(item.data(_RANK)))


def hit_tip(hit: Hit) -> str:
    """Describe a hit in full, for a tooltip.

    Parameters
    ----------
    hit : Hit
        The hit.
    """
    y, x = hit.box.mean(axis=0)
    rotation = round(hit.rotation_degrees, 1) + 0.0  # no -0.0
    return (
        f"{hit.image}\nThe match's centre is at y {y:.0f}, x {x:.0f}."
        f"\nScore {hit.score:.3f}: agreement of the registered representations; 1 is perfect, 0 is chance."
        f"\nConfidence {hit.confidence:.0%}: the probability that this image is the right one."
        f"\nThe hit shows the region rotated by {rotation:+.1f}° counter-clockwise."
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


_WALKING_MILLISECONDS = 40  # hits that the arrow keys pass faster than this are not read
_VIEWS: tuple[tuple[View, str], ...] = (
    ("beside", "Beside the query"),
    ("registered", "Registered"),
)


class HitView(QWidget):
    """The list of hits, the layers of the chosen hit, and its actions.

    Parameters
    ----------
    viewer : Viewer
        Where the layers go.
    """

    removed = Signal()
    """Signal: the user has removed all layers of the results."""
    told = Signal(str)
    """Signal: a message for the user."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.added = AddedLayers(viewer, self)
        self._found: Found | None = None
        self._picture: tuple[Hit, Picture] | None = None
        self._unread: list[str] = []
        self._places: Sequence[Hit] = ()  # of the chosen hit's image, if they were looked for
        self._make_fields()
        self._lay_out()
        self._thumbnails = StreamWorker(self)
        self._pictures = DebouncedQuery(self, _WALKING_MILLISECONDS)
        self._explanations = DebouncedQuery(self, 0)
        self._connect()

    @property
    def is_busy(self) -> bool:
        """Whether layers are still being added or changed."""
        return self.added.is_busy

    @property
    def found(self) -> Found | None:
        """The shown hits."""
        return self._found

    def show_found(self, found: Found, searched: Sequence[Layer | None] = ()) -> None:
        """Replace the previous results by these.

        Parameters
        ----------
        found : Found
            The query and its hits.
        searched : sequence of Layer or None
            Layers of the query's image and region, which stay visible; others are hidden until the results
            are removed.
        """
        hits = found.result.hits
        self.added.searched(searched)
        if hits:
            self.added.make_room()
        else:
            self.added.remove_hits()
        self._found, self._picture, self._unread = found, None, []
        self.list.show_hits(hits)
        self._show_verdict(found)
        self._enable()
        if hits:
            self._thumbnails.start(partial(thumbnails, hits))
            self.list.choose(hits[0].rank)

    def chosen(self) -> Hit:
        """Return the chosen hit.

        Raises
        ------
        InputError
            There is none.
        """
        hit = self._hit(self.list.rank)
        if hit is None:
            raise InputError("No hit is chosen; press Find, and choose a hit.")
        return hit

    def show_places(self, rank: int, places: Sequence[Hit]) -> None:
        """Choose a hit, and show all places of its image that match, until another hit or view is chosen.

        Parameters
        ----------
        rank : int
            Of the hit.
        places : sequence of Hit
            Best first.
        """
        self.list.choose(rank)
        self._places = places
        if self._picture is not None and self._picture[0].rank == rank:
            self.added.show_places(places)

    def clear(self) -> None:
        """Remove the layers of the hits, and no others, and forget the hits."""
        self._thumbnails.stop()
        self._pictures.forget()
        self._explanations.forget()
        self.blink.setChecked(False)
        self.added.remove_hits()
        self._found, self._picture = None, None
        self.list.show_hits(())
        self.verdict.hide()
        self.wider.hide()
        self._enable()
        self.removed.emit()

    def _make_fields(self) -> None:
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.setToolTip("Whether the best hit is reliable, by its confidence")
        self.verdict.hide()
        self.wider = QPushButton("Search all rotations, and mirrored")
        self.wider.setToolTip("Search the full circle, and the region mirrored, too; it takes longer")
        self.wider.hide()
        self.list = HitList()
        self.how = QComboBox()
        for _, text in _VIEWS:
            self.how.addItem(text)
        self.how.setAccessibleName("How to look at a hit")
        self.how.setToolTip(
            "Beside: the hit in its own frame, to the right of the query, at the same scale."
            " Registered: rotated and shifted to lie under the region, to blend and to blink"
        )
        self.how.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.how.setMinimumContentsLength(14)
        self.blend = QSlider(Qt.Orientation.Horizontal)
        self.blend.setRange(0, 100)
        self.blend.setValue(50)
        self.blend.setToolTip("Blend the registered hit with the query: left the query, right the hit")
        self.blend.setAccessibleName("Blend")
        self.blink = QCheckBox("&Blink")
        self.blink.setToolTip("Show the registered hit and the query in turn, twice a second")
        self.keep = QPushButton("K&eep")
        self.keep.setToolTip("Keep the layers of this hit when another one is chosen, to compare them")
        self.explain = QPushButton("E&xplain")
        self.explain.setToolTip(
            "Show why: the representations of the region and of the hit, and where they agree, as layers"
        )
        self.export = ExportButton()
        self.remove = QPushButton("&Remove results")
        self.remove.setToolTip(
            "Remove the layers of the hits and their match boxes; your own layers and regions stay"
        )

    def _lay_out(self) -> None:
        looks = QHBoxLayout()
        looks.addWidget(self.how, 1)
        looks.addWidget(self.blend, 1)
        looks.addWidget(self.blink)
        buttons = QHBoxLayout()
        for button in (self.keep, self.explain, self.export):
            buttons.addWidget(button)
        buttons.addStretch(1)
        buttons.addWidget(self.remove)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.verdict)
        layout.addWidget(self.wider)
        layout.addWidget(self.list, 1)
        layout.addLayout(looks)
        layout.addLayout(buttons)
        self._enable()

    def _connect(self) -> None:
        self._thumbnails.arrived.connect(self._show_thumbnail)
        self._pictures.answered.connect(self._show_picture)
        self._pictures.refused.connect(self._tell_unreadable)
        self._explanations.answered.connect(self._show_explanation)
        self._explanations.refused.connect(show_warning)
        self.list.hit_chosen.connect(self._load)
        self.how.currentIndexChanged.connect(self._look_otherwise)
        self.blend.valueChanged.connect(lambda value: self.added.set_opacity(value / 100))
        self.blink.toggled.connect(self.added.blink)
        self.keep.clicked.connect(self._keep)
        self.explain.clicked.connect(self._explain)
        self.export.told.connect(self.told)
        self.remove.clicked.connect(self.clear)

    def _enable(self) -> None:
        has_hits = self._found is not None and bool(self._found.result.hits)
        registered = _VIEWS[self.how.currentIndex()][0] == "registered"
        for part in (self.keep, self.explain, self.export):
            part.setEnabled(has_hits)
        for part in (self.blend, self.blink):
            part.setEnabled(registered)
            part.setVisible(registered)
        self.export.show_found(self._found, self.list.rank)

    def _show_verdict(self, found: Found) -> None:
        settings = found.query.settings
        why = doubt_of(found.result, settings)
        self.verdict.setText(f"<b>No reliable match</b>: {why}")
        self.verdict.setVisible(bool(why))
        is_narrow = settings.max_rotation < 180 or not settings.mirror
        self.wider.setVisible(is_narrow and untried(settings) in why)

    def _show_thumbnail(self, arrived: Thumbnail) -> None:
        if arrived.pixels is not None:
            self.list.show_thumbnail(arrived.rank, arrived.pixels)
        elif arrived.reason not in self._unread:
            self._unread.append(arrived.reason)
            show_warning(arrived.reason)

    def _load(self, rank: int) -> None:
        hit = self._hit(rank)
        if hit is not None:
            self._enable()
            self._explanations.forget()
            self._places = ()
            self.added.show_others(())
            self._pictures.ask(partial(_read, hit))

    def _hit(self, rank: int | None) -> Hit | None:
        hits = () if self._found is None else self._found.result.hits
        return next((hit for hit in hits if hit.rank == rank), None)

    def _show_picture(self, read: tuple[Hit, Picture]) -> None:
        self._picture = read
        self._show_chosen()
        if self._places:
            self.added.show_places(self._places)

    def _tell_unreadable(self, reason: str) -> None:
        if self._picture is None:  # no hit of this search was shown yet
            self.added.remove_hits()
        self.told.emit(reason)

    def _show_chosen(self) -> None:
        if self._found is None or self._picture is None:
            return
        hit, picture = self._picture
        view = _VIEWS[self.how.currentIndex()][0]
        drawn = self._found.query.drawn
        self.added.show(ShownHit(hit, picture, self._found.region, self._found.query.placement, view, drawn))

    def _look_otherwise(self) -> None:
        self.blink.setChecked(False)
        if self._places:  # they lie where the hit was
            self._places = ()
            self.added.show_others(())
        self._enable()
        self._show_chosen()

    def _keep(self) -> None:
        if self.added.keep():
            self.told.emit("Kept; choose another hit to compare.")
        elif self.added.is_busy:
            self.told.emit("The hit is still being drawn; press Keep again.")

    def _explain(self) -> None:
        hit = self._hit(self.list.rank)
        if self._found is not None and hit is not None:
            self._explanations.ask(partial(explain, self._found, hit))
            self.told.emit("Comparing the representations …")

    def _show_explanation(self, explanation: Shown) -> None:
        if self._found is None:
            return
        self.how.setCurrentIndex(1)
        self._places = ()
        self.added.show_others(explanation.layers(self._found.query.placement, self._found.region))
        self.told.emit(explanation.sentence)


def _read(hit: Hit) -> tuple[Hit, Picture]:
    try:
        return hit, read_picture(hit.image, hit.reading)
    except InputError as error:
        raise InputError(f"Hit {hit.rank} cannot be shown: {error}") from None
