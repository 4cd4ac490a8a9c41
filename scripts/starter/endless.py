"""Training of one network for every modality, on pairs that are drawn without end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_cmrir.representations.comir.inference import OutputScale
from napari_cmrir.representations.comir.networks import build_network
from napari_cmrir.representations.comir.training.loss import Objective
from napari_cmrir.representations.comir.training.patches import PatchBatch, PatchSampler
from napari_cmrir.representations.comir.training.trainer import build_optimiser, learning_rate
from napari_cmrir.representations.comir.training.validation import measure_scale
from napari_cmrir.representations.devices import training_precision
from napari_cmrir.representations.model_file import History
from napari_cmrir.representations.training_settings import TrainingSettings

__all__ = ["EndlessTrainer", "with_own_range"]

DrawnPair = tuple[NDArray[np.float32], NDArray[np.float32]]

_POOLED = 192  # pairs that patches are cut from: eight batches of 24 meet each of them once on average
_MEASURED = 64
_HISTORY_STEPS = 100
_APART = 32  # px: most that the windows of two partners lie apart
_MARK_WEIGHT = 2.0  # of what all windows have in common, in the loss; not compared with others
_LEAST_RANGE = 0.1  # of the scene's: noise is not made a picture of


class EndlessTrainer:
    """The state of a training whose pairs are drawn while it goes on.

    Patches are cut from the latest `_POOLED` pairs. Every step, the oldest of them make way for new ones,
    which another process draws meanwhile. Pair ``n`` depends on ``n`` alone, so that a resumed training meets
    the same pairs.

    A network can tell from its zero-padded borders where a place lies in the window that it sees. Where two
    partners see windows that overlap much, it learns to paint a pattern there that every window has: that
    tells the discs of a patch apart, and no two images. Three things are done against it: the windows of two
    partners lie up to `_APART` pixels apart, and what both hold is compared; the mean of all windows of a
    step is subtracted before the loss, so that the pattern gains nothing; and it is penalised.

    The first and the second patches of a batch pass through two copies of the network at the same time, each
    on one thread. Threads that share an operation wait for each other, which is ten times slower where other
    programs use the processor.

    Parameters
    ----------
    draw : callable
        ``draw(n)`` gives pair ``n``: two aligned (1, y, x) float32 arrays, values about 0 to 1. It is sent to
        the executor.
    settings : TrainingSettings
        Nothing is validated.
    device : torch.device
    fresh : int
        New pairs a step.
    threads : {1, 2}
        How many patches' networks compute at once.
    executor : concurrent.futures.Executor, optional
        Where pairs are drawn; by default a thread.
    state : dict, optional
        Go on from this `state`, of settings that differ at most in the number of steps.

    Attributes
    ----------
    step : int
        Steps done.
    network : UNet or Tiramisu
    history : History

    Raises
    ------
    ValueError
        The state is of other settings.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((1, 64, 64), np.float32)
    >>> settings = TrainingSettings(widths=(4, 8), batch_size=2, patch_size=32, steps=2)
    >>> trainer = EndlessTrainer(lambda n: (image, 1 - image), settings, torch.device("cpu"))
    >>> trainer.advance() > 0, trainer.step
    (True, 1)
    """

    def __init__(
        self,
        draw: Callable[[int], DrawnPair],
        settings: TrainingSettings,
        device: torch.device,
        *,
        fresh: int = 1,
        threads: int = 1,
        executor: Executor | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.draw, self.settings, self.device, self.fresh = draw, settings, device, fresh
        torch.manual_seed(settings.seed)
        self.network = build_network(settings, 1).to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._copy = copy.deepcopy(self.network)
        self.optimiser = build_optimiser(self.network.parameters(), settings)
        self.precision = training_precision(device)
        self.objective = Objective(settings, device)
        self.history = History()
        self.step = 0
        self._drawing = executor or ThreadPoolExecutor(1)
        self._threads = ThreadPoolExecutor(threads)
        if state is not None:
            self._load(state)
        size = settings.patch_size + 2 * _APART
        self.sampler = PatchSampler(
            self._pool(), size, settings.free_rotation, settings.seed, settings.variation
        )
        if state is not None:
            self.sampler.generator.set_state(state["draws"])

    @property
    def drawn(self) -> int:
        """Pairs drawn from the start."""
        return _POOLED + self.step * self.fresh

    def advance(self) -> float:
        """Do one step, and return its loss."""
        numbers = range(self.drawn, self.drawn + self.fresh)
        waiting = [(number, self._drawing.submit(self.draw, number)) for number in numbers]
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        chosen = self.sampler.choose(self.settings.batch_size)
        networks = (self.network, self._copy)
        comirs = list(self._threads.map(lambda side: self._comir(side, chosen), (0, 1)))
        ends = [comir.detach().requires_grad_() for comir in comirs]
        windows = torch.cat(ends)
        everywhere = windows.mean(0)
        compared = [self._compared(side, chosen, ends[side] - everywhere) for side in (0, 1)]
        pattern = everywhere - everywhere.mean((1, 2), keepdim=True)
        strength = pattern.square().mean() / windows.var().clamp_min(1e-9)
        loss = self.objective(compared[0], compared[1], chosen.turned.to(self.device))
        loss = loss + _MARK_WEIGHT * strength
        for network in networks:
            network.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        list(self._threads.map(lambda side: comirs[side].backward(ends[side].grad), (0, 1)))  # type: ignore[no-untyped-call]
        for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
            assert ours.grad is not None
            ours.grad += theirs.grad
        if torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0).isfinite():
            self.optimiser.step()
        self._copy.load_state_dict(self.network.state_dict())
        self.step += 1
        value = float(loss.detach())
        self.history.add(value)
        if self.step % _HISTORY_STEPS == 0 or self.step == self.settings.steps:
            self.history.take_down(self.step)
        for number, pair in waiting:
            self.sampler.pairs[number % _POOLED] = _tensors(pair.result())
        return value

    def _comir(self, side: int, chosen: PatchBatch) -> Tensor:
        """Compute the CoMIRs of the windows that a side sees of the patches."""
        network = (self.network, self._copy)[side]
        patches = with_own_range(chosen.cut(side), torch.Generator().manual_seed(chosen.seeds[side] + 1))
        seen = self.settings.patch_size + _APART
        places = zip(patches, self._places(side, chosen), strict=True)
        windows = torch.stack([patch[:, y : y + seen, x : x + seen] for patch, (y, x) in places])
        windows = windows.to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not torch.float32):
            comirs: Tensor = network(windows)
        return comirs.float()

    def _places(self, side: int, chosen: PatchBatch) -> list[list[int]]:
        """First pixel, y and x, of each window in its patch."""
        generator = torch.Generator().manual_seed(chosen.seeds[side] + 2)
        places: list[list[int]] = torch.randint(
            _APART + 1, (len(chosen.turned), 2), generator=generator
        ).tolist()
        return places

    def _compared(self, side: int, chosen: PatchBatch, comirs: Tensor) -> Tensor:
        """Cut what the windows of both sides hold."""
        size = self.settings.patch_size
        return torch.stack(
            [
                comir[:, _APART - y : _APART - y + size, _APART - x : _APART - x + size]
                for comir, (y, x) in zip(comirs, self._places(side, chosen), strict=True)
            ]
        )

    def measure_scale(self) -> OutputScale:
        """Measure the output's range over patches of both looks of the latest pairs."""
        size, seed = self.settings.patch_size, self.settings.seed
        first, second, _ = PatchSampler(self.sampler.pairs, size, 0.0, seed, variation=0.0).draw(_MEASURED)
        return measure_scale(self.network, torch.cat((first, second)), self.settings, self.device)

    def state(self) -> dict[str, Any]:
        """All that a resumed training needs; tensors and plain values."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "history": self.history.state(),
            "draws": self.sampler.generator.get_state(),
        }

    def _load(self, state: dict[str, Any]) -> None:
        own = self.settings.model_dump(mode="json")
        if own != {**state["settings"], "steps": own["steps"]}:
            raise ValueError("The state belongs to a training with other settings.")
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._copy.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.history.load_state(state["history"])

    def _pool(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs that the next step cuts patches from."""
        start = self.step * self.fresh
        numbers = range(start, start + _POOLED)
        pairs = dict(zip(numbers, self._drawing.map(self.draw, numbers, chunksize=8), strict=True))
        return [_tensors(pairs[n]) for n in sorted(pairs, key=lambda n: n % _POOLED)]


def with_own_range(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Scale half of the patches more or less by their own values, as a region is that is read alone.

    Parameters
    ----------
    patches : (n, 1, y, x) tensor
        Scaled by the values of the scenes that they are cut from.
    generator : torch.Generator

    Returns
    -------
    (n, 1, y, x) tensor

    Examples
    --------
    >>> patches = torch.linspace(0.4, 0.6, 32 * 32).reshape(1, 1, 32, 32).repeat(9, 1, 1, 1)
    >>> scaled = with_own_range(patches, torch.Generator().manual_seed(0)).flatten(1)
    >>> bool(scaled.std(1).max() > 3 * scaled.std(1).min())
    True
    """
    sample = patches[..., ::3, ::3].flatten(1)
    low, high = torch.quantile(sample, torch.tensor([0.001, 0.999]), 1)[..., None, None, None]
    own = (patches - low) / (high - low).clamp_min(_LEAST_RANGE)
    share = (2 * torch.rand(len(patches), 1, 1, 1, generator=generator) - 1).clamp_min(0)
    scaled: Tensor = patches + share * (own - patches)
    return scaled


def _tensors(pair: DrawnPair) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])
