"""The plot of a training under way: the loss, and how well the model retrieves so far."""

from __future__ import annotations

import math
from typing import Any

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

__all__ = ["TrainingPlot"]

_ON_DARK, _ON_LIGHT = ("#e69f00", "#56b4e9"), ("#8f5200", "#005a8f")  # told apart by the colour-blind
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 34, 18, 16


class TrainingPlot(QWidget):
    """Draws the loss (left axis) and the retrieval score (right axis, 0 to 100 %) over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[tuple[float, float]] = []
        self.scores: list[tuple[float, float]] = []
        self._steps = 1.0
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setToolTip(
            "The loss (the lower the better) and, once it has been measured, how many of the validation"
            " regions are retrieved first (the higher the better)"
        )
        self.setAccessibleName("Loss and retrieval score")

    def sizeHint(self) -> QSize:  # noqa: N802
        """Give the size that it likes to have."""
        return QSize(200, 120)

    def clear(self) -> None:
        """Draw an empty plot."""
        self.losses, self.scores = [], []
        self.update()

    def add(self, step: float, loss: float | None, score: float | None) -> None:
        """Add what is known at a step.

        Parameters
        ----------
        step : float
            Steps done, up to which the plot goes.
        loss : float or None
            The loss.
        score : float or None
            Share of regions retrieved first, 0 to 1.
        """
        self._steps = max(step, 1.0)
        if loss is not None and math.isfinite(loss):
            self.losses.append((step, loss))
        if score is not None and (not self.scores or self.scores[-1][1] != score):
            self.scores.append((step, score))
        self.update()

    def paintEvent(self, _: Any) -> None:  # noqa: N802
        """Draw."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        frame = QRectF(self.rect()).adjusted(_LEFT, _TOP, -_RIGHT, -_BOTTOM)
        ink = self.palette().color(QPalette.ColorRole.Text)
        font = painter.font()
        font.setPointSizeF(max(6.0, font.pointSizeF() * 0.8))
        painter.setFont(font)
        faint = QColor(ink)
        faint.setAlphaF(0.3)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(frame)
        painter.setPen(ink)
        painter.drawText(
            QRectF(_LEFT, frame.bottom(), frame.width(), _BOTTOM),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            f"{self._steps:.0f} steps",
        )
        loss, retrieval = _ON_DARK if ink.lightnessF() > 0.5 else _ON_LIGHT
        self._draw_losses(painter, frame, loss)
        self._draw_scores(painter, frame, retrieval)
        painter.end()

    def _draw_losses(self, painter: QPainter, frame: QRectF, colour: str) -> None:
        values = [value for _, value in self.losses]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        last = f"loss {values[-1]:.3f}" if values else "loss"
        self._draw(painter, frame, self.losses, low, high, colour)
        left = QRectF(0, frame.top() - 6, _LEFT - 4, 12)
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        if values:
            painter.drawText(left, right, f"{high:.2f}")
            painter.drawText(left.translated(0, frame.height()), right, f"{low:.2f}")
        painter.drawText(
            QRectF(_LEFT, 0, frame.width(), _TOP),
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            last,
        )

    def _draw_scores(self, painter: QPainter, frame: QRectF, colour: str) -> None:
        if not self.scores:
            return
        self._draw(painter, frame, self.scores, 0.0, 1.0, colour)
        side = QRectF(frame.right() + 3, frame.top() - 6, _RIGHT - 3, 12)
        painter.drawText(side, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, "100%")
        painter.drawText(
            side.translated(0, frame.height()),
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
            "0%",
        )
        painter.drawText(
            QRectF(_LEFT, 0, frame.width(), _TOP),
            Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter,
            f"retrieved first {self.scores[-1][1]:.0%}",
        )

    def _draw(
        self,
        painter: QPainter,
        frame: QRectF,
        points: list[tuple[float, float]],
        low: float,
        high: float,
        colour: str,
    ) -> None:
        line = QPolygonF(
            [
                QPointF(
                    frame.left() + frame.width() * min(step / self._steps, 1.0),
                    frame.bottom() - frame.height() * (value - low) / (high - low),
                )
                for step, value in points
            ]
        )
        painter.setPen(QPen(QColor(colour), 2))
        painter.drawPolyline(line)
        if points:
            painter.setBrush(QColor(colour))
            painter.drawEllipse(line[line.size() - 1], 2.5, 2.5)
            painter.setBrush(Qt.BrushStyle.NoBrush)
