"""A training in progress: networks, optimiser, random draws and history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import choose_intensity
from napari_cmrir.representations.comir.inference import as_bytes, forward_in_batches
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import Tiramisu, build_network
from napari_cmrir.representations.comir.training.loss import Objective, Recovery
from napari_cmrir.representations.comir.training.patches import PatchSampler
from napari_cmrir.representations.comir.training.settings import TrainingFigures, TrainingSettings
from napari_cmrir.representations.comir.training.validation import RetrievalTest, Selection, measure_scale
from napari_cmrir.representations.devices import (
    is_out_of_memory,
    peak_memory,
    release_memory,
    run_parallel,
    training_precision,
)

__all__ = ["History", "Trainer", "build_optimiser", "learning_rate"]


class History:
    """Mean loss and seconds of every few steps, and the retrieval at validations.

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
        """Add the loss of a step; a loss that is not finite is ignored."""
        if math.isfinite(loss):
            self._recent.append(loss)

    def take_down(self, step: int, **more: float) -> None:
        """Make an entry of the steps since the last one, and add more values to the latest entry."""
        if self._recent:
            now = time.monotonic()
            mean, seconds = float(np.mean(self._recent)), round(now - self._clock, 3)
            self.entries.append({"step": step, "loss": mean, "seconds": seconds})
            self._recent, self._clock = [], now
        if self.entries:
            self.entries[-1].update(more)

    @property
    def loss(self) -> float:
        """Loss of the latest entry; not a number before the first."""
        return self.entries[-1]["loss"] if self.entries else math.nan

    @property
    def retrieval(self) -> float | None:
        """Share of queries retrieved at the latest validation, 0 to 1; ``None`` before the first."""
        scores = [entry["retrieval"] for entry in self.entries if "retrieval" in entry]
        return scores[-1] if scores else None

    def state(self) -> dict[str, Any]:
        """Give the state as plain values, for `load_state`."""
        return {"entries": self.entries, "recent": self._recent}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`."""
        self.entries, self._recent = state["entries"], state["recent"]


def build_optimiser(
    parameters: Iterable[torch.nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Return the optimiser that the settings name.

    Parameters
    ----------
    parameters : iterable of Parameter
        Parameters of both networks.
    settings : TrainingSettings

    Returns
    -------
    torch.optim.Optimizer
        SGD with momentum 0.9 as published, or AdamW.
    """
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the learning rate of a step.

    SGD's rate is constant, as published. AdamW's rate rises over the first 15 % of the steps, then falls
    along a cosine to 0 (one cycle, Smith & Topin, arXiv:1708.07120). The 15 % are not measured.

    Parameters
    ----------
    step : int
        Steps done before.
    settings : TrainingSettings

    Returns
    -------
    float

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


Result = TypeVar("Result")

_HISTORY_STEPS = 10  # steps per history entry: fine enough for a plot of 1,500 steps
_PREVIEW_SIDE = 192  # px of the pair shown while training; larger ones take time from training; not measured


class Trainer:
    """The state of a training, advanced one step at a time.

    Parameters
    ----------
    images : sequence of (first, second)
        ``(y, x, channel)`` arrays of equal height and width.
    modalities : (str, str)
        Names of the first and the second modality.
    settings : TrainingSettings
    device : torch.device
    validation : sequence of (first, second)
        Held-out images by which the model is chosen. With less than two fields the last model is kept.

    Attributes
    ----------
    step : int
        Steps done.
    batch_size : int
        Pairs of patches per step; halved from the setting when memory runs out.
    selection : Selection
        The best networks so far; the latest networks if nothing is validated.
    history : History
        Losses and validations.
    stopped : str
        Reason why training ended early; empty otherwise.
    notes : list of str
        Sentences for the user on what happened.
    """

    def __init__(
        self,
        images: Sequence[tuple[NDArray[Any], NDArray[Any]]],
        modalities: tuple[str, str],
        settings: TrainingSettings,
        device: torch.device,
        validation: Sequence[tuple[NDArray[Any], NDArray[Any]]] = (),
    ) -> None:
        smallest = min(min(first.shape[:2]) for first, _ in images)
        if smallest < settings.patch_size:
            raise InputError(
                f"The smallest training image has a side of {smallest} pixels, less than a patch of"
                f" {settings.patch_size}; give larger images or a smaller patch size."
            )
        self.modalities, self.settings, self.device = modalities, settings, device
        self.intensities = {
            modality: choose_intensity([pair[side] for pair in (*images, *validation)])
            for side, modality in enumerate(modalities)
        }
        torch.manual_seed(settings.seed)
        self.networks = {
            modality: build_network(settings, self.intensities[modality].channels)
            .to(device)
            .to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for modality in modalities
        }
        first_intensity, second_intensity = (self.intensities[modality] for modality in modalities)
        scaled = [
            (torch.from_numpy(first_intensity.apply(first)), torch.from_numpy(second_intensity.apply(second)))
            for first, second in images
        ]
        self.sampler = PatchSampler(
            scaled, settings.patch_size, settings.free_rotation, settings.seed, settings.variation
        )
        parameters = [p for network in self.networks.values() for p in network.parameters()]
        self.optimiser = build_optimiser(parameters, settings)
        self.step = 0
        self.history = History()
        self.precision = training_precision(device)
        self.objective = Objective(settings, device)
        test = (
            RetrievalTest(
                validation,
                (first_intensity, second_intensity),
                settings.seed,
                high_pass_px=settings.high_pass,
            )
            if validation
            else None
        )
        self.selection = Selection(self.networks, test if test is not None and len(test) > 1 else None)
        self._shown = self._shown_pair()
        self._comirs: list[Tensor] = []
        self.recovery = Recovery(self.networks, self.optimiser, self.selection)
        self.batch_size = settings.batch_size
        self.stopped = ""
        self.notes: list[str] = []

    def advance(self) -> float:
        """Do one step and return its loss; halve the batch if memory runs out.

        Raises
        ------
        InputError
            If the memory does not hold two pairs, or training does not converge.
        """
        while True:
            draws = self.sampler.generator.get_state()
            try:
                return self.train_step()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.sampler.generator.set_state(draws)
            self._halve_batch()

    def _halve_batch(self) -> None:
        """Halve the batch after memory ran out, and note it for the user."""
        self._comirs = []
        self.optimiser.zero_grad()
        release_memory(self.device)
        if self.batch_size < 4:
            raise InputError(
                f"The memory of {self.device.type} does not hold a training step of {self.batch_size} pairs"
                " of patches; give a smaller patch size or network, or another device."
            )
        self.notes.append(
            f"Step {self.step + 1}: the memory of {self.device.type} does not hold {self.batch_size} pairs of"
            f" patches; going on with {self.batch_size // 2} a step."
        )
        self.batch_size //= 2

    def train_step(self) -> float:
        """Do one optimisation step and return its loss.

        Raises
        ------
        InputError
            If training does not converge; see `Recovery.go_back`.
        """
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = self.recovery.rate * learning_rate(self.step, settings)
        chosen = self.sampler.choose(self.batch_size)
        comirs = self._side_by_side(lambda side: self._comir(side, chosen.cut(side)))
        # The loss sees detached CoMIRs, so that both networks' backward passes can run in parallel.
        self._comirs = [comir.detach().requires_grad_() for comir in comirs]
        loss = self.objective(self._comirs[0], self._comirs[1], chosen.turned.to(self.device))
        self.optimiser.zero_grad()
        value = float(loss.detach())
        if np.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
            self._side_by_side(lambda side: comirs[side].backward(self._comirs[side].grad))  # type: ignore[no-untyped-call]
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            if torch.nn.utils.clip_grad_norm_(parameters, 1.0).isfinite():  # norm 1: not measured
                self.optimiser.step()
            else:
                value = float("nan")
        self.step += 1
        self._notice(value)
        return value

    def _side_by_side(self, work: Callable[[int], Result]) -> tuple[Result, Result]:
        return run_parallel(lambda: work(0), lambda: work(1), self.device)

    def _comir(self, side: int, patches: Tensor) -> Tensor:
        patches = patches.to(self.device).contiguous(memory_format=torch.channels_last)
        network = self.networks[self.modalities[side]]
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            if isinstance(
                network, Tiramisu
            ):  # its dropout draws from seed, step and side, so resuming repeats it
                seed = np.random.SeedSequence((self.settings.seed, self.step, side)).generate_state(1)
                comir: Tensor = network(patches, torch.Generator(self.device).manual_seed(int(seed[0])))
            else:
                comir = network(patches)
        return comir.float()

    def _notice(self, loss: float) -> None:
        """Record the loss of the latest step, and return to the kept networks if training went wrong."""
        self.history.add(loss)
        reason = self.recovery.reason_in_loss(loss)
        if not reason and (self.step % _HISTORY_STEPS == 0 or self.step == self.settings.steps):
            reason = self.recovery.reason_in_networks(self._comirs)
            self.history.take_down(self.step)
        if reason:
            self.go_back(reason)

    def go_back(self, reason: str) -> None:
        """Return to the kept networks with half the learning rate, or stop; see `Recovery`."""
        message = self.recovery.go_back(self.step, reason)
        if message is None:
            self._stop(f"{reason} {self.recovery.times}")
        else:
            self.notes.append(message)

    def _stop(self, reason: str) -> None:
        self.stopped = (
            f"Step {self.step}: {reason}; training stops with the model of step {self.selection.step}."
        )
        self.notes.append(self.stopped)

    @property
    def is_validation_due(self) -> bool:
        """Whether to call `validate` before the next step."""
        every = self.settings.validation_every
        at_end = self.step == self.settings.steps
        return (self.step % every == 0 or at_end) and self.recovery.returned != self.step

    def validate(self) -> None:
        """Keep the networks if they retrieve better than the kept ones; stop when patience is used up."""
        reason = self.recovery.reason_in_networks(self._comirs)
        if reason:
            self.go_back(reason)
            return
        score = self.selection.offer(self.step, self.networks, self.represent)
        if score is not None:
            self.history.take_down(self.step, retrieval=score.retrieval, validation_loss=score.loss)
        if 0 < self.settings.patience <= self.selection.worse and self.step < self.settings.steps:
            self._stop(f"no better for {self.selection.worse} validations")

    def represent(self, side: int, images: Tensor) -> Tensor:
        """Compute CoMIRs by the current networks.

        Parameters
        ----------
        side : int
            0 for the first modality, 1 for the second.
        images : (n, channel, y, x) tensor

        Returns
        -------
        (n, channel, y, x) float32 tensor
            The network's output, not scaled.
        """
        network = self.networks[self.modalities[side]]
        network.eval()
        comirs = forward_in_batches(network, images, self.device, self.precision)
        network.train()
        return comirs

    def _shown_pair(self) -> tuple[Tensor, Tensor]:
        """Give the pair of images (1, channel, y, x) whose CoMIRs are shown while training."""
        if self.selection.test is not None:
            first, second = (images[:1] for images in self.selection.test.fields)
            return first, second
        first, second = (image[None] for image in self.sampler.pairs[0])
        y, x = (max(0, side - _PREVIEW_SIDE) // 2 for side in first.shape[-2:])
        window = (..., slice(y, y + _PREVIEW_SIDE), slice(x, x + _PREVIEW_SIDE))
        return first[window], second[window]

    def figures(self, device: str, eta_seconds: float) -> TrainingFigures:
        """Give the latest figures, and the CoMIRs of one pair by the current networks.

        Parameters
        ----------
        device : str
            Device of the training, in words.
        eta_seconds : float
            Expected time to the last step.
        """
        kept = self.selection.score if self.history.retrieval is not None else None
        return TrainingFigures(
            loss=self.history.loss,
            eta_seconds=eta_seconds,
            device=device,
            peak_memory_bytes=peak_memory(self.device),
            comirs={
                modality: as_bytes(self.represent(side, images)[0])
                for side, (modality, images) in enumerate(zip(self.modalities, self._shown, strict=True))
            },
            retrieval=None if kept is None else self.history.retrieval,
            best_retrieval=None if kept is None else kept.retrieval,
        )

    def finish(self) -> ComirModel:
        """Return the best model, or the last if nothing is validated, with its output scaled to 8 bits."""
        if self.selection.score is not None or self.stopped:
            self.selection.restore(self.networks)
        size, seed = self.settings.patch_size, self.settings.seed
        # 64 patches estimate mean and deviation of the output; not measured.
        patches = PatchSampler(self.sampler.pairs, size, 0.0, seed, variation=0.0).draw(64)
        scales = {
            modality: measure_scale(self.networks[modality], patches[side], self.settings, self.device)
            for side, modality in enumerate(self.modalities)
        }
        return ComirModel(
            self.modalities,
            self.settings,
            self.intensities,
            {modality: network.cpu().eval() for modality, network in self.networks.items()},
            scales,
            self.history.entries,
            score=self.selection.card(),
        )

    def state(self) -> dict[str, Any]:
        """Give all values that a resumed training needs to repeat the steps of an uninterrupted one."""
        return {
            "step": self.step,
            "networks": {m: network.state_dict() for m, network in self.networks.items()},
            "optimiser": self.optimiser.state_dict(),
            "history": self.history.state(),
            "draws": self.sampler.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "selection": self.selection.state(),
            "recovery": self.recovery.state(),
            "course": (self.batch_size, self.stopped, self.notes),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        for modality, network in self.networks.items():
            network.load_state_dict(state["networks"][modality])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.history.load_state(state["history"])
        self.sampler.generator.set_state(state["draws"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        self.selection.load_state(state["selection"])
        self.recovery.load_state(state["recovery"])
        self.batch_size, self.stopped, self.notes = state["course"]
