"""The lower half of Find region: the hits as a list, and ways to look at the chosen one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from napari.utils.notifications import show_warning
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from napari_cmrir.errors import InputError
from napari_cmrir.search.settings import untried
from napari_cmrir.widgets.explaining import Shown, explain
from napari_cmrir.widgets.exporting import ExportButton
from napari_cmrir.widgets.hit_layers import AddedLayers
from napari_cmrir.widgets.hit_list import HitList
from napari_cmrir.widgets.inquiry import Feed, Inquiry
from napari_cmrir.widgets.match_layers import ShownHit, View
from napari_cmrir.widgets.pictures import Picture, Thumbnail, read_picture, thumbnails

if TYPE_CHECKING:
    from napari import Viewer

    from napari_cmrir.search.hits import Hit
    from napari_cmrir.widgets.query import Found

__all__ = ["HitView"]

_WALKING_MILLISECONDS = 40
_VIEWS: tuple[tuple[View, str], ...] = (
    ("beside", "Beside the query"),
    ("registered", "Registered"),
)


class HitView(QWidget):
    """A list of hits, the chosen one's layers, and what can be done with them.

    Parameters
    ----------
    viewer : Viewer
        Where the layers go.
    """

    removed = Signal()
    """The user has had all that was added removed."""
    told = Signal(str)
    """A line for the user."""

    def __init__(self, viewer: Viewer) -> None:
        super().__init__()
        self.added = AddedLayers(viewer, self)
        self._found: Found | None = None
        self._picture: tuple[Hit, Picture] | None = None
        self._unread: list[str] = []
        self._make_fields()
        self._lay_out()
        self._thumbnails = Feed(self)
        self._pictures = Inquiry(self, _WALKING_MILLISECONDS)
        self._explanations = Inquiry(self, 0)
        self._connect()

    @property
    def is_busy(self) -> bool:
        """Whether layers are still being added or changed."""
        return self.added.is_busy

    @property
    def found(self) -> Found | None:
        """What is shown."""
        return self._found

    def show_found(self, found: Found) -> None:
        """Show what was found, in place of what was found before.

        Parameters
        ----------
        found : Found
            The query and its hits.
        """
        hits = found.result.hits
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

    def clear(self) -> None:
        """Remove every layer that this widget added, and no other, and forget the hits."""
        self._thumbnails.stop()
        self._pictures.forget()
        self._explanations.forget()
        self.blink.setChecked(False)
        self.added.remove_all()
        self._found, self._picture = None, None
        self.list.show_hits(())
        self.verdict.hide()
        self._enable()
        self.removed.emit()

    def _make_fields(self) -> None:
        self.verdict = QLabel()
        self.verdict.setWordWrap(True)
        self.verdict.setToolTip("Whether the best hit can be told from a wrong one")
        self.verdict.hide()
        self.list = HitList()
        self.how = QComboBox()
        for _, text in _VIEWS:
            self.how.addItem(text)
        self.how.setAccessibleName("How to look at a hit")
        self.how.setToolTip(
            "Beside: the hit in its own frame, in a cell of napari's grid beside the query."
            " Registered: turned and shifted to lie under the region, to blend and to blink"
        )
        self.how.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.how.setMinimumContentsLength(14)
        self.blend = QSlider(Qt.Orientation.Horizontal)
        self.blend.setRange(0, 100)
        self.blend.setValue(100)
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
            "Remove every layer that this widget added: hits, match boxes and regions; your own layers stay"
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
        hits = found.result.hits
        if hits and found.result.reliable:
            self.verdict.hide()
            return
        why = f"the confidence of the best hit is {hits[0].confidence:.0%}" if hits else "there is no hit"
        self.verdict.setText(f"<b>No reliable match</b>: {why}.{untried(found.query.settings)}")
        self.verdict.show()

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
            self._pictures.ask(partial(_read, hit))

    def _hit(self, rank: int | None) -> Hit | None:
        hits = () if self._found is None else self._found.result.hits
        return next((hit for hit in hits if hit.rank == rank), None)

    def _show_picture(self, read: tuple[Hit, Picture]) -> None:
        self._picture = read
        self._show_chosen()

    def _tell_unreadable(self, reason: str) -> None:
        if self._picture is None:  # no hit of this search was shown yet
            self.added.remove_hits()
        self.told.emit(reason)

    def _show_chosen(self) -> None:
        if self._found is None or self._picture is None:
            return
        hit, picture = self._picture
        view = _VIEWS[self.how.currentIndex()][0]
        self.added.show(ShownHit(hit, picture, self._found.region, self._found.query.placement, view))

    def _look_otherwise(self) -> None:
        self.blink.setChecked(False)
        self._enable()
        self._show_chosen()

    def _keep(self) -> None:
        if self.added.keep():
            self.told.emit("Kept; choose another hit to compare.")

    def _explain(self) -> None:
        hit = self._hit(self.list.rank)
        if self._found is not None and hit is not None:
            self._explanations.ask(partial(explain, self._found, hit))
            self.told.emit("Comparing the representations …")

    def _show_explanation(self, explanation: Shown) -> None:
        if self._found is None:
            return
        self.how.setCurrentIndex(1)
        self.added.show_others(explanation.layers(self._found.query.placement, self._found.region))
        self.told.emit(explanation.sentence)


def _read(hit: Hit) -> tuple[Hit, Picture]:
    try:
        return hit, read_picture(hit.image)
    except InputError as error:
        raise InputError(f"Hit {hit.rank} cannot be shown: {error}") from None
