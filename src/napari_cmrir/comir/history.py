"""What is taken down of a training: its losses, times and validations."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["History"]


class History:
    """Mean loss and seconds of every few steps, and how the networks retrieved.

    Attributes
    ----------
    entries : list of dict
        ``"step"``, ``"loss"`` (mean since the last entry) and ``"seconds"``; after a validation also
        ``"retrieval"`` (0 to 1) and ``"validation_loss"``.

    Examples
    --------
    >>> history = History()
    >>> for loss in (3.0, 1.0):
    ...     history.add(loss)
    >>> history.take_down(2, retrieval=0.5)
    >>> history.entries[0]["loss"], history.loss, history.retrieval
    (2.0, 2.0, 0.5)
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, float]] = []
        self._recent: list[float] = []
        self._clock = time.monotonic()

    def add(self, loss: float) -> None:
        """Count in the loss of a step, if it is a number."""
        if math.isfinite(loss):
            self._recent.append(loss)

    def take_down(self, step: int, **more: float) -> None:
        """Make an entry of the steps since the last one, and add more to the latest."""
        if self._recent:
            now = time.monotonic()
            mean, seconds = float(np.mean(self._recent)), round(now - self._clock, 3)
            self.entries.append({"step": step, "loss": mean, "seconds": seconds})
            self._recent, self._clock = [], now
        if self.entries:
            self.entries[-1].update(more)

    @property
    def loss(self) -> float:
        """Of the latest entry; not a number before the first."""
        return self.entries[-1]["loss"] if self.entries else math.nan

    @property
    def retrieval(self) -> float | None:
        """Share of the validation queries retrieved the last time, 0 to 1; ``None`` before the first."""
        scores = [entry["retrieval"] for entry in self.entries if "retrieval" in entry]
        return scores[-1] if scores else None

    def state(self) -> dict[str, Any]:
        """Plain values from which `load_state` goes on."""
        return {"entries": self.entries, "recent": self._recent}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.entries, self._recent = state["entries"], state["recent"]
