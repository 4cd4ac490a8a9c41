"""One training under way: its networks, its optimiser, its random draws."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_cmrir.comir.detail import detail
from napari_cmrir.comir.devices import training_precision
from napari_cmrir.comir.loss import contrastive_loss
from napari_cmrir.comir.model import ComirModel, OutputScale
from napari_cmrir.comir.networks import Tiramisu, UNet, build_network
from napari_cmrir.comir.patches import PatchSampler, disc, rotate
from napari_cmrir.comir.settings import TrainingSettings
from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import choose_intensity

__all__ = ["Trainer"]

_HISTORY_STEPS = 10
_MOST_BAD_STEPS = 20


class Trainer:
    """The state of a training, a step at a time.

    Parameters
    ----------
    images : sequence of (first, second)
        ``(y, x, channel)`` arrays of equal height and width.
    modalities : (str, str)
        Their names.
    settings : TrainingSettings
    device : torch.device

    Attributes
    ----------
    step : int
        Steps done.
    """

    def __init__(
        self,
        images: Sequence[tuple[NDArray[Any], NDArray[Any]]],
        modalities: tuple[str, str],
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        smallest = min(min(first.shape[:2]) for first, _ in images)
        if smallest < settings.patch_size:
            raise InputError(
                f"The smallest training image has a side of {smallest} pixels, less than a patch of"
                f" {settings.patch_size}; give larger images or a smaller patch size."
            )
        self.modalities, self.settings, self.device = modalities, settings, device
        self.intensities = {
            modality: choose_intensity([pair[side] for pair in images])
            for side, modality in enumerate(modalities)
        }
        torch.manual_seed(settings.seed)
        self.networks = {
            modality: build_network(settings, self.intensities[modality].channels)
            .to(device)
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for modality in modalities
        }
        one, other = (self.intensities[modality] for modality in modalities)
        scaled = [
            (torch.from_numpy(one.apply(first)), torch.from_numpy(other.apply(second)))
            for first, second in images
        ]
        self.sampler = PatchSampler(scaled, settings.patch_size, settings.free_rotation, settings.seed)
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        self.optimiser = _optimiser(parameters, settings)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._precision = training_precision(device)
        side = settings.patch_size // settings.comparison_step
        counts = disc(side) if settings.free_rotation else torch.ones(side, side, dtype=torch.bool)
        self._counts = counts.to(device)
        self._bad_steps = 0
        self._recent: list[float] = []
        self._clock = time.monotonic()
        self._pair: tuple[Tensor, Tensor] | None = None

    def train_step(self) -> float:
        """Do one optimisation step and return its loss.

        Raises
        ------
        InputError
            If the loss has been infinite or not a number for many steps in a row.
        """
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = _learning_rate(self.step, settings)
        first, second, turned = self.sampler.draw(settings.batch_size)
        comirs = [
            self._comir(network, patches)
            for network, patches in zip(self.networks.values(), (first, second), strict=True)
        ]
        comirs[1] = rotate(comirs[1], -turned.to(self.device))
        self._pair = (comirs[0][0].detach(), comirs[1][0].detach())
        compared = [self._compared(comir) for comir in comirs]
        loss = contrastive_loss(
            compared[0], compared[1], critic=settings.critic, temperature=settings.temperature
        )
        if settings.activation_decay:
            both = torch.cat(compared)
            loss = loss + settings.activation_decay * (both.abs().mean() + both.square().mean())
        self.optimiser.zero_grad()
        value = float(loss.detach())
        if np.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimiser.step()
        self._notice(value)
        self.step += 1
        return value

    def _comir(self, network: UNet | Tiramisu, patches: Tensor) -> Tensor:
        patches = patches.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self._precision, enabled=self._precision is not torch.float32):
            comir: Tensor = network(patches)
        return comir.float()

    def _compared(self, comir: Tensor) -> Tensor:
        """What of a CoMIR enters the loss, (n, channel * pixel)."""
        step = self.settings.comparison_step
        compared = F.avg_pool2d(comir, step) if step > 1 else comir
        if self.settings.detail:
            compared = detail(compared, self._counts.to(compared.dtype), self.settings.detail / step)
        return compared[..., self._counts]

    def _notice(self, loss: float) -> None:
        self._bad_steps = 0 if np.isfinite(loss) else self._bad_steps + 1
        if self._bad_steps >= _MOST_BAD_STEPS:
            raise InputError(
                f"Training does not converge: the loss is not a number since step"
                f" {self.step - _MOST_BAD_STEPS + 1}; lower the learning rate."
            )
        self._recent.append(loss)
        if len(self._recent) == _HISTORY_STEPS or self.step + 1 == self.settings.steps:
            now = time.monotonic()
            self.history.append(
                {
                    "step": self.step + 1,
                    "loss": float(np.mean(self._recent)),
                    "seconds": round(now - self._clock, 3),
                }
            )
            self._recent, self._clock = [], now

    def preview(self) -> dict[str, Any]:
        """The latest loss, and the CoMIRs of one pair of patches by modality, (channel, y, x) float32."""
        assert self._pair is not None
        comirs = {m: c.cpu().numpy() for m, c in zip(self.modalities, self._pair, strict=True)}
        return {"loss": self.history[-1]["loss"] if self.history else float("nan"), **comirs}

    def finish(self) -> ComirModel:
        """Return the model as it is now, its output scaled to make good use of 8 bits."""
        scales = {modality: self._scale(modality) for modality in self.modalities}
        return ComirModel(
            self.modalities,
            self.settings,
            self.intensities,
            {modality: network.cpu().eval() for modality, network in self.networks.items()},
            scales,
            self.history,
        )

    def _scale(self, modality: str) -> OutputScale:
        """Mean and deviation over training patches; the published export, for mse, takes the plain output."""
        channels = self.settings.channels
        if self.settings.critic == "mse":
            return OutputScale((0.0,) * channels, (1.0,) * channels)
        network = self.networks[modality].eval()
        sampler = PatchSampler(self.sampler.pairs, self.settings.patch_size, 0.0, self.settings.seed)
        side = self.modalities.index(modality)
        with torch.inference_mode():
            comirs = network(sampler.draw(64)[side].to(self.device)).float().transpose(0, 1).flatten(1)
        return OutputScale(tuple(comirs.mean(1).tolist()), tuple(comirs.std(1).clamp_min(1e-6).tolist()))

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "networks": {m: network.state_dict() for m, network in self.networks.items()},
            "optimiser": self.optimiser.state_dict(),
            "history": self.history,
            "recent": self._recent,
            "draws": self.sampler.generator.get_state(),
            "random": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        for modality, network in self.networks.items():
            network.load_state_dict(state["networks"][modality])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.history, self._recent = state["step"], state["history"], state["recent"]
        self.sampler.generator.set_state(state["draws"])
        torch.set_rng_state(state["random"])


def _optimiser(parameters: list[torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _learning_rate(step: int, settings: TrainingSettings) -> float:
    """SGD: constant, as published. AdamW: up over the first 15 % of the steps, then down along a cosine."""
    if settings.optimiser == "sgd":
        return settings.learning_rate
    warm = max(1, round(0.15 * settings.steps))
    if step < warm:
        share = 0.04 + 0.96 * (step + 1) / warm
    else:
        share = 0.5 * (1 + np.cos(np.pi * (step - warm + 1) / (settings.steps - warm + 1)))
    return float(settings.learning_rate * share)
