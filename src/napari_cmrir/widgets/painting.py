"""Small things that are drawn: pictures from pixels, and hints where a list is empty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPainter, QPalette, QPixmap
from qtpy.QtWidgets import QAbstractItemView

__all__ = ["as_pixmap", "draw_hint"]

_MARGIN = 12


def as_pixmap(pixels: NDArray[np.uint8]) -> QPixmap:
    """Make a picture of pixels.

    Parameters
    ----------
    pixels : ndarray, (y, x, 3), uint8
        Red, green and blue.
    """
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels)
    image = QImage(data.data, width, height, 3 * width, QImage.Format.Format_RGB888)
    return QPixmap.fromImage(image.copy())


def draw_hint(view: QAbstractItemView, text: str) -> None:
    """Write into an empty list or table what will be there, in the middle; call it in ``paintEvent``.

    Parameters
    ----------
    view : QAbstractItemView
        The list.
    text : str
        The hint.
    """
    painter = QPainter(view.viewport())
    painter.setPen(view.palette().color(QPalette.ColorRole.Text))
    painter.setOpacity(0.7)
    place = view.viewport().rect().adjusted(_MARGIN, _MARGIN, -_MARGIN, -_MARGIN)
    painter.drawText(place, Qt.AlignmentFlag.AlignCenter | Qt.TextFlag.TextWordWrap, text)
    painter.end()
