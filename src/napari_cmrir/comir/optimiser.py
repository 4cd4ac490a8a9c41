"""The optimiser of a training and its learning rate, step by step."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from napari_cmrir.comir.settings import TrainingSettings

__all__ = ["build_optimiser", "learning_rate"]


def build_optimiser(
    parameters: Iterable[torch.nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name.

    Parameters
    ----------
    parameters : iterable of Parameter
        Of both networks.
    settings : TrainingSettings
    """
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the rate of a step: for SGD constant, as published; for AdamW up and down.

    AdamW's rises over the first 15 % of the steps, then falls along a cosine.

    Parameters
    ----------
    step : int
        Steps done before.
    settings : TrainingSettings

    Examples
    --------
    >>> settings = TrainingSettings(steps=100, learning_rate=1.0)
    >>> [round(learning_rate(step, settings), 2) for step in (0, 14, 57, 99)]
    [0.1, 1.0, 0.5, 0.0]
    """
    if settings.optimiser == "sgd":
        return settings.learning_rate
    warm = max(1, round(0.15 * settings.steps))
    if step < warm:
        share = 0.04 + 0.96 * (step + 1) / warm
    else:
        share = 0.5 * (1 + np.cos(np.pi * (step - warm + 1) / (settings.steps - warm + 1)))
    return float(settings.learning_rate * share)
