"""The button that exports hits: tables, outlines for QuPath and others, and the registered crop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QMenu, QPushButton

from napari_cmrir.widgets.hit_files import (
    write_csv,
    write_geojson,
    write_json,
    write_registered_crop,
    write_transform,
)
from napari_cmrir.widgets.inquiry import Inquiry

if TYPE_CHECKING:
    from napari_cmrir.widgets.query import Found

__all__ = ["EXPORTS", "ExportButton"]

EXPORTS: dict[str, tuple[str, str, Callable[..., Path]]] = {
    "csv": ("Hits as CSV…", "hits.csv", write_csv),
    "json": ("Hits as JSON…", "hits.json", write_json),
    "geojson": ("Match boxes as GeoJSON…", "hits.geojson", write_geojson),
    "itk": ("Chosen hit's transform as ITK…", "to_hit.tfm", write_transform),
    "crop": ("Chosen hit, registered, as OME-TIFF…", "registered.ome.tif", write_registered_crop),
}
"""What the menu says, the name proposed, and what writes it."""


class ExportButton(QPushButton):
    """Exports the hits that are shown."""

    told = Signal(str)
    """A line for the user."""

    def __init__(self) -> None:
        super().__init__()
        self._found: Found | None = None
        self._rank: int | None = None
        self.setText("Export")
        self.setToolTip(
            "Write the hits, their boxes, or the chosen hit as it lies under the region, to a file"
        )
        self._menu = QMenu(self)
        for kind, (text, _, _) in EXPORTS.items():
            self._menu.addAction(text, partial(self._ask, kind))
        self.setMenu(self._menu)
        self._inquiry = Inquiry(self, 0)
        self._inquiry.answered.connect(lambda path: self.told.emit(f"Written: {path}"))
        self._inquiry.refused.connect(show_error)

    def show_found(self, found: Found | None, rank: int | None) -> None:
        """Take what is to be exported.

        Parameters
        ----------
        found : Found or None
            The hits.
        rank : int or None
            The chosen one.
        """
        self._found, self._rank = found, rank

    def export(self, kind: str, path: Path) -> None:
        """Write a file, away from the window.

        Parameters
        ----------
        kind : str
            A key of `EXPORTS`.
        path : Path
            Where to.
        """
        if self._found is not None:
            self._inquiry.ask(partial(EXPORTS[kind][2], path, self._found, self._rank))

    def _ask(self, kind: str) -> None:
        text, proposed, _ = EXPORTS[kind]
        name, _ = QFileDialog.getSaveFileName(self, text.rstrip("…"), proposed)
        if name:
            self.export(kind, Path(name))
