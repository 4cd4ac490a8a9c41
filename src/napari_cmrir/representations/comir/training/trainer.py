"""A training in progress: networks, optimiser, random draws and history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.errors import InputError
from napari_cmrir.images.intensity import Intensity, choose_intensity
from napari_cmrir.representations.comir.inference import forward_in_batches
from napari_cmrir.representations.comir.model import ComirModel
from napari_cmrir.representations.comir.networks import Tiramisu, build_network
from napari_cmrir.representations.comir.training.loss import Objective, Recovery
from napari_cmrir.representations.comir.training.patches import PatchSampler
from napari_cmrir.representations.comir.training.validation import RetrievalTest, Selection, measure_scale
from napari_cmrir.representations.devices import peak_memory, run_parallel, training_precision
from napari_cmrir.representations.model_file import SteppedTrainer
from napari_cmrir.representations.training_settings import TrainingFigures, TrainingSettings

__all__ = ["Trainer", "build_optimiser", "learning_rate"]


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


class Trainer(SteppedTrainer):
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
    intensities : mapping of str to Intensity, optional
        How each modality is scaled; by default chosen from the images.

    Attributes
    ----------
    selection : Selection
        The best networks so far; the latest networks if nothing is validated.
    """

    fewest_pairs = 2

    def __init__(
        self,
        images: Sequence[tuple[NDArray[Any], NDArray[Any]]],
        modalities: tuple[str, str],
        settings: TrainingSettings,
        device: torch.device,
        validation: Sequence[tuple[NDArray[Any], NDArray[Any]]] = (),
        intensities: Mapping[str, Intensity] | None = None,
    ) -> None:
        smallest = min(min(first.shape[:2]) for first, _ in images)
        if smallest < settings.patch_size:
            raise InputError(
                f"The smallest training image has a side of {smallest} pixels, less than a patch of"
                f" {settings.patch_size}; give larger images or a smaller patch size."
            )
        super().__init__(modalities, settings, device)
        self.mistaken: Mapping[str, Sequence[str]] = {}
        self.went_on_from: dict[str, str] = {}
        self.intensities = dict(intensities or {}) or {
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

    def name_images(self, names: Sequence[str]) -> None:
        """Let patches of pairs that are taken for one another follow each other."""
        numbers = {name: number for number, name in enumerate(names)}
        self.sampler.companions = {
            numbers[name]: [numbers[other] for other in others if other in numbers]
            for name, others in self.mistaken.items()
            if name in numbers
        }

    def draws(self) -> torch.Generator:
        """Give the generator of the patches' draws."""
        return self.sampler.generator

    def forget(self) -> None:
        """Give up the CoMIRs and gradients of a failed step."""
        self._comirs = []
        self.optimiser.zero_grad()

    def content(self) -> Iterator[bytes]:
        """Yield the scaled images, the validation fields, and the model that the training goes on from."""
        for value in self.went_on_from.values():
            yield value.encode()
        for pair in self.sampler.pairs:
            for image in pair:
                yield image.numpy().tobytes()
        for fields in self.selection.test.fields if self.selection.test is not None else ():
            yield fields.numpy().tobytes()

    def describe(self, loss: float) -> str:
        """Say the loss, and the retrieval at the latest validation."""
        retrieval = self.history.retrieval
        return super().describe(loss) + ("" if retrieval is None else f", retrieves {retrieval:.0%}")

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
        """Give the latest figures, and the CoMIRs of one pair by the current networks."""
        kept = self.selection.score if self.history.retrieval is not None else None
        return TrainingFigures(
            loss=self.history.loss,
            eta_seconds=eta_seconds,
            device=device,
            peak_memory_bytes=peak_memory(self.device),
            comirs={
                modality: _as_bytes(self.represent(side, images)[0])
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
            provenance={"went_on_from": self.went_on_from} if self.went_on_from else {},
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


def _as_bytes(comir: Tensor) -> NDArray[np.uint8]:
    """Scale a CoMIR (channel, y, x) to 8 bits by its own mean and standard deviation, for display."""
    mean, deviation = comir.mean((-2, -1), keepdim=True), comir.std((-2, -1), keepdim=True).clamp_min(1e-6)
    shown: NDArray[np.uint8] = ((comir - mean) / deviation).sigmoid().mul(255).round().byte().cpu().numpy()
    return shown
