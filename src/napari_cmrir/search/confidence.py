"""How sure a hit is, told from the scores of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["confidences"]

_EULER = 0.5772156649
_EXPECTED_MEAN, _EXPECTED_DEVIATION, _EXPECTED_COUNT = 0.1, 0.04, 3


def confidences(scores: Sequence[float]) -> list[float]:
    """Probability that no wrong image would score as high as each of some registered images.

    Each image's score is the highest of many places and angles, so the wrong ones follow a Gumbel law. It
    is fitted by moments to the scores of the other images, with three made-up ones of a typical repository,
    so that a handful of images does not look like certainty. (Not yet calibrated on queries with a known
    answer.)

    Parameters
    ----------
    scores : sequence of float
        Best registration score of every image, in any order.

    Returns
    -------
    list of float
        In [0, 1].

    Examples
    --------
    >>> found, other, *_ = confidences([0.6, 0.1, 0.08, 0.11, 0.09])
    >>> found > 0.95, other < 0.6
    (True, True)
    """
    values = np.asarray(scores, float)
    finite = np.isfinite(values)
    result = []
    for i, score in enumerate(values):
        if not finite[i]:
            result.append(0.0)
            continue
        others = values[finite & (np.arange(len(values)) != i)]
        if len(others) and score < others.max():
            others = np.delete(others, int(others.argmax()))  # the better one may be the right one
        count = len(others) + _EXPECTED_COUNT
        mean = (others.sum() + _EXPECTED_COUNT * _EXPECTED_MEAN) / count
        squares = np.square(others - mean).sum() + _EXPECTED_COUNT * (
            _EXPECTED_DEVIATION**2 + (_EXPECTED_MEAN - mean) ** 2
        )
        scale = math.sqrt(squares / count) * math.sqrt(6) / math.pi
        place = mean - _EULER * scale
        expected = count * math.exp(min(50.0, -(score - place) / scale))
        result.append(math.exp(-expected))
    return result
